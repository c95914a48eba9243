package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopLimit is how long automount may take to end after SIGTERM.
const stopLimit = 10 * time.Second

// Automount is a running automount(8).
type Automount struct {
	LogFile string
	points  []string // its autofs mounts
	process *os.Process
	exited  chan struct{} // closed once it is reaped
	t       testing.TB
	stopped bool
}

// StartAutomount runs automount as a daemon of the machine, with the mount helper
// installed and a master map of the given lines (auto.master(5)), such as
//
//	/tmp/x/sw program:/tmp/x/auto.levelfs -n 1
//	/- file:/tmp/x/direct -n 1
//
// It returns when all mount points are there; a "-d" before the first line turns
// debug messages on. The daemon has a session of its own: the kernel never mounts
// anything for processes of automount's own process group. It is stopped at the
// end of the test; if that failed its log is in the test's output.
func StartAutomount(t testing.TB, m *Machine, lines ...string) *Automount {
	t.Helper()
	if !Inside() {
		t.Fatal("automount: not in a sandbox")
	}
	if err := InstallHelper(m.Binaries); err != nil {
		t.Fatal(err)
	}
	program, err := lookPath("automount")
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-f", "-C", "-v"}
	if len(lines) > 0 && lines[0] == "-d" {
		args, lines = append(args, "-d"), lines[1:]
	}
	dir := shortDir(t, "am")
	master := filepath.Join(dir, "master")
	if err := os.WriteFile(master, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	a := &Automount{LogFile: filepath.Join(dir, "log"), t: t, exited: make(chan struct{})}
	if a.points, err = autofsPoints(lines); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(a.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // automount has its own descriptor
	cmd := exec.Command(program, append(args, master)...)
	cmd.Env = m.Env()
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a.process = cmd.Process
	go func() {
		cmd.Wait() // how it ended is in its log
		close(a.exited)
	}()
	t.Cleanup(func() {
		if err := a.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("automount's log:\n%s", a.Log())
		}
	})
	WaitFor(t, "automount", a.ready)
	return a
}

// autofsPoints are the mount points of a master map: those of indirect maps, and
// the keys of direct maps in files.
func autofsPoints(lines []string) ([]string, error) {
	var points []string
	for _, line := range lines {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			return nil, fmt.Errorf("automount: master map line %q: want a mount point and a map", line)
		}
		if fields[0] != "/-" {
			points = append(points, fields[0])
			continue
		}
		file := strings.TrimPrefix(fields[1], "file:")
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("automount: direct map: %w", err)
		}
		for entry := range strings.Lines(string(text)) {
			if f := strings.Fields(entry); len(f) > 0 && strings.HasPrefix(f[0], "/") {
				points = append(points, f[0])
			}
		}
	}
	return points, nil
}

// ready is nil when each mount point is an autofs.
func (a *Automount) ready() error {
	select {
	case <-a.exited:
		a.t.Fatalf("automount ended; its log:\n%s", a.Log())
	default:
	}
	for _, p := range a.points {
		if err := isAutofs(p); err != nil {
			return err
		}
	}
	return nil
}

// isAutofs looks at the path without touching it: O_PATH does not trigger a mount,
// while statfs(2) of a direct mount point would.
func isAutofs(path string) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if fs.Type != unix.AUTOFS_SUPER_MAGIC {
		return fmt.Errorf("%s is no autofs", path)
	}
	return nil
}

// Log is what automount has logged so far.
func (a *Automount) Log() string {
	text, err := os.ReadFile(a.LogFile)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// PID is automount's process ID.
func (a *Automount) PID() int { return a.process.Pid }

// Expire has automount unmount everything that is idle (SIGUSR1), and waits until
// nothing is mounted at the paths. It asks again while something is: what was
// opened a moment ago may still be closing. Automount sleeps for a tenth of a
// second after each mount that it expires, and then looks for more: it may also
// take what is mounted right after Expire has returned, unless it is in use.
func (a *Automount) Expire(paths ...string) {
	a.t.Helper()
	asked := time.Time{}
	WaitFor(a.t, "expire", func() error {
		if time.Since(asked) > time.Second {
			asked = time.Now()
			if err := a.process.Signal(syscall.SIGUSR1); err != nil {
				return err
			}
		}
		return notMounted(paths)
	})
}

// notMounted is an error if something other than autofs is mounted at a path or
// below it.
func notMounted(paths []string) error {
	for _, path := range paths {
		mounts, err := Mounts(path)
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if m.FSType != "autofs" {
				return fmt.Errorf("%s is mounted at %s", m.Source, m.Mountpoint)
			}
		}
	}
	return nil
}

// Stop ends automount, which unmounts what is idle. If it does not end in time it
// is killed, its mounts are taken away, and that is an error. Another Stop does
// nothing.
func (a *Automount) Stop() error {
	if a.stopped {
		return nil
	}
	a.stopped = true
	select {
	case <-a.exited:
		return errors.Join(errors.New("stop automount: it had ended before"), a.detach())
	default:
	}
	if err := a.process.Signal(syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop automount: %w", err)
	}
	select {
	case <-a.exited:
		return a.detach()
	case <-time.After(stopLimit):
	}
	a.Kill()
	return errors.Join(fmt.Errorf("stop automount: killed after %v", stopLimit), a.detach())
}

// Kill kills automount and its children, as a crash would; its mounts stay.
func (a *Automount) Kill() {
	syscall.Kill(-a.process.Pid, syscall.SIGKILL) // it leads its process group
	<-a.exited
	a.stopped = true
}

// detach takes away what is still mounted where automount was; there should be
// nothing.
func (a *Automount) detach() error {
	var errs []error
	for _, p := range a.points {
		mounts, err := Mounts(p)
		if err != nil {
			return err
		}
		for i := len(mounts) - 1; i >= 0; i-- {
			errs = append(errs,
				fmt.Errorf("automount left %s (%s) at %s", mounts[i].Source, mounts[i].FSType, mounts[i].Mountpoint),
				unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
		}
	}
	return errors.Join(errs...)
}
