package ldapmap

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// TestSurvey: for every component that speaks of a caller, Survey decides what Resolve
// decides, by the same rules.
func TestSurvey(t *testing.T) {
	t.Parallel()
	var parts []string
	for _, c := range []string{"emacs", "vi", "ed"} {
		parts = append(parts, component(c, "levelfsDefault: 1"), levels(c, "1", "2", "3"))
	}
	central := source("central", strings.Join(append(parts, layer("base"), host("emacs=1", "all"), profile("all", "vi=2", "more"),
		profile("more", "ed=3", "vi=2", "levelfsMandatory: ed=2"),
		caller("cn=g,ou=groups", "groupOfNames", "emacs=3", "vi=1", "levelfsMandatory: vi=3", "member: "+hostDN, "member: "+userDN),
		caller("cn=n,ou=groups", "nisNetgroup", "emacs=2", "nisNetgroupTriple: (lnx01,ann,)"),
		caller(userDN, "inetOrgPerson", "ed=1")), "\n\n"))
	local := source("local", host("vi=1", "emacs=2", "levelfsMandatory: ed=3"))
	for _, who := range []Query{{Host: "lnx01.example.org"}, {Host: "lnx01.example.org", User: "ann"}, {User: "ann"}, {Host: "lnx02"}} {
		t.Run(fmt.Sprint(who), func(t *testing.T) {
			r := Resolver{Sources: []Source{local, central}}
			s, err := r.Survey(context.Background(), who.Host, who.User)
			if err != nil {
				t.Fatal(err)
			}
			verdicts := make(map[string]Verdict)
			for _, v := range s.Verdicts {
				verdicts[v.Component] = v
			}
			if len(verdicts) != len(s.Verdicts) || who.Host != "lnx02" && len(verdicts) == 0 {
				t.Errorf("%+v", s.Verdicts)
			}
			for _, c := range []string{"emacs", "vi", "ed"} {
				res, err := r.Resolve(context.Background(), Query{Key: Key{Component: c}, Host: who.Host, User: who.User})
				var want Verdict
				for _, rule := range res.Trail {
					if rule.Level != "" && rule.Rank != RankDefault {
						rule.component = c
						want.Component, want.Trail = c, append(want.Trail, rule)
						if rule.Won {
							want.Winner = rule
						}
					}
				}
				if want.Trail != nil && err != nil {
					want.Err = err
				}
				got := verdicts[c]
				for i := range got.Trail {
					got.Trail[i].component = c
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s:\n got %+v\nwant %+v", c, got, want)
				}
			}
		})
	}
}

// TestSurveyFaults: one bad value does not stand in the way of others, a loop does, and
// who speaks for the caller is told even then.
func TestSurveyFaults(t *testing.T) {
	t.Parallel()
	group := caller("cn=g,ou=groups", "groupOfNames", "vi=1", "emacs=a b", "member: "+hostDN)
	r := Resolver{Sources: []Source{source("s", host("emacs=1", "emacs=2"), group)}}
	s, err := r.Survey(context.Background(), "lnx01.example.org", "")
	if err != nil || len(s.Verdicts) != 2 || s.Verdicts[1].Winner.Level != "1" {
		t.Fatalf("%+v, %v", s, err)
	}
	var ambiguous *AmbiguousError
	if !errors.As(s.Verdicts[0].Err, &ambiguous) {
		t.Errorf("%v", s.Verdicts[0].Err)
	}
	if want := []Speaker{{"s", hostDN}, {"s", "cn=g,ou=groups"}}; !reflect.DeepEqual(s.Speakers, want) {
		t.Errorf("%v", s.Speakers)
	}

	r = Resolver{Sources: []Source{source("s", host("p0"), profile("p0", "p0"), group)}}
	s, err = r.Survey(context.Background(), "lnx01.example.org", "")
	var loop *LoopError
	if !errors.As(err, &loop) || len(s.Speakers) != 2 || len(s.Verdicts) != 0 {
		t.Errorf("%+v, %v", s, err)
	}

	parts := []string{host("p0"), group}
	for i := range 12 {
		parts = append(parts, profile(fmt.Sprintf("p%d", i), fmt.Sprintf("p%d", i+1)))
	}
	r = Resolver{Sources: []Source{source("s", parts...)}}
	s, err = r.Survey(context.Background(), "lnx01.example.org", "")
	var deep *NestingError
	if !errors.As(err, &deep) || deep.What != "profiles" || len(s.Speakers) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	down := source("s", host())
	down.failAt, down.err = 1, &UnavailableError{Source: "s", Err: errors.New("down")}
	r = Resolver{Sources: []Source{down}}
	if _, err = r.Survey(context.Background(), "lnx01.example.org", ""); !errors.Is(err, down.err) {
		t.Errorf("%v", err)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	entries := source("s", component("emacs", "levelfsDefault: 1"), levels("emacs", "1"), layer("base"), component("a@1"),
		strings.Replace(levels("emacs", "1"), "cn: emacs@1", "cn: emacs", 1), strings.Replace(layer("x"), "cn: x", "cn: a/b", 1)).entries
	if c, err := entries[0].Component(); err != nil || c.Name != "emacs" || c.Default != "1" {
		t.Errorf("%+v, %v", c, err)
	}
	if l, err := entries[1].Level(); err != nil || l.Name != "emacs@1" || len(l.Layers) != 1 {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := entries[2].Layer(); err != nil || l.Name != "base" {
		t.Errorf("%+v, %v", l, err)
	}
	_, errComponent := entries[3].Component()
	_, errLevel := entries[4].Level()
	_, errLayer := entries[5].Layer()
	for _, err := range []error{errComponent, errLevel, errLayer} {
		var invalid *InvalidError
		if !errors.As(err, &invalid) || invalid.Attr != "cn" {
			t.Errorf("%v", err)
		}
	}
	for _, text := range []string{profile("a b"), caller("cn=a b", "device"), caller("uid=a b", "posixAccount")} {
		if err := source("s", text).entries[0].CheckName(); err == nil {
			t.Errorf("accepted: %s", text)
		}
	}
	if err := source("s", host()).entries[0].CheckName(); err != nil {
		t.Error(err)
	}

	e := source("s", profile("p", "emacs=1", "vi", "x=a b", "levelfsMandatory: emacs=2", "levelfsProfileRef: q", "levelfsProfileRef: a/b", "levelfsAssignment: vi")).entries[0]
	all, invalid := e.Assignments()
	if want := []Assignment{{"emacs", "2", true}, {"emacs", "1", false}}; !reflect.DeepEqual(all, want) || len(invalid) != 2 ||
		all[0].Attr() != "levelfsMandatory" || all[1].Attr() != "levelfsAssignment" || all[1].String() != "emacs=1" {
		t.Errorf("%v, %v", all, invalid)
	}
	if refs, invalid := e.ProfileRefs(); !reflect.DeepEqual(refs, []string{"vi", "q"}) || len(invalid) != 1 {
		t.Errorf("%v, %v", refs, invalid)
	}

	g := source("s", caller("cn=g", "nisNetgroup", "memberUid: eve", "memberUid: a b", "nisNetgroupTriple: (h,,)", "nisNetgroupTriple: (-,u,d)",
		"nisNetgroupTriple: (h,u,)", "nisNetgroupTriple: (,,)", "nisNetgroupTriple: h", "nisNetgroupTriple: (a b,u,)")).entries[0]
	if want := []Query{{User: "eve"}, {Host: "h"}, {User: "u"}, {Host: "h", User: "u"}}; !reflect.DeepEqual(Named(g), want) {
		t.Errorf("%+v", Named(g))
	}
}
