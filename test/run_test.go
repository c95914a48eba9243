package test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
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
		return testenv.Files{"bin/tool": "#!/bin/sh\necho tool of " + level + "\n", "which": level, "etc/conf": "delivered", "d/f": level}
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
	r.sh("tool of emacs 2\nemacs 2\ndelivered\nmine\n", "cd "+r.sw+"/emacs && bin/tool && cat which && echo && cat etc/conf && echo && echo mine >etc/conf && cat etc/conf",
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

// TestRunProcess: the command is the process that was started, as it was started.
func TestRunProcess(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		t.Run(u.Name, func(t *testing.T) {
			r.t = t
			const script = "ulimit -n; umask; grep -e CapInh -e CapPrm -e CapEff -e CapAmb -e SigIgn -e SigBlk /proc/self/status; ls /proc/self/fd"
			outside := r.RunAs(u, "sh", "-c", script)
			r.shAs(u, outside.Stdout, script, "--level", "emacs@2")
			// As nohup(1) and shells start what is not to be interrupted.
			const ignore = "trap '' INT HUP; exec "
			outside = r.RunAs(u, "sh", "-c", ignore+"grep SigIgn /proc/self/status")
			if got := r.RunAs(u, "sh", "-c", ignore+r.Levelfs+" run --level emacs@2 grep SigIgn /proc/self/status"); got.Stdout != outside.Stdout {
				t.Errorf("ignored signals: %v; want %v", got, outside)
			}
			env := r.RunAs(u, "env")
			if got := r.RunAs(u, r.Levelfs, "run", "--level", "emacs@2", "env"); got.Stdout != env.Stdout+"LEVELFS_RUN=emacs@2\n" {
				t.Errorf("environment\n%s\nwas\n%s", got.Stdout, env.Stdout)
			}
			// The directory is the same path.
			for _, dir := range []string{r.sw + "/emacs", r.sw + "/emacs/d", r.sw, "/"} {
				got := r.RunAs(u, "sh", "-c", "cd "+dir+" && exec "+r.Levelfs+" run --level emacs@2 -- sh -c 'pwd -P; cat "+r.sw+"/emacs/which'")
				if got.Stdout != dir+"\nemacs 2" {
					t.Errorf("in %s: %v", dir, got)
				}
			}
			p := r.start(u, "echo $$; read x; exit 5", "--level", "emacs@2")
			if got := p.line(); got != fmt.Sprint(p.cmd.Process.Pid) {
				t.Errorf("the command is process %s, started was %d", got, p.cmd.Process.Pid)
			}
			p.say("go on")
			if status := p.wait(); status.ExitStatus() != 5 {
				t.Errorf("exit status %d, want 5", status.ExitStatus())
			}
			for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGKILL} {
				p := r.start(u, "echo; read x", "--level", "emacs@2")
				p.line()
				if err := p.cmd.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				if status := p.wait(); !status.Signaled() || status.Signal() != signal {
					t.Errorf("%v: ended with %v", signal, status)
				}
			}
			for _, c := range []struct {
				status  int
				reason  string
				command []string
			}{
				{0, "", []string{"true"}},
				{1, "", []string{"false"}},
				{64, "", []string{"sh", "-c", "exit 64"}},
				{255, "", []string{"sh", "-c", "exit 255"}},
				{127, `command "no-such-command": executable file not found`, []string{"no-such-command"}},
				{127, `command "/no/such": no such file`, []string{"/no/such"}},
				{126, `command "/etc/passwd": permission denied`, []string{"/etc/passwd"}},
				{126, `command "/etc": is a directory`, []string{"/etc"}},
			} {
				got := r.RunAs(u, r.Levelfs, append([]string{"run", "--level", "emacs@2", "--"}, c.command...)...)
				if got.Exit != c.status || !strings.Contains(got.Stderr, c.reason) || (got.Stderr == "") != (c.reason == "") {
					t.Errorf("%q: %v; want status %d and %q", c.command, got, c.status, c.reason)
				}
			}
			// The command is looked for where it will run.
			tool := filepath.Join(r.sw, "emacs/bin/tool")
			if got := r.RunAs(u, r.Levelfs, "run", "--level", "emacs@2", tool); got.Stdout != "tool of emacs 2\n" {
				t.Errorf("%s: %v", tool, got)
			}
		})
	}
}

