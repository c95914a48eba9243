package test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// A runRig is a machine whose tree automount serves, and whose mounts propagate, as systemd
// has them.
type runRig struct {
	*testenv.Machine
	t         *testing.T
	automount *testenv.Automount
	sw        string
	point     string // mount point of db
}

// newRunRig has emacs with the assigned level 1, a released level 2, a test level 3 and a
// retired level 0; gcc, which only a profile assigns; doc, which has no private layers; and
// db, which has a mount point of its own.
func newRunRig(t *testing.T) *runRig {
	t.Helper()
	testenv.Require(t, "root", "automount", "overlay", "erofs")
	m := testenv.NewMachine(t, "lnx01")
	r := &runRig{Machine: m, t: t, sw: m.Mkdir("shared/sw"), point: m.Mkdir("opt/db")}
	files := func(level string) testenv.Files {
		return testenv.Files{"bin/which": "#!/bin/sh\necho " + level + "\n", "which": level, "etc/conf": "delivered", "d/f": level}
	}
	emacs := component("emacs", "1", "0", "1", "2", "3")
	for i, state := range []string{"retired", "released", "released", "test"} {
		emacs.Levels[i].State = state
	}
	doc, db := component("doc", "1", "1", "2"), component("db", "1", "1", "2")
	doc.Private, db.MountPoint = "none", r.point
	inv := testenv.Inventory{
		Components: []testenv.Component{emacs, component("gcc", "", "12", "13"), component("vi", "9", "9"), doc, db},
		Profiles: []testenv.Caller{
			{Name: "base", Assign: []string{"gcc=12"}}, {Name: "next", Assign: []string{"emacs=3", "doc=2"}, Profiles: []string{"base"}},
			{Name: "empty"},
		},
	}
	for _, c := range inv.Components {
		for _, l := range c.Levels {
			inv.Layers = append(inv.Layers, m.Store.Erofs(c.Name+"-"+l.Name, files(c.Name+" "+l.Name)))
		}
	}
	m.WriteLDIF("all.ldif", inv.LDIF())
	m.Configure(fmt.Sprintf("tree = %q\n", r.sw))
	m.AddUsers(rob, ann)
	// Where users can reach it.
	program := filepath.Join(m.Mkdir("bin"), "levelfs")
	if err := os.Link(m.Levelfs, program); err != nil {
		t.Fatal(err)
	}
	m.Levelfs = program
	shared := m.Path("shared")
	if err := unix.Mount(shared, shared, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Umount(shared) })
	if err := unix.Mount("", shared, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	r.automount = testenv.StartAutomount(t, m, r.sw+" program:"+m.Map+" -n 1")
	return r
}

// sh runs a shell command with other levels, and checks its output.
func (r *runRig) sh(want, script string, options ...string) {
	r.t.Helper()
	args := append(append([]string{"run"}, options...), "--", "sh", "-c", script)
	if got := r.RunLevelfs(args...); got.Exit != 0 || got.Stdout != want || got.Stderr != "" {
		r.t.Errorf("levelfs %q: %v; want %q", args, got, want)
	}
}

// shAs is sh as a user.
func (r *runRig) shAs(u testenv.User, want, script string, options ...string) {
	r.t.Helper()
	args := append(append([]string{"run"}, options...), "--", "sh", "-c", script)
	if got := r.RunAs(u, r.Levelfs, args...); got.Exit != 0 || got.Stdout != want || got.Stderr != "" {
		r.t.Errorf("levelfs %q as %s: %v; want %q", args, u.Name, got, want)
	}
}

// refused checks the exit status of a run and the reason.
func (r *runRig) refused(status int, reason string, args ...string) {
	r.t.Helper()
	got := r.RunLevelfs(append([]string{"run"}, args...)...)
	if got.Exit != status || got.Stdout != "" || !strings.Contains(got.Stderr, reason) {
		r.t.Errorf("levelfs run %q: %v; want status %d and %q", args, got, status, reason)
	}
}

// mounts is the machine's mount table.
func (r *runRig) mounts() string { return strings.Join(mountTable(r.t), "\n") }

func TestRunLevel(t *testing.T) {
	r := newRunRig(t)
	wantFile(t, r.sw+"/emacs/which", "emacs 1")
	writeFile(t, r.sw+"/emacs/etc/conf", "the host's own")
	before := r.mounts()
	// It is there, at its place, delivered, and can be written to.
	r.sh("emacs 2\nemacs 2\ndelivered\nmine\n", "cd "+r.sw+"/emacs && sh bin/which && cat which && echo && cat etc/conf && echo && echo mine >etc/conf && cat etc/conf",
		"--level", "emacs@2")
	r.sh("emacs 3", "cat "+r.sw+"/emacs/which", "--level", "emacs@3") // in state test
	// What was written is gone, and the view of all others is as it was.
	r.sh("delivered", "cat "+r.sw+"/emacs/etc/conf", "--level", "emacs@2")
	wantFile(t, r.sw+"/emacs/which", "emacs 1")
	wantFile(t, r.sw+"/emacs/etc/conf", "the host's own")
	if now := r.mounts(); now != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, now)
	}
	// What the command is told, and where it is.
	r.sh("emacs@2 doc@2\n", "echo $LEVELFS_RUN", "--level", "emacs@2", "--level", "doc@2")
	r.sh("", `test -z "$LEVELFS_RUN_OUTSIDE"`, "--level", "emacs@2")
	// Other components are there as ever: mounted or not, and one by its level.
	r.sh("vi 9emacs 1emacs 2", "cd "+r.sw+" && cat vi/which .outside/emacs/which emacs/which", "--level", "emacs@2")
	wantFile(t, r.sw+"/vi/which", "vi 9")
	r.sh("gcc 13", "cat "+r.sw+"/.outside/gcc@13/which", "--level", "emacs@2")
	// One that is assigned to nobody.
	r.sh("gcc 13", "cat "+r.sw+"/gcc/which", "--level", "gcc@13")
	// Without private layers it is read-only.
	r.sh("doc 2", "cd "+r.sw+"/doc && cat which && ! (echo >x || echo >../x) 2>/dev/null", "--level", "doc@2")
}

// TestRunUser: without root it is what automount delivers.
func TestRunUser(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	if err := os.MkdirAll(r.Path("home/rob"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(r.Path("home/rob"), int(rob.UID), int(rob.GID)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", r.Path("home/rob"))
	r.shAs(rob, fmt.Sprintf("emacs 2emacs 2@ %d:%d\n", rob.UID, rob.GID), "cd "+r.sw+"/emacs && cat which && cat "+r.sw+"/emacs@2/which; echo @ $(id -u):$(id -g)", "--level", "emacs@2")
}
