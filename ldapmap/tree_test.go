package ldapmap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// treeOf is Tree in short: "emacs@1", or "emacs: why not".
func treeOf(t *testing.T, user string, sources ...*fakeSource) (got []string, known bool) {
	t.Helper()
	r := Resolver{Now: func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }}
	for _, s := range sources {
		r.Sources = append(r.Sources, s)
	}
	entries, known, err := r.Tree(context.Background(), "lnx01.example.org", user)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Err != nil {
			if e.Resolution != nil {
				t.Errorf("%s: level %v with error %v", e.Component, e.Resolution.Key(), e.Err)
			}
			got = append(got, e.Component+": "+e.Err.Error())
			continue
		}
		if e.Resolution.Component.Name != e.Component || len(e.Resolution.Layers) == 0 {
			t.Errorf("%s: %+v", e.Component, e.Resolution)
		}
		got = append(got, e.Resolution.Level.Name)
	}
	return got, known
}

// busy has components that are given by each kind of rule, and each way to get none.
func busy() []string {
	return []string{
		component("a-user", "levelfsDefault: 1"), levels("a-user", "1", "2"),
		component("b-profile"), levels("b-profile", "1"),
		component("c-group"), levels("c-group", "1"),
		component("d-host", "levelfsDefault: 1"), levels("d-host", "1", "2"),
		component("e-default", "levelfsDefault: 1"), levels("e-default", "1"),
		component("f-none"), levels("f-none", "1"),
		component("g-two"), levels("g-two", "1", "2"),
		component("h-retired", "levelfsDefault: 1"), strings.Replace(levels("h-retired", "1"), "levelfsLayerRef", "levelfsState: retired\nlevelfsSuccessor: 2\nlevelfsLayerRef", 1),
		component("i-missing", "levelfsDefault: 9"),
		component("j-bad", "levelfsDefault: 1,suid"),
		component("m-mandatory", "levelfsDefault: 1"), levels("m-mandatory", "1", "2"),
		component("n-other", "levelfsDefault: 1"), levels("n-other", "1", "2"),
		caller(userDN, "posixAccount", "a-user=2", "g-two=1", "g-two=2", "k-nowhere=1", "base", "uid: ann"),
		caller("uid=rob,ou=people", "posixAccount", "n-other=2"),
		profile("base", "b-profile=1", "deeper"), profile("deeper", "c-group=9"),
		caller("cn=team,ou=groups", "groupOfNames", "c-group=1", "member: "+userDN),
		host("d-host=2", "a-user=1", "levelfsMandatory: m-mandatory=2"),
		component("q-lost", "levelfsDefault: 1"), strings.Replace(levels("q-lost", "1"), "00:base", "00:lost", 1), layer("base"),
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	s := source("s", busy()...)
	got, known := treeOf(t, "ann", s)
	want := []string{
		"a-user@2", "b-profile@1", `c-group: no level "c-group@9" in the inventory ("uid=ann,ou=people" refers to it)`, "d-host@2", "e-default@1",
		`g-two: two levels of "g-two" at rank "user": "1" by "uid=ann,ou=people" and "2" by "uid=ann,ou=people"`,
		`h-retired: level "h-retired@1" is retired; its successor is "h-retired@2"`,
		`i-missing: no level "i-missing@9" in the inventory ("cn=i-missing,ou=components" refers to it)`,
		`j-bad: entry "cn=j-bad,ou=components": levelfsDefault: invalid value "1,suid": want a level name such as 29.4-1`,
		`k-nowhere: no component "k-nowhere" in the inventory`, "m-mandatory@2", "n-other@1",
		`q-lost: no layer "lost" in the inventory ("cn=q-lost@1,cn=q-lost,ou=components" refers to it)`,
	}
	if !known || !slices.Equal(got, want) {
		t.Errorf("known %v, got\n%s\nwant\n%s", known, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// caller's entries, groups, included profiles, defaults, components, levels, layers
	if s.searches != 7 {
		t.Errorf("%d searches", s.searches)
	}
	// One who is not there has what everybody has, and is not known; nor is one of
	// another spelling, as LDAP finds him.
	for _, user := range []string{"nobody", "ANN"} {
		if got, known := treeOf(t, user, source("s", busy()...)); known || !slices.Contains(got, "e-default@1") {
			t.Errorf("%s: known %v, %q", user, known, got)
		}
	}
}

// TestTreeIsResolve: each component is what Resolve gives for it, whatever the rules.
func TestTreeIsResolve(t *testing.T) {
	t.Parallel()
	local := []string{component("e-default"), caller(userDN, "posixAccount", "d-host=1", "uid: ann"), profile("base", "e-default=1"), component("o-local", "levelfsDefault: 1"), levels("o-local", "1")}
	for _, sources := range [][][]string{{busy()}, {local, busy()}, {busy(), local}} {
		for _, user := range []string{"ann", "rob", "nobody"} {
			var tree, single []*fakeSource
			for i, text := range sources {
				tree, single = append(tree, source(fmt.Sprint(i), text...)), append(single, source(fmt.Sprint(i), text...))
			}
			got, _ := treeOf(t, user, tree...)
			var want []string
			for _, name := range []string{"a-user", "b-profile", "c-group", "d-host", "e-default", "f-none", "g-two", "h-retired", "i-missing",
				"j-bad", "k-nowhere", "m-mandatory", "n-other", "o-local", "q-lost"} {
				for _, s := range single {
					s.searches = 0
				}
				r, err := resolve(t, Query{Key: Key{Component: name}, User: user}, single...)
				var none *NoLevelError
				var missing *NotFoundError
				switch {
				case err == nil:
					want = append(want, r.Level.Name)
				case errors.As(err, &none), errors.As(err, &missing) && missing.What == "component" && !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, name) }):
				default:
					want = append(want, name+": "+err.Error())
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s in %d sources: got\n%s\nwant\n%s", user, len(sources), strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
	}
}

// limited is a source that returns some entries at once, as servers do.
type limited struct {
	*fakeSource
	limit int
}

func (s limited) Search(ctx context.Context, terms []Term, attrs []string) ([]Entry, error) {
	hits, err := s.fakeSource.Search(ctx, terms, attrs)
	if err == nil && len(hits) > s.limit {
		return nil, &ConfigError{Source: s.name, Err: &TooManyError{Limit: s.limit}}
	}
	return hits, err
}

// TestTreeMany: more components than a source returns at once, some of whose names
// begin with others' names.
func TestTreeMany(t *testing.T) {
	t.Parallel()
	var text []string
	var want []string
	for i := range 1000 {
		name := fmt.Sprintf("%c%d", 'a'+i%5, i)
		text = append(text, component(name, "levelfsDefault: 1"), levels(name, "1"))
		want = append(want, name+"@1")
	}
	text = append(text, layer("base"))
	slices.SortFunc(want, func(a, b string) int {
		return strings.Compare(strings.TrimSuffix(a, "@1"), strings.TrimSuffix(b, "@1"))
	})
	s := limited{source("s", text...), 150}
	r := Resolver{Sources: []Source{s}}
	entries, _, err := r.Tree(t.Context(), "lnx01", "ann")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Resolution.Level.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d components, want %d: %q", len(got), len(want), got[:min(len(got), 10)])
	}
	if s.searches > 300 {
		t.Errorf("%d searches", s.searches)
	}
	// What begins alike for ever is an error, after a number of searches.
	s = limited{source("s", component("emacs", "levelfsDefault: 1"), strings.Replace(component("emacs", "levelfsDefault: 1"), "ou=components", "ou=more", 1)), 1}
	r.Sources = []Source{s}
	var tooMany *TooManyError
	if _, _, err := r.Tree(t.Context(), "lnx01", "ann"); !errors.As(err, &tooMany) || s.searches > 2*maxBeginnings {
		t.Errorf("%v after %d searches", err, s.searches)
	}
}

func TestTreeRefuses(t *testing.T) {
	t.Parallel()
	s := source("s", busy()...)
	r := Resolver{Sources: []Source{s}}
	for _, user := range []string{"", ".", "..", "a/b", "a b", "a,b", "*", "a)(uid=*", strings.Repeat("a", 65)} {
		if _, _, err := r.Tree(t.Context(), "lnx01", user); err == nil || ValidUser(user) {
			t.Errorf("user %q: %v", user, err)
		}
	}
	if _, _, err := r.Tree(t.Context(), "(none)", "ann"); err == nil {
		t.Error("a host that is none")
	}
	if s.searches != 0 {
		t.Errorf("%d searches", s.searches)
	}
	for at := 1; at <= 7; at++ {
		s := source("s", busy()...)
		s.failAt, s.err = at, &UnavailableError{Source: "s", Err: errors.New("gone")}
		r := Resolver{Sources: []Source{s}}
		var down *UnavailableError
		if _, _, err := r.Tree(t.Context(), "lnx01.example.org", "ann"); !errors.As(err, &down) {
			t.Errorf("failure of search %d: %v", at, err)
		}
	}
}