// TestRunRefused: what is wrong with the call or the levels is said before anything is done.
func TestRunRefused(t *testing.T) {
	r := newRunRig(t)
	before := r.mounts()
	for _, c := range []struct {
		status int
		reason string
		args   []string
	}{
		{64, "requires at least 1 arg", []string{"--level", "emacs@2"}},
		{64, "requires at least 1 arg", []string{"--level", "emacs@2", "--"}},
		{64, "which level?", []string{"true"}},
		{64, "two levels of one component: emacs@1 and emacs@2", []string{"--level", "emacs@1", "--level", "emacs@2", "true"}},
		{64, "two levels of one component", []string{"--level", "emacs@1", "--level", "emacs@1", "true"}},
		{64, `"emacs" is no level`, []string{"--level", "emacs", "true"}},
		{64, `invalid key "../emacs@1"`, []string{"--level", "../emacs@1", "true"}},
		{64, `invalid key ".outside@1"`, []string{"--level", ".outside@1", "true"}},
		{64, "cannot be the name of a private layer", []string{"--level", "emacs@2", "--private", "../x", "true"}},
		{64, "cannot be the name of a private layer", []string{"--level", "emacs@2", "--private", "a@1", "true"}},
		{64, "--json needs --dry-run", []string{"--level", "emacs@2", "--json", "true"}},
		{64, "unknown flag", []string{"--user", "rob", "true"}},
		{125, `no component "nosuch"`, []string{"--level", "nosuch@1", "true"}},
		{125, "emacs@9", []string{"--level", "emacs@9", "true"}},
		{125, `"emacs@0" is retired`, []string{"--level", "emacs@0", "true"}},
		{125, `profile "nosuch"`, []string{"--profile", "nosuch", "true"}},
		{125, `profile "empty" assigns no levels`, []string{"--profile", "empty", "true"}},
	} {
		r.refused(c.status, c.reason, c.args...)
	}
	// A variable alone does not make this a namespace of its own.
	got := r.Run("sh", "-c", "LEVELFS_RUN_OUTSIDE=$$:"+namespaceOf(t, "self")+" exec "+r.Levelfs+" run --level emacs@2 true")
	if got.Exit != 125 || !strings.Contains(got.Stderr, "LEVELFS_RUN_OUTSIDE is for levelfs's own use") {
		t.Errorf("in the same namespace: %v", got)
	}
	t.Setenv("LEVELFS_RUN_OUTSIDE", "1:1")
	r.sh("emacs 2", "cat "+r.sw+"/emacs/which; echo $LEVELFS_RUN_OUTSIDE >"+r.sw+"/emacs/new", "--level", "emacs@2")
	if now := r.mounts(); now != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, now)
	}
}

// TestRunProfile: a profile's levels, those of the profiles that it includes among them.
func TestRunProfile(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		r.shAs(u, "emacs 3doc 2gcc 12vi 9doc@2 emacs@3 gcc@12\n", "cd "+r.sw+" && cat emacs/which doc/which gcc/which vi/which; echo $LEVELFS_RUN", "--profile", "next")
		r.shAs(u, "emacs 2doc 2gcc 12", "cd "+r.sw+" && cat emacs/which doc/which gcc/which", "--profile", "next", "--level", "emacs@2")
	}
}

