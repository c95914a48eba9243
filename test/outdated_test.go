package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/internal/usage"
	"github.com/levelfs/levelfs/mounter"
)

// An outdatedRig is a switchRig whose levels have a program.
func outdatedRig(t *testing.T) *switchRig {
	t.Helper()
	r := newSwitchRig(t, "persistent")
	r.configureCheck("")
	cat, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	r.layers[2] = r.Store.Erofs("common", testenv.Files{"common": "common", "bin/cat": string(cat), "dir/file": "text"})
	r.assign("1")
	r.mount()
	return r
}

// outdated are the processes that need a restart, by PID.
func (r *rig) outdated() map[int]usage.Old {
	r.t.Helper()
	got := r.RunLevelfs("status", "--needs-restart", "--json")
	var list []usage.Old
	if err := json.Unmarshal([]byte(got.Stdout), &list); err != nil || got.Exit != min(len(list), 1) || got.Stderr != "" {
		r.t.Fatalf("%v, %v", got, err)
	}
	found := make(map[int]usage.Old)
	for _, o := range list {
		found[o.PID] = o
	}
	if len(found) != len(list) {
		r.t.Errorf("one process twice: %+v", list)
	}
	return found
}

func (r *rig) wantOutdated(pid int, level, now, how, path string) {
	r.t.Helper()
	found := r.outdated()
	o, ok := found[pid]
	if !ok || len(found) != 1 || o.Level != level || o.Now != now || o.How != how || o.Path != path || o.User != "root" || o.Command == "" {
		r.t.Errorf("%+v; want process %d, %s, now %s, which %s %s", found, pid, level, now, how, path)
	}
}

