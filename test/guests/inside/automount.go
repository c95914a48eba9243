package inside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waitLimit is how long conditions are waited for: far longer than they take, under
// emulation, too.
const waitLimit = time.Minute

// An Automount is a running automount(8).
type Automount struct {
	process *os.Process
	exited  chan struct{}
	log     string
}

// StartAutomount starts automount with a master map of one line, an indirect map at
// the mount point, and waits until it is mounted. Archive.Automount of package guest has put
// the program there.
func StartAutomount(point, entry string) (*Automount, error) {
	const master, log = "/tmp/auto.master", "/tmp/automount.log"
	if err := os.WriteFile(master, []byte(point+" "+entry+"\n"), 0o644); err != nil {
		return nil, err
	}
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close() // automount has its own descriptor
	cmd := exec.Command("/usr/sbin/automount", "-f", "-C", "-v", "-d", master)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	// The kernel mounts nothing for processes of automount's own process group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	a := &Automount{process: cmd.Process, exited: make(chan struct{}), log: log}
	go func() {
		cmd.Wait() // how it ended is in its log
		close(a.exited)
	}()
	if err := a.await(point); err != nil {
		return nil, fmt.Errorf("%w; its log: %s", err, a.Log())
	}
	return a, nil
}

// await waits until automount has mounted the point.
func (a *Automount) await(point string) error {
	deadline := time.After(waitLimit)
	for {
		var st unix.Statfs_t
		err := unix.Statfs(point, &st)
		if err == nil && st.Type == unix.AUTOFS_SUPER_MAGIC {
			return nil
		}
		select {
		case <-a.exited:
			return errors.New("automount ended")
		case <-deadline:
			return fmt.Errorf("automount has not mounted %q within %v: %v", point, waitLimit, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Log is what automount has logged so far.
func (a *Automount) Log() string {
	text, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop ends automount, which unmounts what is idle.
func (a *Automount) Stop() error {
	if err := a.process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-a.exited:
		return nil
	case <-time.After(waitLimit):
		return errors.Join(errors.New("automount did not end; its log: "+a.Log()), a.process.Kill())
	}
}
