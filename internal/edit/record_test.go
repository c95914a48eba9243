package edit

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

var noon = time.Date(2027, 1, 2, 12, 0, 0, 999, time.UTC)

func TestRecord(t *testing.T) {
	r := Record{Serial: 7, Time: noon.Truncate(time.Second), Verb: VerbAssign, New: "emacs=2", Who: "dn:cn=A B,dc=test"}
	const want = "000007 20270102120000Z assign - emacs=2 dn:cn=A B,dc=test"
	if r.String() != want {
		t.Errorf("%q, want %q", r, want)
	}
	if got, err := ParseRecord(want); err != nil || got != r {
		t.Errorf("%+v, %v", got, err)
	}
	for who, want := range map[string]string{"a\nb\x00": "a?b?", "": "-", " \xffx ": "?x", "Žižka": "Žižka"} {
		if got := (Record{Who: who}).String(); !strings.HasSuffix(got, " - - "+want) {
			t.Errorf("%q: %q", who, got)
		}
	}
	for _, bad := range []string{"", "1 2 3 4 5", "x 20270102120000Z a - - w", "0 20270102120000Z a - - w", "1 2027 a - - w"} {
		if r, err := ParseRecord(bad); err == nil {
			t.Errorf("%q: %+v", bad, r)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add("000007 20270102120000Z assign - emacs=2 dn:cn=A B,dc=test")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRecord(s)
		if err != nil {
			return
		}
		again, err := ParseRecord(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %+v, and that %+v, %v", s, r, again, err)
		}
	})
}

// TestEdit: every change counts one up, whatever was there, and the entry never
// remembers more than 100.
func TestEdit(t *testing.T) {
	entry := ldapmap.Entry{DN: "cn=a,dc=test", Attrs: map[string][]string{"cn": {"a"}}}
	for i := range 250 {
		value := fmt.Sprintf("emacs=%d", i)
		s := Step{DN: entry.DN, Was: &entry, Verb: VerbAssign, New: value, Mods: []ldapmap.Mod{{Op: ldapmap.ModAdd, Attr: ldapmap.AttrAssignment, Values: []string{value}}}}
		e, r, err := s.Edit("me", noon)
		if err != nil || r.Serial != i+1 {
			t.Fatalf("serial %d, %v; want %d", r.Serial, err, i+1)
		}
		if entry, err = memsource.Modify(entry, e.Mods); err != nil {
			t.Fatal(err)
		}
		history := entry.Attrs["levelfshistory"]
		if want := min(i+1, maxHistory); len(history) != want || !slices.Contains(history, r.String()) {
			t.Fatalf("%d records after change %d, want %d", len(history), i+1, want)
		}
		if got := entry.Attrs["levelfsserial"]; !slices.Equal(got, []string{fmt.Sprint(i + 1)}) {
			t.Fatalf("serial %q", got)
		}
		if len(s.Mods) != 1 {
			t.Fatal("the step itself was changed")
		}
	}
	records := Records(entry)
	if records[0].Serial != 250 || records[99].Serial != 151 {
		t.Errorf("from %d to %d, want the newest hundred", records[0].Serial, records[99].Serial)
	}
	// Without the serial no number is used twice; what is no record goes first.
	delete(entry.Attrs, "levelfsserial")
	entry.Attrs["levelfshistory"][50] = "written by hand"
	s := Step{DN: entry.DN, Was: &entry, Verb: VerbAssign}
	e, r, err := s.Edit("me", noon)
	if err != nil || r.Serial != 251 || !slices.ContainsFunc(e.Mods, func(m ldapmap.Mod) bool {
		return m.Op == ldapmap.ModDelete && slices.Equal(m.Values, []string{"written by hand"})
	}) {
		t.Errorf("serial %d, %v, %v", r.Serial, e.Mods, err)
	}
	entry.Attrs["levelfsserial"] = []string{"many"}
	var invalid *ldapmap.InvalidError
	if _, _, err := s.Edit("me", noon); !errors.As(err, &invalid) {
		t.Errorf("%v", err)
	}
	// A new entry begins with 1; one that goes takes its history along.
	if e, r, err := (Step{DN: "cn=b,dc=test", Verb: VerbCreate}).Edit("me", noon); err != nil || r.Serial != 1 || e.Was != nil || len(e.Mods) != 2 {
		t.Errorf("%+v, %+v, %v", e, r, err)
	}
	if e, _, err := (Step{DN: entry.DN, Was: &entry, Remove: true}).Edit("me", noon); err != nil || !e.Remove || len(e.Mods) != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func TestHistory(t *testing.T) {
	inv := load(t, small().LDIF())
	f := inv.Fleet
	for i, s := range []Intention{
		Assign{Caller: caller("lnx01"), Levels: []ldapmap.Key{key("emacs@1"), key("vi@1")}},
		Release{Key: key("emacs@3")},
		Assign{Caller: caller("default"), Levels: []ldapmap.Key{key("emacs@3")}},
		Unassign{Caller: caller("lnx01"), Components: []string{"vi"}},
		Include{Caller: caller("lnx01"), Profile: "b"},
	} {
		steps, err := s.Steps(Inventory{Fleet: f, Files: inv.Files})
		if err != nil {
			t.Fatal(err)
		}
		e, _, err := steps[0].Edit("me", noon.Add(time.Duration(i)*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if f, err = f.With(0, e); err != nil {
			t.Fatal(err)
		}
	}
	for k, want := range map[string]string{
		"emacs":   "assign emacs=1 emacs=3|release test released|assign emacs=2 emacs=1",
		"emacs@3": "assign emacs=1 emacs=3|release test released",
		"emacs@2": "assign emacs=2 emacs=1",
		"vi":      "unassign vi=1 -",
		"gcc":     "",
	} {
		var got []string
		for _, e := range History(f, key(k)) {
			got = append(got, fmt.Sprintf("%s %s %s", e.Verb, orDash(e.Old), orDash(e.New)))
		}
		if strings.Join(got, "|") != want {
			t.Errorf("%s: %q, want %q", k, strings.Join(got, "|"), want)
		}
	}
}
