package rollout

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/ldapmap"
)

// A GateError is a roll-out that does not go on because of what its hosts report.
type GateError struct {
	Level, Ring string
	Failed      []string // hosts that report a failure
	Missing     []string // hosts that do not report the level: Pending and Silent ones
	Allowed     int      // how many may be missing
}

func (e *GateError) Error() string {
	var parts []string
	if len(e.Failed) > 0 {
		parts = append(parts, fmt.Sprintf("%s with a failure: %s", hosts(len(e.Failed)), some(e.Failed)))
	}
	if len(e.Missing) > e.Allowed {
		parts = append(parts, fmt.Sprintf("%s that did not report it yet: %s", hosts(len(e.Missing)), some(e.Missing)))
	}
	return fmt.Sprintf("%s does not go on after ring %q: %s", e.Level, e.Ring, strings.Join(parts, "; "))
}

func hosts(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}

// some names the first of them, and says how many more there are.
func some(names []string) string {
	const most = 8
	text := strings.Join(names[:min(most, len(names))], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// Pass is nil if the hosts of the rings so far let the roll-out go on: none reports a
// failure, and at most that many do not report the level. With a program for a gate only
// failures count: it is for the program to say whether all have come so far.
func (s *Status) Pass(missing int) error {
	e := &GateError{Level: s.Level, Ring: s.At, Allowed: missing}
	for _, r := range s.Rings {
		if r.Given {
			e.Failed = append(e.Failed, r.Names(Failed)...)
			e.Missing = append(e.Missing, r.Names(Pending, Silent)...)
		}
	}
	for _, names := range []*[]string{&e.Failed, &e.Missing} {
		slices.Sort(*names)
		*names = slices.Compact(*names) // one may be in several rings
	}
	if s.Gate != ldapmap.GateCheck {
		e.Missing = nil
	}
	if len(e.Failed) == 0 && len(e.Missing) <= e.Allowed {
		return nil
	}
	return e
}

// A ProgramError is a gate's program that did not let the roll-out go on, or could not be
// run.
type ProgramError struct {
	Path string
	Err  error
}

func (e *ProgramError) Error() string { return fmt.Sprintf("gate %q: %v", e.Path, e.Err) }
func (e *ProgramError) Unwrap() error { return e.Err }

// Ask runs the program of the gate, and returns nil if it ends with status 0 within the
// time. There is no shell. It has the status as JSON on standard input, and in its
// environment, besides PATH, HOME and LEVELFS_ROOT, what the names below say. What it
// prints goes to out.
//
// The path is from the inventory: only a file that nobody but root, or who runs this, can
// change is run.
func (s *Status) Ask(ctx context.Context, limit time.Duration, out io.Writer) error {
	if err := checkProgram(s.Gate); err != nil {
		return &ProgramError{Path: s.Gate, Err: err}
	}
	input, err := json.Marshal(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.Gate)
	cmd.Dir = "/"
	cmd.Env = append(s.environment(), kept("HOME", "LEVELFS_ROOT")...)
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = out, out
	// When its time is over, what it has started ends as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		err = fmt.Errorf("no answer within %v: %w", limit, ctx.Err())
	case errors.Is(err, exec.ErrWaitDelay): // it has answered, and left something running
		err = nil
	}
	if err != nil {
		return &ProgramError{Path: s.Gate, Err: err}
	}
	return nil
}

func (s *Status) environment() []string {
	return []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin",
		"LEVELFS_COMPONENT=" + s.Component,
		"LEVELFS_LEVEL=" + s.Level,
		"LEVELFS_RING=" + s.At,
		"LEVELFS_NEXT=" + s.Next, // empty after the last ring
	}
}

// kept are those of the variables that this process has.
func kept(names ...string) []string {
	var env []string
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

func checkProgram(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	switch mode := info.Mode(); {
	case !mode.IsRegular() || mode&0o111 == 0:
		return &fs.PathError{Op: "run", Path: path, Err: unix.EACCES}
	case mode&0o022 != 0 || owner != 0 && int(owner) != os.Geteuid():
		return fmt.Errorf("mode %v, owner %d: others than root, or who runs this, could have changed it", mode, owner)
	}
	return nil
}
