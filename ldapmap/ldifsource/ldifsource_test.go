package ldifsource

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/ldapmap"
)

// inventory writes files, named by name and text in turn, to a new directory.
func inventory(t *testing.T, files ...string) *Source {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return New(dir)
}

// everything selects every entry.
var everything = []ldapmap.Term{{{{Attr: "objectClass", Op: ldapmap.Prefix}}}}

func search(t *testing.T, s *Source, terms ...ldapmap.Term) ([]ldapmap.Entry, error) {
	t.Helper()
	return s.Search(t.Context(), terms, nil)
}

// dns are the sorted DNs of entries.
func dns(entries []ldapmap.Entry) []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.DN)
	}
	slices.Sort(names)
	return names
}

// layer is the text of an entry.
func layer(name string, lines ...string) string {
	return strings.Join(append([]string{"dn: cn=" + name + ",dc=test", "objectClass: levelfsLayer", "cn: " + name}, lines...), "\n") + "\n"
}

// TestGood is what RFC 2849 allows and editors and servers write.
func TestGood(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString([]byte("für alle"))
	for _, c := range []struct {
		name, text string
		attr       string
		want       []string
	}{
		{"plain", layer("a"), "cn", []string{"a"}},
		{"no newline at the end", strings.TrimSpace(layer("a")), "cn", []string{"a"}},
		{"several values", layer("a", "levelfsImage: x", "levelfsImage: y"), "levelfsimage", []string{"x", "y"}},
		{"attribute in two spellings", layer("a", "LevelfsSegment: X", "levelfssegment: Y"), "levelfssegment", []string{"X", "Y"}},
		{"folded", layer("a", "descrip", " tion: one", "  two"), "description", []string{"one two"}},
		{"folded name", "dn: cn=a,\n dc=test\nobjectClass: levelfsLayer\ncn: a\n", "cn", []string{"a"}},
		{"base64", layer("a", "description:: "+encoded), "description", []string{"für alle"}},
		{"base64 name", "dn:: " + base64.StdEncoding.EncodeToString([]byte("cn=a,dc=test")) + "\nobjectClass: levelfsLayer\n", "objectclass", []string{"levelfsLayer"}},
		{"comments", "# first\n#\n\n" + layer("a", "# folded", "  comment", "description: x") + "# last\n", "description", []string{"x"}},
		{"version", "version: 1\n\n" + layer("a"), "cn", []string{"a"}},
		{"version without an empty line", "version: 1\n" + layer("a"), "cn", []string{"a"}},
		{"CRLF", strings.ReplaceAll("version: 1\n\n"+layer("a", "description: folded", "  twice"), "\n", "\r\n"), "description", []string{"folded twice"}},
		{"empty lines", "\n\n\n" + layer("a") + "\n\n", "cn", []string{"a"}},
		{"blanks before a value", layer("a", "description:   x"), "description", []string{"x"}},
		{"no blank before a value", layer("a", "description:x"), "description", []string{"x"}},
		{"UTF-8 as it is", layer("a", "description: für alle"), "description", []string{"für alle"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := search(t, inventory(t, "a.ldif", c.text), everything...)
			if err != nil || len(got) != 1 {
				t.Fatalf("got %+v, %v", got, err)
			}
			if got[0].DN != "cn=a,dc=test" || !reflect.DeepEqual(got[0].Attrs[c.attr], c.want) {
				t.Errorf("got %+v, want %s %q", got[0], c.attr, c.want)
			}
		})
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	s := inventory(t,
		"10-a.ldif", layer("a"),
		"20-b.ldif", layer("b")+"\n"+layer("c"),
		".20-b.ldif.swp", "what an editor leaves",
		".hidden.ldif", "no LDIF",
		"README", "no LDIF",
		"a.ldif~", "no LDIF",
		"a.ldif.dpkg-old", layer("a"),
		"empty.ldif", "",
		"comments.ldif", "# nothing yet\n")
	got, err := search(t, s, everything...)
	want := []string{"cn=a,dc=test", "cn=b,dc=test", "cn=c,dc=test"}
	if err != nil || !reflect.DeepEqual(dns(got), want) {
		t.Errorf("got %q, %v; want %q", dns(got), err, want)
	}
	if s.Name() != s.dir || s.Close() != nil {
		t.Error("name or close")
	}
	if got, err := search(t, inventory(t), everything...); err != nil || len(got) > 0 {
		t.Errorf("empty directory: %v, %v", got, err)
	}
}

// TestReadOnce: one Source is one lookup, and both its searches see one state of
// the files; the next Source sees what was saved since.
func TestReadOnce(t *testing.T) {
	t.Parallel()
	s := inventory(t, "a.ldif", layer("a"))
	for range 2 {
		if got, err := search(t, s, everything...); err != nil || len(got) != 1 {
			t.Errorf("got %v, %v", got, err)
		}
		if err := os.WriteFile(filepath.Join(s.dir, "b.ldif"), []byte(layer("b")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := search(t, New(s.dir), everything...); err != nil || len(got) != 2 {
		t.Errorf("got %v, %v", got, err)
	}
}

// TestRefused is what is a mistake in a file: asking again does not help, and the
// error says where to look.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		files []string
		facts []string
	}{
		{"twice in one file", []string{"a.ldif", layer("a") + "\n" + layer("a")}, []string{"a.ldif", "cn=a,dc=test"}},
		{"twice in two files", []string{"a.ldif", layer("x"), "b.ldif", layer("x")}, []string{"a.ldif", "b.ldif", "cn=x,dc=test"}},
		{"twice, spelled differently", []string{"a.ldif", layer("x"), "b.ldif", "dn: CN=X , DC=test\nobjectClass: top\n"}, []string{"a.ldif", "b.ldif"}},
		{"change record", []string{"a.ldif", "dn: cn=a,dc=test\nchangetype: delete\n"}, []string{"a.ldif", "change"}},
		{"change record that adds", []string{"a.ldif", layer("a") + "\ndn: cn=b,dc=test\nchangetype: add\ncn: b\n"}, []string{"a.ldif", "change"}},
		{"change record that modifies", []string{"a.ldif", "dn: cn=a,dc=test\nchangetype: modify\nreplace: cn\ncn: b\n-\n"}, []string{"a.ldif", "change"}},
		{"no colon", []string{"a.ldif", layer("a", "description x")}, []string{"a.ldif", "line 5"}},
		{"no dn", []string{"a.ldif", "cn: a\n"}, []string{"a.ldif", "line 2", "dn"}},
		{"only a dn", []string{"a.ldif", "dn: cn=a,dc=test\n"}, []string{"a.ldif", "line 2"}},
		{"dn that is none", []string{"a.ldif", "dn: emacs\ncn: a\n"}, []string{"a.ldif", `"emacs"`}},
		{"bad base64", []string{"a.ldif", layer("a", "description:: !")}, []string{"a.ldif", "line 5"}},
		{"bad attribute", []string{"a.ldif", layer("a", "desc ription: x")}, []string{"a.ldif", "line 5"}},
		{"a line of a blank between two", []string{"a.ldif", layer("a") + " \n" + layer("b")}, []string{"a.ldif", "cn=a,dc=test", "cn=b,dc=test", "blanks"}},
		{"nothing between two", []string{"a.ldif", layer("a") + layer("b")}, []string{"a.ldif", "cn=a,dc=test", "cn=b,dc=test"}},
		{"change record, spelled differently", []string{"a.ldif", "dn: cn=a,dc=test\nchangeType: delete\n"}, []string{"a.ldif", "changeType: delete"}},
		{"byte order mark", []string{"a.ldif", "\ufeff" + layer("a")}, []string{"a.ldif", "byte order mark"}},
		{"another version", []string{"a.ldif", "version: 2\n\n" + layer("a")}, []string{"a.ldif", "version"}},
		{"one bad file of two", []string{"a.ldif", layer("a"), "b.ldif", "emacs\n"}, []string{"b.ldif"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := inventory(t, c.files...)
			got, err := search(t, s, everything...)
			var wrong *ldapmap.ConfigError
			if !errors.As(err, &wrong) || wrong.Source != s.dir || got != nil {
				t.Fatalf("got %v, %v; want a *ConfigError", got, err)
			}
			for _, fact := range append(c.facts, s.dir) {
				if !strings.Contains(err.Error(), fact) {
					t.Errorf("error %q does not say %q", err, fact)
				}
			}
		})
	}
}

// TestURLValue: a value that is a file's content (RFC 2849: "attr:< file:///…") would
// let a line of an inventory read any file, a device or a fifo that never ends.
func TestURLValue(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("password"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := "file://" + secret
	for _, value := range []string{
		"description:< " + url,
		"description:<" + url,
		"description:\n < " + url, // folded
		"description:\r\n < " + url,
		"description:\n \n <" + url,
		"descrip\n tion:< " + url,
		"description:\r\r\n < " + url, // the library takes any number of CRs for one
		"x: y\n# comment\ndescription:< " + url,
	} {
		got, err := search(t, inventory(t, "a.ldif", layer("a", value)), everything...)
		var wrong *ldapmap.ConfigError
		if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "a.ldif") {
			t.Errorf("%q: got %+v, %v; want a *ConfigError", value, got, err)
		}
	}
	// What only looks like it.
	for _, value := range []string{"description: <" + url, "description: a:< " + url, "# description:< " + url} {
		if _, err := search(t, inventory(t, "a.ldif", layer("a", value)), everything...); err != nil {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestMissingDirectory(t *testing.T) {
	t.Parallel()
	s := New(filepath.Join(t.TempDir(), "inventory.d"))
	_, err := search(t, s, everything...)
	var wrong *ldapmap.ConfigError
	if !errors.As(err, &wrong) || wrong.Source != s.dir || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want a *ConfigError", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := search(t, New(file), everything...); !errors.As(err, &wrong) {
		t.Errorf("a file in its place: %v", err)
	}
	s = inventory(t)
	if err := os.Mkdir(filepath.Join(s.dir, "sub.ldif"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := search(t, s, everything...); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "sub.ldif") {
		t.Errorf("a directory named as a file: %v", err)
	}
	s = inventory(t)
	if err := unix.Mkfifo(filepath.Join(s.dir, "fifo.ldif"), 0o600); err != nil {
		t.Fatal(err)
	}
	// Nobody writes to it: a plain open would wait for ever.
	if _, err := search(t, s, everything...); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "fifo.ldif") {
		t.Errorf("a FIFO: %v", err)
	}
	s = inventory(t)
	if err := os.Symlink("/nonexistent", filepath.Join(s.dir, "gone.ldif")); err != nil {
		t.Fatal(err)
	}
	if _, err := search(t, s, everything...); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "gone.ldif") {
		t.Errorf("a link to nothing: %v", err)
	}
}

// TestRetry checks that a mistake is not remembered as an empty inventory.
func TestRetry(t *testing.T) {
	t.Parallel()
	s := inventory(t, "a.ldif", layer("a"), "b.ldif", "x\n")
	for range 2 {
		if got, err := search(t, s, everything...); err == nil {
			t.Errorf("got %v and no error", got)
		}
	}
	if err := os.Remove(filepath.Join(s.dir, "b.ldif")); err != nil {
		t.Fatal(err)
	}
	if got, err := search(t, s, everything...); err != nil || len(got) != 1 {
		t.Errorf("after the mistake was removed: %v, %v", got, err)
	}
}

// TestTooLarge uses a sparse file: it costs no disk.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	s := inventory(t, "a.ldif", layer("a"))
	if err := os.Truncate(filepath.Join(s.dir, "a.ldif"), maxFile+1); err != nil {
		t.Fatal(err)
	}
	_, err := search(t, s, everything...)
	var wrong *ldapmap.ConfigError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "a.ldif: larger than 67108864 bytes") {
		t.Errorf("got %.200v", err)
	}
}

// TestContext: time that has run out says nothing about the files. As a
// *ConfigError it would keep the map from its cache.
func TestContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	s := inventory(t, "a.ldif", layer("a"))
	_, err := s.Search(ctx, everything, nil)
	var down *ldapmap.UnavailableError
	if !errors.As(err, &down) || down.Source != s.dir || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %T %v, want an *UnavailableError", err, err)
	}
}

