package memsource

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/ldapmap"
)

func entry(dn string, attrs ...string) ldapmap.Entry {
	e := ldapmap.Entry{DN: dn, Attrs: make(map[string][]string)}
	for _, a := range attrs {
		name, value, _ := strings.Cut(a, ": ")
		e.Attrs[name] = append(e.Attrs[name], value)
	}
	return e
}

func dns(entries []ldapmap.Entry) []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.DN)
	}
	return names
}

func indexedSource(t *testing.T, entries ...ldapmap.Entry) *Source {
	t.Helper()
	s := New("test", entries)
	if err := s.Index(); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestIndexAgrees: with the index a search finds what it finds without, whatever it
// asks.
func TestIndexAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var entries []ldapmap.Entry
	for i := range 200 {
		e := entry(fmt.Sprintf("cn=n%d,dc=test", i), fmt.Sprintf("cn: N%d.x", i), fmt.Sprintf("cn: n%d", i),
			"objectclass: "+[]string{"device", "Device", "levelfsProfile"}[random.IntN(3)])
		for range random.IntN(4) {
			e.Attrs["member"] = append(e.Attrs["member"], []string{"cn=n1, dc=test", "CN=n2,DC=test", "cn=n1,dc=test", "none"}[random.IntN(4)])
		}
		if random.IntN(3) == 0 {
			e.Attrs["levelfsmountpoint"] = []string{"/opt"}
		}
		entries = append(entries, e)
	}
	plain, fast := New("plain", entries), indexedSource(t, entries...)
	tests := []ldapmap.Test{
		{Attr: "objectClass", Value: "device"}, {Attr: "objectClass", Value: "none"}, {Attr: "cn", Value: "n7"},
		{Attr: "cn", Value: "N7.X"}, {Attr: "cn", Op: ldapmap.Prefix, Value: "n1"}, {Attr: "cn", Op: ldapmap.Prefix},
		{Attr: "member", Value: "cn=N1,dc=TEST"}, {Attr: "member", Value: "none"}, {Attr: "levelfsMountPoint", Op: ldapmap.Present},
		{Attr: "member", Op: ldapmap.Present}, {Attr: "uid", Value: "x"},
	}
	some := 0
	for range 2000 {
		var terms []ldapmap.Term
		for range 1 + random.IntN(2) {
			var term ldapmap.Term
			for range 1 + random.IntN(3) {
				var c ldapmap.Condition
				for range 1 + random.IntN(2) {
					c = append(c, tests[random.IntN(len(tests))])
				}
				term = append(term, c)
			}
			terms = append(terms, term)
		}
		a, err := plain.Search(t.Context(), terms, nil)
		b, err2 := fast.Search(t.Context(), terms, nil)
		if err != nil || err2 != nil || !reflect.DeepEqual(dns(a), dns(b)) {
			t.Fatalf("%v: %q without the index, %q with it (%v, %v)", terms, dns(a), dns(b), err, err2)
		}
		some += len(a)
	}
	if some == 0 {
		t.Error("nothing was found in any search")
	}
}

// TestWithAgrees: after any number of edits, a search finds what it would find in a
// source that was made of the result.
func TestWithAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	s := indexedSource(t, entry("cn=n0,dc=test", "cn: n0", "objectclass: device"))
	some := 0
	for i := range 400 {
		dn := fmt.Sprintf("CN=n%d,dc=test", random.IntN(40))
		e := ldapmap.Edit{DN: dn}
		was, exists := s.Entry(dn)
		if exists {
			e.Was = &was
		}
		attr := []string{"cn", "objectClass", "member", "description", "uid"}[random.IntN(5)]
		value := fmt.Sprintf("cn=n%d,dc=test", random.IntN(10))
		switch has := was.Attrs[strings.ToLower(attr)]; {
		case exists && random.IntN(8) == 0:
			e.Remove = true
		case len(has) > 0 && random.IntN(2) == 0:
			e.Mods = []ldapmap.Mod{{Op: ldapmap.ModDelete, Attr: attr, Values: has[:1]}}
		default:
			e.Mods = []ldapmap.Mod{{Op: ldapmap.ModAdd, Attr: attr, Values: []string{fmt.Sprintf("%d%s", i, value)}}}
			if attr == "member" {
				e.Mods[0].Values = []string{strings.Repeat(" ", i) + value}
			}
		}
		changed, err := s.With(e)
		if err != nil {
			t.Fatal(err)
		}
		s = changed
		fresh := indexedSource(t, s.Entries()...)
		for _, test := range []ldapmap.Test{
			{Attr: "member", Value: value}, {Attr: "cn", Op: ldapmap.Prefix, Value: fmt.Sprint(i % 10)},
			{Attr: attr, Value: fmt.Sprintf("%d%s", i, value)}, {Attr: "objectClass", Value: "device"},
		} {
			terms := []ldapmap.Term{{{test}}}
			a, err := s.Search(t.Context(), terms, nil)
			b, err2 := fresh.Search(t.Context(), terms, nil)
			if err != nil || err2 != nil || !reflect.DeepEqual(a, b) {
				t.Fatalf("edit %d, %v: %q, want %q (%v, %v)", i, test, dns(a), dns(b), err, err2)
			}
			some += len(a)
		}
		if got, ok := s.Entry(dn); ok == e.Remove || ok && !strings.EqualFold(got.DN, dn) {
			t.Fatalf("edit %d: entry %q: %v, %v", i, dn, got, ok)
		}
	}
	if some == 0 {
		t.Error("nothing was found in any search")
	}
}

