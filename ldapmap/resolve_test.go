package ldapmap

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// ranks are those that an inventory can have rules of, most specific first.
var ranks = []string{RankUser, RankUserProfile, RankUserGroup, RankUserGrProf,
	RankHost, RankHostProfile, RankHostGroup, RankHostGrProf, RankDefault}

// ruled is an inventory with one rule at each of the ranks given: the level is
// named after the rank's place in ranks and after the source.
func ruled(name string, software bool, at ...string) *fakeSource {
	says := func(direct, byProfile string) (lines []string) {
		if slices.Contains(at, direct) {
			lines = append(lines, "emacs="+levelAt(name, direct))
		}
		if slices.Contains(at, byProfile) {
			lines = append(lines, "of-"+levelAt(name, byProfile))
		}
		return lines
	}
	text := []string{
		caller(userDN, "inetOrgPerson", says(RankUser, RankUserProfile)...),
		caller("cn=people,ou=groups", "groupOfNames", append(says(RankUserGroup, RankUserGrProf), "member: "+userDN)...),
		host(says(RankHost, RankHostProfile)...),
		caller("cn=guests,ou=groups", "groupOfNames", append(says(RankHostGroup, RankHostGrProf), "member: "+hostDN)...),
	}
	for _, rank := range []string{RankUserProfile, RankUserGrProf, RankHostProfile, RankHostGrProf} {
		if slices.Contains(at, rank) {
			text = append(text, profile("of-"+levelAt(name, rank), "emacs="+levelAt(name, rank)))
		}
	}
	if slices.Contains(at, RankDefault) {
		text = append(text, component("emacs", "levelfsDefault: "+levelAt(name, RankDefault)))
	} else if software {
		text = append(text, component("emacs"))
	}
	if software {
		text = append(text, layer("base"))
		for _, source := range []string{"local", "central"} {
			for _, rank := range ranks {
				text = append(text, levels("emacs", levelAt(source, rank)))
			}
		}
	}
	return source(name, text...)
}

func levelAt(source, rank string) string {
	return fmt.Sprintf("%s-%d", source, slices.Index(ranks, rank))
}

// winner is the rule that decided.
func winner(t *testing.T, r *Resolution) Rule {
	t.Helper()
	i := slices.IndexFunc(r.Trail, func(rule Rule) bool { return rule.Won })
	if i < 0 {
		t.Fatalf("nothing won: %+v", r.Trail)
	}
	return r.Trail[i]
}

// TestPrecedence sets every rank against every less specific one.
func TestPrecedence(t *testing.T) {
	t.Parallel()
	for i, high := range ranks {
		for _, low := range append([]string{""}, ranks[i+1:]...) {
			t.Run(high+" over "+low, func(t *testing.T) {
				t.Parallel()
				r, err := resolve(t, Query{User: "ann"}, ruled("central", true, high, low))
				if err != nil {
					t.Fatal(err)
				}
				if got := winner(t, r); got.Rank != high || r.Level.Name != "emacs@"+levelAt("central", high) {
					t.Errorf("%s won with %s", got.Rank, r.Level.Name)
				}
			})
		}
	}
}

// TestHostAlone checks that what is assigned to users does not reach the host: in
// the shared tree whoever comes first must not decide for the others.
func TestHostAlone(t *testing.T) {
	t.Parallel()
	r, err := resolve(t, Query{}, ruled("central", true, ranks...))
	if err != nil {
		t.Fatal(err)
	}
	if got := winner(t, r); got.Rank != RankHost {
		t.Errorf("%s won: %+v", got.Rank, r.Trail)
	}
	for _, rule := range r.Trail {
		if strings.HasPrefix(rule.Rank, "user") {
			t.Errorf("a user's rule was considered: %+v", rule)
		}
	}
}