// TestMatching checks the comparisons against the schema's rules (RFC 4517).
func TestMatching(t *testing.T) {
	t.Parallel()
	text := strings.Join([]string{
		layer("Emacs-29.4", "levelfsImage: x"),
		"dn: cn=g,dc=test", "objectClass: groupOfNames", "cn: g",
		"member: CN=lnx01 ,  OU=Hosts,DC=test", `member: cn=Smith\2C Sons,dc=test`, "member: no name at all",
		"uniqueMember: cn=lnx02,ou=hosts,dc=test", ""}, "\n")
	test := func(attr string, op ldapmap.Op, value string) ldapmap.Condition {
		return ldapmap.Condition{{Attr: attr, Op: op, Value: value}}
	}
	const l, g = "cn=Emacs-29.4,dc=test", "cn=g,dc=test"
	for _, c := range []struct {
		name  string
		terms []ldapmap.Term
		want  []string
	}{
		{"nothing asked", nil, nil},
		{"equal", []ldapmap.Term{{test("cn", ldapmap.Equal, "Emacs-29.4")}}, []string{l}},
		{"equal in another case", []ldapmap.Term{{test("CN", ldapmap.Equal, "emacs-29.4")}}, []string{l}},
		{"equal is not a prefix", []ldapmap.Term{{test("cn", ldapmap.Equal, "emacs")}}, nil},
		{"no wildcards", []ldapmap.Term{{test("cn", ldapmap.Equal, "*")}}, nil},
		{"prefix", []ldapmap.Term{{test("cn", ldapmap.Prefix, "EMACS-")}}, []string{l}},
		{"prefix of all", []ldapmap.Term{{test("cn", ldapmap.Prefix, "emacs-29.4")}}, []string{l}},
		{"prefix too long", []ldapmap.Term{{test("cn", ldapmap.Prefix, "emacs-29.44")}}, nil},
		{"present", []ldapmap.Term{{test("levelfsImage", ldapmap.Present, "")}}, []string{l}},
		{"absent", []ldapmap.Term{{test("levelfsSegment", ldapmap.Present, "")}}, nil},
		{"all conditions", []ldapmap.Term{{test("cn", ldapmap.Prefix, "emacs"), test("objectClass", ldapmap.Equal, "groupOfNames")}}, nil},
		{"any test", []ldapmap.Term{{{{Attr: "cn", Value: "g"}, {Attr: "cn", Value: "emacs-29.4"}}}}, []string{l, g}},
		{"any term", []ldapmap.Term{{test("cn", ldapmap.Equal, "g")}, {test("levelfsImage", ldapmap.Equal, "x")}}, []string{l, g}},
		{"once for two terms", []ldapmap.Term{{test("cn", ldapmap.Equal, "g")}, {test("cn", ldapmap.Prefix, "g")}}, []string{g}},
		{"member", []ldapmap.Term{{test("member", ldapmap.Equal, "cn=LNX01,ou=hosts, dc=test")}}, []string{g}},
		{"member, escaped otherwise", []ldapmap.Term{{test("member", ldapmap.Equal, `cn=smith\, sons,dc=test`)}}, []string{g}},
		{"no member", []ldapmap.Term{{test("member", ldapmap.Equal, "cn=lnx02,ou=hosts,dc=test")}}, nil},
		{"member that is no name", []ldapmap.Term{{test("member", ldapmap.Equal, "no name at all")}}, nil},
		{"unique member", []ldapmap.Term{{test("uniqueMember", ldapmap.Equal, "CN=lnx02,OU=hosts,DC=test")}}, []string{g}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := search(t, inventory(t, "a.ldif", text), c.terms...)
			if err != nil || !reflect.DeepEqual(dns(got), c.want) {
				t.Errorf("got %q, %v; want %q", dns(got), err, c.want)
			}
		})
	}
}

