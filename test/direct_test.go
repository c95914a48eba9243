package test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// newDB is a machine with a component that has a mount point of its own, made in
// the machine's root.
func newDB(t *testing.T) (m *testenv.Machine, point string) {
	t.Helper()
	m = testenv.NewMachine(t, "lnx01")
	point = m.Path("opt/vendor/db")
	db, doc := component("db", "1", "1"), component("doc", "1", "1")
	db.MountPoint = point
	doc.MountPoint, doc.Private = m.Path("usr/share/doc"), "none"
	absent := component("absent", "", "1") // assigned to nobody
	absent.MountPoint = m.Path("opt/absent")
	m.WriteLDIF("all.ldif", testenv.Inventory{
		Layers: []testenv.Layer{
			m.Store.Erofs("db-1", testenv.Files{"file": "db"}), m.Store.Erofs("doc-1", testenv.Files{"file": "doc"}),
			{Name: "absent-1", FSType: "dir", Images: []string{"absent"}},
		},
		Components: []testenv.Component{db, doc, component("plain", "", "1"), absent},
	}.LDIF())
	return m, point
}

// TestDirectMap serves components at their own mount points. autofs takes direct
// maps from files only; levelfs writes one.
func TestDirectMap(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs")
	m, point := newDB(t)
	r := m.RunLevelfs("map", "direct")
	if r.Exit != 0 || r.Stderr != "" {
		t.Fatal(r)
	}
	var lines []string
	for line := range strings.Lines(r.Stdout) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	if got, want := strings.Join(lines, ""), fmt.Sprintf("%s -fstype=levelfs,rw :db\n%s -fstype=levelfs,ro :doc\n",
		point, m.Path("usr/share/doc")); got != want {
		t.Errorf("map direct:\n%swant:\n%s", got, want)
	}

	file := m.Path("etc/auto.direct")
	if r := m.RunLevelfs("map", "direct", "-o", file); r.Exit != 0 || r.Stdout != "" {
		t.Fatal(r)
	}
	a := testenv.StartAutomount(t, m, "/- file:"+file+" -n 1")
	wantFile(t, point+"/file", "db")
	writeFile(t, point+"/private", "mine")
	wantFile(t, m.Path("usr/share/doc/file"), "doc")
	if err := os.WriteFile(m.Path("usr/share/doc/private"), nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write to a component without private layers: %v, want EROFS", err)
	}
	for _, p := range []string{point, m.Path("usr/share/doc")} {
		mounts, err := testenv.Mounts(p)
		if err != nil {
			t.Fatal(err)
		}
		if len(mounts) != 2 || mounts[0].FSType != "autofs" || !strings.HasPrefix(mounts[1].Source, "levelfs:") {
			t.Errorf("mounts at %s: %v, want autofs and a view", p, mounts)
		}
	}
	a.Expire(point, m.Path("usr/share/doc"))
	wantNothingLeft(t, m.Root, m.Store)
	wantFile(t, point+"/private", "mine")
	a.Expire(point)
}

// TestMountByHand mounts a component without automount: by hand and by fstab.
func TestMountByHand(t *testing.T) {
	testenv.Require(t, "root", "overlay", "erofs")
	m, _ := newDB(t)
	dir := m.Mkdir("mnt")
	fstab := m.Path("etc/fstab")
	// No systemd runs here: this only shows that the options it reads are accepted.
	writeFile(t, fstab, "db "+dir+" levelfs rw,nosuid,noauto,nofail,_netdev,x-systemd.automount,x-systemd.idle-timeout=5min 0 0\n")

	for _, c := range []struct {
		name      string
		args      []string
		source    string
		writeable bool
	}{
		{"component", []string{"-t", "levelfs", "db", dir}, "levelfs:db@1", true},
		{"level", []string{"-t", "levelfs", "db@1", dir}, "levelfs:db@1", true},
		{"read-only", []string{"-t", "levelfs", "-o", "ro", "db", dir}, "levelfs:db@1", false},
		{"-r", []string{"-r", "-t", "levelfs", "db", dir}, "levelfs:db@1", false},
		{"fstab", []string{"-T", fstab, dir}, "levelfs:db@1", true},
		{"fstab by source", []string{"-T", fstab, "db"}, "levelfs:db@1", true},
		{"fstab and -o", []string{"-T", fstab, "-o", "ro", dir}, "levelfs:db@1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if r := m.Mount(c.args...); r.Exit != 0 || r.Stdout != "" || r.Stderr != "" {
				t.Fatal(r)
			}
			defer m.Umount(dir)
			wantFile(t, dir+"/file", "db")
			mounts, err := testenv.Mounts(dir)
			if err != nil {
				t.Fatal(err)
			}
			if len(mounts) != 1 || mounts[0].Source != c.source {
				t.Errorf("mounts %v, want one of %s", mounts, c.source)
			}
			err = os.WriteFile(dir+"/private", nil, 0o644)
			if c.writeable && err != nil || !c.writeable && !errors.Is(err, syscall.EROFS) {
				t.Errorf("write: %v", err)
			}
		})
	}
	wantNothingLeft(t, m.Root, m.Store)

	for _, c := range []struct {
		name, want string
		exit       int
		args       []string
	}{
		{"unknown component", "no component \"nosuch\"", 32, []string{"-t", "levelfs", "nosuch", dir}},
		{"bad name", "invalid key", 1, []string{"-t", "levelfs", "../db", dir}},
		{"unknown option", "unknown mount option \"frobnicate\"", 1, []string{"-t", "levelfs", "-o", "frobnicate", "db", dir}},
		{"no mount point", "mount point", 32, []string{"-t", "levelfs", "db", dir + "/nosuch"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := m.Mount(c.args...)
			if r.Exit != c.exit || !strings.Contains(r.Stderr, c.want) {
				t.Errorf("%v; want exit %d, %q", r, c.exit, c.want)
			}
			wantNothingLeft(t, m.Root, m.Store)
		})
	}
}
