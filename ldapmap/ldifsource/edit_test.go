package ldifsource

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/ldapmap"
)

var _ ldapmap.Store = (*Source)(nil)

func add(attr string, values ...string) ldapmap.Mod {
	return ldapmap.Mod{Op: ldapmap.ModAdd, Attr: attr, Values: values}
}

func del(attr string, values ...string) ldapmap.Mod {
	return ldapmap.Mod{Op: ldapmap.ModDelete, Attr: attr, Values: values}
}

// was is the entry as the source has it.
func was(t *testing.T, s *Source, dn string) *ldapmap.Entry {
	t.Helper()
	entries, err := s.All(t.Context(), everything, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	e, ok, err := entryOf(entries, dn)
	if err != nil || !ok {
		t.Fatalf("no entry %q: %v", dn, err)
	}
	return &e
}

const host = `# Our host. It must not lose this comment.
dn: cn=lnx01, dc=test
objectClass: device
objectClass: levelfsCaller
cn: lnx01
# why it runs an old one
LevelfsAssignment: emacs=28.2-1
levelfsAssignment: a-component-with-quite-a-long-name-so-that-its-line-is-
 folded=1.0
description:: w7xiZXI=

`

// TestRemove: an entry goes, its comments and everything else stay.
func TestRemove(t *testing.T) {
	t.Parallel()
	other := "dn: cn=other,dc=test\nobjectClass: device\ncn: other\n"
	s := inventory(t, "a.ldif", host+other)
	edit := ldapmap.Edit{DN: "CN=lnx01,dc=test", Was: was(t, s, "cn=lnx01,dc=test"), Remove: true}
	changed := *edit.Was
	changed.Attrs = map[string][]string{"cn": {"lnx01"}}
	var conflict *ldapmap.ConflictError
	if err := s.Apply(t.Context(), ldapmap.Edit{DN: edit.DN, Was: &changed, Remove: true}); !errors.As(err, &conflict) {
		t.Errorf("an entry that changed: %v", err)
	}
	if err := s.Apply(t.Context(), edit); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(s.dir, "a.ldif"))
	if want := "# Our host. It must not lose this comment.\n# why it runs an old one\n" + other; err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	for _, e := range []ldapmap.Edit{edit, {DN: "cn=nosuch,dc=test", Remove: true}} {
		if err := s.Apply(t.Context(), e); !errors.As(err, &conflict) {
			t.Errorf("an entry that is not there: %v", err)
		}
	}
}

// TestApply: what an edit does to the text.
func TestApply(t *testing.T) {
	t.Parallel()
	const folded = "a-component-with-quite-a-long-name-so-that-its-line-is-folded=1.0"
	other := "dn: cn=other,dc=test\nobjectClass: device\ncn: other\n"
	for name, c := range map[string]struct {
		text string
		mods []ldapmap.Mod
		want string // the whole text afterwards
	}{
		"replace": {host + other, []ldapmap.Mod{del("levelfsAssignment", "emacs=28.2-1"), add("levelfsAssignment", "emacs=29.4-1")},
			strings.Replace(strings.Replace(host, "LevelfsAssignment: emacs=28.2-1\n", "", 1), "\n\n", "\nlevelfsAssignment: emacs=29.4-1\n\n", 1) + other},
		"folded": {host + other, []ldapmap.Mod{del("levelfsAssignment", folded)},
			strings.Replace(host, "levelfsAssignment: a-component-with-quite-a-long-name-so-that-its-line-is-\n folded=1.0\n", "", 1) + other},
		"encoded":       {host, []ldapmap.Mod{del("description", "über")}, strings.Replace(host, "description:: w7xiZXI=\n", "", 1)},
		"all values":    {host, []ldapmap.Mod{del("levelfsassignment")}, host[:strings.Index(host, "Level")] + "description:: w7xiZXI=\n\n"},
		"to be encoded": {host, []ldapmap.Mod{add("owner", "é")}, strings.TrimSuffix(host, "\n") + "owner:: w6k=\n\n"},
		"CRLF": {strings.ReplaceAll(host, "\n", "\r\n"), []ldapmap.Mod{add("owner", "cn=x")},
			strings.ReplaceAll(strings.TrimSuffix(host, "\n")+"owner: cn=x\n\n", "\n", "\r\n")},
		"last line without an end": {strings.TrimRight(host, "\n"), []ldapmap.Mod{add("owner", "cn=x")}, strings.TrimRight(host, "\n") + "\nowner: cn=x\n"},
		"after a version line":     {"version: 1\n\n" + host, []ldapmap.Mod{add("owner", "cn=x")}, "version: 1\n\n" + strings.TrimSuffix(host, "\n") + "owner: cn=x\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := inventory(t, "a.ldif", c.text)
			if err := os.Chmod(filepath.Join(s.dir, "a.ldif"), 0o640); err != nil {
				t.Fatal(err)
			}
			dn := "cn=lnx01,dc=test"
			if err := s.Apply(t.Context(), ldapmap.Edit{DN: dn, Was: was(t, s, dn), Mods: c.mods}); err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(filepath.Join(s.dir, "a.ldif"))
			if err != nil || string(got) != c.want {
				t.Errorf("%v, text:\n%q\nwant:\n%q", err, got, c.want)
			}
			if info, err := os.Stat(filepath.Join(s.dir, "a.ldif")); err != nil || info.Mode() != 0o640 {
				t.Errorf("mode %v, %v; want 0640", info.Mode(), err)
			}
		})
	}
}