// TestRunNested: a run in a run has what the outer one has, but for what it says itself.
func TestRunNested(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		inner := r.Levelfs + " run --level doc@2 -- sh -c 'cd " + r.sw + " && cat emacs/which doc/which vi/which gcc/which; echo $LEVELFS_RUN'"
		r.shAs(u, "emacs 2doc 2vi 9gcc 13doc@2 emacs@2 gcc@13\n", inner, "--level", "emacs@2", "--level", "gcc@13")
		again := r.Levelfs + " run --level emacs@3 -- sh -c 'cat " + r.sw + "/emacs/which'; cat " + r.sw + "/emacs/which"
		r.shAs(u, "emacs 3emacs 2", again, "--level", "emacs@2")
	}
}

// TestRunPrivate: a named private layer is kept for the next run, and is one run's at a time.
func TestRunPrivate(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	state := r.stateOf(rob)
	for u, dir := range map[testenv.User]string{{Name: "root"}: r.Path("var/lib/levelfs/private/run"), rob: state + "/levelfs/run"} {
		r.shAs(u, "", "echo mine >"+r.sw+"/emacs/own", "--level", "emacs@2", "--private", "trial")
		r.shAs(u, "mine\nemacs 3", "cd "+r.sw+"/emacs && cat own which", "--level", "emacs@3", "--private", "trial")
		wantFile(t, dir+"/trial/emacs/upper/own", "mine\n")
		wantOwner(t, dir+"/trial/emacs/upper", u)
		// Neither by another name, nor without one, nor in the assigned view.
		r.shAs(u, "etc\n", "cd "+r.sw+"/emacs && ls | grep -e own -e etc", "--level", "emacs@2", "--private", "other")
		r.shAs(u, "etc\n", "cd "+r.sw+"/emacs && ls | grep -e own -e etc", "--level", "emacs@2")
		// Not two at once, but as many as you like without a name.
		p := r.start(u, "echo; read x", "--level", "emacs@2", "--private", "trial")
		p.line()
		args := []string{"run", "--level", "emacs@2", "--private", "trial", "true"}
		if got := r.RunAs(u, r.Levelfs, args...); got.Exit != 125 || !strings.Contains(got.Stderr, `trial/emacs" is in use`) {
			t.Errorf("a second one: %v", got)
		}
		r.shAs(u, "emacs 2", "cat "+r.sw+"/emacs/which", "--level", "emacs@2", "--private", "other")
		r.shAs(u, "emacs 2", "cat "+r.sw+"/emacs/which", "--level", "emacs@2")
		p.say("go on")
		p.wait()
		r.shAs(u, "mine\n", "cat "+r.sw+"/emacs/own", "--level", "emacs@2", "--private", "trial")
	}
	if _, err := os.Stat(r.PrivateDir("emacs")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the host's private layer: %v", err)
	}
}

// TestRunExpire: automount unmounts and mounts as it likes while a command runs, whose views
// stay what they are.
func TestRunExpire(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		wantFile(t, r.sw+"/emacs/which", "emacs 1")
		p := r.start(u, "cd "+r.sw+"/; echo; while read x; do cat emacs/which vi/which; echo; done", "--level", "emacs@2")
		p.line()
		expireAll(t, r.automount, r.sw)
		p.say("again")
		if got := p.line(); got != "emacs 2vi 9" {
			t.Errorf("%s, expired: %q", u.Name, got)
		}
		wantFile(t, r.sw+"/emacs/which", "emacs 1")
		expireAll(t, r.automount, r.sw)
		p.say("and again")
		if got := p.line(); got != "emacs 2vi 9" {
			t.Errorf("%s, expired again: %q", u.Name, got)
		}
		p.end()
	}
	expireAll(t, r.automount, r.sw)
	wantNothingLeft(t, r.sw, r.Store)
}