// TestSources sets each rank of one source against each rank of the other.
func TestSources(t *testing.T) {
	t.Parallel()
	for i, local := range ranks {
		for j, central := range ranks {
			t.Run(local+" and "+central, func(t *testing.T) {
				t.Parallel()
				r, err := resolve(t, Query{User: "ann"}, ruled("local", false, local), ruled("central", true, central))
				if err != nil {
					t.Fatal(err)
				}
				want := levelAt("local", local) // also where the ranks are the same
				if j < i {
					want = levelAt("central", central)
				}
				if r.Level.Name != "emacs@"+want {
					t.Errorf("got %s, want %s: %+v", r.Level.Name, want, r.Trail)
				}
			})
		}
	}
}

// TestLocalGroup checks that a group of one source can hold a host of the other:
// a local inventory need not repeat the host's entry.
func TestLocalGroup(t *testing.T) {
	t.Parallel()
	local := source("local", caller("cn=mine,ou=groups", "groupOfUniqueNames", "emacs=2", "uniqueMember: CN=lnx01.example.org, OU=hosts"))
	r, err := resolve(t, Query{}, local, source("central", software("1", "2"), host()))
	if err != nil || r.Level.Name != "emacs@2" {
		t.Errorf("got %+v, %v", r, err)
	}
}

// TestFirstSourceDescribes checks that component, level and layers come from the
// first source that has them, whichever decided.
func TestFirstSourceDescribes(t *testing.T) {
	t.Parallel()
	local := source("local", strings.ReplaceAll(software("1"), ",ou=", ",ou=local-"))
	r, err := resolve(t, Query{}, local, source("central", software("1"), host("emacs=1")))
	if err != nil {
		t.Fatal(err)
	}
	for _, dn := range []string{r.Component.DN, r.Level.DN, r.Layers[0].DN} {
		if !strings.Contains(dn, "ou=local-") {
			t.Errorf("%q is not of the local source", dn)
		}
	}
}

func TestShortHostName(t *testing.T) {
	t.Parallel()
	short := caller("cn=lnx01,ou=hosts", "ipHost", "emacs=1")
	if r, err := resolve(t, Query{}, source("s", software("1"), short)); err != nil || r.Level.Name != "emacs@1" {
		t.Errorf("qualified name, short entry: %+v, %v", r, err)
	}
	if r, err := resolve(t, Query{Host: "LNX01.Example.ORG"}, source("s", software("1"), host("emacs=1"))); err != nil || r.Level.Name != "emacs@1" {
		t.Errorf("another case: %+v, %v", r, err)
	}
}

func TestAmbiguous(t *testing.T) {
	t.Parallel()
	member := "member: " + hostDN
	for _, c := range []struct {
		name  string
		text  []string
		rank  string
		names []string // what the error has to name
	}{
		{"one entry", []string{host("emacs=1", "emacs=2")}, RankHost, []string{`"1"`, `"2"`, hostDN}},
		{"two entries of the host", []string{host("emacs=1"), caller("cn=lnx01,ou=hosts", "device", "emacs=2")},
			RankHost, []string{hostDN, "cn=lnx01,ou=hosts"}},
		{"two groups", []string{host(), caller("cn=a,ou=groups", "groupOfNames", "emacs=1", member), caller("cn=b,ou=groups", "groupOfNames", "emacs=2", member)},
			RankHostGroup, []string{"cn=a,ou=groups", "cn=b,ou=groups"}},
		{"two profiles", []string{host("p", "q"), profile("p", "emacs=1"), profile("q", "emacs=2")},
			RankHostProfile, []string{hostDN, "via profile p", "via profile q"}},
		{"a profile and one that it includes", []string{host("p"), profile("p", "emacs=1", "q"), profile("q", "emacs=2")},
			RankHostProfile, []string{"via profile p", "via profile p -> q"}},
		{"groups' profiles", []string{host(), caller("cn=a,ou=groups", "groupOfNames", "p", member), caller("cn=b,ou=groups", "groupOfNames", "q", member),
			profile("p", "emacs=1"), profile("q", "emacs=2")},
			RankHostGrProf, []string{"cn=a,ou=groups via profile p", "cn=b,ou=groups via profile q"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{}, source("s", append(c.text, software("1", "2"))...))
			var ambiguous *AmbiguousError
			if !errors.As(err, &ambiguous) || ambiguous.Component != "emacs" || ambiguous.A.Rank != c.rank || ambiguous.B.Rank != c.rank {
				t.Fatalf("got %v, want an *AmbiguousError at rank %q", err, c.rank)
			}
			for _, name := range c.names {
				if !strings.Contains(err.Error(), name) {
					t.Errorf("error %q does not name %q", err, name)
				}
			}
			// The dry run shows the trail: who is wrong, and what else there is.
			marked := 0
			for _, rule := range r.Trail {
				if rule.Won || rule.Reason == "" {
					t.Errorf("rule won, or has no reason: %+v", rule)
				}
				if rule.Reason == "ambiguous" {
					marked++
				}
			}
			if marked != 2 {
				t.Errorf("%d rules are marked as ambiguous: %+v", marked, r.Trail)
			}
			if r.Level.Name != "" || r.Layers != nil {
				t.Errorf("a level was chosen: %+v", r)
			}
		})
	}
}

