package ldapmap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func netgroup(name string, lines ...string) string {
	return strings.Join(append([]string{
		"dn: cn=" + name + ",ou=netgroups",
		"objectClass: nisNetgroup",
		"cn: " + name}, lines...), "\n")
}

// TestNetgroups: who a triple speaks for, and groups that include others.
func TestNetgroups(t *testing.T) {
	const assigns = "objectClass: levelfsCaller\nlevelfsAssignment: emacs=2"
	for name, c := range map[string]struct {
		groups   []string
		user     string
		want     string // level
		wantRank string
	}{
		"host":               {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (lnx01.example.org,-,)")}, want: "2", wantRank: RankHostGroup},
		"short name":         {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (LNX01,,)")}, want: "2", wantRank: RankHostGroup},
		"other host":         {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (lnx02,,)")}, want: "1"},
		"other domain":       {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (lnx01.example.com,,)")}, want: "1"},
		"no host":            {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (,,)")}, want: "1"},
		"users are no hosts": {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (,ann,)")}, want: "1"},
		"user":               {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (,ann,example)")}, user: "ann", want: "2", wantRank: RankUserGroup},
		"other user":         {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (,bob,)")}, user: "ann", want: "1"},
		"user on this host":  {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (lnx01,ann,)")}, user: "ann", want: "2", wantRank: RankUserGroup},
		"user on another":    {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (lnx02,ann,)")}, user: "ann", want: "1"},
		"user on no host":    {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: (-,ann,)")}, user: "ann", want: "1"},
		"malformed":          {groups: []string{netgroup("g", assigns, "nisNetgroupTriple: lnx01,,", "nisNetgroupTriple: (lnx01,)")}, want: "1"},
		"included": {groups: []string{netgroup("g", assigns, "memberNisNetgroup: h"), netgroup("h", "memberNisNetgroup: I"),
			netgroup("i", "nisNetgroupTriple: (lnx01,-,)")}, want: "2", wantRank: RankHostGroup},
		"what includes it does not speak": {groups: []string{netgroup("g", "nisNetgroupTriple: (lnx01,-,)"),
			netgroup("h", "memberNisNetgroup: g"), netgroup("i", assigns, "nisNetgroupTriple: (lnx03,-,)")}, want: "1"},
		"in a loop": {groups: []string{netgroup("g", assigns, "memberNisNetgroup: h"), netgroup("h", "memberNisNetgroup: g")}, want: "1"},
	} {
		t.Run(name, func(t *testing.T) {
			inv := append([]string{component("emacs", "levelfsDefault: 1"), levels("emacs", "1", "2"), layer("base")}, c.groups...)
			res, err := resolve(t, Query{User: c.user}, source("s", inv...))
			if err != nil {
				t.Fatal(err)
			}
			rule := res.Trail[slices.IndexFunc(res.Trail, func(r Rule) bool { return r.Won })]
			if res.Level.Name != "emacs@"+c.want || c.wantRank != "" && rule.Rank != c.wantRank {
				t.Errorf("%s by %+v, want %s by the %s", res.Level.Name, rule, c.want, c.wantRank)
			}
		})
	}
}

// TestNetgroupsDeep: a tower of netgroups costs one search a floor, and has a limit.
func TestNetgroupsDeep(t *testing.T) {
	inv := []string{component("emacs", "levelfsDefault: 1"), levels("emacs", "1", "2"), layer("base"),
		netgroup("n0", "objectClass: levelfsCaller", "levelfsAssignment: emacs=2", "memberNisNetgroup: n1")}
	for i := 1; i < 20; i++ {
		inv = append(inv, netgroup(fmt.Sprintf("n%d", i), fmt.Sprintf("memberNisNetgroup: n%d", i+1)))
	}
	if _, err := resolve(t, Query{}, source("s", inv...)); err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("%v, want a refusal", err)
	}
}

// TestPrimaryGroup: the group of a user's gidNumber counts, though it does not list
// the user.
func TestPrimaryGroup(t *testing.T) {
	inv := []string{component("emacs", "levelfsDefault: 1"), levels("emacs", "1", "2", "3"), layer("base"), host(),
		"dn: " + userDN + "\nobjectClass: posixAccount\nuid: ann\ngidNumber: 100",
		"dn: cn=users,ou=groups\nobjectClass: posixGroup\nobjectClass: levelfsCaller\ncn: users\ngidNumber: 100\nmemberUid: ann\nlevelfsAssignment: emacs=2",
		"dn: cn=others,ou=groups\nobjectClass: posixGroup\nobjectClass: levelfsCaller\ncn: others\ngidNumber: 101\nlevelfsAssignment: emacs=3"}
	for user, want := range map[string]string{"ann": "2", "": "1"} {
		res, err := resolve(t, Query{User: user}, source("s", inv...))
		if err != nil || res.Level.Name != "emacs@"+want {
			t.Errorf("user %q: %s, %v; want %s", user, res.Level.Name, err, want)
		}
	}
	// On no host at all, which is what asks for the user's rules alone.
	s := source("s", inv...)
	res, err := (&Resolver{Sources: []Source{s}}).Resolve(t.Context(), Query{Key: Key{Component: "emacs"}, User: "ann"})
	if err != nil || res.Level.Name != "emacs@2" {
		t.Errorf("no host: %s, %v", res.Level.Name, err)
	}
	for _, r := range res.Trail {
		if r.Rank == RankHost {
			t.Errorf("no host was asked for: %+v", r)
		}
	}
}

// TestSeal: a sealed level is run with the layers that it was released with, and with
// no others.
func TestSeal(t *testing.T) {
	digest := func(c string) string { return "sha256:" + strings.Repeat(c, 64) }
	image := func(c string) string {
		return "dn: cn=img,ou=layers\nobjectClass: levelfsLayer\ncn: img\nlevelfsFSType: erofs\nlevelfsDigest: " + digest(c)
	}
	seal := Seal("emacs@1", []Layer{{Name: "img", FSType: "erofs", Digest: digest("a")}})
	level := func(seal string) string {
		return "dn: cn=emacs@1,cn=emacs,ou=components\nobjectClass: levelfsLevel\ncn: emacs@1\nlevelfsLayerRef: 10:img\nlevelfsSeal: " + seal
	}
	inv := []string{component("emacs", "levelfsDefault: 1"), level(seal), image("a")}
	if _, err := resolve(t, Query{}, source("s", inv...)); err != nil {
		t.Error(err)
	}
	inv[2] = image("b")
	_, err := resolve(t, Query{}, source("s", inv...))
	var broken *SealError
	if !errors.As(err, &broken) || broken.Level != "emacs@1" {
		t.Errorf("%v, want a SealError", err)
	}
	inv[1] = level("sha256:short")
	var invalid *InvalidError
	if _, err := resolve(t, Query{}, source("s", inv...)); !errors.As(err, &invalid) {
		t.Errorf("%v, want an InvalidError", err)
	}
}

func FuzzParseTriple(f *testing.F) {
	for _, s := range []string{"(a,b,c)", "( lnx01 , - , )", "", "(,,)", "(a,b)", "((a,b,c))", "(a,b,c,d)"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, user, ok := parseTriple(s)
		if !ok && host+user != "" || strings.Contains(host+user, ",") {
			t.Errorf("%q: %q, %q, %v", s, host, user, ok)
		}
	})
}