// TestRunWithoutAutomount: automount can be stopped while commands run, and their views stay.
func TestRunWithoutAutomount(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	var processes []*runProcess
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		p := r.start(u, "cd "+r.sw+"/; cat vi/which; echo; while read x; do cat "+r.sw+"/emacs/which; echo; done", "--level", "emacs@2")
		if got := p.line(); got != "vi 9" {
			t.Errorf("%s: %q", u.Name, got)
		}
		processes = append(processes, p)
	}
	if err := r.automount.Stop(); err != nil {
		t.Error(err)
	}
	if mounts, err := testenv.Mounts(r.sw); err != nil || len(mounts) != 0 {
		t.Errorf("automount has left %v, %v", mounts, err)
	}
	for _, p := range processes {
		p.say("and now?")
		if got := p.line(); got != "emacs 2" {
			t.Errorf("%q", got)
		}
		p.end()
	}
	wantNothingLeft(t, r.sw, r.Store)
}

// TestRunKilled: with its last process nothing of a run is left, however it ended.
func TestRunKilled(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	r.stateOf(rob)
	before := r.mounts()
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		p := r.start(u, "cat "+r.sw+"/emacs/which; echo; read x", "--level", "emacs@2", "--private", "killed")
		if got := p.line(); got != "emacs 2" {
			t.Errorf("got %q", got)
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		p.wait()
		// A child that goes on keeps it.
		p = r.start(u, "exec 3<&0; (echo; read x <&3; cat "+r.sw+"/emacs/which; echo) & exit 0", "--level", "emacs@2", "--private", "killed")
		p.line()
		testenv.WaitFor(t, "the command's end", func() error {
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid)); err == nil && !strings.Contains(string(text), ") Z ") {
				return errors.New("it runs")
			}
			return nil
		})
		p.say("go on")
		if got := p.line(); got != "emacs 2" {
			t.Errorf("a child that goes on: %q", got)
		}
		p.wait()
		expireAll(t, r.automount, r.sw)
		wantNothingLeft(t, r.sw, r.Store)
	}
	if now := r.mounts(); now != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, now)
	}
}

// TestRunKilledEarly kills levelfs before each of its system calls from the one on that makes
// the namespace: nothing is left of that, and the private layer is there for the next run.
func TestRunKilledEarly(t *testing.T) {
	r := newRunRig(t)
	const options, layer = "run --level db@2 --private killed -- ", "killed/db/upper"
	r.sh("", "echo mine >"+r.sw+"/db/own", "--level", "db@2", "--private", "killed")
	command := append([]string{r.Levelfs}, strings.Fields(options+"cat "+r.point+"/own")...)
	before := r.mounts()
	whole := traceKill(t, killPoint{}, r.Env(), command...)
	first := slices.Index(whole.calls, unix.SYS_UNSHARE)
	if whole.exit != 0 || first < 0 {
		t.Fatalf("traced, but not killed: exit %d, %d system calls", whole.exit, len(whole.calls))
	}
	points := 0
	for _, at := range whole.points()[first:] {
		if traceKill(t, at, r.Env(), command...).killed {
			points++
		}
		if now := r.mounts(); now != before {
			t.Fatalf("killed before %v: mounts were\n%s\nand are\n%s", at, before, now)
		}
	}
	if points < (len(whole.calls)-first)*9/10 {
		t.Errorf("killed at %d points, but the first run had %d", points, len(whole.calls)-first)
	}
	t.Logf("%d kill points", points)
	wantNothingLeft(t, r.sw, r.Store)
	wantFile(t, r.Path("var/lib/levelfs/private/run", layer, "own"), "mine\n")
	r.sh("mine\ndb 2", "cd "+r.sw+"/db && cat own which", "--level", "db@2", "--private", "killed")
}

