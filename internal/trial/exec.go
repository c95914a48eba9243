package trial

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// A CommandError is a command that could not be executed.
type CommandError struct {
	Name string
	Err  error
}

func (e *CommandError) Error() string { return fmt.Sprintf("command %q: %v", e.Name, e.Err) }
func (e *CommandError) Unwrap() error { return e.Err }

// NotFound tells a command that is not there from one that cannot be run.
func (e *CommandError) NotFound() bool {
	return errors.Is(e.Err, fs.ErrNotExist) || errors.Is(e.Err, exec.ErrNotFound)
}

// Exec has a command take the place of this program, found as execvp(3) does, in the
// directory if that is there, and without the capabilities that this program had in a user
// namespace. It returns only an error.
func Exec(argv, env []string, dir string) error {
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) { // PATH is the caller's
		// Both say the name, too.
		if lookup := (*exec.Error)(nil); errors.As(err, &lookup) {
			err = lookup.Err
		}
		if stat := (*fs.PathError)(nil); errors.As(err, &stat) {
			err = stat.Err
		}
		return &CommandError{Name: argv[0], Err: err}
	}
	runtime.LockOSThread() // capabilities are a thread's
	defer runtime.UnlockOSThread()
	if dir != "" {
		// The same path, which may lead into a view now. Where it leads nowhere any more, the
		// command is where this program was.
		_ = os.Chdir(dir)
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	return &CommandError{Name: argv[0], Err: unix.Exec(path, argv, env)}
}

// dropCapabilities takes from a process that is not root what it would hand on with the
// command: unshare(1) has made its capabilities ambient and inheritable (capabilities(7)).
func dropCapabilities() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: capget: %w", err)
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("drop capabilities: capset: %w", err)
	}
	return nil
}
