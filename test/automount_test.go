package test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestAutomountRefusals checks what a process sees that asks for what is not
// there: ENOENT, and no mount.
func TestAutomountRefusals(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs")
	m := testenv.NewMachine(t, "lnx01")
	good := m.Store.Erofs("good-1", testenv.Files{"file": "good"})
	absent := testenv.Layer{Name: "absent-1", FSType: "erofs", Digest: "sha256:" + strings.Repeat("0", 64), Images: []string{"absent.erofs"}}
	changed := m.Store.Erofs("changed-1", testenv.Files{"file": "changed"})
	damage(t, filepath.Join(m.Store.Dir, changed.Images[0]))
	m.WriteLDIF("all.ldif", testenv.Inventory{
		Layers: []testenv.Layer{good, absent, changed},
		Components: []testenv.Component{
			component("good", "1", "1"), component("absent", "1", "1"), component("changed", "1", "1"),
			component("undefined", "2", "1"), component("unassigned", "", "1"),
		},
	}.LDIF())
	log := listenLog(t)
	a, sw := startAutomount(t, m)

	for _, c := range []struct{ key, reason string }{
		{"nosuch", `no component "nosuch"`},
		{"good@9", `no level "good@9"`},
		{"undefined", `no level "undefined@2"`},
		{"unassigned", `no level of "unassigned"`},
		{"by-user@1", "reserved"},
		{"absent", "not on this machine: tried " + m.Store.Dir + "/absent.erofs"},
		{"changed", "but the inventory says"},
		{".git", "invalid key"},
		{"we ird", "invalid key"},
		{"$HOME", "invalid key"},
		{"new\nline", "invalid key"},
		{`quo"te`, "invalid key"},
		{"good@1,suid", "invalid key"},
		{"-fstype=tmpfs", "invalid key"},
		{"good :etc", "invalid key"},
		{`good\:good@1`, "invalid key"},
		{"*", "invalid key"},
		{strings.Repeat("x", 200), "invalid key"}, // of 255 bytes, automount says no by itself
	} {
		key, reason := c.key, c.reason
		if reason == "invalid key" {
			reason += " " + strings.TrimSuffix(strconv.Quote(key[:min(len(key), 80)]), `"`)
		}
		if _, err := testenv.ReadFile(filepath.Join(sw, key, "file")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("key %q: %v, want ENOENT", key, err)
		}
		testenv.WaitFor(t, fmt.Sprintf("the reason why not %q", key), func() error {
			if !strings.Contains(a.Log(), reason) && !strings.Contains(log(), reason) {
				return fmt.Errorf("%q is not in /dev/log:\n%s", reason, log())
			}
			return nil
		})
	}
	// What automount hides at its default log level is in the system log.
	for _, reason := range []string{"not on this machine", "but the inventory says"} {
		if !strings.Contains(log(), reason) {
			t.Errorf("%q is not in /dev/log:\n%s", reason, log())
		}
	}
	wantNothingLeft(t, sw, m.Store)
	wantFile(t, sw+"/good/file", "good")
	a.Expire(sw)
	wantNothingLeft(t, sw, m.Store)
}

// damage changes one byte and nothing that can be seen without reading it all.
func damage(t *testing.T, image string) {
	t.Helper()
	info, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xa5}, info.Size()-1); err != nil {
		t.Fatal(err)
	}
}

// listenLog listens on the sandbox's /dev/log and returns what came in so far.
func listenLog(t *testing.T) func() string {
	t.Helper()
	if !testenv.Inside() {
		t.Fatal("not in a sandbox")
	}
	os.Remove("/dev/log") // the machine's, or a link to it, seen through the overlay
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "/dev/log", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	var text strings.Builder
	return func() string {
		buf := make([]byte, 64<<10)
		for {
			// A moment, so that what is there is read and nothing is waited for.
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return text.String()
			}
			text.Write(append(buf[:n], '\n'))
		}
	}
}

