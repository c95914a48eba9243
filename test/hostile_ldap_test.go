package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"

	"github.com/levelfs/levelfs/internal/testenv"
)

// A reply is what a hostile server answers to a search: entries, and then bytes as
// they are, or that the search is done.
type reply struct {
	entries map[string]map[string][]string // DN -> attribute -> values
	raw     func(id int64) []byte
}

// honest is the reply of a server that has the inventory and filters nothing.
func honest(t *testing.T, inv testenv.Inventory) reply {
	t.Helper()
	parsed, err := ldif.Parse(inv.LDIF())
	if err != nil {
		t.Fatal(err)
	}
	r := reply{entries: make(map[string]map[string][]string)}
	for _, e := range parsed.AllEntries() {
		attrs := make(map[string][]string)
		for _, a := range e.Attributes {
			attrs[a.Name] = append(attrs[a.Name], a.Values...)
		}
		r.entries[e.DN] = attrs
	}
	return r
}

func (r reply) serve(_ context.Context, c net.Conn) {
	testenv.AnswerLDAP(c, func(id int64, _ *ber.Packet) []byte {
		var b bytes.Buffer
		for dn, attrs := range r.entries {
			b.Write(testenv.LDAPMessage(id, testenv.LDAPEntry(dn, attrs)))
		}
		if r.raw != nil {
			b.Write(r.raw(id))
		} else {
			b.Write(done(id))
		}
		return b.Bytes()
	})
}

func done(id int64) []byte {
	return testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""))
}

// many are n entries that the map did not ask for.
func many(id int64, n int) []byte {
	return bytes.Repeat(testenv.LDAPMessage(id, testenv.LDAPEntry("cn=x,dc=example,dc=org", map[string][]string{"cn": {"x"}})), n)
}

// runWithin runs a command to which the kernel gives no more memory than that for its
// data: setrlimit(2). What a finished process has had cannot be told from what its
// parent had when it was forked.
func runWithin(m *testenv.Machine, data int, command ...string) testenv.Result {
	return m.Run("prlimit", append([]string{fmt.Sprintf("--data=%d", data)}, command...)...)
}

