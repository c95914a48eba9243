package ldapmap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// kinded is a layer of a kind.
func kinded(name, kind string) string { return layer(name) + "\nlevelfsKind: " + kind }

// adds puts a layer above emacs.
func adds(order int, layer string) string {
	return fmt.Sprintf("levelfsCustomize: emacs=%02d:%s", order, layer)
}

// customized is an inventory in which ann on lnx01 gets a layer of every rank.
func customized() []string {
	member := func(dn string) string { return "member: " + dn }
	return []string{
		component("emacs", "levelfsDefault: 1", adds(50, "site")), levels("emacs", "1", "2"), layer("base"),
		caller(userDN, "inetOrgPerson", adds(50, "ann"), "of-ann"),
		profile("of-ann", adds(10, "ann-profile")),
		caller("cn=people,ou=groups", "groupOfNames", adds(50, "people"), member(userDN)),
		caller("cn=guests,ou=groups", "groupOfNames", adds(50, "guests"), "of-guests", member(hostDN)),
		profile("of-guests", adds(50, "guests-profile"), adds(10, "site-profile")),
		host(adds(50, "host"), "of-host"),
		profile("of-host", adds(10, "host-profile"), adds(10, "site-profile")),
		kinded("site", "site"), kinded("site-profile", "site"), kinded("ann", "user"), kinded("ann-profile", "user"),
		kinded("people", "group"), kinded("guests", "group"), kinded("guests-profile", "group"),
		kinded("host", "host"), kinded("host-profile", "HOST"),
	}
}

func names(layers []Layer) string {
	var names []string
	for _, l := range layers {
		names = append(names, l.Name)
	}
	return strings.Join(names, " ")
}

// TestCustomized: every rank contributes, in the order of the ranks.
func TestCustomized(t *testing.T) {
	t.Parallel()
	const shared = "host host-profile guests guests-profile site-profile site"
	for _, c := range []struct {
		q    Query
		want string
	}{
		{Query{}, shared},
		{Query{User: "ann"}, "ann ann-profile people " + shared},
		{Query{Host: "other"}, "site"},
		{Query{Key: Key{Component: "emacs", Level: "2"}}, ""}, // as it was delivered
		{Query{Key: Key{Component: "emacs", Level: "2"}, User: "ann", Customized: true}, "ann ann-profile people " + shared},
	} {
		s := source("s", customized()...)
		r, err := resolve(t, c.q, s)
		if err != nil || names(r.Above) != c.want || names(r.Layers) != "base" {
			t.Errorf("%+v: %q above %q, %v; want %q", c.q, names(r.Above), names(r.Layers), err, c.want)
		}
		above, err := (&Resolver{Sources: []Source{s}}).Above(t.Context(), r.Query)
		if err != nil || names(above) != c.want {
			t.Errorf("%+v: %q above any level, %v; want %q", c.q, names(above), err, c.want)
		}
		for _, a := range r.Additions {
			if a.Kind == "" || a.Reason != ReasonAdded && a.Reason != ReasonReached || a.Used != (a.Reason == ReasonAdded) || a.Kind == KindSite && a.Rank != RankSite {
				t.Errorf("%+v", a)
			}
		}
		used := slices.DeleteFunc(slices.Clone(r.Additions), func(a Addition) bool { return !a.Used })
		if len(used) != len(r.Above) {
			t.Errorf("%+v: %d additions are used, for %d layers", c.q, len(used), len(r.Above))
		}
	}
}

// TestCustomizedSearches: the layers of who is known after the first search come with the
// second one; those of groups and of profiles take one more.
func TestCustomizedSearches(t *testing.T) {
	t.Parallel()
	member := "member: " + hostDN
	base := []string{component("emacs", "levelfsDefault: 1", adds(1, "site")), levels("emacs", "1"), layer("base"),
		kinded("site", "site"), kinded("h", "host"), kinded("g", "group")}
	for _, c := range []struct {
		text []string
		want int
	}{
		{[]string{host()}, 2},
		{[]string{host(adds(1, "h"))}, 2},
		{[]string{host(adds(1, "h")), caller("cn=g,ou=groups", "groupOfNames", member)}, 2},
		{[]string{host(adds(1, "h")), caller("cn=g,ou=groups", "groupOfNames", adds(1, "g"), member)}, 3},
		{[]string{host("p"), profile("p", adds(1, "h"))}, 3},
		{[]string{host("p"), profile("p", adds(1, "site"))}, 2}, // it was asked for already
	} {
		s := source("s", append(c.text, base...)...)
		if _, err := resolve(t, Query{}, s); err != nil || s.searches != c.want {
			t.Errorf("%q: %d searches, want %d (%v)", c.text, s.searches, c.want, err)
		}
	}
}

// TestCustomizedSources: a local layer lies above a central one of the same rank, whatever
// their numbers; not above one of a higher rank.
func TestCustomizedSources(t *testing.T) {
	t.Parallel()
	local := source("local", component("emacs", adds(90, "mine")), host(adds(90, "mine-host")), kinded("mine", "site"), kinded("mine-host", "host"))
	r, err := resolve(t, Query{}, local, source("central", customized()...))
	if want := "mine-host host host-profile guests guests-profile mine site-profile site"; err != nil || names(r.Above) != want {
		t.Errorf("%q, %v; want %q", names(r.Above), err, want)
	}
}