// TestNotAmbiguous is what looks like it: two rules that say the same, and a
// conflict at a rank that does not decide.
func TestNotAmbiguous(t *testing.T) {
	t.Parallel()
	member := "member: " + hostDN
	for _, c := range []struct {
		name string
		text []string
	}{
		{"the same twice", []string{host(), caller("cn=a,ou=groups", "groupOfNames", "emacs=1", member), caller("cn=b,ou=groups", "groupOfNames", "emacs=1", member)}},
		{"a less specific conflict", []string{host("emacs=1"), caller("cn=a,ou=groups", "groupOfNames", "emacs=2", "emacs=3", member)}},
		{"another component", []string{host("emacs=1", "emacs-nox=2", "Emacs=2")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{}, source("s", append(c.text, software("1", "2"))...))
			if err != nil || r.Level.Name != "emacs@1" {
				t.Errorf("got %+v, %v", r, err)
			}
		})
	}
}

func TestProfiles(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		text []string
		via  []string // of the rules that come by a profile
	}{
		{"direct", []string{host("p"), profile("p", "emacs=1")}, []string{"p"}},
		{"included", []string{host("p"), profile("p", "q"), profile("q", "r"), profile("r", "emacs=1")}, []string{"p q r"}},
		{"diamond", []string{host("p"), profile("p", "l", "r"), profile("l", "b"), profile("r", "b"), profile("b", "emacs=1")}, []string{"p l b"}},
		{"named twice", []string{host("p", "P"), profile("p", "emacs=1")}, []string{"p"}},
		{"in another case", []string{host("BASE"), profile("base", "emacs=1")}, []string{"BASE"}},
		{"dangling", []string{host("gone", "p"), profile("p", "emacs=1", "lost")}, []string{"p"}},
		{"a loop that is not reached", []string{host("p"), profile("p", "emacs=1"), profile("a", "b"), profile("b", "a")}, []string{"p"}},
		{"silent", []string{host("q", "p"), profile("q", "vi=1"), profile("p", "emacs=1", "vi=2")}, []string{"p"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{}, source("s", append(c.text, software("1"))...))
			if err != nil || r.Level.Name != "emacs@1" {
				t.Fatalf("got %+v, %v", r, err)
			}
			var via []string
			for _, rule := range r.Trail {
				if len(rule.Via) > 0 {
					via = append(via, strings.Join(rule.Via, " "))
				}
			}
			if !reflect.DeepEqual(via, c.via) {
				t.Errorf("rules via %q, want %q", via, c.via)
			}
		})
	}
}