// TestRunMountPoint: a component with a mount point of its own is at both places, while
// automount serves the mount point to all others.
func TestRunMountPoint(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	for _, u := range []testenv.User{{Name: "root"}, rob} { // where nobody mounts it
		r.shAs(u, "db 2db 2new\n", "cat "+r.sw+"/db/which "+r.point+"/which && echo new >"+r.point+"/new && cat "+r.sw+"/db/new", "--level", "db@2")
	}
	file := r.Path("etc/auto.direct")
	if got := r.RunLevelfs("map", "direct", "-o", file); got.Exit != 0 {
		t.Fatal(got)
	}
	a := testenv.StartAutomount(t, r.Machine, "/- file:"+file+" -n 1")
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		r.shAs(u, "db 2", "cat "+r.point+"/which", "--level", "db@2")
		if views := viewsBelow(t, r.point); len(views) != 0 {
			t.Errorf("the run has mounted %q", views)
		}
		p := r.start(u, "echo; while read x; do cat "+r.point+"/which; echo; done", "--level", "db@2")
		p.line()
		wantFile(t, r.point+"/which", "db 1") // it is mounted now
		p.say("and now?")
		if got := p.line(); got != "db 2" {
			t.Errorf("%s: %q", u.Name, got)
		}
		r.shAs(u, "db 2", "cat "+r.point+"/which", "--level", "db@2")
		a.Expire(r.point)
		p.say("and now?")
		if got := p.line(); got != "db 2" {
			t.Errorf("%s, after automount has unmounted: %q", u.Name, got)
		}
		p.end()
	}
}

// TestRunDryRun prints what would be mounted, and mounts nothing.
func TestRunDryRun(t *testing.T) {
	r := newRunRig(t)
	before := r.mounts()
	got := r.RunLevelfs("run", "--level", "emacs@2", "--level", "doc@2", "--level", "db@2", "--private", "trial", "--dry-run", "--", "sh")
	for _, want := range []string{
		r.sw + "/emacs: emacs@2; what is written is kept in " + r.Path("var/lib/levelfs/private/run/trial/emacs"),
		r.sw + "/doc: doc@2; read-only",
		r.sw + "/db, " + r.point + ": db@2",
		"unshare --mount --propagation slave",
		"ln -s .outside/vi " + r.sw + "/vi",
		"mount --bind " + r.sw + "/db " + r.point,
	} {
		if got.Exit != 0 || got.Stderr != "" || !strings.Contains(got.Stdout, want) {
			t.Errorf("%v; want %q", got, want)
		}
	}
	got = r.RunLevelfs("run", "--level", "emacs@2", "--dry-run", "--json", "--", "sh")
	var report struct {
		Tree     string
		Links    []string
		Plans    []mounter.Plan
		User     bool
		Commands []string
	}
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || got.Exit != 0 {
		t.Fatal(err, got)
	}
	if report.Tree != r.sw || report.User || len(report.Plans) != 1 || report.Plans[0].Name != "emacs@2" || !report.Plans[0].Private.Ephemeral ||
		!slices.Equal(report.Links, []string{"by-user", "db", "doc", "gcc", "vi"}) || len(report.Commands) < 10 {
		t.Errorf("report %+v", report)
	}
	if now := r.mounts(); now != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, now)
	}
}

// TestRunTyped: the commands of a dry run, typed in a shell, do what run does.
func TestRunTyped(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	r.stateOf(rob)
	for _, u := range []testenv.User{{Name: "root"}, rob} {
		r.typed(u)
		r.typed(u, "--private", "typed")
	}
}

func (r *runRig) typed(u testenv.User, options ...string) {
	r.t.Helper()
	args := append([]string{"run", "--level", "emacs@2", "--level", "db@2", "--dry-run", "--json"}, options...)
	got := r.RunAs(u, r.Levelfs, append(args, "--", "sh")...)
	var report struct{ Commands []string }
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil {
		r.t.Fatal(err, got)
	}
	script := "set -e\n" + strings.Join(report.Commands[1:], "\n") + "\ncd " + r.sw + "; cat emacs/which vi/which " + r.point + "/which; echo mine >emacs/new; ! (echo >new) 2>/dev/null\n"
	enter := strings.Fields(report.Commands[0])
	typed := r.RunAs(u, enter[0], append(enter[1:], "sh", "-c", script)...)
	if typed.Exit != 0 || typed.Stdout != "emacs 2vi 9db 2" {
		r.t.Errorf("%s %q:\n%s\n%v", u.Name, options, script, typed)
	}
}

