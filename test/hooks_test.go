package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// hook writes a hook: a script of sh.
func (r *rig) hook(event, name, script string) string {
	r.t.Helper()
	dir := r.Mkdir("etc/levelfs/hooks.d", event+".d")
	path := filepath.Join(dir, name)
	r.write(path, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(path, 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// fifo makes a fifo that nobody ever opens for writing.
func (r *rig) fifo() string {
	r.t.Helper()
	path := r.Path("fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, fs.ErrExist) {
		r.t.Fatal(err)
	}
	return path
}

// log is a file for hooks to write to, and what is in it.
func (r *rig) hookLog() string { return r.Path("hook.log") }

// wantHooks checks what hooks have written, and empties the file. Those after an unmount by
// automount may still be running when the view is gone.
func (r *rig) wantHooks(lines ...string) {
	r.t.Helper()
	want := strings.Join(lines, "\n")
	testenv.WaitFor(r.t, "what hooks write", func() error {
		text, err := os.ReadFile(r.hookLog())
		if got := strings.TrimSuffix(string(text), "\n"); got != want {
			return fmt.Errorf("%v\n%s\nwant\n%s", err, got, want)
		}
		return nil
	})
	r.write(r.hookLog(), "")
}

// allTold is a hook that writes down what it is told.
func (r *rig) allTold() string {
	return "echo $LEVELFS_EVENT $LEVELFS_PHASE=$1 ${LEVELFS_RESULT:--} $LEVELFS_COMPONENT $LEVELFS_LEVEL ${LEVELFS_OLD_LEVEL:--} " +
		"$LEVELFS_TARGET ${LEVELFS_USER:--} ${LEVELFS_PRIVATE:--} >>" + r.hookLog()
}

// TestHooksMount: before and after a mount; one that fails before it refuses it, one that
// fails after it is reported.
func TestHooksMount(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.AddUsers(rob)
	r.hook("mount", "10-told", r.allTold())
	r.hook("mount", "20-sees", `echo "$1 sees [$(cat "$LEVELFS_TARGET/which" 2>/dev/null)]" >>`+r.hookLog())
	private := r.PrivateDir("emacs")
	r.mount()
	r.wantHooks("mount pre=pre - emacs emacs@1 - "+r.target+" - "+private, "pre sees []",
		"mount post=post done emacs emacs@1 - "+r.target+" - "+private, "post sees [1]")
	r.umount(r.target)
	r.wantHooks()
	// At the next level it is told which one the private layer was under.
	r.assign("2")
	r.mount()
	r.wantHooks("mount pre=pre - emacs emacs@2 emacs@1 "+r.target+" - "+private, "pre sees []",
		"mount post=post done emacs emacs@2 emacs@1 "+r.target+" - "+private, "post sees [2]")
	r.umount(r.target)
	r.mountAt("emacs", r.target, "-o", forRob)
	robs := r.UserPrivateDir("rob", "emacs")
	r.wantHooks("mount pre=pre - emacs emacs@2 - "+r.target+" rob "+robs, "pre sees []",
		"mount post=post done emacs emacs@2 - "+r.target+" rob "+robs, "post sees [2]")
	r.umount(r.target)
	r.mountAt("emacs@1", r.target, "-o", "ro")
	r.wantHooks("mount pre=pre - emacs emacs@1 - "+r.target+" - -", "pre sees []",
		"mount post=post done emacs emacs@1 - "+r.target+" - -", "post sees [1]")
	r.umount(r.target)
	// A fake mount runs none.
	r.mount("-f")
	r.wantHooks()

	refused := func(words ...string) {
		t.Helper()
		r.unchanged(func() {
			t.Helper()
			got := r.RunHelper("emacs", r.target)
			if got.Exit != 32 || got.Stdout != "" {
				t.Errorf("%v, want 32", got)
			}
			for _, w := range words {
				if !strings.Contains(got.Stderr, w) {
					t.Errorf("stderr %q, want %q", got.Stderr, w)
				}
			}
		})
	}
	fails := r.hook("mount", "30-fails", "echo no >&2; [ $1 = post ]")
	refused(`mount.levelfs: hook 30-fails: "emacs": no`, fmt.Sprintf("hook %q (pre): exit status 1", fails))
	r.wantHooks("mount pre=pre - emacs emacs@2 emacs@2 "+r.target+" - "+private, "pre sees []",
		"mount post=post failed emacs emacs@2 emacs@2 "+r.target+" - "+private, "post sees []")
	r.Configure(`hook-time = "100ms"`)
	r.hook("mount", "30-fails", "[ $1 = post ] || cat <"+r.fifo())
	refused(fmt.Sprintf("hook %q (pre): killed: it had 100ms", fails))
	r.Configure("")
	if err := os.Chmod(fails, 0o757); err != nil {
		t.Fatal(err)
	}
	refused(fmt.Sprintf("hook %q is refused: others than root can write to it: mode 0757, owner uid 0", fails))

	r.hook("mount", "30-fails", "[ $1 = pre ]")
	got := r.RunHelper("emacs", r.target)
	if want := fmt.Sprintf("mount.levelfs: warning: \"emacs\": hook %q (post): exit status 1\n", fails); got.Exit != 0 || got.Stderr != want {
		t.Errorf("%v, want %q", got, want)
	}
	r.wantLevel("2")
	r.umount(r.target)
}

// TestHooksAutomount: the hooks of mounts and of unmounts with automount. They can look at
// the view that is being mounted or unmounted, which a process of another process group
// could not; and whatever they do, the view goes.
func TestHooksAutomount(t *testing.T) {
	testenv.Require(t, "automount")
	r := newSwitchRig(t, "persistent")
	sees := `echo "$LEVELFS_EVENT $1 ${LEVELFS_RESULT:--} sees [$(cat "$LEVELFS_TARGET/which" 2>/dev/null)]" >>` + r.hookLog()
	r.hook("mount", "sees", sees)
	r.hook("umount", "sees", sees)
	a, sw := startAutomount(t, r.Machine)
	wantFile(t, sw+"/emacs/which", "1")
	r.wantHooks("mount pre - sees []", "mount post done sees [1]")
	a.Expire(sw)
	r.wantHooks("umount pre - sees [1]", "umount post done sees []")
	wantNothingLeft(t, sw, r.Store)

	// Hooks that fail, and some that leave processes behind which use the view.
	r.Configure(`hook-time = "200ms"`)
	r.hook("umount", "fails", "exit 1")
	r.hook("umount", "zz-hangs", "cd $LEVELFS_TARGET; cat <"+r.fifo())
	r.hook("umount", "keeps", "cd $LEVELFS_TARGET; setsid sh -c 'cat <"+r.fifo()+"' <$LEVELFS_TARGET/which & exit 0")
	wantFile(t, sw+"/emacs/which", "1")
	a.Expire(sw)
	wantNothingLeft(t, sw, r.Store)
	// A hook that is refused is none.
	if err := os.Chmod(r.hook("umount", "fails", "exit 1"), 0o777); err != nil {
		t.Fatal(err)
	}
	wantFile(t, sw+"/emacs/which", "1")
	a.Expire(sw)
	wantNothingLeft(t, sw, r.Store)
	// A view that was switched meanwhile.
	if err := os.RemoveAll(r.Path("etc/levelfs/hooks.d/umount.d")); err != nil {
		t.Fatal(err)
	}
	r.write(r.hookLog(), "")
	r.hook("umount", "sees", sees)
	r.Configure("")
	r.target = sw + "/emacs"
	open, err := os.Open(r.target + "/which") // so that it is in use: automount may still be expiring
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	r.levelfs("switch", "emacs", "--to", "2")
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	a.Expire(sw)
	r.wantHooks("mount pre - sees []", "mount post done sees [1]", "umount pre - sees [2]", "umount post done sees []")
	wantNothingLeft(t, sw, r.Store)
	// A mount that a hook refuses is ENOENT, as any that fails.
	r.hook("mount", "zz-no", "[ $1 = post ]")
	if text, err := testenv.ReadFile(sw + "/emacs/which"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%q, %v", text, err)
	}
	wantNothingLeft(t, sw, r.Store)
}

// TestHooksUmount: umount(8) by hand, in all ways; a view that is in use stays; and where
// there are no hooks libmount's table is left alone.
func TestHooksUmount(t *testing.T) {
	const table = "/run/mount/utab"
	r := newSwitchRig(t, "persistent")
	helper := func() bool {
		text, err := os.ReadFile(table)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "TARGET="+r.target+" ")
	}
	mount := func() {
		t.Helper()
		if got := r.Mount("-t", "levelfs", "emacs", r.target); got.Exit != 0 || got.Stderr != "" {
			t.Fatal(got)
		}
	}
	umount := func(args ...string) {
		t.Helper()
		if got := r.Run("umount", append(args, r.target)...); got.Exit != 0 {
			t.Fatalf("umount %v: %v", args, got)
		}
		if left := mountsBelow(t, r.target); len(left) > 0 {
			t.Errorf("umount %v: %v", args, left)
		}
		if helper() {
			t.Errorf("umount %v: an entry is left", args)
		}
		r.wantNoLoops()
	}
	mount()
	if helper() {
		t.Error("an entry without hooks")
	}
	umount()
	r.hook("umount", "told", r.allTold())
	private := r.PrivateDir("emacs")
	told := []string{"umount pre=pre - emacs emacs@1 - " + r.target + " - " + private, "umount post=post done emacs emacs@1 - " + r.target + " - " + private}
	for _, args := range [][]string{nil, {"-n"}, {"-c"}, {"-v"}, {"-l"}, {"-f"}} {
		mount()
		if !helper() {
			t.Fatal("no entry")
		}
		umount(args...)
		r.wantHooks(told...)
	}
	// In use: the kernel says no, and the hooks after it are told so.
	mount()
	open, err := os.Open(r.target + "/which")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.Run("umount", r.target); got.Exit != 32 || !strings.Contains(got.Stderr, "busy") {
		t.Errorf("%v", got)
	}
	r.wantLevel("1")
	r.wantHooks(told[0], strings.Replace(told[1], " done ", " failed ", 1))
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	// Without umount(8), and without the helper, hooks are left out and the view goes.
	umount("-i")
	mount()
	r.Umount(r.target)
	r.wantHooks()
	// What is left in the table then is of no other mount.
	if !helper() {
		t.Error("who else removed it?")
	}
	if err := unix.Mount("tmpfs", r.target, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	umount()
	r.wantHooks()
	if text, err := os.ReadFile(table); err == nil && strings.Contains(string(text), r.Root) {
		t.Errorf("left: %s", text)
	}
}

// TestHooksSwitch: around a change of level, in the machine's mount namespace. If one
// before it fails nothing is touched; if one after it fails the level stays.
func TestHooksSwitch(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.AddUsers(rob)
	r.mount()
	r.keep()
	files, private := r.upperFiles(), r.PrivateDir("emacs")
	told := r.hook("switch", "10-told", r.allTold())
	r.hook("switch", "20-where", `echo "$1 $(readlink /proc/self/ns/mnt) sees $(cat "$LEVELFS_TARGET/which"), $(touch "$LEVELFS_TARGET/by-hook" && rm "$LEVELFS_TARGET/by-hook" && echo writable)" >>`+r.hookLog())
	namespace, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	r.levelfs("switch", "emacs", "--to", "2")
	r.wantHooks("switch pre=pre - emacs emacs@2 emacs@1 "+r.target+" - "+private, "pre "+namespace+" sees 1, writable",
		"switch post=post done emacs emacs@2 emacs@1 "+r.target+" - "+private, "post "+namespace+" sees 2, writable")
	r.levelfs("switch", "emacs", "--to", "2") // which it has
	r.wantHooks()
	out := r.levelfs("switch", "emacs", "--to", "1", "--dry-run")
	if !strings.Contains(out, "  switch\t"+told+"\n") {
		t.Errorf("dry run without the hook:\n%s", out)
	}
	r.wantHooks()
	r.levelfs("switch", "emacs", "--to", "1")
	r.write(r.hookLog(), "")

	view := r.view()
	refused := func(after string, words ...string) {
		t.Helper()
		r.unchanged(func() {
			t.Helper()
			report, got := r.report(1, "switch", "emacs", "--to", "2")
			if report.Changed || report.Error == "" {
				t.Errorf("%+v", report)
			}
			for _, w := range words {
				if !strings.Contains(got.Stderr, w) {
					t.Errorf("stderr %q, want %q", got.Stderr, w)
				}
			}
		})
		if now := r.view(); now.ID != view.ID || now.Frozen {
			t.Errorf("view %+v, was %+v", now, view)
		}
		if now := r.upperFiles(); now != files {
			t.Errorf("private layer is now\n%sand was\n%s", now, files)
		}
		text, err := os.ReadFile(r.hookLog())
		if err != nil || strings.Contains(string(text), "switch post=post "+after) != (after != "") {
			t.Errorf("%v, hooks after it: %s", err, text)
		}
		r.write(r.hookLog(), "")
	}
	fails := r.hook("switch", "30-fails", "echo no; [ $1 = post ]")
	refused("failed", "levelfs: hook 30-fails: no\n", fmt.Sprintf("hook %q (pre): exit status 1", fails), "hint: see what it says; to be without it: chmod -x "+fails+"\n")
	r.Configure(`hook-time = "100ms"`)
	r.hook("switch", "30-fails", "[ $1 = post ] || cat <"+r.fifo())
	refused("failed", fmt.Sprintf("hook %q (pre): killed: it had 100ms", fails))
	r.Configure("")
	r.hook("switch", "30-fails", "kill -9 $$")
	refused("failed", fmt.Sprintf("hook %q (pre): signal: killed", fails))
	r.write(fails, "no program")
	refused("failed", fmt.Sprintf("hook %q (pre): ", fails), "exec format error")
	if err := os.Chmod(fails, 0o777); err != nil {
		t.Fatal(err)
	}
	refused("", fmt.Sprintf("hook %q is refused: others than root can write to it: mode 0777, owner uid 0", fails), "hint: chown root "+fails+" && chmod go-w "+fails+"\n")
	if err := errors.Join(os.Remove(fails), os.Symlink("/bin/true", fails)); err != nil {
		t.Fatal(err)
	}
	refused("", fmt.Sprintf("hook %q is refused: it is a symbolic link", fails))
	if err := os.Remove(fails); err != nil {
		t.Fatal(err)
	}

	// After it: all run, it is said which failed, and the level stays.
	r.hook("switch", "05-fails", "[ $1 = pre ] || { echo sorry; exit 7; }")
	got := r.RunLevelfs("switch", "emacs", "--to", "2")
	if got.Exit != 1 || !strings.Contains(got.Stdout, r.target+": emacs@2, was emacs@1") || !strings.Contains(got.Stderr, "levelfs: hook 05-fails: sorry\n") || !strings.Contains(got.Stderr, `05-fails" (post): exit status 7`) {
		t.Errorf("%v", got)
	}
	r.wantLevel("2")
	r.wantKept()
	r.wantWritable()
	r.write(r.hookLog(), "")
	if err := os.RemoveAll(filepath.Dir(told)); err != nil {
		t.Fatal(err)
	}
	r.umount(r.target)

	// A user's view.
	r.hook("switch", "told", r.allTold())
	r.mount("-o", forRob)
	r.levelfs("switch", "emacs", "--user", "rob", "--to", "2")
	robs := r.UserPrivateDir("rob", "emacs")
	r.wantHooks("switch pre=pre - emacs emacs@2 emacs@1 "+r.target+" rob "+robs, "switch post=post done emacs emacs@2 emacs@1 "+r.target+" rob "+robs)
	r.umount(r.target)
}

// TestHooksSwitchInUse: while a file is open for writing it is refused, and the hook
// before it can end that.
func TestHooksSwitchInUse(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	stop := r.fifo()
	got := r.Run("sh", "-c", fmt.Sprintf("(exec 3>>%s/data; read x <%s) >/dev/null 2>&1 &", r.target, stop))
	if got.Exit != 0 {
		t.Fatal(got)
	}
	testenv.WaitFor(t, "a writer", func() error { _, err := os.Stat(r.target + "/data"); return err })
	r.hook("switch", "daemon", "[ $1 = post ] || echo stop >"+stop)
	r.levelfs("switch", "emacs", "--to", "2", "--when-idle")
	r.wantLevel("2")
	r.umount(r.target)
}

// TestHooksSwitchKill kills a switch while its hook runs, and from there on before each
// system call until the old view is frozen: nothing is touched, the hook is gone, and the
// next switch works.
func TestHooksSwitchKill(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	r.hook("switch", "ran", "echo $1 >>"+r.hookLog())
	files, level := r.upperFiles(), "1"
	other := func() string { return map[string]string{"1": "2", "2": "1"}[level] }
	var whole traced
	for range 3 { // so that all is there that is made once
		if whole = traceKill(t, killPoint{}, r.Env(), r.Levelfs, "switch", "emacs", "--to", other()); whole.exit != 0 {
			t.Fatalf("traced, but not killed: exit %d", whole.exit)
		}
		level = other()
	}
	first := slices.Index(whole.calls, unix.SYS_WAITID)
	if first < 1 || !slices.Contains(whole.calls[first:], unix.SYS_FSPICK) {
		t.Fatalf("no hook, or no freeze: %v", whole.calls)
	}
	ran := 0
	for _, at := range whole.points()[first:] {
		r.write(r.hookLog(), "")
		killed := traceKill(t, at, r.Env(), r.Levelfs, "switch", "emacs", "--to", other())
		if !killed.killed {
			if killed.exit != 0 {
				t.Fatalf("not killed before %v: exit %d", at, killed.exit)
			}
			level = other() // this run did without that call
			continue
		}
		now, healed := r.afterKill(files, level)
		if slices.Contains(killed.calls, unix.SYS_FSPICK) { // the old view may be frozen
			level = now
			break
		}
		if now != level || healed {
			t.Errorf("level %s, was %s; healed %v", now, level, healed)
		}
		if text, err := os.ReadFile(r.hookLog()); err != nil || strings.Contains(string(text), "post") {
			t.Errorf("%q, %v", text, err)
		} else if string(text) == "pre\n" {
			ran++
		}
		if t.Failed() {
			t.Fatalf("killed before %v", at)
		}
	}
	if ran < 5 {
		t.Errorf("the hook had run %d times: is everything counted?", ran)
	}
	r.levelfs("switch", "emacs", "--to", other())
	r.wantLevel(other())
	r.umount(r.target)
}

// TestHooksSwitchLeft: nobody reads any more what is said, or the terminal is gone. A hook
// before the change has run, and so the one after it does: it may have to start a service.
func TestHooksSwitchLeft(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	r.hook("switch", "talks", "echo hello; echo $1 >>"+r.hookLog())
	cmd := exec.Command(r.Levelfs, "switch", "emacs", "--to", "2")
	cmd.Env, cmd.Stderr = r.Env(), unheard(t)
	if err := cmd.Run(); err != nil {
		t.Errorf("with nobody at the other end of standard error: %v", err)
	}
	r.wantHooks("pre", "post")
	r.wantLevel("2")

	heedHangup(t)
	fifo := r.fifo()
	r.hook("switch", "talks", `echo $1 $LEVELFS_RESULT >>`+r.hookLog()+`; [ $1 = post ] || read x <`+fifo)
	for _, c := range []struct{ trap, result string }{{"", "failed"}, {`trap "" HUP; `, "done"}} {
		cmd := exec.Command("sh", "-c", c.trap+`exec "$@"`, "sh", r.Levelfs, "switch", "emacs", "--to", "1")
		cmd.Env = r.Env()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.wantHooks("pre")
		if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if c.result == "done" {
			r.write(fifo, "go on\n")
		}
		err := cmd.Wait()
		if want := map[string]int{"failed": 1, "done": 0}[c.result]; cmd.ProcessState.ExitCode() != want {
			t.Errorf("trap %q: %v, want exit status %d", c.trap, err, want)
		}
		r.wantHooks("post " + c.result)
		r.wantLevel(map[string]string{"failed": "2", "done": "1"}[c.result])
	}
	r.wantWritable()
	r.umount(r.target)
}

// TestHooksMountLeft is the same for mount.levelfs and umount.levelfs.
func TestHooksMountLeft(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	heedHangup(t)
	fifo := r.fifo()
	const talks = `echo hello; echo $LEVELFS_EVENT $1 $LEVELFS_RESULT >>`
	// The helper, under the one name or the other; the terminal is gone once the hooks have
	// written that, if anything.
	run := func(gone string, argv ...string) int {
		t.Helper()
		cmd := &exec.Cmd{Path: r.Helper, Args: argv, Env: r.Env(), Stderr: unheard(t)}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if gone != "" {
			r.wantHooks(gone)
			if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Wait() // its status is what counts
		return cmd.ProcessState.ExitCode()
	}
	mount, umount := []string{"mount.levelfs", "emacs", r.target}, []string{"umount.levelfs", r.target}
	for _, event := range []string{"mount", "umount"} {
		r.hook(event, "talks", talks+r.hookLog())
	}
	if got := run("", mount...); got != 0 {
		t.Errorf("mount: exit status %d", got)
	}
	r.wantHooks("mount pre", "mount post done")
	if got := run("", umount...); got != 0 {
		t.Errorf("umount: exit status %d", got)
	}
	r.wantHooks("umount pre", "umount post done")
	for _, event := range []string{"mount", "umount"} {
		r.hook(event, "talks", talks+r.hookLog()+"; [ $1 = post ] || read x <"+fifo)
	}
	if got := run("mount pre", mount...); got != 8 {
		t.Errorf("mount, and the terminal is gone: exit status %d", got)
	}
	r.wantHooks("mount post failed")
	r.hook("mount", "talks", "true")
	r.mount()
	if got := run("umount pre", umount...); got != 0 { // a hook keeps no view mounted
		t.Errorf("umount, and the terminal is gone: exit status %d", got)
	}
	r.wantHooks("umount post done")
	wantNothingLeft(t, r.target, r.Store)
}

// unheard is the end of a pipe that nobody reads.
func unheard(t *testing.T) *os.File {
	t.Helper()
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close() })
	if err := from.Close(); err != nil {
		t.Fatal(err)
	}
	return to
}

// heedHangup has SIGHUP end what the test starts, also where the test itself was started to
// outlive its terminal: what is caught here is neither caught nor ignored there.
func heedHangup(t *testing.T) {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, unix.SIGHUP)
	t.Cleanup(func() { signal.Stop(caught) })
}

// TestHooksPlan: which hooks would run is shown, and which not.
func TestHooksPlan(t *testing.T) {
	r := newSwitchRig(t, "none")
	if out := r.levelfs("plan", "emacs"); strings.Contains(out, "Hooks") {
		t.Errorf("hooks without any:\n%s", out)
	}
	one, two := r.hook("mount", "10-one", "true"), r.hook("umount", "20-two", "true")
	backup, open := r.hook("mount", "10-one~", "true"), r.hook("mount", "30-open", "true")
	if err := os.Chmod(open, 0o775); err != nil {
		t.Fatal(err)
	}
	got := r.RunLevelfs("plan", "emacs")
	if got.Exit != 1 || !strings.Contains(got.Stderr, "hint: chown root "+open) { // the view could not be mounted
		t.Errorf("%v", got)
	}
	out := strings.Join(strings.Fields(got.Stdout), " ")
	for _, want := range []string{
		"Hooks, before and after: mount " + one + " mount " + backup + " is not run: its name is not of letters, digits, _ and - only mount " +
			open + " is refused: others than root can write to it: mode 0775, owner uid 0 umount " + two,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("plan without %q:\n%s", want, out)
		}
	}
	// Who may not look is told so, and the rest.
	r.AddUsers(rob)
	for _, dir := range []string{filepath.Dir(r.Root), r.Root} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Error(err)
			}
		})
	}
	if err := os.Chmod(filepath.Dir(one), 0o700); err != nil {
		t.Fatal(err)
	}
	program := r.Path("levelfs")
	if got := r.Run("cp", r.Levelfs, program); got.Exit != 0 {
		t.Fatal(got)
	}
	if got := r.RunAs(rob, program, "plan", "emacs"); got.Exit != 0 || !strings.Contains(got.Stdout, "not known: ") || !strings.Contains(got.Stdout, two) {
		t.Errorf("%v", got)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if out := r.levelfs("plan", "emacs", "--json"); !strings.Contains(out, `"event": "umount"`) || !strings.Contains(out, `"`+two+`"`) {
		t.Errorf("%s", out)
	}
}