// TestProfileTower has 30^8 ways from top to bottom.
func TestProfileTower(t *testing.T) {
	t.Parallel()
	const width = 30
	tower := func(height int) []string {
		floor := func(n int) (names []string) {
			for i := range width {
				names = append(names, fmt.Sprintf("p%d-%d", n, i))
			}
			return names
		}
		text := []string{software("1"), host(floor(0)...), profile("top", "emacs=1")}
		for n := range height {
			above := floor(n + 1)
			if n+1 == height {
				above = []string{"top"}
			}
			for _, name := range floor(n) {
				text = append(text, profile(name, above...))
			}
		}
		return text
	}
	s := source("s", tower(maxNesting)...)
	r, err := resolve(t, Query{}, s)
	if err != nil || r.Level.Name != "emacs@1" {
		t.Fatalf("got %v, %v", r.Level, err)
	}
	if rule := winner(t, r); len(rule.Via) != maxNesting+1 {
		t.Errorf("via %d profiles", len(rule.Via))
	}
	if s.searches != 2+maxNesting {
		t.Errorf("%d searches", s.searches)
	}
	if _, err := resolve(t, Query{}, source("s", tower(maxNesting+1)...)); err == nil || !strings.Contains(err.Error(), "more than 8 deep") {
		t.Errorf("one higher: %v", err)
	}
}

// TestSearches counts what lookups cost.
func TestSearches(t *testing.T) {
	t.Parallel()
	group := func(says ...string) string {
		return caller("cn=guests,ou=groups", "groupOfNames", append(says, "member: "+hostDN)...)
	}
	for _, c := range []struct {
		name string
		text []string
		want int
	}{
		{"a host, its group and its profiles", []string{host("emacs=1", "a", "b"), group("emacs=1"), profile("a", "emacs=1"), profile("b", "vi=1")}, 2},
		{"a profile that includes one", []string{host("a"), profile("a", "b"), profile("b", "emacs=1")}, 3},
		{"a group's profile", []string{host(), group("a"), profile("a", "emacs=1")}, 3},
		{"both", []string{host("a"), group("c"), profile("a", "b"), profile("b", "emacs=1"), profile("c", "emacs=1")}, 3},
		{"a reference to nothing", []string{host("emacs=1", "nothing")}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := source("s", append(c.text, software("1"))...)
			if _, err := resolve(t, Query{}, s); err != nil || s.searches != c.want {
				t.Errorf("%d searches, want %d (%v)", s.searches, c.want, err)
			}
		})
	}
}

func TestProfileLoop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		text  []string
		chain []string
	}{
		{"of one", []string{host("a"), profile("a", "emacs=1", "a")}, []string{"a", "a"}},
		{"of one, in another case", []string{host("a"), profile("a", "A")}, []string{"a", "A"}},
		{"of two", []string{host("a"), profile("a", "b"), profile("b", "a")}, []string{"a", "b", "a"}},
		{"of three", []string{host("a"), profile("a", "b"), profile("b", "c"), profile("c", "a")}, []string{"a", "b", "c", "a"}},
		{"further in", []string{host("x"), profile("x", "a"), profile("a", "b"), profile("b", "a")}, []string{"x", "a", "b", "a"}},
		{"after a way out", []string{host("a"), profile("a", "out", "b"), profile("out", "emacs=1"), profile("b", "out", "a")}, []string{"a", "b", "a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := resolve(t, Query{}, source("s", append(c.text, software("1"))...))
			var loop *LoopError
			if !errors.As(err, &loop) || !reflect.DeepEqual(loop.Profiles, c.chain) {
				t.Fatalf("got %v, want a *LoopError of %q", err, c.chain)
			}
			if want := strings.Join(c.chain, " -> "); !strings.Contains(err.Error(), want) {
				t.Errorf("error %q does not show %q", err, want)
			}
		})
	}
}

// TestProfileOfTwoSources: a local profile goes before the central one of that
// name, as everything local does; that they differ is no ambiguity of one source.
func TestProfileOfTwoSources(t *testing.T) {
	t.Parallel()
	local := source("local", profile("base", "emacs=2"))
	r, err := resolve(t, Query{}, local, source("central", software("1", "2"), host("base"), profile("base", "emacs=1")))
	if err != nil || r.Level.Name != "emacs@2" {
		t.Errorf("got %q, %v; want emacs@2 of the local profile", r.Level.Name, err)
	}
}