// deep is an element of that many levels around so many bytes.
func deep(levels, size int) []byte {
	length := func(n int) []byte { return []byte{0x84, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }
	var b bytes.Buffer
	for i := range levels {
		b.WriteByte(0x30)
		b.Write(length((levels-1-i)*6 + 6 + size))
	}
	b.WriteByte(0x04)
	b.Write(length(size))
	b.Write(make([]byte, size))
	return b.Bytes()
}

// TestRunWithin: the limit is one.
func TestRunWithin(t *testing.T) {
	m := testenv.NewMachine(t, "lnx01")
	m.WriteLDIF("all.ldif", emacsInventory().LDIF())
	if r := runWithin(m, 16<<20, m.Map, "emacs"); r.Exit == 0 || r.Stdout != "" {
		t.Errorf("16 MiB are enough: %v", r)
	}
}

// TestMapHostileServer: a directory is not trusted with more than the choice among
// levels. Whatever it answers, the map gives the right line or none and one clear
// reason, in bounded memory and time.
func TestMapHostileServer(t *testing.T) {
	host, level, layer, comp := testenv.HostDN("lnx01"), testenv.LevelDN("emacs", "30.1-1"), testenv.LayerDN("emacs-30.1-1"), testenv.ComponentDN("emacs")
	set := func(dn, attr string, values ...string) func(*reply) {
		return func(r *reply) { r.entries[dn][attr] = values }
	}
	raw := func(f func(id int64) []byte) func(*reply) { return func(r *reply) { r.raw = f } }
	elsewhere := make(chan struct{}, 1)
	other := "ldap://" + testenv.Serve(t, func(context.Context, net.Conn) { elsewhere <- struct{}{} })

	type row struct {
		name   string
		change func(*reply)
		says   string // in the reason; "" if the answer is right
	}
	rows := []row{
		{"honest, and filters nothing", func(*reply) {}, ""},
		{"entries that were not asked for", func(r *reply) {
			bad := []string{"../../etc\n,suid"}
			for dn, class := range map[string]string{testenv.ComponentDN("vi"): "levelfsComponent", testenv.LayerDN("vi-1"): "levelfsLayer", "cn=x": "person", "": "top"} {
				r.entries[dn] = map[string][]string{"objectClass": {class}, "cn": bad, "levelfsDefault": bad, "levelfsMountPoint": bad, "levelfsImage": bad}
			}
		}, ""},
		{"referrals between the entries", raw(func(id int64) []byte {
			return append(testenv.LDAPMessage(id, testenv.LDAPReference(other+"/dc=example,dc=org")), done(id)...)
		}), ""},
		{"referral for all", raw(func(id int64) []byte {
			return testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 10, "", testenv.LDAPReferral(other)))
		}), "refers to \"" + other + "\""},
		{"referral to a newline", raw(func(id int64) []byte {
			return testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 10, "", testenv.LDAPReferral("ldap://a\n-fstype=tmpfs :x")))
		}), `"ldap://a\n-fstype=tmpfs :x"`},
		{"diagnostic of several lines", raw(func(id int64) []byte {
			return testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 50, "no\n\x1b[2Jauto.levelfs: fine\n"+strings.Repeat("x", 60_000)))
		}), `"no\n\x1b[2Jauto.levelfs: fine\n`},
		{"2000 entries too many", raw(func(id int64) []byte { return append(many(id, 2500), done(id)...) }), "too many entries"},
		{"entries without end", raw(func(id int64) []byte { return many(id, 300_000) }), "too many entries"},
		{"values without end", raw(func(id int64) []byte {
			return testenv.LDAPMessage(id, testenv.LDAPEntry(host, map[string][]string{"levelfsAssignment": make([]string, 100_000)}))
		}), "too many values"},
		{"many values in many entries", raw(func(id int64) []byte {
			return bytes.Repeat(testenv.LDAPMessage(id, testenv.LDAPEntry(host, map[string][]string{"levelfsAssignment": make([]string, 15_000)})), 50)
		}), "more than 400000 values"},
		{"value of 1 MB", set(host, "levelfsAssignment", "emacs="+strings.Repeat("1", 1<<20)), "a message of 10"},
		{"value of 900 kB", set(host, "levelfsAssignment", "emacs="+strings.Repeat("1", 900_000)), "a value of 900006 bytes"},
		{"value of 60 kB", set(host, "levelfsAssignment", "emacs="+strings.Repeat("1", 60_000)), "levelfsAssignment"},
		{"values of 60 kB each", raw(func(id int64) []byte {
			return bytes.Repeat(testenv.LDAPMessage(id, testenv.LDAPEntry(host, map[string][]string{"description": {strings.Repeat("x", 60_000)}})), 400)
		}), "more than 8388608 bytes"},
		{"message of 2 GiB", raw(func(int64) []byte {
			return append([]byte{0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, make([]byte, 1<<20)...)
		}), "a message of 2147483647 bytes"},
		{"message of 4 GiB", raw(func(int64) []byte { return []byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 2, 1, 1} }), "a message of 2147483647 bytes"},
		{"message of -1 bytes", raw(func(int64) []byte { return append([]byte{0x30, 0x88}, bytes.Repeat([]byte{0xff}, 8)...) }), "no LDAP message"},
		{"value of 2 GiB", raw(func(id int64) []byte {
			return []byte{0x30, 16, 2, 1, byte(id), 0x64, 11, 0x04, 0x84, 0x7f, 0xff, 0xff, 0xff, 'x', 'x', 'x', 'x', 'x'}
		}), "no LDAP message"},
		{"nested 900 deep", raw(func(int64) []byte { return deep(900, 900_000) }), "nested too deep"},
		{"nested 100,000 deep", raw(func(int64) []byte { return deep(100_000, 1) }), "nested too deep"},
		{"nested in a control", raw(func(id int64) []byte {
			return testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""),
				testenv.BERSequence(testenv.BEROctets(ldap.ControlTypePaging), testenv.BEROctets(string(deep(900, 30_000)))))
		}), "controls of"},
		{"size that is negative", set(layer, "levelfsSize", "-1"), `levelfsSize: invalid value "-1"`},
		{"size that is huge", set(layer, "levelfsSize", "99999999999999999999999"), "levelfsSize: invalid value"},
		{"order that is huge", set(level, "levelfsLayerRef", "99999999999999999999999:emacs-30.1-1"), "levelfsLayerRef: invalid value"},
		{"order that is negative", set(level, "levelfsLayerRef", "-1:emacs-30.1-1"), "levelfsLayerRef: invalid value"},
		{"two defaults", set(comp, "levelfsDefault", "29.4-1", "30.1-1"), "levelfsDefault: invalid value"},
		{"two of one attribute", func(r *reply) { r.entries[host]["LEVELFSASSIGNMENT"] = []string{"emacs=29.4-1"} }, "two levels"},
	}
	// What must not get into a line, an option or a path, at each place where it could.
	for name, bad := range map[string]string{
		"newline": "30.1-1\n-fstype=tmpfs,rw :tmpfs", "comma": "30.1-1,suid", "blank": "30.1-1 -fstype=bind", "colon": "30.1-1:/etc",
		"parent": "../../etc", "NUL": "30.1-1\x00", "no UTF-8": "30.1-1\xff", "shell": "$(id)", "at": "30.1-1@x", "long": strings.Repeat("1", 100),
	} {
		rows = append(rows,
			row{name + " in an assignment", set(host, "levelfsAssignment", "emacs="+bad), "levelfsAssignment"},
			row{name + " in a layer's reference", set(level, "levelfsLayerRef", "00:"+bad), "levelfsLayerRef"},
			row{name + " in a file system type", set(layer, "levelfsFSType", bad), "levelfsFSType"},
			row{name + " in a digest", set(layer, "levelfsDigest", "sha256:"+bad), "levelfsDigest"},
			row{name + " in a UUID", set(layer, "levelfsUUID", bad), "levelfsUUID"},
			row{name + " in a private policy", set(comp, "levelfsPrivate", bad), "levelfsPrivate"},
			row{name + " in a state", set(level, "levelfsState", bad), "levelfsState"},
		)
		if name != "long" && name != "at" { // good in a path
			rows = append(rows,
				row{name + " in an image", set(layer, "levelfsImage", bad), "levelfsImage"},
				row{name + " in a mount point", set(comp, "levelfsMountPoint", "/"+bad), "levelfsMountPoint"})
		}
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			inv := emacsInventory()
			inv.Hosts = []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=30.1-1"}}}
			r := honest(t, inv)
			c.change(&r)
			m := testenv.NewMachine(t, "lnx01")
			m.Configure(testenv.LDAPSource(testenv.BaseDN, "ldap://"+testenv.Serve(t, r.serve)))
			for key, line := range map[string]string{"emacs": emacsLine, "emacs@30.1-1": "-fstype=levelfs,ro :emacs@30.1-1"} {
				if err := os.RemoveAll(m.Path("var/cache/levelfs")); err != nil {
					t.Fatal(err)
				}
				got := runWithin(m, 256<<20, m.Map, key)
				asked := key == "emacs" || !strings.Contains(c.says, "Assignment") && !strings.Contains(c.says, "two levels")
				switch {
				case c.says == "":
					wantAnswer(t, got, line)
				case asked:
					wantRefusal(t, got, c.says)
				case got.Exit == 0: // it was not looked at
					wantAnswer(t, got, line)
				default:
					wantRefusal(t, got)
				}
				if strings.ContainsFunc(strings.TrimSuffix(got.Stderr, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) || len(got.Stderr) > 4096 {
					t.Errorf("stderr: %d bytes, %.200q", len(got.Stderr), got.Stderr)
				}
				if got.Took > 6500*time.Millisecond { // with the start of the process
					t.Errorf("key %s: it took %v", key, got.Took)
				}
				wantPlainCache(t, m)
			}
		})
	}
	t.Cleanup(func() { // after all of them
		if len(elsewhere) > 0 {
			t.Error("a referral was followed")
		}
	})
}

// wantPlainCache checks that nothing but one level and one answer was written down.
func wantPlainCache(t *testing.T, m *testenv.Machine) {
	t.Helper()
	root := m.Path("var/cache/levelfs")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		switch name, _ := filepath.Rel(root, path); name {
		case "down", "answers/lnx01/emacs", "levels/emacs@30.1-1.toml":
		default:
			t.Errorf("in the cache: %q", name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
