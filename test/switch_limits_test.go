package test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// TestSwitchRefused: where a switch cannot succeed the old view stays, and one line says
// why.
func TestSwitchRefused(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	two := filepath.Join(r.Store.Dir, r.layers[1].Images[0])
	to2 := []string{"switch", "emacs", "--to", "2"}

	damage(t, two)
	r.fails(to2, "two", "digest")
	if err := os.Rename(two, two+".away"); err != nil {
		t.Fatal(err)
	}
	r.fails(to2, "two", "not on this machine")
	if err := os.Rename(two+".away", two); err != nil {
		t.Fatal(err)
	}
	damage(t, two) // back to nothing like it was, but it stays wrong
	r.fails(to2, "two")
	r.fails([]string{"switch", "emacs", "--to", "3"}, "emacs@3")
	r.fails([]string{"rollback", "emacs"}, "another level")
	if err := os.Truncate(two, 100); err != nil {
		t.Fatal(err)
	}
	r.fails(to2, "two", "size")

	// No server answers.
	r.Configure(testenv.LDAPSource("dc=example,dc=org", "ldap://127.0.0.1:9"))
	r.fails([]string{"switch", "emacs"}, "127.0.0.1:9")
	r.fails(to2, "127.0.0.1:9")
	r.fails([]string{"refresh"}, "127.0.0.1:9")
	r.Configure("")

	bound := r.Mkdir("bound")
	if err := unix.Mount(r.target, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	r.layers[1] = r.Store.Erofs("two", testenv.Files{"which": "2", "conf": "delivered", "only-2": "", "d/which": "2"})
	r.assign("1")
	r.failsOnView(to2, bound)
	r.Umount(bound)
	if err := unix.Mount("foreign", r.target+"/d", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	r.failsOnView(to2, r.target+"/d")
	r.Umount(r.target + "/d")
	if err := unix.Mount("", r.target, "", unix.MS_REMOUNT|unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	r.fails(to2, "remounted read-only")
	if got := r.levelfs("status"); strings.Contains(got, "interrupted") {
		t.Error(got)
	}
	if err := unix.Mount("", r.target, "", unix.MS_REMOUNT|unix.MS_NODEV, ""); err != nil {
		t.Fatal(err)
	}
	r.levelfs(to2...)
	r.wantLevel("2")

	// Released, it never changes.
	r.component.Levels[0].Layers = []string{"two"}
	r.assign("2")
	r.levelfs("history", "emacs")
	for _, args := range [][]string{{"switch", "vi"}, {"rollback", "vi"}, {"refresh", "vi"}, {"switch", "emacs", "--user", "rob"}} {
		r.fails(args, "is mounted")
	}
	r.umount(r.target)
	for _, args := range [][]string{{"switch", "emacs@1"}, {"switch", "emacs", "--to", "a/b"}, {"refresh", "emacs@1"}, {"history", "emacs", "--user", "../x"}} {
		if got := r.RunLevelfs(args...); got.Exit != 64 {
			t.Errorf("%v: %v; want exit 64", args, got)
		}
	}
}

// failsOnView is fails where something is mounted that hides the files of the view.
func (r *switchRig) failsOnView(args []string, words ...string) {
	r.t.Helper()
	r.unchanged(func() {
		got := r.RunLevelfs(args...)
		for _, w := range words {
			if got.Exit != 1 || !strings.Contains(got.Stderr, w) {
				r.t.Errorf("%v; want exit 1 and %q", got, w)
			}
		}
	})
}

// TestSwitchPrivateFileSystem: a private layer whose file system is full, read-only, or
// was unmounted lazily.
func TestSwitchPrivateFileSystem(t *testing.T) {
	for _, fstype := range []string{"tmpfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			testenv.Require(t, "root", "ext4")
			r := newSwitchRig(t, "persistent")
			private := r.Mkdir("var/lib/levelfs/private")
			if fstype == "tmpfs" {
				if err := unix.Mount("private", private, "tmpfs", 0, "size=256k"); err != nil {
					t.Fatal(err)
				}
			} else {
				disk := r.Path("disk")
				r.write(disk, "")
				if err := os.Truncate(disk, 2<<20); err != nil {
					t.Fatal(err)
				}
				for _, args := range [][]string{{"/sbin/mkfs.ext4", "-q", "-F", "-m0", disk}, {"mount", "-o", "loop", disk, private}} {
					if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
						t.Fatalf("%v: %v: %s", args, err, out)
					}
				}
			}
			r.mount()
			r.keep()
			to2 := []string{"switch", "emacs", "--to", "2"}

			fill := private + "/fill"
			f, err := os.Create(fill)
			if err != nil {
				t.Fatal(err)
			}
			for size := 64 << 10; size > 0; { // to the last byte
				if _, err := f.Write(make([]byte, size)); err != nil {
					size /= 2
				}
			}
			for i := range 10000 { // and directory entry
				if os.Symlink(strings.Repeat("x", 200), fmt.Sprint(private, "/l", i)) != nil {
					break
				}
			}
			f.Close()
			r.fails(to2, "emacs@2")
			r.wantKept()
			links, _ := filepath.Glob(private + "/l*")
			for _, link := range append(links, fill) {
				if err := os.Remove(link); err != nil {
					t.Fatal(err)
				}
			}
			r.wantWritable()

			if fstype == "ext4" {
				// Only through this mount of it: the kernel keeps its own for the view.
				if err := unix.Mount("", private, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
					t.Fatal(err)
				}
				r.fails(to2, "read-only")
				if err := unix.Mount("", private, "", unix.MS_REMOUNT|unix.MS_BIND, ""); err != nil {
					t.Fatal(err)
				}
				r.wantWritable()
			}
			r.levelfs(to2...)
			r.wantLevel("2")
			r.wantKept()

			gone := r.Mkdir("gone") // there it can still be looked at
			if err := unix.Mount(private, gone, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			if err := unix.Unmount(private, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			v := r.view()
			got := r.RunLevelfs("switch", "emacs", "--to", "1")
			if got.Exit != 1 || strings.Count(got.Stderr, "\n") > 2 {
				t.Errorf("%v; want exit 1", got)
			}
			if now := r.view(); now.ID != v.ID || now.Frozen {
				t.Errorf("view %+v was %+v", now, v)
			}
			r.wantLevel("2")
			r.wantKept()
			r.write(r.target+"/still", "writable")
			r.Umount(r.target)
			r.Umount(gone)
			r.wantNoLoops()
		})
	}
}

// TestSwitchEphemeral: a private layer in memory cannot be handed over.
func TestSwitchEphemeral(t *testing.T) {
	r := newSwitchRig(t, "ephemeral")
	r.mount()
	r.write(r.target+"/private", "mine")
	r.fails([]string{"switch", "emacs", "--to", "2"}, "in memory", "lost")
	r.want(map[string]string{"private": "mine"})
	f, err := os.OpenFile(r.target+"/private", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.fails([]string{"switch", "emacs", "--to", "2", "--discard"}, "open for writing")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	r.want(map[string]string{"private": "mine"})
	r.write(r.target+"/private", "mine")
	r.levelfs("switch", "emacs", "--to", "2", "--discard")
	r.wantLevel("2")
	r.wantAbsent("private")
	r.write(r.target+"/private", "mine")

	// As a kill leaves it.
	at, err := os.OpenFile(r.target, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	fs, err := unix.Fspick(int(at.Fd()), "", unix.FSPICK_EMPTY_PATH)
	if err == nil {
		err = errors.Join(unix.FsconfigSetFlag(fs, "ro"), unix.FsconfigReconfigure(fs), unix.Close(fs), at.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := r.RunLevelfs("status"); !strings.Contains(got.Stderr, "interrupted") {
		t.Errorf("status: %v", got)
	}
	if got := r.RunLevelfs("refresh", "--discard"); got.Exit != 0 || !strings.Contains(got.Stderr, "healed") {
		t.Errorf("refresh: %v", got)
	}
	r.wantLevel("1")
	r.umount(r.target)
}

// TestSwitchTyped: the commands of the dry run, which changes nothing, make the same view
// while nobody uses it.
func TestSwitchTyped(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount("-o", "noatime")
	r.keep()
	files := r.upperFiles()
	r.levelfs("switch", "emacs", "--to", "2")
	line := viewLine(t, r.target)
	r.levelfs("switch", "emacs", "--to", "1")
	var reports []struct {
		Commands []string
		Plan     struct{ Steps []mounter.Step }
	}
	r.unchanged(func() {
		if err := json.Unmarshal([]byte(r.levelfs("switch", "emacs", "--to", "2", "--dry-run", "--json")), &reports); err != nil || len(reports) != 1 || len(reports[0].Plan.Steps) == 0 {
			t.Fatalf("%v: %+v", err, reports)
		}
	})
	if out := r.levelfs("switch", "emacs", "--to", "2", "--dry-run"); !strings.Contains(out, "would be emacs@2, is emacs@1") || !strings.Contains(out, "umount") {
		t.Errorf("%s", out)
	}
	script := r.Path("script")
	r.write(script, strings.Join(reports[0].Commands, "\n")+"\n")
	if got := r.Run("sh", "-e", script); got.Exit != 0 || got.Stderr != "" {
		t.Fatalf("%v\n%s", got, strings.Join(reports[0].Commands, "\n"))
	}
	r.wantLevel("2")
	r.wantKept()
	if now := r.upperFiles(); now != files {
		t.Errorf("private layer is now\n%sand was\n%s", now, files)
	}
	if now := viewLine(t, r.target); now != line {
		t.Errorf("typed\n%s\nby the command\n%s", now, line)
	}
	if got := r.Run("sh", "-e", script); got.Exit == 0 {
		t.Error("typed again, the view is another")
	}
	r.wantLevel("2")
	r.levelfs("switch", "emacs", "--to", "1")
	r.wantLevel("1")
	r.umount(r.target)
}

// TestSwitchNamespaces: the change reaches the mount namespaces that mounts propagate to.
// In others the old view stays, which is said, and is never writable again.
func TestSwitchNamespaces(t *testing.T) {
	for _, propagation := range []string{"private", "slave"} {
		t.Run(propagation, func(t *testing.T) {
			r := newSwitchRig(t, "persistent")
			shared := r.Path("sw")
			if err := errors.Join(unix.Mount(shared, shared, "", unix.MS_BIND, ""), unix.Mount("", shared, "", unix.MS_SHARED, "")); err != nil {
				t.Fatal(err)
			}
			r.mount()
			r.keep()
			inside := namespaceShell(t, propagation)
			got := r.RunLevelfs("switch", "emacs", "--to", "2")
			said := strings.Contains(got.Stderr, "emacs@1 stays at") && strings.Contains(got.Stderr, r.target) && strings.Contains(got.Stderr, fmt.Sprint("process ", inside.pid))
			if got.Exit != 0 || said != (propagation == "private") {
				t.Errorf("%v", got)
			}
			r.wantLevel("2")
			r.wantWritable()
			want := map[string]string{"private": "1", "slave": "2"}[propagation]
			if which := inside.run("cat " + r.target + "/which"); which != want {
				t.Errorf("inside: %q, want %q", which, want)
			}
			wrote := inside.run("{ echo x >" + r.target + "/inside; } 2>/dev/null && echo yes || echo no")
			if want := map[string]string{"private": "no", "slave": "yes"}[propagation]; wrote != want {
				t.Errorf("written inside: %s, want %s", wrote, want)
			}
			if propagation == "private" {
				// No verb heals what is no wound.
				env := "export LEVELFS_ROOT=" + r.Root + "; " + r.Levelfs
				if out := inside.run(env + " status 2>&1"); strings.Contains(out, "interrupted") || !strings.Contains(out, "emacs@1") {
					t.Errorf("status inside: %s", out)
				}
				if out := inside.run(env + " refresh 2>&1"); strings.Contains(out, "healed") {
					t.Errorf("refresh inside: %s", out)
				}
				if wrote := inside.run("{ echo x >" + r.target + "/inside; } 2>/dev/null && echo yes || echo no"); wrote != "no" {
					t.Errorf("the old view became writable again: %s", wrote)
				}
			}
			inside.leave()
			r.umount(r.target)
			r.mount()
			r.wantKept()
			r.umount(r.target)
			r.Umount(shared)
		})
	}
}

// A shell in a mount namespace of its own.
type shell struct {
	pid   int
	run   func(script string) string // its output
	leave func()
}

// namespaceShell starts one whose mounts have the propagation.
func namespaceShell(t *testing.T, propagation string) *shell {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", propagation, "sh")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	s := &shell{pid: cmd.Process.Pid}
	s.run = func(script string) string {
		t.Helper()
		if _, err := fmt.Fprintln(in, script+"; echo; echo done"); err != nil {
			t.Fatal(err)
		}
		var output strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == "done\n" {
				return strings.TrimSpace(output.String())
			}
			output.WriteString(line)
		}
	}
	s.leave = sync.OnceFunc(func() { in.Close(); cmd.Wait() })
	t.Cleanup(s.leave)
	if ready := s.run("echo ready"); ready != "ready" {
		t.Fatal(ready)
	}
	return s
}

// TestSwitchAutomount: a view under automount is switched like any other, in the shared
// tree and in the users', and expires as ever.
func TestSwitchAutomount(t *testing.T) {
	testenv.Require(t, "root", "automount")
	r := newSwitchRig(t, "persistent")
	a, sw := startAutomount(t, r.Machine)
	r.target = filepath.Join(sw, "emacs")
	wantFile(t, r.target+"/which", "1")
	writeFile(t, r.target+"/private", "mine")
	r.assign("2")
	for _, level := range []string{"2", "1", "2"} {
		f, err := os.Open(r.target + "/which")
		if err != nil {
			t.Fatal(err)
		}
		if level == "1" {
			r.levelfs("rollback", "emacs")
		} else {
			r.levelfs("refresh")
		}
		r.wantLevel(level)
		wantFile(t, r.target+"/private", "mine")
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	a.Expire(sw)
	wantNothingLeft(t, sw, r.Store)
	// Until automount's reuse of the answer that it had before has run out.
	testenv.WaitFor(t, "level 2", func() error {
		text, err := testenv.ReadFile(r.target + "/which")
		if err == nil && text != "2" {
			a.Expire(r.target)
			err = fmt.Errorf("it is %q", text)
		}
		return err
	})
	wantFile(t, r.target+"/private", "mine")
	a.Expire(sw)
	wantNothingLeft(t, sw, r.Store)
}

// TestSwitchUser: a user's view is switched with what is his.
func TestSwitchUser(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.AddUsers(rob)
	r.mountAt("emacs@1", r.target, "-o", forRob)
	host := r.Mkdir("sw/host")
	r.mountAt("emacs", host)
	r.write(host+"/private", "the host's")
	if got := r.RunAs(rob, "sh", "-c", "echo mine >"+r.target+"/private && echo mine >"+r.target+"/conf"); got.Exit != 0 {
		t.Fatal(got)
	}
	r.assign("2")
	r.levelfs("switch", "emacs", "--user", "rob")
	r.wantAt(host, map[string]string{"which": "1", "private": "the host's"})
	if got := r.RunAs(rob, "sh", "-c", "cd "+r.target+" && cat which private conf && echo more >>conf && echo his >d/which"); got.Exit != 0 || got.Stdout != "2mine\nmine\n" {
		t.Errorf("%v", got)
	}
	if after := viewOptions(t, r.target); !slices.Contains(after, "nosuid") || !slices.Contains(after, "nodev") {
		t.Errorf("options %v", after)
	}
	r.wantMode(0o700, rob, r.target, r.UserPrivateDir("rob", "emacs")+"/upper")
	var periods []mounter.Period
	if err := json.Unmarshal([]byte(r.levelfs("history", "emacs", "--user", "rob", "--json")), &periods); err != nil || len(periods) != 2 {
		t.Errorf("%v, %v", periods, err)
	}
	r.levelfs("refresh") // and then the host's
	r.wantAt(host, map[string]string{"which": "2", "private": "the host's"})
	r.umount(r.target, host)
}
