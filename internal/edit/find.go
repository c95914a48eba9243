package edit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

// An Inventory is what there is to change.
type Inventory struct {
	*fleet.Fleet
	// Files says of each source whether it is LDIF files: entries of hosts are made in
	// them as they are needed. On a server that is for those to do who run it.
	Files []bool
}

// With is the Inventory as it would be after the step.
func (inv Inventory) With(s Step) (Inventory, error) {
	e, _, err := s.Edit("", inv.Now())
	if err != nil {
		return inv, err
	}
	changed, err := inv.Fleet.With(s.Source, e)
	return Inventory{Fleet: changed, Files: inv.Files}, err
}

// Kinds of callers, and of what else assignments are written on.
const (
	Host    = "host"
	User    = "user"
	Group   = "group"
	Profile = "profile"
	Default = "default" // a component's default; it has no name
)

// A Caller is where an assignment is written, as it is named in commands.
type Caller struct {
	Kind string // "": whatever has the name
	Name string
}

// ParseCaller reads host:NAME, user:NAME, group:NAME, profile:NAME, a bare NAME, or
// default.
func ParseCaller(s string) (Caller, error) {
	c := Caller{Name: s}
	if kind, name, ok := strings.Cut(s, ":"); ok && kind != "" {
		c = Caller{Kind: kind, Name: name}
	}
	valid := map[string]func(string) bool{
		"": plainName, Host: ldapmap.ValidHost, User: ldapmap.ValidUser, Group: plainName, Profile: ldapmap.ValidProfile,
	}[c.Kind]
	switch {
	case s == Default:
		return Caller{Kind: Default}, nil
	case valid == nil || !valid(c.Name):
		return Caller{}, fmt.Errorf("invalid caller %q: want host:NAME, user:NAME, group:NAME, profile:NAME, NAME or default", s)
	}
	return c, nil
}