// TestAutomountInvariants checks what holds of every view.
func TestAutomountInvariants(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs", "squashfs", "ext4")
	m := testenv.NewMachine(t, "lnx01")
	m.WriteLDIF("all.ldif", testenv.Inventory{
		Layers: []testenv.Layer{
			m.Store.Erofs("gcc-12", testenv.Files{"version": "12"}),
			m.Store.Squashfs("gcc-13", testenv.Files{"version": "13"}),
			m.Store.Ext4("gcc-14", testenv.Files{"version": "14", "sub/file": ""}),
			m.Store.Directory("gcc-15", testenv.Files{"version": "15"}),
		},
		Components: []testenv.Component{component("gcc", "14", "12", "13", "14", "15")},
	}.LDIF())
	a, sw := startAutomount(t, m)
	view := sw + "/gcc"

	// The component and its levels side by side. The levels have no private part.
	wantFile(t, view+"/version", "14")
	writeFile(t, view+"/private", "mine")
	levels := []string{"12", "13", "14", "15"}
	for _, level := range levels {
		wantFile(t, view+"@"+level+"/version", level)
		if err := os.WriteFile(view+"@"+level+"/file", nil, 0o644); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write to level %s: %v, want EROFS", level, err)
		}
		if _, err := os.Stat(view + "@" + level + "/private"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the private file in level %s: %v", level, err)
		}
	}
	want := []string{"gcc levelfs:gcc@14"}
	for _, level := range levels {
		want = append(want, "gcc@"+level+" levelfs:gcc@"+level)
	}
	if got := viewsBelow(t, sw); !slices.Equal(got, want) {
		t.Errorf("views %q, want %q", got, want)
	}

	// Nothing is ever mounted at or below a view.
	for _, dir := range []string{view, view + "/sub"} {
		if r := m.RunHelper("gcc@13", dir, "-o", "ro"); r.Exit != 32 {
			t.Errorf("mount at %s: %v, want exit 32", dir, r)
		}
	}
	if got := viewsBelow(t, sw); !slices.Equal(got, want) {
		t.Errorf("after refused mounts: views %q, want %q", got, want)
	}
	if mounts, err := testenv.Mounts(m.Path("run")); err != nil || len(mounts) > 0 {
		t.Errorf("layers can be seen: %v, %v", mounts, err)
	}

	// A plain umount frees everything.
	for _, v := range want {
		name, _, _ := strings.Cut(v, " ")
		if r := m.Run("umount", filepath.Join(sw, name)); r.Exit != 0 {
			t.Errorf("umount %s: %v", name, r)
		}
	}
	wantNothingLeft(t, sw, m.Store)

	// A busy view stays until it is idle, and automount can go on.
	f, err := os.Open(view + "/version")
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, view+"@12/version", "12")
	a.Expire(view + "@12")
	if got := viewsBelow(t, sw); !slices.Equal(got, want[:1]) {
		t.Errorf("while a file is open: views %q, want %q", got, want[:1])
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	a.Expire(sw)
	wantNothingLeft(t, sw, m.Store)
}

// viewsBelow lists names and sources of what is mounted below dir.
func viewsBelow(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := testenv.Mounts(dir)
	if err != nil {
		t.Fatal(err)
	}
	var views []string
	for _, m := range mounts {
		if m.FSType != "autofs" {
			views = append(views, strings.TrimPrefix(m.Mountpoint, dir+"/")+" "+m.Source)
		}
	}
	slices.Sort(views)
	return views
}

// TestAutomountCache checks that known software stays when the server goes, and
// that what was refused meanwhile comes when it is back.
func TestAutomountCache(t *testing.T) {
	testenv.Require(t, "root", "automount", "slapd", "overlay", "erofs")
	m := testenv.NewMachine(t, "lnx01")
	slapd := startSlapd(t, testenv.SlapdOptions{}, testenv.Inventory{
		Layers:     []testenv.Layer{m.Store.Erofs("vi-1", testenv.Files{"file": "vi"}), m.Store.Erofs("ed-1", testenv.Files{"file": "ed"})},
		Components: []testenv.Component{component("vi", "1", "1"), component("ed", "1", "1")},
	})
	m.Configure("retry = \"500ms\"\n" + testenv.LDAPSource(slapd.Base, slapd.URI) + `timeout = "300ms"`)
	a, sw := startAutomount(t, m)
	wantFile(t, sw+"/vi/file", "vi")
	if err := slapd.Pause(); err != nil {
		t.Fatal(err)
	}
	wantFile(t, sw+"/vi/file", "vi")
	// At first automount reuses its own last answer.
	testenv.WaitFor(t, "an answer from the cache", func() error {
		a.Expire(sw)
		if text, err := testenv.ReadFile(sw + "/vi/file"); err != nil || text != "vi" {
			t.Fatalf("without a server: %q, %v", text, err)
		}
		if !strings.Contains(a.Log(), "giving vi@1, the last known level") {
			return errors.New("the map was not asked")
		}
		return nil
	})
	if _, err := testenv.ReadFile(sw + "/ed/file"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unknown component without a server: %v, want ENOENT", err)
	}
	if err := slapd.Resume(); err != nil {
		t.Fatal(err)
	}
	// The refusal ends with automount's negative timeout.
	testenv.WaitFor(t, "the component that was refused", func() error {
		_, err := testenv.ReadFile(sw + "/ed/file")
		return err
	})
}