// TestExplicitLevel: COMPONENT@LEVEL is the same for everybody, and needs no entry
// of the host.
func TestExplicitLevel(t *testing.T) {
	t.Parallel()
	s := source("s", software("1", "2"), caller(hostDN, "device", "emacs=1", "a"), profile("a", "a"))
	r, err := resolve(t, Query{Key: Key{Component: "emacs", Level: "2"}, Host: "unknown", User: "nobody"}, s)
	if err != nil || r.Level.Name != "emacs@2" || len(r.Layers) != 1 || r.Key() != (Key{Component: "emacs", Level: "2"}) {
		t.Fatalf("got %+v, %v", r, err)
	}
	if len(r.Trail) != 1 || winner(t, r).Rank != RankKey {
		t.Errorf("trail %+v", r.Trail)
	}
	_, err = resolve(t, Query{Key: Key{Component: "emacs", Level: "3"}}, source("s", software("1", "2")))
	var missing *NotFoundError
	if !errors.As(err, &missing) || *missing != (NotFoundError{What: "level", Name: "emacs@3"}) {
		t.Errorf("a level that is not there: %v", err)
	}
}

func TestNotFound(t *testing.T) {
	t.Parallel()
	levelDN := "cn=emacs@1,cn=emacs,ou=components"
	for _, c := range []struct {
		name string
		text []string
		want NotFoundError
	}{
		{"component", []string{levels("emacs", "1"), layer("base"), host("emacs=1")}, NotFoundError{"component", "emacs", ""}},
		{"component of another case", []string{component("Emacs"), levels("emacs", "1"), layer("base"), host("emacs=1")}, NotFoundError{"component", "emacs", ""}},
		{"level", []string{software("1"), host("emacs=2")}, NotFoundError{"level", "emacs@2", hostDN}},
		{"level of another case", []string{software("1a"), host("emacs=1A")}, NotFoundError{"level", "emacs@1A", hostDN}},
		{"default level", []string{component("emacs", "levelfsDefault: 2"), levels("emacs", "1"), host()}, NotFoundError{"level", "emacs@2", "cn=emacs,ou=components"}},
		{"layer", []string{component("emacs"), levels("emacs", "1"), host("emacs=1")}, NotFoundError{"layer", "base", levelDN}},
		{"layer of another case", []string{component("emacs"), levels("emacs", "1"), layer("BASE"), host("emacs=1")}, NotFoundError{"layer", "base", levelDN}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{}, source("s", c.text...))
			var missing *NotFoundError
			if !errors.As(err, &missing) || *missing != c.want {
				t.Fatalf("got %v, want %v", err, &c.want)
			}
			if c.want.What != "component" && winner(t, r).Level == "" {
				t.Errorf("the trail does not lead there: %+v", r.Trail)
			}
		})
	}
}

func TestNoLevel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
	}{
		{"no host", ""},
		{"silent host", host()},
		{"host of another component", host("vi=1")},
		{"another host", caller("cn=lnx02.example.org,ou=hosts", "device", "emacs=1")},
		{"only a user has one", caller(userDN, "inetOrgPerson", "emacs=1")},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{}, source("s", software("1"), c.text))
			var none *NoLevelError
			if !errors.As(err, &none) || *none != (NoLevelError{Component: "emacs", Host: "lnx01.example.org"}) {
				t.Fatalf("got %v, want a *NoLevelError", err)
			}
			for _, rule := range r.Trail {
				if rule.Won || rule.Reason == "" {
					t.Errorf("rule won, or has no reason: %+v", rule)
				}
			}
		})
	}
}