// TestCheckHooks: a hook that others can change is found, by check and doctor; those that
// are as they should be are not.
func TestCheckHooks(t *testing.T) {
	r, _ := checkRig(t)
	one, two := r.hook("mount", "one", "true"), r.hook("umount", "two", "true")
	r.hook("switch", "README~", "true")
	r.healthy()
	if err := os.Chmod(one, 0o766); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(two, 12345, 0); err != nil {
		t.Fatal(err)
	}
	report := r.wantFindings(2, "LV254 "+one, "LV254 "+two)
	for _, f := range report.Findings {
		if got := r.Run("sh", "-c", f.Fix); got.Exit != 0 {
			t.Errorf("%s: %v", f.Fix, got)
		}
	}
	r.healthy()
	if err := os.Chmod(r.Path("etc/levelfs/hooks.d"), 0o777); err != nil {
		t.Fatal(err)
	}
	r.wantFindings(2, "LV254 "+r.Path("etc/levelfs/hooks.d"))
	if got := r.RunLevelfs("doctor"); !strings.Contains(got.Stdout, r.Path("etc/levelfs/hooks.d")+": others than root can write to it") {
		t.Errorf("%v", got)
	}
	if err := os.Chmod(r.Path("etc/levelfs/hooks.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.healthy()
}