// TestNeedsRestart: whatever a process does with a file of an old view, the level is
// named; and nothing is said of who has the level that is mounted.
func TestNeedsRestart(t *testing.T) {
	r := outdatedRig(t)
	if got := r.RunLevelfs("status", "--needs-restart"); got.Exit != 0 || got.Stdout+got.Stderr != "" {
		t.Errorf("nobody runs anything: %v", got)
	}
	in := func(name string) string { return filepath.Join(r.target, name) }
	for how, c := range map[string]struct {
		argv []string
		path string
	}{
		// It says that it runs by what it reads: the file comes before its input.
		"runs":     {[]string{in("bin/cat"), in("common"), "-"}, "/bin/cat"},
		"has open": {[]string{"sh", "-c", `exec 5<"$1"; ` + untilEOF, "sh", in("dir/file")}, "/dir/file"},
		"is in":    {[]string{"sh", "-c", `cd "$1" && ` + untilEOF, "sh", in("dir")}, "/dir"},
	} {
		pid, end := r.start(c.argv[0], c.argv[1:]...)
		if found := r.outdated(); len(found) > 0 {
			t.Errorf("%s, mounted: %+v", how, found)
		}
		r.levelfs("switch", "emacs", "--to", "2")
		r.wantOutdated(pid, "emacs@1", "emacs@2", how, c.path)
		text := r.RunLevelfs("status", "--needs-restart")
		if text.Exit != 1 || !strings.Contains(text.Stdout, fmt.Sprintf("%d", pid)) || !strings.Contains(text.Stdout, "emacs@1  emacs@2  "+how+" "+c.path) {
			t.Errorf("%v", text)
		}
		// One that begins now is none.
		_, endNew := r.start(in("bin/cat"), in("common"), "-")
		r.wantOutdated(pid, "emacs@1", "emacs@2", how, c.path)
		endNew()
		// Back again it is the mounted level that it uses, if in another view.
		r.levelfs("switch", "emacs", "--to", "1")
		if found := r.outdated(); len(found) > 0 {
			t.Errorf("%s, of the mounted level: %+v", how, found)
		}
		end()
	}

	// Unmounted lazily there is no level.
	pid, end := r.start(in("bin/cat"), in("common"), "-")
	if err := unix.Unmount(r.target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	r.wantOutdated(pid, "emacs@1", "", "runs", "/bin/cat")
	end()
	if found := r.outdated(); len(found) > 0 {
		t.Errorf("ended: %+v", found)
	}
	r.wantNoLoops()
}

// TestNeedsRestartMaps: a library that is only mapped, the descriptor long closed.
func TestNeedsRestartMaps(t *testing.T) {
	r := outdatedRig(t)
	f, err := os.Open(filepath.Join(r.target, "bin/cat"))
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	r.levelfs("switch", "emacs", "--to", "2")
	r.wantOutdated(os.Getpid(), "emacs@1", "emacs@2", "maps", "/bin/cat")
	if err := unix.Munmap(mapped); err != nil {
		t.Fatal(err)
	}
	if found := r.outdated(); len(found) > 0 {
		t.Errorf("unmapped: %+v", found)
	}
	r.umount(r.target)
}

// TestNeedsRestartNamespaces: in a mount namespace of its own a process keeps the old
// view mounted, or has a copy of the mount that goes with ours.
func TestNeedsRestartNamespaces(t *testing.T) {
	r := outdatedRig(t)
	pid, end := r.start("unshare", "--mount", "--propagation", "private", filepath.Join(r.target, "bin/cat"), filepath.Join(r.target, "common"), "-")
	if found := r.outdated(); len(found) > 0 {
		t.Errorf("the same view: %+v", found)
	}
	r.RunLevelfs("switch", "emacs", "--to", "2") // which reports it, too
	r.wantOutdated(pid, "emacs@1", "emacs@2", "runs", filepath.Join(r.target, "bin/cat"))
	end()
	r.levelfs("switch", "emacs", "--to", "1")

	// One that was never mounted here is no old one.
	_, end = r.start("env", "LEVELFS_ROOT="+r.Root, r.Levelfs, "run", "--level", "emacs@2", "--", filepath.Join(r.target, "bin/cat"), filepath.Join(r.target, "common"), "-")
	if found := r.outdated(); len(found) > 0 {
		t.Errorf("of levelfs run: %+v", found)
	}
	end()

	// Propagated: the copy's number is in no mark. Whoever proves which view it is, proves
	// it for all.
	r.umount(r.target)
	tree := filepath.Dir(r.target)
	for _, step := range []func() error{
		func() error { return unix.Mount(tree, tree, "", unix.MS_BIND, "") },
		func() error { return unix.Mount("", tree, "", unix.MS_SHARED, "") },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	defer r.Umount(tree)
	defer func() { r.umount(r.target) }()
	r.mount()
	other, endOther := r.start("unshare", "--mount", "--propagation", "slave", filepath.Join(r.target, "bin/cat"), filepath.Join(r.target, "common"), "-")
	pid, end = r.start(filepath.Join(r.target, "bin/cat"), filepath.Join(r.target, "common"), "-")
	defer endOther()
	r.levelfs("switch", "emacs", "--to", "2")
	found := r.outdated()
	if len(found) != 2 || found[pid].Level != "emacs@1" || found[other].Level != "emacs@1" {
		t.Errorf("propagated: %+v", found)
	}
	end()
	if found = r.outdated(); len(found) != 1 || found[other].Level != "" || found[other].How != "runs" {
		t.Errorf("propagated, and nobody proves it: %+v", found)
	}
}

// TestNeedsRestartNeverGuesses: a mark whose number was given to something else names
// nothing, and other software's overlays are none of ours.
func TestNeedsRestartNeverGuesses(t *testing.T) {
	r := outdatedRig(t)
	views, err := mounter.Views()
	if err != nil || len(views) != 1 {
		t.Fatalf("%v, %v", views, err)
	}
	mark := func(major, minor uint32) string { return r.Path(fmt.Sprintf("run/levelfs/views/%d:%d", major, minor)) }
	text, err := os.ReadFile(mark(views[0].Major, views[0].Minor))
	if err != nil || !strings.Contains(string(text), "\nview ") {
		t.Fatalf("mark %q, %v", text, err)
	}
	r.umount(r.target)
	// The number may be given again at once.
	if err := os.Remove(mark(views[0].Major, views[0].Minor)); err != nil {
		t.Fatal(err)
	}
	other := r.Mkdir("other")
	if err := unix.Mount("somebody", other, "overlay", 0, "lowerdir="+r.Mkdir("a")+":"+r.Mkdir("b")); err != nil {
		t.Fatal(err)
	}
	pid, end := r.start("sh", "-c", `cd "$1" && `+untilEOF, "sh", other)
	defer end()
	var st unix.Stat_t
	if err := unix.Stat(other, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Unmount(other, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if found := r.outdated(); len(found) > 0 {
		t.Errorf("of other software: %+v", found)
	}
	// As if the view had had that number before.
	writeFile(t, mark(unix.Major(st.Dev), unix.Minor(st.Dev)), string(text))
	found := r.outdated()
	if o := found[pid]; len(found) != 1 || o.Level != "" || o.Target != "" || o.How != "is in" {
		t.Errorf("by its number alone: %+v", found)
	}
	if got := r.RunLevelfs("status", "--needs-restart"); got.Exit != 1 || !strings.Contains(got.Stdout, "  ?  ") {
		t.Errorf("%v", got)
	}
}