// TestTwins: two entries of one name in one source are an error, since nothing
// says which is meant. In two sources the earlier one counts.
func TestTwins(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"component", "level", "layer"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			twin := map[string]string{"component": component("emacs"), "level": levels("emacs", "1"), "layer": layer("base")}[what]
			twin = strings.Replace(twin, "dn: ", "dn: ou=twin+", 1)
			_, err := resolve(t, Query{}, source("s", software("1"), host("emacs=1"), twin))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Attr != "cn" {
				t.Fatalf("got %v, want an *InvalidError", err)
			}
			if text := err.Error(); !strings.Contains(text, "ou=twin+") || strings.Count(text, "cn=") < 2 {
				t.Errorf("error %q does not name both", text)
			}
			if _, err := resolve(t, Query{}, source("local", twin), source("s", software("1"), host("emacs=1"))); err != nil {
				t.Errorf("in two sources: %v", err)
			}
		})
	}
}

// TestInvalidCaller checks the values that are read while rules are collected.
func TestInvalidCaller(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		text string
		attr string
	}{
		{"level with a slash", host("levelfsAssignment: emacs=../1"), "levelfsAssignment"},
		{"no level", host("levelfsAssignment: emacs="), "levelfsAssignment"},
		{"no equals sign", host("levelfsAssignment: emacs"), "levelfsAssignment"},
		{"level with its component", host("levelfsAssignment: emacs=emacs@1"), "levelfsAssignment"},
		{"level with a blank", host("levelfsAssignment: emacs= 1"), "levelfsAssignment"},
		{"profile", host("levelfsProfileRef: a/b"), "levelfsProfileRef"},
		{"profile of a profile", host("p") + "\n\n" + profile("p", "levelfsProfileRef: *"), "levelfsProfileRef"},
		{"level of a profile", host("p") + "\n\n" + profile("p", "levelfsAssignment: emacs=1,suid"), "levelfsAssignment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := resolve(t, Query{}, source("s", software("1"), c.text))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || invalid.Attr != c.attr || invalid.DN == "" {
				t.Errorf("got %v, want an *InvalidError for %s", err, c.attr)
			}
		})
	}
	// What is wrong with another component is not this one's trouble.
	if _, err := resolve(t, Query{}, source("s", software("1"), host("emacs=1", "vi=../1"))); err != nil {
		t.Errorf("a wrong assignment of another component: %v", err)
	}
}

// TestGroups checks whose a group is when host and user both ask.
func TestGroups(t *testing.T) {
	t.Parallel()
	user := caller(userDN, "inetOrgPerson")
	for _, c := range []struct {
		name, group, rank string
	}{
		{"of the user", caller("cn=g,ou=groups", "groupOfNames", "emacs=1", "member: UID=Ann , ou=People"), RankUserGroup},
		{"of the user, by name", caller("cn=g,ou=groups", "posixGroup", "emacs=1", "memberUid: ann"), RankUserGroup},
		{"of the user, by name, of no POSIX class", caller("cn=g,ou=groups", "groupOfNames", "emacs=1", "memberUid: ann"), RankUserGroup},
		{"of the host", caller("cn=g,ou=groups", "groupOfUniqueNames", "emacs=1", "uniqueMember: "+hostDN), RankHostGroup},
		{"of both", caller("cn=g,ou=groups", "groupOfNames", "emacs=1", "member: "+hostDN, "member: "+userDN), RankUserGroup},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, err := resolve(t, Query{User: "ann"}, source("s", software("1"), host(), user, c.group))
			if err != nil {
				t.Fatal(err)
			}
			if got := winner(t, r); got.Rank != c.rank {
				t.Errorf("rank %q, want %q", got.Rank, c.rank)
			}
		})
	}
	// A group can have ten thousand members: they are asked for only where they are
	// needed.
	s := source("s", software("1"), host("emacs=1"))
	if _, err := resolve(t, Query{}, s); err != nil || slices.Contains(s.asked, "member") {
		t.Errorf("for the host alone %q are asked for; error %v", s.asked, err)
	}
}

