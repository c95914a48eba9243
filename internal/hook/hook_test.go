package hook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// newRoot makes a root with a directory of hooks for mounts.
func newRoot(t *testing.T) (root, dir string) {
	t.Helper()
	testenv.Require(t, "root")
	root = t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(root, place, "mount.d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return root, dir
}

func write(t *testing.T, path string, mode os.FileMode, text string) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, []byte(text), mode), os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
	return path
}

// script writes a hook.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	return write(t, filepath.Join(dir, name), 0o755, "#!/bin/sh\n"+text+"\n")
}

func set(t *testing.T, root string, e Event) *Set {
	t.Helper()
	d, err := Open(root)
	if err != nil || d == nil {
		t.Fatalf("%v, %v", d, err)
	}
	s, err := d.Set(e)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A heard is what hooks have printed.
type heard struct{ lines []string }

func (h *heard) say(hook, line string) { h.lines = append(h.lines, hook+": "+line) }

func runner(s *Set, h *heard, each time.Duration) *Runner {
	return &Runner{Set: s, Limits: Limits{Each: each}, Say: h.say, Call: Call{
		Component: "emacs", Level: "emacs@2", OldLevel: "emacs@1", Target: "/sw/emacs", User: "rob", Private: "/private",
	}}
}

// TestNone: no directory, none for the event, and an empty one.
func TestNone(t *testing.T) {
	root, dir := newRoot(t)
	if d, err := Open(t.TempDir()); d != nil || err != nil {
		t.Errorf("%v, %v", d, err)
	}
	var none *Dir
	if s, err := none.Set(Mount); !s.None() || s.Err() != nil || err != nil {
		t.Errorf("%v, %v", s, err)
	}
	for _, e := range Events() {
		if s := set(t, root, e); !s.None() || s.Err() != nil {
			t.Errorf("%s: %+v", e, s)
		}
	}
	write(t, filepath.Join(dir, "README"), 0o644, "no hook")
	called := false
	r := runner(set(t, root, Mount), new(heard), time.Minute)
	if err, after := r.Around(t.Context(), func() error { called = true; return nil }); err != nil || after != nil || !called {
		t.Errorf("%v, %v, %v", err, after, called)
	}
}

// TestOrder: by the names' bytes, and only what run-parts(8) would run.
func TestOrder(t *testing.T) {
	root, dir := newRoot(t)
	for _, name := range []string{"9", "10-b", "10-a", "Z", "_x", "a", "10-a~", "10-a.dpkg-old", "10-a.sh", ".hidden", "a b", "ä"} {
		script(t, dir, name, "true")
	}
	write(t, filepath.Join(dir, "README"), 0o644, "no hook")
	if err := os.Mkdir(filepath.Join(dir, "lib"), 0o755); err != nil {
		t.Fatal(err)
	}
	s := set(t, root, Mount)
	var names, ignored []string
	for _, h := range s.Hooks {
		names = append(names, filepath.Base(h))
	}
	for _, i := range s.Ignored {
		ignored = append(ignored, filepath.Base(i.Path))
	}
	if got := strings.Join(names, " "); got != "10-a 10-b 9 Z _x a" || s.Err() != nil {
		t.Errorf("hooks %q, %v", got, s.Err())
	}
	if got := strings.Join(ignored, ","); got != ".hidden,10-a.dpkg-old,10-a.sh,10-a~,README,a b,lib,ä" {
		t.Errorf("ignored %q", got)
	}
}

// TestRefused: whoever else may have a hand in a hook, it is refused by name, nothing is
// run, and the remedy is one.
func TestRefused(t *testing.T) {
	root, dir := newRoot(t)
	ran := filepath.Join(root, "ran")
	path := script(t, dir, "10-x", "touch "+ran)
	other := filepath.Join(root, "elsewhere")
	script(t, root, "elsewhere", "touch "+ran)
	link := filepath.Join(dir, "20-link")
	chmod := func(path string, mode os.FileMode) func() error {
		return func() error { return os.Chmod(path, mode) }
	}
	for _, c := range []struct {
		name         string
		do, undo     func() error
		path, remedy string
	}{
		{"others write it", chmod(path, 0o757), chmod(path, 0o755), path, "go-w " + path},
		{"its group writes it", chmod(path, 0o775), chmod(path, 0o755), path, "go-w " + path},
		{"somebody's", func() error { return os.Chown(path, 12345, 0) }, func() error { return os.Chown(path, 0, 0) }, path, "chown root " + path},
		{"its directory", chmod(dir, 0o777), chmod(dir, 0o755), dir, "go-w " + dir},
		{"sticky", chmod(dir, 0o777|os.ModeSticky), chmod(dir, 0o755), dir, "go-w " + dir},
		{"somebody's directory", func() error { return os.Chown(dir, 12345, 0) }, func() error { return os.Chown(dir, 0, 0) }, dir, "chown root " + dir},
		{"above", chmod(filepath.Join(root, "etc"), 0o775), chmod(filepath.Join(root, "etc"), 0o755), filepath.Join(root, "etc"), "go-w "},
		{"the root", chmod(root, 0o777), chmod(root, 0o755), root, "go-w "},
		{"link", func() error { return os.Symlink(other, link) }, func() error { return os.Remove(link) }, link, "rm " + link},
		{"link within", func() error { return os.Symlink("10-x", link) }, func() error { return os.Remove(link) }, link, "rm " + link},
		{"fifo", func() error { return unix.Mkfifo(link, 0o755) }, func() error { return os.Remove(link) }, link, "rm " + link},
		{"linked directory", func() error { return errors.Join(os.Rename(dir, dir+"2"), os.Symlink("mount.d2", dir)) },
			func() error { return errors.Join(os.Remove(dir), os.Rename(dir+"2", dir)) }, dir, "make it a directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			s := set(t, root, Mount)
			err, after := runner(s, new(heard), time.Minute).Around(t.Context(), func() error { t.Error("it was done"); return nil })
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Path != c.path || !strings.Contains(refused.Remedy, c.remedy) || !strings.Contains(err.Error(), c.path) || after != nil {
				t.Errorf("%v, %v: %+v", err, after, refused)
			}
			if err := c.undo(); err != nil {
				t.Fatal(err)
			}
			if s := set(t, root, Mount); s.Err() != nil || len(s.Hooks) != 1 {
				t.Errorf("when it is put right: %v, %+v", s.Err(), s)
			}
		})
	}
	if _, err := os.Lstat(ran); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a hook was run: %v", err)
	}
}

