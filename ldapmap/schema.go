package ldapmap

import (
	"slices"
	"strings"
)

// Unknown are the names of attributes and of object classes in the entry that begin as those
// of levelfs's schema do and are not of it, in lower case and in order. A directory server
// refuses them; in a file they say nothing, and what was meant does not count.
func (e Entry) Unknown() []string {
	var unknown []string
	check := func(name string, known func() []string) {
		name = strings.ToLower(name)
		if strings.HasPrefix(name, "levelfs") && !slices.ContainsFunc(known(), func(k string) bool { return strings.ToLower(k) == name }) {
			unknown = append(unknown, name)
		}
	}
	for attr := range e.Attrs {
		check(attr, schemaAttributes)
	}
	for _, class := range e.Attrs["objectclass"] {
		check(class, schemaClasses)
	}
	slices.Sort(unknown)
	return slices.Compact(unknown)
}

// schemaAttributes are the names of the schema's attributes, among others.
func schemaAttributes() []string {
	_, attrs := Everything()
	return append(attrs, "levelfsReport", "levelfsSignature")
}

func schemaClasses() []string {
	return []string{classComponent, classLevel, classLayer, classCaller, classProfile, classRollout}
}