// TestGroupMemberSpelling: a server finds a member under every spelling of RFC 4514
// and returns the one that was stored.
func TestGroupMemberSpelling(t *testing.T) {
	t.Parallel()
	lnx := caller(`cn=lnx01,o=Smith\, Sons`, "device", "vi=1")
	lnx = strings.Replace(lnx, "levelfsCaller\n", "levelfsCaller\ncn: lnx01.example.org\n", 1)
	group := caller("cn=g,ou=groups", "groupOfNames", "emacs=1", `member: cn=lnx01,o=Smith\2c Sons`)
	r, err := resolve(t, Query{User: "ann"}, source("s", software("1"), lnx, group, caller(userDN, "inetOrgPerson")))
	if err != nil || r.Level.Name != "emacs@1" {
		t.Errorf("got %q, %v", r.Level.Name, err)
	}
}

// TestMachineAccount: a host's entry can be a POSIX account too (a machine that
// joined a Samba domain is one), and is no user for that.
func TestMachineAccount(t *testing.T) {
	t.Parallel()
	machine := caller("uid=lnx01$,ou=hosts", "account", "objectClass: posixAccount", "objectClass: ipHost", "cn: lnx01.example.org", "emacs=1")
	r, err := resolve(t, Query{}, source("s", software("1"), machine))
	if err != nil {
		t.Fatal(err)
	}
	if got := winner(t, r); got.Rank != RankHost {
		t.Errorf("won at rank %q: %+v", got.Rank, r.Trail)
	}
	r, err = resolve(t, Query{User: "ann"}, source("s", software("1", "2"), machine, caller(userDN, "inetOrgPerson", "emacs=2")))
	if err != nil || r.Level.Name != "emacs@2" {
		t.Errorf("for a user on it: %q, %v; want the user's own emacs@2", r.Level.Name, err)
	}
}

func TestRefusedQueries(t *testing.T) {
	t.Parallel()
	for _, q := range []Query{
		{Host: "lnx01*"},
		{Host: ".."},
		{User: "../ann"},
		{User: "*"},
		{User: "ann)(uid=*"},
	} {
		s := source("s", software("1"))
		if _, err := resolve(t, q, s); err == nil || s.searches > 0 {
			t.Errorf("%+v: error %v after %d searches", q, err, s.searches)
		}
	}
	if _, err := new(Resolver).Resolve(context.Background(), Query{Key: Key{Component: "emacs"}, Host: "lnx01"}); err == nil {
		t.Error("no sources, and no error")
	}
}

// TestSourceErrors checks that a source's own error reaches the caller, from
// either search, and that the trail's absence does no harm.
func TestSourceErrors(t *testing.T) {
	t.Parallel()
	cause := errors.New("no route to host")
	for search := 1; search <= 2; search++ {
		good, bad := source("good", software("1"), host("emacs=1")), source("bad")
		bad.failAt, bad.err = search, &UnavailableError{Source: "bad", Err: cause}
		r, err := resolve(t, Query{}, good, bad)
		var down *UnavailableError
		if !errors.As(err, &down) || !errors.Is(err, cause) || down.Source != "bad" || !strings.Contains(err.Error(), `bad is not available: no route`) {
			t.Errorf("search %d: %v", search, err)
		}
		if r.Query.Host == "" || len(r.Trail) > 0 {
			t.Errorf("search %d: %+v", search, r)
		}
	}
	err := error(&ConfigError{Source: "bad", Err: cause})
	if !errors.Is(err, cause) || err.Error() != "inventory bad: no route to host" {
		t.Errorf("got %q", err)
	}
}