// TestCustomizedRefused: what cannot be stacked is refused, and the error names both sides.
func TestCustomizedRefused(t *testing.T) {
	t.Parallel()
	member := "member: " + hostDN
	base := []string{component("emacs", "levelfsDefault: 1"), levels("emacs", "1"), layer("base"),
		kinded("s", "site"), kinded("u", "user"), kinded("g", "group"), kinded("h", "host"), kinded("h2", "host")}
	var kind *KindError
	var order *OrderError
	var missing *NotFoundError
	var invalid *InvalidError
	for _, c := range []struct {
		text   []string
		target any
		names  []string
	}{
		{[]string{host(adds(1, "s"))}, &kind, []string{`"s" is of kind site`, hostDN, "of kind host"}},
		{[]string{host(adds(1, "base"))}, &kind, []string{`"base" is of kind vendor`, hostDN}},
		{[]string{host(adds(1, "g"))}, &kind, []string{`"g" is of kind group`, hostDN}},
		{[]string{host("p"), profile("p", adds(1, "u"))}, &kind, []string{`"u" is of kind user`, "via profile p", "of kind host and site"}},
		{[]string{host(), caller("cn=g,ou=groups", "groupOfNames", adds(1, "h"), member)}, &kind, []string{"cn=g,ou=groups", "of kind group"}},
		{[]string{host(adds(1, "h"), adds(1, "h2"))}, &order, []string{`"h"`, `"h2"`, hostDN, "number 01"}},
		{[]string{host(), caller("cn=a,ou=groups", "groupOfNames", "p", member), caller("cn=b,ou=groups", "groupOfNames", "q", member),
			profile("p", adds(7, "g")), profile("q", adds(7, "g2")), kinded("g2", "group")}, &order, []string{"cn=a,ou=groups via profile p", "cn=b,ou=groups via profile q"}},
		{[]string{host(adds(1, "none"))}, &missing, []string{`"none"`, hostDN}},
		{[]string{host("levelfsCustomize: emacs=x:h")}, &invalid, []string{hostDN, "COMPONENT=NN:LAYER"}},
	} {
		resolver := &Resolver{Sources: []Source{source("s", append(c.text, base...)...)}}
		query := Query{Key: Key{Component: "emacs"}, Host: "lnx01.example.org"}
		r, err := resolver.Resolve(t.Context(), query)
		if !errors.As(err, c.target) {
			t.Errorf("%q: %v, want a %T", c.text, err, c.target)
			continue
		}
		if above, again := resolver.Above(t.Context(), query); again == nil || again.Error() != err.Error() || above != nil {
			t.Errorf("%q above any level, %v; want %v", names(above), again, err)
		}
		for _, name := range c.names {
			if !strings.Contains(err.Error(), name) {
				t.Errorf("%v does not name %s", err, name)
			}
		}
		if len(r.Trail) == 0 {
			t.Errorf("%v: the rules of the level are lost", err)
		}
	}
	// One number for a layer that is reached twice is no contradiction, nor one of two sources.
	for _, text := range [][]string{
		{host(adds(1, "h"), adds(2, "h")), caller("cn=lnx01,ou=hosts", "device", adds(1, "h"))},
		{host(adds(1, "h"), "p"), profile("p", adds(1, "h2"))},
	} {
		if _, err := resolve(t, Query{}, source("s", append(text, base...)...)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	// A component's entry speaks of itself, and a level has the vendor's layers only.
	for _, c := range []struct {
		text   []string
		target any
	}{
		{[]string{component("emacs", "levelfsDefault: 1", "levelfsCustomize: vi=01:s"), levels("emacs", "1"), layer("base"), kinded("s", "site")}, &invalid},
		{[]string{component("emacs", "levelfsDefault: 1"), levels("emacs", "1"), kinded("base", "site")}, &kind},
	} {
		for _, key := range []Key{{Component: "emacs"}, {Component: "emacs", Level: "1"}} {
			if _, err := resolve(t, Query{Key: key}, source("s", c.text...)); !errors.As(err, c.target) {
				t.Errorf("%q: %v, want a %T", c.text, err, c.target)
			}
		}
	}
}

// TestCustomizedTree: the tree has for each component what a lookup of it gives.
func TestCustomizedTree(t *testing.T) {
	t.Parallel()
	text := append(customized(), component("vi", "levelfsDefault: 1"), levels("vi", "1"),
		component("gcc", "levelfsDefault: 1", "levelfsCustomize: gcc=10:ann"), levels("gcc", "1"))
	r := &Resolver{Sources: []Source{source("s", text...)}}
	entries, _, err := r.Tree(t.Context(), "lnx01.example.org", "ann")
	if err != nil || len(entries) != 3 {
		t.Fatalf("%+v, %v", entries, err)
	}
	for _, e := range entries {
		one, err := r.Resolve(t.Context(), Query{Key: Key{Component: e.Component}, Host: "lnx01.example.org", User: "ann"})
		if fmt.Sprint(err) != fmt.Sprint(e.Err) {
			t.Errorf("%s: %v, want %v", e.Component, e.Err, err)
		}
		if err == nil && (names(e.Resolution.Above) != names(one.Above) || names(e.Resolution.Layers) != names(one.Layers)) {
			t.Errorf("%s: %q, want %q", e.Component, names(e.Resolution.Above), names(one.Above))
		}
	}
	var kind *KindError
	if !errors.As(entries[1].Err, &kind) || names(entries[0].Resolution.Above) == "" || names(entries[2].Resolution.Above) != "" {
		t.Errorf("%+v", entries)
	}
}

// TestCustomizedLate: a component with more levels than a source gives at once.
func TestCustomizedLate(t *testing.T) {
	t.Parallel()
	s := source("s", customized()...)
	s.failAt, s.err = 1, &ConfigError{Source: "s", Err: &TooManyError{Limit: 2}}
	r, err := resolve(t, Query{}, s)
	if want := "host host-profile guests guests-profile site-profile site"; err != nil || names(r.Above) != want || names(r.Layers) != "base" {
		t.Errorf("%q above %q, %v", names(r.Above), names(r.Layers), err)
	}
}
