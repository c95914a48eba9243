package ldapmap

import (
	"slices"
	"strings"
)

// What an entry is, and what it says, for tools that look at entries one by one. A
// lookup decodes only those that it comes across.

// IsLevel reports whether the entry is a level.
func IsLevel(e Entry) bool { return e.Is(classLevel) }

// IsLayer reports whether the entry is a layer.
func IsLayer(e Entry) bool { return e.Is(classLayer) }

// IsProfile reports whether the entry is a profile.
func IsProfile(e Entry) bool { return e.Is(classProfile) }

// IsCaller reports whether the entry has been made a caller.
func IsCaller(e Entry) bool { return e.Is(classCaller) }

// GroupClasses are the object classes by which entries that are there already are
// groups: those of RFC 4519 and RFC 2307, and of Active Directory.
func GroupClasses() []string {
	return []string{"groupOfNames", "groupOfUniqueNames", classPosixGroup, classNetgroup, "group"}
}

// IsGroup reports whether the entry is a group.
func IsGroup(e Entry) bool { return slices.ContainsFunc(GroupClasses(), e.Is) }

// Component decodes a component's entry under its first name, as a lookup does. Text
// that does not pass its whitelist is an *InvalidError.
func (e Entry) Component() (Component, error) {
	name := e.First("cn")
	if !validComponent(name) {
		return Component{}, e.invalid("cn", name, "a component name")
	}
	return decodeComponent(e, name)
}

// Level does the same for a level.
func (e Entry) Level() (Level, error) {
	name := e.First("cn")
	if key, err := ParseKey(name); err != nil || key.Level == "" {
		return Level{}, e.invalid("cn", name, "COMPONENT@LEVEL")
	}
	return decodeLevel(e, name)
}

// Layer does the same for a layer.
func (e Entry) Layer() (Layer, error) {
	name := e.First("cn")
	if !ValidLayer(name) {
		return Layer{}, e.invalid("cn", name, "a layer name")
	}
	return decodeLayer(e, name)
}

// An Assignment is one value that assigns a level of a component.
type Assignment struct {
	Component, Level string
	Mandatory        bool
}

// Attr is the attribute that the assignment is a value of.
func (a Assignment) Attr() string {
	if a.Mandatory {
		return attrMandatory
	}
	return attrAssignment
}

// String is the assignment as it is written: COMPONENT=LEVEL.
func (a Assignment) String() string { return a.Component + "=" + a.Level }

// Assignments are what a caller or a profile assigns, mandatory ones first, and an
// *InvalidError for each value that is no assignment.
func (e Entry) Assignments() (all []Assignment, invalid []error) {
	for _, attr := range []string{attrMandatory, attrAssignment} {
		for _, v := range e.Attrs[strings.ToLower(attr)] {
			component, level, _ := strings.Cut(v, "=")
			if !validComponent(component) || !validLevel(level) {
				invalid = append(invalid, e.invalid(attr, v, "COMPONENT=LEVEL"))
				continue
			}
			all = append(all, Assignment{Component: component, Level: level, Mandatory: attr == attrMandatory})
		}
	}
	return all, invalid
}

// ProfileRefs are the profiles that a caller or a profile refers to, and an
// *InvalidError for each value that cannot be a profile's name.
func (e Entry) ProfileRefs() (names []string, invalid []error) {
	for _, v := range e.Attrs[strings.ToLower(attrProfileRef)] {
		if !validProfile(v) {
			invalid = append(invalid, e.invalid(attrProfileRef, v, "the name of a profile"))
			continue
		}
		names = append(names, v)
	}
	return names, invalid
}

// CheckName returns an *InvalidError if the entry is a profile's, a host's or a user's
// and nothing can refer to it or ask for it by its name.
func (e Entry) CheckName() error {
	switch {
	case IsProfile(e) && !validProfile(e.First("cn")):
		return e.invalid("cn", e.First("cn"), "a profile name")
	case IsHost(e) && !ValidHost(e.First("cn")):
		return e.invalid("cn", e.First("cn"), "a host name")
	case IsUser(e) && !ValidUser(e.First("uid")):
		return e.invalid("uid", e.First("uid"), "a user name")
	}
	return nil
}

// Named are the callers that a group speaks for by their names alone, whether there
// are entries of theirs or not: those of memberUid, and of a netgroup's triples.
func Named(group Entry) []Query {
	var callers []Query
	for _, uid := range group.Attrs["memberuid"] {
		if ValidUser(uid) {
			callers = append(callers, Query{User: uid})
		}
	}
	for _, triple := range group.Attrs["nisnetgrouptriple"] {
		host, user, ok := parseTriple(triple)
		if !named(host) {
			host = ""
		}
		if !named(user) {
			user = ""
		}
		if ok && host+user != "" && (host == "" || ValidHost(host)) && (user == "" || ValidUser(user)) {
			callers = append(callers, Query{Host: host, User: user})
		}
	}
	return callers
}
