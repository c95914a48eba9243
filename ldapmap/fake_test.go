package ldapmap

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

// fakeSource is an inventory in memory. It evaluates terms as a directory server
// does, with the schema's matching rules (case-exact ones would only make it find
// less: the code above a Source must not rely on that), and counts what it is
// asked.
type fakeSource struct {
	name     string
	entries  []Entry
	searches int
	failAt   int // the search that fails, from 1; 0: none
	err      error
	asked    []string // attributes of the last search
}

func (s *fakeSource) Name() string { return s.name }
func (s *fakeSource) Close() error { return nil }

func (s *fakeSource) Search(_ context.Context, terms []Term, attrs []string) ([]Entry, error) {
	s.searches++
	s.asked = attrs
	if s.searches == s.failAt {
		return nil, s.err
	}
	var hits []Entry
	for _, e := range s.entries {
		if slices.ContainsFunc(terms, func(t Term) bool { return selects(t, e) }) {
			hits = append(hits, project(e, attrs))
		}
	}
	slices.Reverse(hits) // a server returns entries in no particular order
	return hits, nil
}

// project gives only the attributes that were asked for, as a server does.
func project(e Entry, attrs []string) Entry {
	p := Entry{DN: e.DN, Attrs: make(map[string][]string)}
	for _, a := range attrs {
		if v := e.Attrs[strings.ToLower(a)]; len(v) > 0 {
			p.Attrs[strings.ToLower(a)] = v
		}
	}
	return p
}

func selects(term Term, e Entry) bool {
	for _, condition := range term {
		if !slices.ContainsFunc(condition, func(t Test) bool { return passes(t, e) }) {
			return false
		}
	}
	return true
}

func passes(t Test, e Entry) bool {
	values := e.Attrs[strings.ToLower(t.Attr)]
	switch t.Op {
	case Present:
		return len(values) > 0
	case Prefix:
		return slices.ContainsFunc(values, func(v string) bool {
			return strings.HasPrefix(strings.ToLower(v), strings.ToLower(t.Value))
		})
	}
	if t.Attr == "member" || t.Attr == "uniqueMember" {
		want, err := ldap.ParseDN(t.Value)
		return err == nil && slices.ContainsFunc(values, func(v string) bool {
			got, err := ldap.ParseDN(v)
			return err == nil && got.EqualFold(want)
		})
	}
	return slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, t.Value) })
}

// source makes a fakeSource of blocks of "attribute: value" lines, with an empty
// line between entries.
func source(name string, text ...string) *fakeSource {
	s := &fakeSource{name: name}
	for block := range strings.SplitSeq(strings.Join(text, "\n\n"), "\n\n") {
		e := Entry{Attrs: make(map[string][]string)}
		for line := range strings.SplitSeq(block, "\n") {
			attr, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
			switch attr = strings.ToLower(attr); {
			case attr == "dn":
				e.DN = value
			case ok:
				e.Attrs[attr] = append(e.Attrs[attr], value)
			}
		}
		if e.DN != "" {
			s.entries = append(s.entries, e)
		}
	}
	return s
}

// The parts of most inventories below.

func component(name string, lines ...string) string {
	return strings.Join(append([]string{
		"dn: cn=" + name + ",ou=components",
		"objectClass: levelfsComponent",
		"cn: " + name}, lines...), "\n")
}

// levels are levels of a component that are all made of the layer "base".
func levels(component string, names ...string) string {
	var blocks []string
	for _, name := range names {
		blocks = append(blocks, strings.Join([]string{
			"dn: cn=" + component + "@" + name + ",cn=" + component + ",ou=components",
			"objectClass: levelfsLevel",
			"cn: " + component + "@" + name,
			"levelfsLayerRef: 00:base"}, "\n"))
	}
	return strings.Join(blocks, "\n\n")
}

func layer(name string) string {
	return strings.Join([]string{
		"dn: cn=" + name + ",ou=layers",
		"objectClass: levelfsLayer",
		"cn: " + name,
		"levelfsFSType: dir",
		"levelfsImage: " + name}, "\n")
}

// caller is an entry of a caller; what it says are "COMPONENT=LEVEL" or the names
// of profiles.
func caller(dn, class string, says ...string) string {
	lines := []string{"dn: " + dn, "objectClass: " + class, "objectClass: levelfsCaller"}
	rdn, _, _ := strings.Cut(dn, ",")
	lines = append(lines, strings.Replace(rdn, "=", ": ", 1))
	return strings.Join(append(lines, assignments(says)...), "\n")
}

func assignments(says []string) []string {
	var lines []string
	for _, s := range says {
		switch {
		case strings.Contains(s, ": "):
			lines = append(lines, s)
		case strings.Contains(s, "="):
			lines = append(lines, "levelfsAssignment: "+s)
		default:
			lines = append(lines, "levelfsProfileRef: "+s)
		}
	}
	return lines
}

func profile(name string, says ...string) string {
	return strings.Join(append([]string{
		"dn: cn=" + name + ",ou=profiles",
		"objectClass: levelfsProfile",
		"cn: " + name}, assignments(says)...), "\n")
}

const (
	hostDN = "cn=lnx01.example.org,ou=hosts"
	userDN = "uid=ann,ou=people"
)

func host(says ...string) string { return caller(hostDN, "device", says...) }

// software is what every inventory that resolves emacs has.
func software(levelNames ...string) string {
	return component("emacs") + "\n\n" + levels("emacs", levelNames...) + "\n\n" + layer("base")
}

// resolve asks the sources for emacs as host lnx01.example.org, or as a user on
// it, and checks what holds for every lookup: at most two searches in each source, one for each further level of profiles and one for layers above the level,
// and a reason for every rule.
func resolve(t *testing.T, q Query, sources ...*fakeSource) (*Resolution, error) {
	t.Helper()
	if q.Key.Component == "" {
		q.Key.Component = "emacs"
	}
	if q.Host == "" {
		q.Host = "lnx01.example.org"
	}
	var r Resolver
	for _, s := range sources {
		r.Sources = append(r.Sources, s)
	}
	res, err := r.Resolve(context.Background(), q)
	if res == nil {
		t.Fatalf("no resolution with error %v", err)
	}
	for _, s := range sources {
		if s.searches > 3+maxNesting {
			t.Errorf("%d searches in source %q", s.searches, s.name)
		}
	}
	won := 0
	for _, rule := range res.Trail {
		if rule.Won {
			won++
		}
		if err == nil && rule.Reason == "" {
			t.Errorf("rule without a reason: %+v", rule)
		}
	}
	if err == nil && won != 1 {
		t.Errorf("%d rules have won: %+v", won, res.Trail)
	}
	return res, err
}