// TestTrail compares one rich resolution with its golden file: two sources, every
// rank, profiles in profiles, and a reason for each rule.
func TestTrail(t *testing.T) {
	t.Parallel()
	member := func(dn string) string { return "member: " + dn }
	central := source("ldaps://ldap.example.org",
		component("emacs", "levelfsDefault: 28.2-1", "levelfsMountPoint: /opt/emacs", "levelfsPrivate: ephemeral", "description: The editor"),
		"dn: cn=emacs@29.4-1,cn=emacs,ou=components\nobjectClass: levelfsLevel\ncn: emacs@29.4-1\n"+
			"levelfsLayerRef: 10:emacs-common\nlevelfsLayerRef: 00:emacs-29.4-1\nlevelfsState: test",
		"dn: cn=emacs-29.4-1,ou=layers\nobjectClass: levelfsLayer\ncn: emacs-29.4-1\nlevelfsFSType: erofs\nlevelfsSize: 41943040\n"+
			"levelfsDigest: sha256:5f1d0c8a7be94d2c3a60f8e2b7c491d05e6a83f7142bc9d0e8f35a6b7c2d9e41\nlevelfsSegment: EMACS294\n"+
			"levelfsUUID: 2b6a51c4-90f3-4d1e-8a77-c05d3e9b1f62\nlevelfsImage: emacs-29.4-1.erofs",
		layer("emacs-common"),
		caller(userDN, "inetOrgPerson"),
		host("base", "emacs=29.4-1"),
		caller("cn=testguests,ou=groups", "groupOfNames", "emacs=30.1-1", "more", member(hostDN)),
		caller("cn=staff,ou=groups", "posixGroup", "vi=9", "memberUid: ann"),
		profile("base", "emacs=28.2-1", "more"),
		profile("more", "emacs=28.2-1"))
	local := source("/etc/levelfs/inventory.d",
		caller("cn=mine,ou=groups", "groupOfNames", "emacs=29.4-1", member(hostDN)),
		component("emacs", "levelfsDefault: 27.1-1"))
	r, err := resolve(t, Query{User: "ann"}, central, local)
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "resolution.golden")
	if got = append(got, '\n'); *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the resolution is not that of %s (go test -update writes it anew):\n%s", golden, got)
	}
}

func TestComponents(t *testing.T) {
	t.Parallel()
	local := source("local", component("vi", "levelfsPrivate: none"), levels("vi", "1"), layer("base"))
	central := source("central", component("vi"), component("emacs", "levelfsMountPoint: /opt/emacs"), host("emacs=1"))
	r := Resolver{Sources: []Source{local, central}}
	got, err := r.Components(context.Background(), "")
	want := []Component{
		{DN: "cn=emacs,ou=components", Name: "emacs", MountPoint: "/opt/emacs", Private: Persistent},
		{DN: "cn=vi,ou=components", Name: "vi", Private: None},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for prefix, n := range map[string]int{"em": 1, "v": 1, "x": 0} {
		if got, err := r.Components(context.Background(), prefix); err != nil || len(got) != n {
			t.Errorf("%q: %+v, %v", prefix, got, err)
		}
	}
	if got, err := r.Placed(context.Background()); err != nil || len(got) != 1 || got[0].Name != "emacs" {
		t.Errorf("placed: %+v, %v", got, err)
	}
	if local.searches != 5 || central.searches != 5 {
		t.Errorf("%d and %d searches", local.searches, central.searches)
	}
}

func TestComponentsErrors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text, attr string }{
		{"name with a slash", "dn: cn=x,ou=test\nobjectClass: levelfsComponent\ncn: a/b\nlevelfsMountPoint: /x", "cn"},
		{"name of a level", "dn: cn=x,ou=test\nobjectClass: levelfsComponent\ncn: a@1\nlevelfsMountPoint: /x", "cn"},
		{"no name", "dn: cn=x,ou=test\nobjectClass: levelfsComponent\nlevelfsMountPoint: /x", "cn"},
		{"mount point", "dn: cn=x,ou=test\nobjectClass: levelfsComponent\ncn: a\nlevelfsMountPoint: /a b", "levelfsMountPoint"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := Resolver{Sources: []Source{source("s", c.text)}}
			_, err := r.Placed(context.Background())
			checkInvalid(t, err, c.attr)
		})
	}
	bad := source("bad")
	bad.failAt, bad.err = 1, &UnavailableError{Source: "bad", Err: errors.New("down")}
	r := Resolver{Sources: []Source{bad}}
	var down *UnavailableError
	if _, err := r.Components(context.Background(), ""); !errors.As(err, &down) {
		t.Errorf("got %v", err)
	}
}
