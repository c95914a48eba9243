package ldapmap

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestMandatory sets mandatory rules against ones that would go before them.
func TestMandatory(t *testing.T) {
	t.Parallel()
	local := func(says ...string) *fakeSource { return source("local", host(says...)) }
	central := func(says ...string) *fakeSource {
		return source("central", software("1", "2", "3"), host(says...),
			caller("cn=guests,ou=groups", "groupOfNames", "levelfsMandatory: emacs=3", "member: "+hostDN))
	}
	for _, c := range []struct {
		name    string
		sources []*fakeSource
		want    string
		reason  string // of a loser
	}{
		{"before a more specific assignment of an earlier source",
			[]*fakeSource{local("emacs=1"), central()}, "3", "a mandatory rule answered"},
		{"the more specific of two",
			[]*fakeSource{local("emacs=1"), central("levelfsMandatory: emacs=2")}, "2", "a more specific rule answered"},
		{"a later source's at the same rank",
			[]*fakeSource{local("levelfsMandatory: emacs=1"), central("levelfsMandatory: emacs=2")}, "2",
			"a later source's mandatory rule answered at this rank"},
		{"on the same entry",
			[]*fakeSource{central("emacs=1", "levelfsMandatory: emacs=2")}, "2", "a mandatory rule answered"},
		{"in a profile",
			[]*fakeSource{local("emacs=1", "all"), source("central", software("1", "2"), profile("all", "levelfsMandatory: emacs=2"))}, "2",
			"a mandatory rule answered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{}, c.sources...)
			if err != nil {
				t.Fatal(err)
			}
			if r.Level.Name != "emacs@"+c.want || !winner(t, r).Mandatory {
				t.Errorf("%s by %+v", r.Level.Name, winner(t, r))
			}
			var reasons []string
			for _, rule := range r.Trail {
				reasons = append(reasons, rule.Reason)
			}
			if !strings.Contains(strings.Join(reasons, "\n"), c.reason) {
				t.Errorf("no %q in %q", c.reason, reasons)
			}
		})
	}

	_, err := resolve(t, Query{}, central("levelfsMandatory: emacs=1", "levelfsMandatory: emacs=2"))
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) {
		t.Errorf("two mandatory levels on one entry: %v", err)
	}
}

// TestStates says by which ways of asking a level of each state is given.
func TestStates(t *testing.T) {
	t.Parallel()
	inventory := func(state string, parts ...string) *fakeSource {
		level := levels("emacs", "1") + "\nlevelfsState: " + state + "\nlevelfsSuccessor: 2"
		return source("s", append(parts, level, layer("base"))...)
	}
	group := caller("cn=guests,ou=groups", "groupOfNames", "emacs=1", "member: "+hostDN)
	ways := map[string]struct {
		query Query
		parts []string
		early bool // gives a level that is not released
	}{
		"key":     {Query{Key: Key{"emacs", "1"}}, []string{component("emacs")}, true},
		"host":    {Query{}, []string{component("emacs"), host("emacs=1")}, true},
		"profile": {Query{}, []string{component("emacs"), host("testers"), profile("testers", "emacs=1")}, true},
		"group":   {Query{}, []string{component("emacs"), host(), group}, false},
		"default": {Query{}, []string{component("emacs", "levelfsDefault: 1")}, false},
	}
	for name, way := range ways {
		for state, given := range map[string]bool{
			"released": true, "test": way.early, "draft": way.early, "retired": false,
		} {
			t.Run(state+" by "+name, func(t *testing.T) {
				t.Parallel()
				r, err := resolve(t, way.query, inventory(state, way.parts...))
				var unusable *UnusableError
				switch {
				case given && (err != nil || len(r.Layers) != 1):
					t.Errorf("%v, layers %v", err, r.Layers)
				case !given && !errors.As(err, &unusable):
					t.Errorf("given: %v", err)
				case !given && (unusable.Successor != "emacs@2" || !strings.Contains(err.Error(), `"emacs@2"`)):
					t.Errorf("the successor is not named: %v", err)
				}
			})
		}
	}
}

// TestValidity asks before, in and after a window.
func TestValidity(t *testing.T) {
	t.Parallel()
	window := levels("emacs", "1") + "\nlevelfsNotBefore: 20270101000000Z\nlevelfsNotAfter: 202706302359+0200"
	for now, want := range map[string]string{
		"2026-12-31T23:59:59Z": "before 2027-01-01T00:00:00Z",
		"2027-01-01T00:00:00Z": "",
		"2027-06-30T21:59:00Z": "",
		"2027-06-30T21:59:01Z": "after 2027-06-30T21:59:00Z",
	} {
		t.Run(now, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339, now)
			if err != nil {
				t.Fatal(err)
			}
			r := Resolver{
				Sources: []Source{source("s", component("emacs"), window, layer("base"), host("emacs=1"))},
				Now:     func() time.Time { return at },
			}
			_, err = r.Resolve(context.Background(), Query{Key: Key{Component: "emacs"}, Host: "lnx01.example.org"})
			var unusable *UnusableError
			if want == "" && err != nil || want != "" && (!errors.As(err, &unusable) || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	for _, bad := range []string{"tomorrow", "20270101", "2027-01-01T00:00:00Z", "20271301000000Z"} {
		_, err := resolve(t, Query{}, source("s", component("emacs"), levels("emacs", "1")+"\nlevelfsNotAfter: "+bad, layer("base"), host("emacs=1")))
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Attr != "levelfsNotAfter" {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestHostNames: a host is known by its short or by its full name, whichever asks.
func TestHostNames(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		host, entry string
		found       bool
	}{
		{"lnx01", "lnx01", true},
		{"lnx01", "LNX01.example.org", true},
		{"lnx01.example.org", "lnx01", true},
		{"lnx01.example.org", "lnx01.example.org", true},
		{"lnx01.example.org", "lnx01.example.com", false},
		{"lnx01", "lnx011.example.org", false},
		{"lnx01", "lnx0", false},
	} {
		t.Run(c.host+" by "+c.entry, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{Host: c.host},
				source("s", software("1", "2"), caller("cn="+c.entry+",ou=hosts", "device", "emacs=1")))
			var none *NoLevelError
			if c.found && (err != nil || r.Level.Name != "emacs@1") || !c.found && !errors.As(err, &none) {
				t.Errorf("%v, %v", r.Level.Name, err)
			}
		})
	}
	// Two hosts of one short name that run different levels cannot be told apart.
	_, err := resolve(t, Query{Host: "lnx01"}, source("s", software("1", "2"),
		caller("cn=lnx01.a.org,ou=hosts", "device", "emacs=1"), caller("cn=lnx01.b.org,ou=hosts", "device", "emacs=2")))
	var ambiguous *AmbiguousError
	if !errors.As(err, &ambiguous) {
		t.Errorf("got %v", err)
	}
}