// TestEnvironment: a hook gets what is documented and nothing else, and its only argument
// is the phase.
func TestEnvironment(t *testing.T) {
	root, dir := newRoot(t)
	out := filepath.Join(root, "out")
	script(t, dir, "x", fmt.Sprintf(`{ echo "$# $1 $PWD"; /usr/bin/env | grep -v -e ^PWD= -e ^SHLVL= -e ^_= | sort; readlink /proc/self/fd/0; readlink /proc/self/ns/mnt; } >>%s`, out))
	t.Setenv("SECRET", "x")
	r := runner(set(t, root, Mount), new(heard), time.Minute)
	if err, after := r.Around(t.Context(), func() error { return nil }); err != nil || after != nil {
		t.Fatal(err, after)
	}
	namespace, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for _, p := range []struct{ phase, result string }{{"pre", ""}, {"post", "done"}} {
		env := []string{
			"LEVELFS_COMPONENT=emacs", "LEVELFS_EVENT=mount", "LEVELFS_LEVEL=emacs@2", "LEVELFS_OLD_LEVEL=emacs@1", "LEVELFS_PHASE=" + p.phase,
			"LEVELFS_PRIVATE=/private", "LEVELFS_RESULT=" + p.result, "LEVELFS_ROOT=" + root, "LEVELFS_TARGET=/sw/emacs", "LEVELFS_USER=rob",
			"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		}
		fmt.Fprintf(&want, "1 %s /\n%s\n/dev/null\n%s\n", p.phase, strings.Join(env, "\n"), namespace)
	}
	if got, err := os.ReadFile(out); err != nil || string(got) != want.String() {
		t.Errorf("%v, got\n%s\nwant\n%s", err, got, want.String())
	}
}

// TestAround: what runs when something fails, and what is told of it.
func TestAround(t *testing.T) {
	root, dir := newRoot(t)
	out := filepath.Join(root, "out")
	for _, name := range []string{"1", "2", "3"} {
		script(t, dir, name, fmt.Sprintf("echo %s $1 $LEVELFS_RESULT >>%s\n! [ -e %s/fail-%s-$1 ]", name, out, root, name))
	}
	broken := errors.New("broken")
	for _, c := range []struct {
		name        string
		fail        []string
		work        error
		want        string
		err, after  string
		mustNotWork bool
	}{
		{"well", nil, nil, "1 pre,2 pre,3 pre,work,1 post done,2 post done,3 post done", "", "", false},
		{"the work fails", nil, broken, "1 pre,2 pre,3 pre,work,1 post failed,2 post failed,3 post failed", "broken", "", false},
		{"one before fails", []string{"2-pre"}, nil, "1 pre,2 pre,1 post failed,2 post failed,3 post failed", `/2" (pre): exit status 1`, "", true},
		{"some after fail", []string{"1-post", "3-post"}, nil, "1 pre,2 pre,3 pre,work,1 post done,2 post done,3 post done", "", "(post): exit status 1\nhook ", false},
		{"all fail", []string{"1-pre", "1-post"}, broken, "1 pre,1 post failed,2 post failed,3 post failed", `/1" (pre)`, `/1" (post)`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, name := range c.fail {
				path := filepath.Join(root, "fail-"+name)
				write(t, path, 0o644, "")
				defer os.Remove(path)
			}
			write(t, out, 0o644, "")
			r := runner(set(t, root, Mount), new(heard), time.Minute)
			err, after := r.Around(t.Context(), func() error {
				f, err := os.OpenFile(out, os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintln(f, "work")
				return errors.Join(c.work, f.Close())
			})
			for _, e := range []struct {
				got  error
				want string
			}{{err, c.err}, {after, c.after}} {
				if (e.got == nil) != (e.want == "") || e.got != nil && !strings.Contains(e.got.Error(), e.want) {
					t.Errorf("error %v, want %q", e.got, e.want)
				}
			}
			text, err := os.ReadFile(out)
			if got := strings.Join(strings.Fields(strings.ReplaceAll(string(text), "\n", " , ")), " "); err != nil ||
				strings.TrimSuffix(strings.ReplaceAll(got, " , ", ","), " ,") != c.want {
				t.Errorf("%v: %q, want %q", err, got, c.want)
			}
		})
	}
}

// TestDeadline: a hook that hangs is killed in its time.
func TestDeadline(t *testing.T) {
	root, dir := newRoot(t)
	fifo := filepath.Join(root, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	path := script(t, dir, "x", "read line <"+fifo) // which nobody ever opens for writing
	err := runner(set(t, root, Mount), new(heard), 50*time.Millisecond).Before(t.Context())
	var failed *FailedError
	if !errors.As(err, &failed) || failed.Hook != path || failed.Err.Error() != "killed: it had 50ms" {
		t.Errorf("%v", err)
	}
	if !ended() {
		t.Error("there are children left")
	}
}

// TestLeftovers: however a hook ends, nothing of it stays: also what has a session of its
// own, what ignores signals, and what hangs on as it has ended.
func TestLeftovers(t *testing.T) {
	root, dir := newRoot(t)
	fifo := filepath.Join(root, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pids := filepath.Join(root, "pids")
	// Each opens the fifo for reading, and nobody ever opens it for writing.
	start := fmt.Sprintf(`trap "" TERM HUP INT
echo started
cat <%[1]s &
setsid sh -c 'echo $$ >>%[2]s; (setsid sh -c "echo \$\$ >>%[2]s; cat <%[1]s" &) ; cat <%[1]s' &
while ! [ -s %[2]s ] || [ $(wc -l <%[2]s) -lt 2 ]; do :; done
`, fifo, pids)
	for _, c := range []struct{ name, text, err string }{
		{"is given up", start + "cat <" + fifo, context.Canceled.Error()},
		{"ends", start + "exit 0", ""},
		{"fails", start + "exit 3", "exit status 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			write(t, pids, 0o644, "")
			path := script(t, dir, "x", c.text)
			h := new(heard)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ran := make(chan error, 1)
			go func() { ran <- runner(set(t, root, Mount), h, time.Minute).Before(ctx) }()
			testenv.WaitFor(t, "two processes with sessions of their own", func() error {
				if text, err := os.ReadFile(pids); err != nil || strings.Count(string(text), "\n") < 2 {
					return fmt.Errorf("%q, %v", text, err)
				}
				return nil
			})
			if c.name == "is given up" {
				cancel()
			}
			err := <-ran
			var failed *FailedError
			if c.err == "" && err != nil || c.err != "" && (!errors.As(err, &failed) || failed.Hook != path || failed.Err.Error() != c.err) {
				t.Errorf("%v, want %q", err, c.err)
			}
			if !slices.Equal(h.lines, []string{"x: started"}) {
				t.Errorf("heard %q", h.lines)
			}
			text, err := os.ReadFile(pids)
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range strings.Fields(string(text)) {
				if _, err := os.Lstat("/proc/" + pid); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("process %s is still there: %v", pid, err)
				}
			}
			if !ended() {
				t.Error("there are children left")
			}
		})
	}
}

// TestOthersChildren: what was started before a hook is not the hook's, and stays.
func TestOthersChildren(t *testing.T) {
	root, dir := newRoot(t)
	script(t, dir, "x", "sleep 1000 & exit 0")
	other, in, err := startCat()
	if err != nil {
		t.Fatal(err)
	}
	if err := runner(set(t, root, Mount), new(heard), time.Minute).Before(t.Context()); err != nil {
		t.Error(err)
	}
	if err := errors.Join(in.Close(), other.Wait()); err != nil { // a killed one has another status
		t.Error(err)
	}
	if !ended() {
		t.Error("there are children left")
	}
}

// TestAllTogether: where all hooks of a phase share a time, those that have none left are
// not started.
func TestAllTogether(t *testing.T) {
	root, dir := newRoot(t)
	ran := filepath.Join(root, "ran")
	script(t, dir, "1", "while :; do :; done")
	script(t, dir, "2", "touch "+ran)
	r := runner(set(t, root, Mount), new(heard), time.Minute)
	r.Limits.All = 200 * time.Millisecond
	err := r.After(t.Context(), true)
	if want := "killed: all hooks together had 200ms"; err == nil || strings.Count(err.Error(), want) != 2 {
		t.Errorf("%v", err)
	}
	if _, err := os.Lstat(ran); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the second was run: %v", err)
	}
	if got := LimitsOf(Umount, 30*time.Second); 2*got.All >= 12*time.Second || got.Each > got.All {
		t.Errorf("automount waits for 12s, and hooks have %+v in each phase", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Before(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// TestOutput: each line is shown with the hook's name, made fit for a terminal and
// bounded; a hook that prints a lot is not stopped by it.
func TestOutput(t *testing.T) {
	root, dir := newRoot(t)
	script(t, dir, "x", `printf 'one\ttab\n\n\033[31mtwo\377\n' >&2; printf 'end'`)
	h := new(heard)
	if err := runner(set(t, root, Mount), h, time.Minute).Before(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"x: one\ttab", "x: ?[31mtwo?", "x: end"}; !slices.Equal(h.lines, want) {
		t.Errorf("heard %q, want %q", h.lines, want)
	}
	script(t, dir, "x", "head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last")
	h = new(heard)
	if err := runner(set(t, root, Mount), h, time.Minute).Before(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := h.lines[len(h.lines)-1]
	if all := len(strings.Join(h.lines, "")); all > maxOutput+1000 || last != fmt.Sprintf("x: … and %d bytes more", 1000000+6-maxOutput) {
		t.Errorf("%d bytes were shown, the last line is %q", all, last)
	}
	for _, line := range h.lines {
		if len(line) > maxLine+10 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
}

func startCat() (*exec.Cmd, io.Closer, error) {
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	return cmd, in, cmd.Start()
}