// plainName takes what groups are called in practice, and nothing that could be taken
// for something else.
func plainName(s string) bool {
	return s != "" && len(s) <= 253 && plain(s) == s && !strings.ContainsAny(s, `:,="\`)
}

func (c Caller) String() string {
	if c.Kind == "" || c.Kind == Default {
		return c.Name + c.Kind
	}
	return c.Kind + ":" + c.Name
}

// terms select the entries that may be the caller's and decide nothing yet.
func (c Caller) terms() []ldapmap.Term {
	if c.Kind != "" && c.Kind != Group {
		return nil
	}
	var groups ldapmap.Condition
	for _, class := range ldapmap.GroupClasses() {
		groups = append(groups, ldapmap.Test{Attr: "objectClass", Value: class})
	}
	return []ldapmap.Term{{groups, {{Attr: "cn", Value: c.Name}}}}
}

// kindOf says what the entry is a caller as, "" if it is none.
func kindOf(e ldapmap.Entry) string {
	switch {
	case ldapmap.IsHost(e):
		return Host
	case ldapmap.IsUser(e):
		return User
	case ldapmap.IsProfile(e):
		return Profile
	case ldapmap.IsGroup(e):
		return Group
	}
	return ""
}

// CallerOf is the caller that the entry is, as commands name it.
func CallerOf(e ldapmap.Entry) (Caller, bool) {
	switch kind := kindOf(e); kind {
	case "":
		return Caller{}, false
	case User:
		return Caller{Kind: kind, Name: e.First("uid")}, true
	default:
		return Caller{Kind: kind, Name: e.First("cn")}, true
	}
}

// Assigner is where the rule is written: what has to be assigned another level to.
func Assigner(f *fleet.Fleet, r ldapmap.Rule) (Caller, bool) {
	switch {
	case r.Rank == ldapmap.RankDefault:
		return Caller{Kind: Default}, true
	case len(r.Via) > 0:
		return Caller{Kind: Profile, Name: r.Via[len(r.Via)-1]}, true
	}
	for _, s := range f.Sources() {
		if s.Name() == r.Source {
			if e, ok := s.Entry(r.DN); ok {
				return CallerOf(e)
			}
		}
	}
	return Caller{}, false
}

// Where says in which source, and where in it, a change is made.
type Where struct {
	Local   bool   // in the first source
	Central bool   // in the last
	In      string // the DN below which a new entry goes
}

// A hit is an entry that was looked for.
type hit struct {
	source int
	entry  ldapmap.Entry
}

// search returns the entries that pass, of all sources in their order.
func (inv Inventory) search(pass func(ldapmap.Entry) bool) []hit {
	var hits []hit
	for i, s := range inv.Sources() {
		for _, e := range s.Entries() {
			if pass(e) {
				hits = append(hits, hit{i, e})
			}
		}
	}
	return hits
}

// called are the entries of a kind with that cn. Names of levels and the like are
// compared exactly, as lookups do.
func (inv Inventory) called(is func(ldapmap.Entry) bool, name string) []hit {
	return inv.search(func(e ldapmap.Entry) bool { return is(e) && slices.Contains(e.Attrs["cn"], name) })
}

// A ChoiceError is a change that could be made in more than one source.
type ChoiceError struct {
	What    string
	Sources []string // all that there are
	In      []string // those that have it
}

func (e *ChoiceError) Error() string {
	if len(e.In) == 0 {
		return fmt.Sprintf("%s is in none of the sources %s: it has to be said which one is meant", e.What, strings.Join(e.Sources, ", "))
	}
	return fmt.Sprintf("%s is in more than one source: %s", e.What, strings.Join(e.In, ", "))
}

// source chooses the source: the one that was asked for, the only one, or the only one
// that has a hit.
func (inv Inventory) source(w Where, what string, hits []hit) (int, error) {
	all := inv.Sources()
	var in []int
	for _, h := range hits {
		if !slices.Contains(in, h.source) {
			in = append(in, h.source)
		}
	}
	switch {
	case w.Local || len(all) == 1:
		return 0, nil
	case w.Central:
		return len(all) - 1, nil
	case len(in) == 1:
		return in[0], nil
	}
	e := &ChoiceError{What: what}
	for i, s := range all {
		e.Sources = append(e.Sources, s.Name())
		if slices.Contains(in, i) {
			e.In = append(e.In, s.Name())
		}
	}
	return 0, e
}

// An AmbiguousNameError is a name that more than one entry has.
type AmbiguousNameError struct {
	Name       string
	Candidates []string // as callers, or as DNs where that tells nothing
}

func (e *AmbiguousNameError) Error() string {
	return fmt.Sprintf("%q can be %s", e.Name, strings.Join(e.Candidates, " or "))
}

// An AbsentError is an entry that the source would have to have.
type AbsentError struct{ Kind, Name, Source string }

func (e *AbsentError) Error() string {
	return fmt.Sprintf("no %s %q in inventory %s", e.Kind, e.Name, e.Source)
}

// pick returns the one of the hits that is in the chosen source.
func (inv Inventory) pick(w Where, kind, name string, hits []hit) (hit, error) {
	if len(hits) == 0 {
		return hit{}, &ldapmap.NotFoundError{What: kind, Name: name}
	}
	source, err := inv.source(w, fmt.Sprintf("%s %q", kind, name), hits)
	if err != nil {
		return hit{}, err
	}
	h, found, err := oneOf(hits, source, name)
	if err == nil && !found {
		err = &AbsentError{Kind: kind, Name: name, Source: inv.Sources()[source].Name()}
	}
	return h, err
}

func oneOf(hits []hit, source int, name string) (found hit, ok bool, err error) {
	for _, h := range hits {
		switch {
		case h.source != source:
		case ok:
			return h, true, &AmbiguousNameError{Name: name, Candidates: []string{found.entry.DN, h.entry.DN}}
		default:
			found, ok = h, true
		}
	}
	return found, ok, nil
}

// callers are the entries that the caller can be. A host's full name goes before the
// other names that lookups take for the same.
func (inv Inventory) callers(c Caller) []hit {
	exact := func(e ldapmap.Entry, kind string) bool {
		names := e.Attrs["cn"]
		if kind == User {
			names = e.Attrs["uid"]
		}
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, c.Name) })
	}
	hits := inv.search(func(e ldapmap.Entry) bool {
		kind := kindOf(e)
		if kind == "" || c.Kind != "" && c.Kind != kind {
			return false
		}
		return exact(e, kind) || kind == Host && slices.ContainsFunc(e.Attrs["cn"], func(n string) bool { return ldapmap.SameHost(n, c.Name) })
	})
	return slices.DeleteFunc(slices.Clone(hits), func(h hit) bool {
		return !exact(h.entry, kindOf(h.entry)) && slices.ContainsFunc(hits, func(o hit) bool {
			return o.source == h.source && kindOf(o.entry) == Host && exact(o.entry, Host)
		})
	})
}

// A place is an entry that is to be changed, or to be made.
type place struct {
	source int
	dn     string
	was    *ldapmap.Entry // nil: to be made
	kind   string
	name   string // of a new entry
}

// locate finds the entry of a caller.
func (inv Inventory) locate(c Caller, w Where) (place, error) {
	hits := inv.callers(c)
	var kinds []string
	for _, h := range hits {
		if kind := kindOf(h.entry); !slices.Contains(kinds, kind) {
			kinds = append(kinds, kind)
		}
	}
	if len(kinds) > 1 {
		err := &AmbiguousNameError{Name: c.Name}
		for _, kind := range kinds {
			err.Candidates = append(err.Candidates, Caller{Kind: kind, Name: c.Name}.String())
		}
		return place{}, err
	}
	kind := c.Kind
	if len(kinds) == 1 {
		kind = kinds[0]
	}
	if kind == "" {
		return place{}, &ldapmap.NotFoundError{What: "host, user, group or profile", Name: c.Name}
	}
	if kind != Host {
		h, err := inv.pick(w, kind, c.Name, hits)
		return place{source: h.source, dn: h.entry.DN, was: &h.entry, kind: kind}, err
	}
	source, err := inv.source(w, fmt.Sprintf("host %q", c.Name), hits)
	if err != nil {
		return place{}, err
	}
	h, found, err := oneOf(hits, source, c.Name)
	switch {
	case err != nil:
		return place{}, err
	case found:
		return place{source: source, dn: h.entry.DN, was: &h.entry, kind: kind}, nil
	}
	dn, name, err := inv.newHost(c.Name, source, w.In, hits)
	return place{source: source, dn: dn, kind: kind, name: name}, err
}

// newHost is the DN and the name of a host's entry that is to be made: below the DN
// that was named; or in files, as another source has it, or else beside other hosts.
func (inv Inventory) newHost(name string, source int, in string, elsewhere []hit) (dn, cn string, err error) {
	if in == "" && inv.Files[source] {
		if len(elsewhere) > 0 {
			return elsewhere[0].entry.DN, elsewhere[0].entry.First("cn"), nil
		}
		hosts := inv.search(ldapmap.IsHost)
		if beside := slices.IndexFunc(hosts, func(h hit) bool { return h.source == source }); beside >= 0 {
			in = parent(hosts[beside].entry.DN)
		} else if len(hosts) > 0 {
			in = parent(hosts[0].entry.DN)
		}
	}
	if in == "" {
		return "", "", &AbsentError{Kind: Host, Name: name, Source: inv.Sources()[source].Name()}
	}
	dn, err = child("cn="+escape(name), in)
	return dn, name, err
}

// child is the DN of an entry below another.
func child(rdn, below string) (string, error) {
	if _, err := memsource.NormalDN(below); err != nil || below == "" {
		return "", fmt.Errorf("dn %q is none", below)
	}
	return rdn + "," + below, nil
}

// escape escapes a name for a DN (RFC 4514, section 2.4).
func escape(name string) string { return ldap.EscapeDN(name) }

// parent is the DN without its first part, in the spelling that it has.
func parent(dn string) string {
	for i := 0; i < len(dn); i++ {
		switch dn[i] {
		case '\\':
			i++
		case ',':
			return strings.TrimSpace(dn[i+1:])
		}
	}
	return ""
}
