package test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// A fleet is a server with the levels 1 and 2 of emacs in it, and hosts that run them.
type fleet struct {
	slapd    *testenv.Slapd
	store    *testenv.Store
	admin    *testenv.Machine // reads as the reader, and writes as an editor
	password string           // the file with everybody's password
	t        *testing.T
}

// newFleet starts a server that tells of changes (syncprov), with the access rules that
// we deliver. Each host has a profile of its name's first part: "canary-1" has "canary".
// All of them run level 1.
func newFleet(t *testing.T, hosts ...string) *fleet {
	t.Helper()
	testenv.Require(t, "root", "overlay", "erofs", "slapd")
	f := &fleet{store: testenv.NewStore(t), t: t}
	inv := testenv.Inventory{Components: []testenv.Component{{Name: "emacs", Default: "1"}}}
	for _, level := range []string{"1", "2"} {
		l := f.store.Erofs("emacs-"+level, testenv.Files{"which": level})
		inv.Layers = append(inv.Layers, l)
		inv.Components[0].Levels = append(inv.Components[0].Levels, testenv.Level{Name: level, State: "released", Layers: []string{l.Name}})
	}
	var entries strings.Builder
	for _, host := range hosts {
		ring, _, _ := strings.Cut(host, "-")
		if !slices.ContainsFunc(inv.Profiles, func(p testenv.Caller) bool { return p.Name == ring }) {
			inv.Profiles = append(inv.Profiles, testenv.Caller{Name: ring, Assign: []string{"emacs=1"}})
		}
		fmt.Fprintf(&entries, "\ndn: %s\nobjectClass: device\nobjectClass: simpleSecurityObject\nobjectClass: levelfsCaller\ncn: %s\nuserPassword: of-%s\nlevelfsProfileRef: %s\n",
			testenv.HostDN(host), host, host, ring)
	}
	var err error
	f.slapd, err = testenv.StartProvider(t.Context(), socketDir(t), schemaDir, "cn=levelfs-replica,"+testenv.BaseDN, testenv.SlapdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.slapd.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := f.slapd.Add(inv.LDIF() + entries.String()); err != nil {
		t.Fatal(err)
	}
	if err := f.slapd.Restrict(); err != nil {
		t.Fatal(err)
	}
	f.admin = testenv.NewMachine(t, "admin")
	if f.password, err = f.slapd.Passwd(f.admin.Root); err != nil {
		t.Fatal(err)
	}
	f.admin.Configure(f.source() + fmt.Sprintf("[source.write]\nbind-dn = %q\npassword-file = %q\n", testenv.EditorDN, f.password))
	return f
}

func (f *fleet) source() string {
	return testenv.LDAPSource(f.slapd.Base, f.slapd.URI) + fmt.Sprintf("bind-dn = %q\npassword-file = %q\n", testenv.ReaderDN, f.password)
}

// A guest is one of the hosts, with mounts of its own.
type guest struct {
	*testenv.Machine
	target string // where its view is
	seen   string // the same, as this process sees it
	pid    int    // of a process in its mount namespace
}

// guest is the host of that name, which reports as itself.
func (f *fleet) guest(name, more string) *guest {
	f.t.Helper()
	g := &guest{Machine: testenv.NewMachine(f.t, name)}
	password := secret(f.t, "of-"+name)
	// Images of its own: a test may take one away.
	if err := os.CopyFS(g.Store.Dir, os.DirFS(f.store.Dir)); err != nil {
		f.t.Fatal(err)
	}
	g.Configure(more + f.source() + fmt.Sprintf("[report]\nenable = true\nbind-dn = %q\npassword-file = %q\n", testenv.HostDN(name), password))
	g.target = g.Mkdir("sw/emacs")
	f.t.Cleanup(func() { wantNothingLeft(f.t, g.Root, g.Store) })
	g.pid, _ = startProcess(f.t, "unshare", "--mount", "--propagation", "private", "sh", "-c", untilEOF)
	g.seen = fmt.Sprintf("/proc/%d/root%s", g.pid, g.target)
	g.Levelfs, g.Helper = f.within(g, "levelfs", g.Levelfs), f.within(g, "mount.levelfs", g.Helper)
	return g
}

// within is a program that runs another one among the guest's mounts.
func (f *fleet) within(g *guest, name, program string) string {
	f.t.Helper()
	path := g.Path(name)
	writeFile(f.t, path, fmt.Sprintf("#!/bin/sh\nexec nsenter --mount=/proc/%d/ns/mnt -- %s \"$@\"\n", g.pid, program))
	if err := os.Chmod(path, 0o755); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// mount mounts what the host runs now. It goes with the guest's namespace.
func (f *fleet) mount(g *guest) {
	f.t.Helper()
	if r := g.RunHelper("emacs", g.target); r.Exit != 0 {
		f.t.Fatal(r)
	}
}

// wantReport checks what the host's entry says, but for the time.
func (f *fleet) wantReport(host string, want ...string) {
	f.t.Helper()
	values, err := f.slapd.Values(testenv.HostDN(host), "levelfsReport")
	if err != nil {
		f.t.Fatal(err)
	}
	if got := timeless(values); !slices.Equal(got, want) {
		f.t.Errorf("%s reports %q, want %q", host, got, want)
	}
}

// timeless are reports without their time.
func timeless(values []string) []string {
	var got []string
	for _, v := range values {
		parts := strings.SplitN(v, " ", 3)
		got = append(got, parts[0]+" "+parts[2])
	}
	return got
}

// TestReport: a host says what it runs and what went wrong, as itself, where something has
// changed, and no verb fails because of it.
func TestReport(t *testing.T) {
	f := newFleet(t, "canary-1")
	g := f.guest("canary-1", "")
	levelfs(t, g.Machine, 0, "report --dry-run", "+ emacs ", " idle emacs@1", "nothing was written")
	f.wantReport("canary-1")
	levelfs(t, g.Machine, 0, "report", "+ emacs ")
	f.wantReport("canary-1", "emacs idle emacs@1")
	f.mount(g)
	levelfs(t, g.Machine, 0, "report", "- emacs ", "+ emacs@1 ")
	f.wantReport("canary-1", "emacs@1 ok")
	changed, err := f.slapd.Values(testenv.HostDN("canary-1"), "entryCSN")
	if err != nil {
		t.Fatal(err)
	}
	levelfs(t, g.Machine, 0, "report", "nothing to write")
	levelfs(t, g.Machine, 0, "refresh", "already")
	g.RunLevelfs("check", "--report") // whatever it finds of the machine itself
	if now, err := f.slapd.Values(testenv.HostDN("canary-1"), "entryCSN"); err != nil || !slices.Equal(now, changed) {
		t.Errorf("the entry was changed from %v to %v (%v), and nothing to it", changed, now, err)
	}

	// A change of level: in use, then failed, then made.
	levelfs(t, f.admin, 0, "profile set canary emacs=2", "1 host changes from emacs@1 to emacs@2")
	open, err := os.Create(filepath.Join(g.seen, "open"))
	if err != nil {
		t.Fatal(err)
	}
	r := levelfs(t, g.Machine, 1, "refresh")
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	values, err := f.slapd.Values(testenv.HostDN("canary-1"), "levelfsReport")
	if got := timeless(values); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], "emacs@1 waiting emacs@2 ") {
		t.Errorf("in use: %q, %v; refresh: %v", got, err, r)
	}
	image := filepath.Join(g.Store.Dir, "emacs-2.erofs")
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	levelfs(t, g.Machine, 1, "switch emacs", "not on this machine")
	failed := func(when string) {
		t.Helper()
		values, err = f.slapd.Values(testenv.HostDN("canary-1"), "levelfsReport")
		if got := timeless(values); err != nil || len(got) != 1 || !strings.HasPrefix(got[0], `emacs@1 failed emacs@2 layer "emacs-2": not on this machine`) {
			t.Errorf("%s: %q, %v", when, got, err)
		}
	}
	failed("without the image")
	g.RunLevelfs("check", "--report")
	failed("after a check")
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	levelfs(t, g.Machine, 0, "switch emacs", "emacs@2, was emacs@1")
	f.wantReport("canary-1", "emacs@2 ok")
	levelfs(t, g.Machine, 0, "rollback emacs", "emacs@1, was emacs@2")
	f.wantReport("canary-1", "emacs@1 ok")
	levelfs(t, g.Machine, 0, "refresh --dry-run")
	f.wantReport("canary-1", "emacs@1 ok")

	// Nobody else may say so; and it is a warning that it could not be said.
	other := f.guest("canary-1", "")
	other.Configure(f.source() + fmt.Sprintf("[report]\nenable = true\nbind-dn = %q\npassword-file = %q\n", testenv.ReaderDN, f.password))
	levelfs(t, other.Machine, 1, "report", "Insufficient Access Rights (50)")
	levelfs(t, g.Machine, 0, "switch emacs", "emacs@2, was emacs@1")
	g.Configure(f.source() + "[report]\nenable = true\n")
	r = levelfs(t, g.Machine, 0, "switch emacs --to 1", "emacs@1, was emacs@2", "report: ", "Insufficient Access Rights (50)")
	if strings.Contains(r.Stderr, "levelfs: error") {
		t.Errorf("a report that was refused: %v", r)
	}
	f.wantReport("canary-1", "emacs@2 ok")
	levelfs(t, f.admin, 1, "report", "[report] is not enabled", "hint: set enable = true")
}