// TestApplyNew: new entries go to a file of their own.
func TestApplyNew(t *testing.T) {
	t.Parallel()
	s := inventory(t, "a.ldif", host)
	for _, name := range []string{"lnx02", "lnx03"} {
		edit := ldapmap.Edit{DN: "cn=" + name + ",dc=test", Mods: []ldapmap.Mod{
			add("objectClass", "device", "levelfsCaller"), add("cn", name), add("levelfsAssignment", "emacs=1")}}
		if err := s.Apply(t.Context(), edit); err != nil {
			t.Fatal(err)
		}
		var conflict *ldapmap.ConflictError
		if err := s.Apply(t.Context(), edit); !errors.As(err, &conflict) {
			t.Errorf("the second time: %v, want a conflict", err)
		}
		if got := was(t, s, edit.DN).First("levelfsassignment"); got != "emacs=1" {
			t.Errorf("%q", got)
		}
	}
	if text, err := os.ReadFile(filepath.Join(s.dir, "a.ldif")); err != nil || string(text) != host {
		t.Errorf("another file was touched: %q, %v", text, err)
	}
}

// TestApplyNewCRLF: what is added to a file of another system has its line ends.
func TestApplyNewCRLF(t *testing.T) {
	t.Parallel()
	text := strings.ReplaceAll(layer("a"), "\n", "\r\n")
	s := inventory(t, newEntries, text)
	if err := s.Apply(t.Context(), ldapmap.Edit{DN: "cn=b,dc=test", Mods: []ldapmap.Mod{add("cn", "b")}}); err != nil {
		t.Fatal(err)
	}
	want := text + "\r\ndn: cn=b,dc=test\r\ncn: b\r\n"
	if got, err := os.ReadFile(filepath.Join(s.dir, newEntries)); err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

// TestApplyKeeps: a file that is changed stays whose it was, and a link one.
func TestApplyKeeps(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(t.TempDir(), "checkout.ldif")
	s := inventory(t, newEntries, host)
	link := filepath.Join(s.dir, newEntries)
	if err := errors.Join(os.Rename(link, elsewhere), os.Symlink(elsewhere, link)); err != nil {
		t.Fatal(err)
	}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 { // nobody else can give files away
		uid, gid = 70001, 70002
		if err := os.Chown(elsewhere, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	// The owner reads and writes, user 70000 and the group read (acl(5)).
	acl := []byte("\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x70\x11\x01\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(elsewhere, "system.posix_acl_access", acl, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"lnx01", "lnx02"} { // one that is there, and a new one
		dn := "cn=" + name + ",dc=test"
		edit := ldapmap.Edit{DN: dn, Mods: []ldapmap.Mod{add("owner", "cn=x")}}
		if name == "lnx01" {
			edit.Was = was(t, s, dn)
		}
		if err := s.Apply(t.Context(), edit); err != nil {
			t.Fatal(err)
		}
	}
	if to, err := os.Readlink(link); err != nil || to != elsewhere {
		t.Errorf("the link became %q, %v", to, err)
	}
	text, err := os.ReadFile(elsewhere)
	if err != nil || strings.Count(string(text), "owner: cn=x\n") != 2 {
		t.Errorf("the file has %q, %v", text, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(elsewhere, &st); err != nil || int(st.Uid) != uid || int(st.Gid) != gid || st.Mode&0o777 != 0o640 {
		t.Errorf("uid %d, gid %d, mode %#o, %v; want %d, %d, 0640", st.Uid, st.Gid, st.Mode, err, uid, gid)
	}
	got := make([]byte, 1024)
	if n, err := unix.Getxattr(elsewhere, "system.posix_acl_access", got); err != nil || string(got[:n]) != string(acl) {
		t.Errorf("access control list %q, %v", got[:max(n, 0)], err)
	}
}

// TestApplyConflicts: edits for an entry that is not as it was change nothing.
func TestApplyConflicts(t *testing.T) {
	t.Parallel()
	const dn = "cn=lnx01,dc=test"
	s := inventory(t, "a.ldif", host)
	old := was(t, s, dn)
	changed := strings.Replace(host, "28.2", "28.3", 1)
	if err := os.WriteFile(filepath.Join(s.dir, "a.ldif"), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	gone := *old
	for name, e := range map[string]ldapmap.Edit{
		"changed":        {DN: dn, Was: old, Mods: []ldapmap.Mod{add("owner", "cn=x")}},
		"gone":           {DN: "cn=lnx09,dc=test", Was: &gone, Mods: []ldapmap.Mod{add("owner", "cn=x")}},
		"there":          {DN: dn, Mods: []ldapmap.Mod{add("cn", "lnx01")}},
		"value is there": {DN: dn, Was: was(t, New(s.dir), dn), Mods: []ldapmap.Mod{add("cn", "lnx01")}},
		"value is not":   {DN: dn, Was: was(t, New(s.dir), dn), Mods: []ldapmap.Mod{del("cn", "lnx02")}},
	} {
		var conflict *ldapmap.ConflictError
		if err := s.Apply(t.Context(), e); !errors.As(err, &conflict) {
			t.Errorf("%s: %v, want a conflict", name, err)
		}
	}
	if text, err := os.ReadFile(filepath.Join(s.dir, "a.ldif")); err != nil || string(text) != changed {
		t.Errorf("the file was changed: %q, %v", text, err)
	}
}

// TestApplyRace: of editors who have all seen the same entry one succeeds.
func TestApplyRace(t *testing.T) {
	t.Parallel()
	const dn, editors = "cn=lnx01,dc=test", 20
	s := inventory(t, "a.ldif", host)
	old := was(t, s, dn)
	errs := make([]error, editors)
	var wait sync.WaitGroup
	for i := range editors {
		wait.Go(func() {
			errs[i] = New(s.dir).Apply(t.Context(), ldapmap.Edit{DN: dn, Was: old, Mods: []ldapmap.Mod{
				del("levelfsAssignment", "emacs=28.2-1"), add("levelfsAssignment", fmt.Sprintf("emacs=%d", i))}})
		})
	}
	wait.Wait()
	won := 0
	for i, err := range errs {
		var conflict *ldapmap.ConflictError
		switch {
		case err == nil:
			won++
			if got := was(t, New(s.dir), dn).Attrs["levelfsassignment"]; got[len(got)-1] != fmt.Sprintf("emacs=%d", i) {
				t.Errorf("editor %d was told that it won, and %q is there", i, got)
			}
		case !errors.As(err, &conflict):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d editors won, want 1", won)
	}
}

// FuzzRewrite: whatever a file holds, an edit of one of its entries changes that entry
// as a directory server would, and no other.
func FuzzRewrite(f *testing.F) {
	f.Add(host, "levelfsAssignment", "emacs=1")
	f.Add("version: 1\ndn: cn=a\nobjectClass: x\n# c\n\n\n# d\ndn:: Y249Yg==\ncn: b\n", "cn", " y")
	f.Fuzz(func(t *testing.T, text, attr, value string) {
		before, err := parse([]byte(text))
		if err != nil || len(before) == 0 || refuseURLs([]byte("\n"+attr+": x\n")) != nil {
			return
		}
		seen := make(map[string]bool)
		for _, e := range before {
			if seen[e.DN] || e.DN == "" {
				return // refused by load
			}
			seen[e.DN] = true
		}
		edit := ldapmap.Edit{DN: before[0].DN, Was: &before[0], Mods: []ldapmap.Mod{add(attr, value)}}
		changed, err := rewrite([]byte(text), edit)
		if err != nil {
			return
		}
		want := ldapmap.Entry{DN: edit.DN, Attrs: map[string][]string{}}
		for a, v := range before[0].Attrs {
			want.Attrs[a] = append([]string(nil), v...)
		}
		name := strings.ToLower(attr)
		want.Attrs[name] = append(want.Attrs[name], value)
		if verify(changed, want) != nil {
			return // Apply refuses it
		}
		after, err := parse(changed)
		if err != nil || len(after) != len(before) {
			t.Fatalf("%d entries became %d: %v\n%q\n%q", len(before), len(after), err, text, changed)
		}
		for i := 1; i < len(before); i++ {
			if before[i].DN != after[i].DN || !sameAttrs(before[i], after[i]) {
				t.Errorf("entry %q became %v", before[i].DN, after[i])
			}
		}
	})
}