// TestRunUser: without root it is what automount delivers, and what is the user's own can be
// written.
func TestRunUser(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	r.shAs(rob, "emacs 2", "cat "+r.sw+"/emacs/which", "--level", "emacs@2")
	before := r.mounts() // with emacs@2, which automount has mounted for him
	r.shAs(rob, fmt.Sprintf("%d:%d:rob\n", rob.UID, rob.GID), "cd "+r.sw+"/emacs; id -u >a; echo $(id -u):$(id -g):$(id -un)", "--level", "emacs@2")
	// New files are his, and thrown away. What is root's stays as it is.
	r.shAs(rob, "new\nrob\n", "cd "+r.sw+"/emacs && mkdir dir && echo new >dir/new && cat dir/new && stat -c %U dir/new", "--level", "emacs@2")
	for _, script := range []string{"echo x >which", "echo x >etc/new", "rm -f etc/conf", "mv etc/conf .", "chmod 777 etc"} {
		got := r.RunAs(rob, r.Levelfs, "run", "--level", "emacs@2", "--", "sh", "-c", "cd "+r.sw+"/emacs && "+script)
		if got.Exit == 0 || got.Exit >= 125 {
			t.Errorf("%s: %v", script, got)
		}
	}
	r.shAs(rob, "1\n", "cd "+r.sw+"/emacs && ls | grep -c -e '^etc$' -e ^dir", "--level", "emacs@2")
	r.shAs(rob, "doc 2", "cd "+r.sw+"/doc && cat which && ! (echo >x || echo >../x) 2>/dev/null", "--level", "doc@2")
	// He has no rights in there that he does not have outside.
	r.shAs(rob, "0000000000000000\n0000000000000000\n", "grep -e CapEff -e CapPrm /proc/self/status | cut -f2", "--level", "emacs@2")
	for _, script := range []string{"mount --bind / /mnt", "umount " + r.sw + "/emacs", "umount " + r.sw, "nsenter -m -t " + fmt.Sprint(os.Getpid()) + " true"} {
		if got := r.RunAs(rob, r.Levelfs, "run", "--level", "emacs@2", "--", "sh", "-c", script); got.Exit == 0 || got.Exit >= 125 {
			t.Errorf("%s: %v", script, got)
		}
	}
	if got := r.RunAs(rob, r.Levelfs, "run", "--level", "emacs@9", "true"); got.Exit != 125 || !strings.Contains(got.Stderr, "emacs@9 is not to be had") {
		t.Errorf("no such level: %v", got)
	}
	if got := r.RunAs(rob, r.Levelfs, "run", "--level", "emacs@0", "true"); got.Exit != 125 || !strings.Contains(got.Stderr, `"emacs@0" is retired`) {
		t.Errorf("a retired level: %v", got)
	}
	// The others' processes see nothing of it.
	r.Umount(r.sw + "/doc@2")
	if now := r.mounts(); now != before {
		t.Errorf("mounts were\n%s\nand are\n%s", before, now)
	}
}

