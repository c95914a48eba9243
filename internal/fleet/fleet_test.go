package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// load makes an inventory of LDIF files, one a source.
func load(t testing.TB, texts ...string) *Fleet {
	t.Helper()
	var stores []ldapmap.Store
	for _, text := range texts {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "all.ldif"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stores = append(stores, ldifsource.New(dir))
	}
	f, err := Load(t.Context(), stores, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// small is an inventory in which hosts get emacs by every kind of rule.
func small() testenv.Inventory {
	level := func(name string) testenv.Level { return testenv.Level{Name: name, Layers: []string{"base"}} }
	return testenv.Inventory{
		Components: []testenv.Component{
			{Name: "emacs", Default: "1", Levels: []testenv.Level{level("1"), level("2"), level("3")}},
			{Name: "vi", Levels: []testenv.Level{level("1")}},
		},
		Layers:   []testenv.Layer{{Name: "base", FSType: "dir", Images: []string{"base"}}},
		Profiles: []testenv.Caller{{Name: "new", Assign: []string{"emacs=3"}}},
		Hosts: []testenv.Caller{
			{Name: "lnx01.example.org", Assign: []string{"emacs=2"}}, {Name: "lnx02", Profiles: []string{"new"}},
			{Name: "lnx03"}, {Name: "lnx04", Assign: []string{"emacs=2", "emacs=3"}},
		},
		Groups: []testenv.Caller{{Name: "g", Members: []string{"lnx03"}, Assign: []string{"vi=1"}}},
	}
}

const people = `
dn: uid=ann,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: levelfsCaller
uid: ann
levelfsAssignment: emacs=3

dn: uid=bob,dc=example,dc=org
objectClass: inetOrgPerson
uid: bob
`

func who(t *testing.T, f *Fleet, component string) []string {
	t.Helper()
	answers, err := f.Who(t.Context(), component, nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, a := range answers {
		lines = append(lines, fmt.Sprintf("%s %s %s", a.Caller, a.Level, a.Rule.Rank))
	}
	return lines
}

func TestWho(t *testing.T) {
	f := load(t, small().LDIF()+people)
	for component, want := range map[string][]string{
		"emacs": {"host:lnx01.example.org emacs@2 host", "host:lnx02 emacs@3 host's profile",
			"host:lnx03 emacs@1 component's default", "host:lnx04  ", "user:ann emacs@3 user"},
		"vi": {"host:lnx01.example.org  ", "host:lnx02  ", "host:lnx03 vi@1 host's group", "host:lnx04  "},
	} {
		if got := who(t, f, component); !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", component, got, want)
		}
	}
	a, _ := f.Ask(t.Context(), Caller{Host: "lnx04"}, "emacs")
	var ambiguous *ldapmap.AmbiguousError
	if !errors.As(a.Err, &ambiguous) {
		t.Errorf("%v, want an AmbiguousError", a.Err)
	}
	if got := f.Components(); !slices.Equal(got, []string{"emacs", "vi"}) {
		t.Errorf("%q", got)
	}
}

// TestSameHost: a host that two sources have by its two names is one.
func TestSameHost(t *testing.T) {
	f := load(t, testenv.Inventory{Hosts: []testenv.Caller{{Name: "LNX01", Assign: []string{"emacs=3"}}}}.LDIF(), small().LDIF())
	want := []string{"host:lnx01.example.org emacs@3 host", "host:lnx02 emacs@3 host's profile",
		"host:lnx03 emacs@1 component's default", "host:lnx04  "}
	if got := who(t, f, "emacs"); !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestDiff(t *testing.T) {
	f := load(t, small().LDIF()+people)
	edit := func(dn string, mods ...ldapmap.Mod) *Fleet {
		t.Helper()
		was, ok := f.Sources()[0].Entry(dn)
		if !ok {
			t.Fatalf("no entry %q", dn)
		}
		g, err := f.With(0, ldapmap.Edit{DN: dn, Was: &was, Mods: mods})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	mod := func(op ldapmap.ModOp, attr, value string) ldapmap.Mod {
		return ldapmap.Mod{Op: op, Attr: attr, Values: []string{value}}
	}
	for name, c := range map[string]struct {
		after *Fleet
		want  []string
	}{
		"nothing": {f, nil},
		"profile": {edit(testenv.ProfileDN("new"), mod(ldapmap.ModDelete, "levelfsAssignment", "emacs=3"), mod(ldapmap.ModAdd, "levelfsAssignment", "emacs=2")),
			[]string{"host:lnx02 emacs@3 -> emacs@2"}},
		"default": {edit(testenv.ComponentDN("emacs"), mod(ldapmap.ModDelete, "levelfsDefault", "1"), mod(ldapmap.ModAdd, "levelfsDefault", "2")),
			[]string{"host:lnx03 emacs@1 -> emacs@2"}},
		"ambiguity resolved": {edit(testenv.HostDN("lnx04"), mod(ldapmap.ModDelete, "levelfsAssignment", "emacs=2")),
			[]string{"host:lnx04  -> emacs@3"}},
		"retired": {edit(testenv.LevelDN("emacs", "3"), mod(ldapmap.ModAdd, "levelfsState", "retired")),
			[]string{"host:lnx02 emacs@3 -> ", "user:ann emacs@3 -> "}},
		"a user's last rule": {edit("uid=ann,dc=example,dc=org", mod(ldapmap.ModDelete, "levelfsAssignment", "emacs=3")),
			[]string{"user:ann emacs@3 -> emacs@1"}},
		"a host more": {func() *Fleet {
			g, err := f.With(0, ldapmap.Edit{DN: testenv.HostDN("lnx05"), Mods: []ldapmap.Mod{mod(ldapmap.ModAdd, "objectClass", "device"), mod(ldapmap.ModAdd, "cn", "lnx05")}})
			if err != nil {
				t.Fatal(err)
			}
			return g
		}(), nil},
	} {
		changes, err := Diff(t.Context(), f, c.after, []string{"emacs", "vi"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, c := range changes {
			got = append(got, fmt.Sprintf("%s %s -> %s", c.Before.Caller, c.Before.Level, c.After.Level))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestCancelled(t *testing.T) {
	f := load(t, small().LDIF())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.Who(ctx, "emacs", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// BenchmarkWho asks for 10,000 hosts, of which some are in groups and profiles.
func BenchmarkWho(b *testing.B) {
	inv := small()
	for i := range 10000 {
		h := testenv.Caller{Name: fmt.Sprintf("h%05d.example.org", i), Profiles: []string{"new"}}
		if i%10 == 0 {
			h.Assign = []string{"emacs=2"}
		}
		inv.Hosts = append(inv.Hosts, h)
		inv.Groups[0].Members = append(inv.Groups[0].Members, h.Name)
	}
	f := load(b, inv.LDIF())
	b.ResetTimer()
	for b.Loop() {
		if _, err := f.Who(b.Context(), "emacs", nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(f.Callers())), "µs/caller")
}

// TestSurvey: everybody is asked for once, also who is named by groups only.
func TestSurvey(t *testing.T) {
	f := load(t, small().LDIF()+people+`
dn: cn=n,dc=example,dc=org
objectClass: nisNetgroup
objectClass: levelfsCaller
cn: n
nisNetgroupTriple: (lnx01,,)
nisNetgroupTriple: (lnx02.example.org,,)
nisNetgroupTriple: (lnx01.example.com,,)
nisNetgroupTriple: (lnx09,,)
nisNetgroupTriple: (LNX09,,)
nisNetgroupTriple: (,ann,)
nisNetgroupTriple: (lnx03,ann,)
memberUid: eve
levelfsAssignment: emacs=1
`)
	got := make([]string, 11)
	var mu sync.Mutex
	var last atomic.Int64
	err := f.Survey(t.Context(), func(n int) { last.Store(int64(n)) }, func(s Surveyed) {
		mu.Lock()
		defer mu.Unlock()
		if s.Err != nil {
			t.Error(s.Err)
		}
		got[s.Index] = fmt.Sprintf("%s %s", s.Caller.Host, s.Caller.User)
		for _, v := range s.Verdicts {
			got[s.Index] += " " + v.Component + "=" + v.Winner.Level
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"lnx01.example.org  emacs=2", "lnx02  emacs=3", "lnx03  vi=1", "lnx04  emacs=", " ann emacs=3", " bob",
		"lnx01.example.com  emacs=1", "lnx09  emacs=1", "lnx03 ann emacs=3 vi=1", " eve", ""}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) || last.Load() != 10 {
		t.Errorf("%d\n got %q\nwant %q", last.Load(), got, want)
	}
}
