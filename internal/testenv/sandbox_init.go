package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sandboxDir is where the sandbox keeps what its own mounts need.
const sandboxDir = "/run/sandbox"

// runInit is process 1 of the sandbox: it sets it up, runs the program once more
// as a child, reaps what becomes an orphan, and looks the sandbox over at the end.
func runInit() (exit int, err error) {
	if os.Getpid() != 1 {
		return 0, fmt.Errorf("%s=%s is for process 1 of a sandbox", sandboxVariable, sandboxInit)
	}
	if err := furnish(); err != nil {
		return 0, err
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	before, err := takeInventory(os.TempDir())
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn...)
	child, err := os.StartProcess(self, os.Args, &os.ProcAttr{
		Env:   setenv(os.Environ(), sandboxVariable+"="+sandboxInside),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	go passOn(signals, ended, child)
	exit, err = reapUntil(child.Pid)
	close(ended)
	if err != nil {
		return 0, err
	}
	return exit, errors.Join(lookOver(before), killAll())
}

// furnish makes the sandbox's mounts.
func furnish() error {
	if err := unix.Sethostname([]byte("sandbox.example.org")); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := mountAll(
		mountArgs{"", "/", "", unix.MS_REC | unix.MS_PRIVATE, ""},
		mountArgs{"proc", "/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		mountArgs{"sandbox", "/run", "tmpfs", unix.MS_NOSUID, "mode=0755"},
	); err != nil {
		return err
	}
	// mount(8) looks for its helpers in /sbin, which is a link where /usr is merged.
	sbin, err := filepath.EvalSymlinks("/sbin")
	if err != nil {
		return err
	}
	for _, dir := range []string{sbin, "/dev"} {
		if err := coverByOverlay(dir); err != nil {
			return err
		}
	}
	// Semaphores of 389 Directory Server, which a killed one leaves.
	if err := os.MkdirAll("/dev/shm", 0o755); err != nil {
		return err
	}
	if err := mountAll(mountArgs{"sandbox", "/dev/shm", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"}); err != nil {
		return err
	}
	if _, err := os.Stat("/etc/autofs.conf"); err != nil {
		return nil // no automount here
	}
	conf := filepath.Join(sandboxDir, "autofs.conf")
	if err := os.WriteFile(conf, []byte("[ autofs ]\nbrowse_mode = no\n"), 0o644); err != nil {
		return err
	}
	return mountAll(mountArgs{conf, "/etc/autofs.conf", "", unix.MS_BIND, ""})
}

// coverByOverlay lets the directory be written to without a trace. What is
// mounted below it stays visible.
func coverByOverlay(dir string) error {
	upper := filepath.Join(sandboxDir, "upper", dir)
	work := filepath.Join(sandboxDir, "work", dir)
	below := filepath.Join(sandboxDir, "below", dir)
	for _, d := range []string{upper, work, below} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := mountAll(
		mountArgs{dir, below, "", unix.MS_BIND | unix.MS_REC, ""},
		mountArgs{"sandbox", dir, "overlay", 0, "lowerdir=" + dir + ",upperdir=" + upper + ",workdir=" + work},
	); err != nil {
		return err
	}
	mounts, err := mountsOf("self")
	if err != nil {
		return err
	}
	for _, m := range mounts {
		rel, err := filepath.Rel(below, m.Mountpoint)
		if err != nil || rel == "." || !filepath.IsLocal(rel) {
			continue
		}
		err = mountAll(mountArgs{m.Mountpoint, filepath.Join(dir, rel), "", unix.MS_BIND, ""})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

type mountArgs struct {
	source, target, fstype string
	flags                  uintptr
	data                   string
}

func mountAll(mounts ...mountArgs) error {
	for _, m := range mounts {
		if err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data); err != nil {
			return &os.PathError{Op: "mount " + m.fstype + " " + m.source, Path: m.target, Err: err}
		}
	}
	return nil
}

// reapUntil waits for children, its own and adopted ones, until pid has ended.
func reapUntil(pid int) (exit int, err error) {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case got == pid:
			return exitStatus(status), nil
		}
	}
}

// reapEnded reaps what has ended.
func reapEnded() {
	for {
		var status syscall.WaitStatus
		got, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if got <= 0 && !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// lookOverLimit is how long what was given up, but is not gone yet, may take: the
// kernel frees a loop device after the umount that made it idle has returned.
const lookOverLimit = 3 * time.Second

// lookOver is an error if there is more now than before.
func lookOver(before *possessions) error {
	deadline := time.Now().Add(lookOverLimit)
	for {
		reapEnded()
		now, err := takeInventory(os.TempDir())
		if err != nil {
			return err
		}
		left := now.since(before)
		if len(left) == 0 {
			return nil
		}
		if !now.fleeting(before) || time.Now().After(deadline) {
			now.detachLoops(before)
			return &leftError{left}
		}
		time.Sleep(5 * time.Millisecond) // nothing tells when the kernel is done
	}
}

// killAll ends every process but this one.
func killAll() error {
	if err := syscall.Kill(-1, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
