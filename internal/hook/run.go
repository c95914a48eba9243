package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// A Phase is before what a hook is for, or after it.
type Phase string

// The phases, which are also a hook's only argument.
const (
	Pre  Phase = "pre"
	Post Phase = "post"
)

// A Call is what hooks are told, in their environment.
type Call struct {
	Component string // emacs
	Level     string // emacs@30.1-1, the one to come; when unmounting, the one that is there
	OldLevel  string // emacs@29.4-1: that the private layer was under before, or ""
	Target    string // mount point
	User      string // whose view it is, or "": the host's
	Private   string // directory of the private layer, or "": it has none that is kept
}

// Limits bound the time that hooks have.
type Limits struct {
	Each time.Duration // a hook
	All  time.Duration // all hooks of one phase; 0: as long as each has
}

// patience is how long whoever opens a view by automount is made to wait for a hook, at
// most. automount gives umount(8) 12 seconds (umount_wait): both phases have to fit.
const patience = 5 * time.Second

// LimitsOf are the limits of an event's hooks, where one of a change of level may take
// that time.
func LimitsOf(e Event, each time.Duration) Limits {
	switch e {
	case Mount:
		return Limits{Each: min(each, patience)}
	case Umount:
		return Limits{Each: min(each, patience), All: min(each, patience)}
	}
	return Limits{Each: each}
}

// Bounds of what is shown of a hook's output. What is beyond is read, and counted.
const (
	maxOutput = 64 << 10
	maxLine   = 1000
)

// A FailedError is a hook that did not end with exit status 0 in its time.
type FailedError struct {
	Hook  string
	Phase Phase
	Err   error
}

func (e *FailedError) Error() string { return fmt.Sprintf("hook %q (%s): %v", e.Hook, e.Phase, e.Err) }
func (e *FailedError) Unwrap() error { return e.Err }

// A Runner runs the hooks of one event.
type Runner struct {
	Set    *Set
	Limits Limits
	Call   Call
	Say    func(hook, line string) // gets what hooks print, a line each
}

// Around runs the hooks before f, f, and the hooks after it. If a hook before it fails, f
// is not called. The hooks after it are told by LEVELFS_RESULT how it ended, and run
// whenever one before it was run, so that what that began can be ended. The first error is
// that of f or of the hooks before it, the second that of the hooks after it.
func (r *Runner) Around(ctx context.Context, f func() error) (err, after error) {
	if r.Set.None() {
		return f(), nil
	}
	if err := r.Set.Err(); err != nil {
		return err, nil
	}
	if err = r.Before(ctx); err == nil {
		err = f()
	}
	// Whoever ended the work must not keep the hooks from what they are there for.
	return err, r.After(context.WithoutCancel(ctx), err == nil)
}

// Before runs the hooks of the phase before, until one fails; when unmounting, all.
func (r *Runner) Before(ctx context.Context) error {
	return r.phase(ctx, Pre, "")
}

// After runs the hooks of the phase after, all of them.
func (r *Runner) After(ctx context.Context, done bool) error {
	result := "failed"
	if done {
		result = "done"
	}
	return r.phase(ctx, Post, result)
}

func (r *Runner) phase(ctx context.Context, p Phase, result string) error {
	if r.Set == nil {
		return nil
	}
	if r.Limits.All > 0 {
		limited, cancel := context.WithTimeoutCause(ctx, r.Limits.All, fmt.Errorf("killed: all hooks together had %v", r.Limits.All))
		defer cancel()
		ctx = limited
	}
	var errs []error
	for _, hook := range r.Set.Hooks {
		err := r.run(ctx, hook, p, result)
		if err == nil {
			continue
		}
		errs = append(errs, &FailedError{hook, p, err})
		if p == Pre && r.Set.Event != Umount { // which no hook can stop
			break
		}
	}
	return errors.Join(errs...)
}

// environment is all that a hook gets.
func (r *Runner) environment(p Phase, result string) []string {
	env := []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"LEVELFS_EVENT=" + string(r.Set.Event),
		"LEVELFS_PHASE=" + string(p),
		"LEVELFS_RESULT=" + result,
		"LEVELFS_COMPONENT=" + r.Call.Component,
		"LEVELFS_LEVEL=" + r.Call.Level,
		"LEVELFS_OLD_LEVEL=" + r.Call.OldLevel,
		"LEVELFS_TARGET=" + r.Call.Target,
		"LEVELFS_USER=" + r.Call.User,
		"LEVELFS_PRIVATE=" + r.Call.Private,
	}
	if r.Set.root != "/" {
		env = append(env, "LEVELFS_ROOT="+r.Set.root)
	}
	return env
}

// run runs one hook, and ends all that it leaves behind.
func (r *Runner) run(ctx context.Context, path string, p Phase, result string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.Limits.Each, fmt.Errorf("killed: it had %v", r.Limits.Each))
	defer cancel()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// The hook is killed when the thread ends that started it, as when this process is.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	orphans, err := adopt()
	if err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return errors.Join(err, orphans.end())
	}
	defer read.Close()
	cmd := exec.CommandContext(ctx, path)
	cmd.Args = []string{path, string(p)}
	cmd.Env = r.environment(p, result)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = write, write
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Start()
	write.Close()
	said := make(chan struct{})
	go func() {
		defer close(said)
		r.pass(read, filepath.Base(path))
	}()
	if err == nil {
		if err = cmd.Wait(); err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}
	err = errors.Join(err, orphans.end())
	// With the last process that could write, the pipe ends by itself. One that could not be
	// killed must not be waited for.
	read.SetReadDeadline(time.Now().Add(orphanTime))
	<-said
	return err
}

// pass hands on what a hook prints, up to a bound.
func (r *Runner) pass(from io.Reader, hook string) {
	say := func(line []byte) {
		if text := printable(line); text != "" {
			r.Say(hook, text)
		}
	}
	var (
		buf    = make([]byte, 4096)
		line   []byte
		shown  int
		hidden int64
	)
	for {
		n, err := from.Read(buf)
		keep := min(n, maxOutput-shown)
		shown += keep
		hidden += int64(n - keep)
		line = append(line, buf[:keep]...)
		for {
			i := bytes.IndexByte(line, '\n')
			if i < 0 && len(line) < maxLine {
				break
			}
			if i < 0 || i > maxLine {
				say(line[:maxLine])
				line = line[maxLine:]
				continue
			}
			say(line[:i])
			line = line[i+1:]
		}
		if err != nil {
			break
		}
	}
	say(line)
	if hidden > 0 {
		r.Say(hook, fmt.Sprintf("… and %d bytes more", hidden))
	}
}

// printable is a line for a terminal or a log.
func printable(line []byte) string {
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || c != '\t' && !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}, strings.TrimRight(string(line), " \t\r"))
}

// ended reports whether this process has no child left.
func ended() bool {
	var info unix.Siginfo
	err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return errors.Is(err, unix.ECHILD)
}