// TestRunUserUninformed: a user who may not read the inventory still has what automount
// delivers.
func TestRunUserUninformed(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	if err := os.Chmod(r.InventoryDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	got := r.RunAs(rob, r.Levelfs, "run", "--level", "emacs@2", "--", "sh", "-c", "cd "+r.sw+"/emacs && cat which && ! (echo >x) 2>/dev/null")
	if got.Exit != 0 || got.Stdout != "emacs 2" || !strings.Contains(got.Stderr, "emacs@2 is read-only") {
		t.Errorf("%v", got)
	}
	got = r.RunAs(rob, r.Levelfs, "run", "--profile", "next", "--", "true")
	if got.Exit != 125 || !strings.Contains(got.Stderr, "permission denied") {
		t.Errorf("a profile: %v", got)
	}
}

// TestRunUserForbidden: where a user may make no user namespace it is said so.
func TestRunUserForbidden(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	// The limit holds in the namespace in which it is set.
	got := r.RunAs(rob, "unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c",
		"echo 0 >/proc/sys/user/max_user_namespaces && exec "+r.Levelfs+" run --level emacs@2 -- true")
	for _, want := range []string{"no user namespace: unshare: ", "(sysctl user.max_user_namespaces=0)", "hint: run it as root: sudo levelfs run"} {
		if got.Exit != 125 || got.Stdout != "" || !strings.Contains(got.Stderr, want) {
			t.Errorf("%v; want %q", got, want)
		}
	}
}

// TestRunUnpropagated: on a machine whose mounts do not propagate the levels are there, and
// of the others what is mounted.
func TestRunUnpropagated(t *testing.T) {
	r := newRunRig(t)
	testenv.Require(t, "userns")
	if err := unix.Mount("", r.Path("shared"), "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	wantFile(t, r.sw+"/vi/which", "vi 9")
	for level, u := range map[string]testenv.User{"gcc@12": {Name: "root"}, "gcc@13": rob} {
		r.shAs(u, "emacs 2vi 9", "cd "+r.sw+" && cat emacs/which vi/which", "--level", "emacs@2")
		got := r.RunAs(u, r.Levelfs, "run", "--level", "emacs@2", "--", "cat", filepath.Join(r.sw, level, "which"), filepath.Join(r.sw, ".outside", level, "which"))
		if got.Exit != 1 || !strings.Contains(got.Stderr, "Too many levels of symbolic links") {
			t.Errorf("what is not mounted: %v", got)
		}
		if !strings.Contains(got.Stderr, "No such file") {
			t.Errorf("what has no name in the tree: %v", got)
		}
	}
}

// stateOf makes a directory for what the user's programs keep.
func (r *runRig) stateOf(u testenv.User) string {
	r.t.Helper()
	dir := r.Mkdir("state", u.Name)
	if err := os.Chown(dir, int(u.UID), int(u.GID)); err != nil {
		r.t.Fatal(err)
	}
	r.t.Setenv("XDG_STATE_HOME", dir)
	return dir
}

func namespaceOf(t *testing.T, process string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat("/proc/"+process+"/ns/mnt", &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(st.Ino)
}

// A runProcess is a run that goes on, whose command reads lines.
type runProcess struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr bytes.Buffer
	t      *testing.T
}

// start runs a shell command with other levels. It is killed at the end of the test.
func (r *runRig) start(u testenv.User, script string, options ...string) *runProcess {
	r.t.Helper()
	p := &runProcess{cmd: exec.Command(r.Levelfs, append(append([]string{"run"}, options...), "--", "sh", "-c", script)...), t: r.t}
	p.cmd.Env, p.cmd.Dir, p.cmd.Stderr = r.Env(), "/", &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID}}
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		r.t.Fatal(err)
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() {
		if p.cmd.ProcessState == nil {
			syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // it leads its session
			p.cmd.Wait()
		}
	})
	return p
}

// line is the next line that the command prints.
func (p *runProcess) line() string {
	p.t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		p.t.Fatalf("%v after %q; stderr %q", err, line, p.stderr.String())
	}
	return strings.TrimSuffix(line, "\n")
}

func (p *runProcess) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

// wait waits for the command, and for all that have its standard error.
func (p *runProcess) wait() syscall.WaitStatus {
	p.t.Helper()
	var failed *exec.ExitError
	if err := p.cmd.Wait(); err != nil && !errors.As(err, &failed) {
		p.t.Fatal(err)
	}
	return p.cmd.ProcessState.Sys().(syscall.WaitStatus)
}

// end lets the command read the end of its input.
func (p *runProcess) end() {
	p.t.Helper()
	if err := p.stdin.Close(); err != nil {
		p.t.Fatal(err)
	}
	if status := p.wait(); status.ExitStatus() != 0 || p.stderr.Len() > 0 {
		p.t.Errorf("exit status %d, stderr %q", status.ExitStatus(), p.stderr.String())
	}
}
