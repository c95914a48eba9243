package test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/doctor"
	"github.com/levelfs/levelfs/internal/testenv"
)

// doctor runs levelfs doctor and returns its lines by name.
func (r *rig) doctor(status int) map[string]doctor.Line {
	r.t.Helper()
	var got testenv.Result
	r.unchanged(func() { got = r.RunLevelfs("doctor", "--json") })
	var lines []doctor.Line
	if err := json.Unmarshal([]byte(got.Stdout), &lines); err != nil || got.Exit != status || got.Stderr != "" {
		r.t.Errorf("%v: %v, want status %d", err, got, status)
	}
	byName := make(map[string]doctor.Line)
	for _, l := range lines {
		if (l.State == doctor.OK) != (l.Remedy == "") {
			r.t.Errorf("a remedy for what is ok, or none for what is not: %+v", l)
		}
		byName[l.Name] = l
	}
	return byName
}

// TestDoctor: a machine that is fit, and then one thing after the other that is not.
func TestDoctor(t *testing.T) {
	testenv.Require(t, "automount", "squashfs", "ext4")
	r := newRig(t)
	r.level("1", r.Store.Erofs("base", testenv.Files{"file": "text"}))
	for _, dir := range []string{"etc/auto.master.d", "sbin"} {
		r.Mkdir(dir)
	}
	master, autofs := r.Path("etc/auto.master"), r.Path("etc/auto.master.d/levelfs.autofs")
	r.write(master, "+dir:/etc/auto.master.d/\n")
	r.write(autofs, "/sw  program:"+r.Map+"  --negative-timeout=5\n")
	if err := os.Symlink(r.Helper, r.Path("sbin/mount.levelfs")); err != nil {
		t.Fatal(err)
	}
	fit := r.doctor(0)
	for _, name := range []string{"automount", "master map", "mount helper", "overlayfs", "lowerdir+", "MOVE_MOUNT_BENEATH", "erofs", "squashfs", "ext4",
		"loop devices", "shared memory", "inventory " + r.InventoryDir(), "rights", "SELinux", "AppArmor"} {
		if l, ok := fit[name]; !ok || l.State != doctor.OK {
			t.Errorf("%s: %+v", name, l)
		}
	}
	if got := r.RunLevelfs("doctor"); got.Exit != 0 || !strings.Contains(got.Stdout, "ok       overlayfs: ") {
		t.Error(got)
	}

	spoilt := 0 // the exit status
	for _, c := range []struct {
		name  string
		want  doctor.State
		spoil func()
	}{
		{"SELinux", doctor.Warning, func() { r.write(r.Mkdir("sys/fs/selinux")+"/enforce", "1") }},
		{"AppArmor", doctor.Warning, func() {
			r.write(r.Mkdir("sys/kernel/security/apparmor")+"/profiles", "/usr/bin/man (enforce)\n/usr/sbin/automount (enforce)\n")
		}},
		{"mount helper", doctor.Error, func() { remove(t, r.Path("sbin/mount.levelfs")) }},
		{"map program", doctor.Error, func() { r.write(autofs, "/sw  program:/nowhere/auto.levelfs\n") }},
		{"master map", doctor.Error, func() { r.write(master, "#+dir:/etc/auto.master.d\n") }},
		{"rights", doctor.Error, func() {
			if err := os.Chmod(r.Path("etc/levelfs/levelfs.toml"), 0o666); err != nil {
				t.Fatal(err)
			}
		}},
		{"master map", doctor.Warning, func() { remove(t, autofs) }},
	} {
		c.spoil()
		if c.want == doctor.Error {
			spoilt = 1
		}
		if l := r.doctor(spoilt)[c.name]; l.State != c.want {
			t.Errorf("%s: %+v, want %s", c.name, l, c.want)
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

// TestDoctorSilent: a server that hangs is an error, and does not hang the doctor.
func TestDoctorSilent(t *testing.T) {
	r := newRig(t)
	addr, stop, err := testenv.SilentServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	r.Configure("[[source]]\ntype = \"ldap\"\nuri = [\"ldaps://" + addr + "\"]\nbase = \"dc=x\"\ntimeout = \"500ms\"\n")
	start := time.Now()
	lines := r.doctor(1)
	if l := lines["inventory ldaps://"+addr]; l.State != doctor.Error || time.Since(start) > 12*time.Second {
		t.Errorf("%+v after %v", lines, time.Since(start))
	}
	if l := lines["certificate of ldaps://"+addr]; l.State != doctor.Error {
		t.Errorf("%+v", lines)
	}
}

// TestDoctorTLS: how long servers' certificates hold, over ldaps and over StartTLS. Those
// of the tests' servers end within a day.
func TestDoctorTLS(t *testing.T) {
	r := newRig(t)
	s := startSlapd(t, testenv.SlapdOptions{TLS: true}, testenv.Inventory{})
	for uri, more := range map[string]string{s.LDAPS: "", s.URI: "starttls = true\n"} {
		r.Configure(testenv.LDAPSource(s.Base, uri) + "ca = \"" + s.CAFile + "\"\n" + more)
		lines := r.doctor(0)
		if l := lines["certificate of "+uri]; l.State != doctor.Warning || !strings.Contains(l.Text, "holds until 20") {
			t.Errorf("%s: %+v", uri, lines)
		}
		if l := lines["inventory "+uri]; l.State != doctor.OK || !strings.Contains(l.Text, "answers in ") {
			t.Errorf("%s: %+v", uri, lines)
		}
	}
}