// TestExample reads the inventory that is delivered as the example, and resolves
// its three callers.
func TestExample(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../packaging/schema/example.ldif")
	if err != nil {
		t.Fatal(err)
	}
	s := inventory(t, "example.ldif", string(text))
	for _, c := range []struct{ host, user, level, rank string }{
		{"lnx01.example.org", "", "emacs@29.4-1", ldapmap.RankHostProfile},
		{"lnx01.example.org", "rob", "emacs@30.1-1", ldapmap.RankUser},
		{"lnx99.example.org", "", "emacs@29.4-1", ldapmap.RankDefault},
	} {
		r := ldapmap.Resolver{Sources: []ldapmap.Source{s}}
		got, err := r.Resolve(t.Context(), ldapmap.Query{Key: ldapmap.Key{Component: "emacs"}, Host: c.host, User: c.user})
		if err != nil {
			t.Errorf("%s %s: %v", c.host, c.user, err)
			continue
		}
		i := slices.IndexFunc(got.Trail, func(r ldapmap.Rule) bool { return r.Won })
		if got.Level.Name != c.level || got.Trail[i].Rank != c.rank || len(got.Layers) != 2 {
			t.Errorf("%s %s: %s by %+v", c.host, c.user, got.Level.Name, got.Trail[i])
		}
	}
}

// FuzzParse looks for text that the library panics on (none is known), and for
// entries that a Resolver would not understand.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "a", ":", "::", "\n", " ", "#", "-", "dn:", "dn: ", "dn: cn=a\na", "dn: cn=a\n:", "dn: cn=a\ncn:", "dn:: !",
		"version:", "version: 1", "version: 1\ndn", "dn: cn=a\ncontrol:", "dn: cn=a\ncontrol: 1.2\n", "dn: cn=a\ncontrol: 1.2\n\n", "dn: cn=a\nchangetype:",
		"dn: cn=a\nchangetype: modify\n-\n", "dn: cn=a\nchangetype: modify\nadd: x\n-", "dn: cn=a\nchangetype: moddn\n",
		layer("a"), layer("a") + "\n" + layer("b"), strings.ReplaceAll(layer("a"), "\n", "\r\n"), layer("a", " folded", "description:: eA==")} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := parse(text)
		if err != nil && entries != nil {
			t.Errorf("%d entries with error %v", len(entries), err)
		}
		for _, e := range entries {
			for attr := range e.Attrs {
				if attr != strings.ToLower(attr) {
					t.Errorf("attribute %q of %q is not in lower case", attr, e.DN)
				}
			}
		}
	})
}