// TestReportCertificate: a host may be known by its certificate, and an entry is needed.
func TestReportCertificate(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true, VerifyClient: "try"}, busyInventory())
	if err := slapd.Restrict(); err != nil {
		t.Fatal(err)
	}
	m := testenv.NewMachine(t, "lnx01")
	password, err := slapd.Passwd(m.Root)
	if err != nil {
		t.Fatal(err)
	}
	configure := func(host, certificate string) *testenv.Machine {
		cert, key, err := slapd.HostCertificate(certificate)
		if err != nil {
			t.Fatal(err)
		}
		m := testenv.NewMachine(t, host)
		m.Configure(testenv.LDAPSource(slapd.Base, slapd.LDAPS) + fmt.Sprintf("ca = %q\nbind-dn = %q\npassword-file = %q\n", slapd.CAFile, testenv.ReaderDN, password) +
			fmt.Sprintf("[report]\nenable = true\nsource = 1\nsasl = \"external\"\ncert = %q\nkey = %q\n", cert, key))
		return m
	}
	levelfs(t, configure("lnx01", "lnx01"), 0, "report", "+ emacs ")
	if got, err := slapd.Values(testenv.HostDN("lnx01"), "levelfsReport"); err != nil || len(got) == 0 {
		t.Errorf("%q, %v", got, err)
	}
	if err := slapd.Modify(testenv.HostDN("lnx01"), "levelfsReport"); err != nil {
		t.Fatal(err)
	}
	levelfs(t, configure("lnx01", "lnx02"), 1, "report", "Insufficient Access Rights (50)")
	levelfs(t, configure("lost", "lnx01"), 1, "report", `no entry of host "lost"`, "hint: give the host an entry")
}