func TestIndexRefuses(t *testing.T) {
	for _, entries := range [][]ldapmap.Entry{
		{entry("cn=a,dc=test"), entry("CN=A, dc=test")}, {entry("nonsense")},
	} {
		if err := New("test", entries).Index(); err == nil {
			t.Errorf("%q: no error", dns(entries))
		}
	}
}

func TestWith(t *testing.T) {
	was := entry("cn=a,dc=test", "cn: a", "levelfsassignment: emacs=1", "levelfsassignment: vi=1")
	s := indexedSource(t, was)
	add := func(attr string, v ...string) ldapmap.Mod {
		return ldapmap.Mod{Op: ldapmap.ModAdd, Attr: attr, Values: v}
	}
	del := func(attr string, v ...string) ldapmap.Mod {
		return ldapmap.Mod{Op: ldapmap.ModDelete, Attr: attr, Values: v}
	}
	for name, c := range map[string]struct {
		edit ldapmap.Edit
		want string // the entry's assignments; "error"
	}{
		"replace":         {ldapmap.Edit{DN: "CN=a,dc=test", Was: &was, Mods: []ldapmap.Mod{del("levelfsAssignment", "emacs=1"), add("levelfsAssignment", "emacs=2")}}, "vi=1 emacs=2"},
		"delete all":      {ldapmap.Edit{DN: was.DN, Was: &was, Mods: []ldapmap.Mod{del("levelfsAssignment")}}, ""},
		"not there":       {ldapmap.Edit{DN: was.DN, Was: &was, Mods: []ldapmap.Mod{del("levelfsAssignment", "emacs=2")}}, "error"},
		"none there":      {ldapmap.Edit{DN: was.DN, Was: &was, Mods: []ldapmap.Mod{del("description")}}, "error"},
		"there":           {ldapmap.Edit{DN: was.DN, Was: &was, Mods: []ldapmap.Mod{add("levelfsAssignment", "vi=1")}}, "error"},
		"new":             {ldapmap.Edit{DN: "cn=b,dc=test", Mods: []ldapmap.Mod{add("cn", "b"), add("levelfsAssignment", "vi=2")}}, "vi=2"},
		"new but there":   {ldapmap.Edit{DN: was.DN, Mods: []ldapmap.Mod{add("cn", "a")}}, "error"},
		"old but missing": {ldapmap.Edit{DN: "cn=b,dc=test", Was: &was}, "error"},
		"no DN":           {ldapmap.Edit{DN: "b", Mods: []ldapmap.Mod{add("cn", "b")}}, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			changed, err := s.With(c.edit)
			if (err != nil) != (c.want == "error") {
				t.Fatal(err)
			}
			if err != nil {
				return
			}
			e, ok := changed.Entry(c.edit.DN)
			if got := strings.Join(e.Attrs["levelfsassignment"], " "); !ok || got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	gone, err := s.With(ldapmap.Edit{DN: was.DN, Was: &was, Remove: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := gone.Entry(was.DN); ok || len(gone.Entries()) != 0 {
		t.Errorf("not removed: %v", gone.Entries())
	}
	if _, err := gone.With(ldapmap.Edit{DN: was.DN, Was: &was, Remove: true}); err == nil {
		t.Error("removed twice")
	}
	if got, _ := s.Entry(was.DN); strings.Join(got.Attrs["levelfsassignment"], " ") != "emacs=1 vi=1" {
		t.Errorf("the source itself was changed: %v", got)
	}
}
