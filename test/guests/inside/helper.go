package inside

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Helper is a mount.levelfs that says what it does, and can be killed meanwhile.
type Helper struct {
	cmd    *exec.Cmd
	stderr io.Closer
	lines  *bufio.Scanner
}

// StartHelper starts it for the component, at Hand.
func StartHelper(component string) (*Helper, error) {
	cmd := exec.Command("/sbin/mount.levelfs", component+"@1", Hand, "-v")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	return &Helper{cmd: cmd, stderr: stderr, lines: bufio.NewScanner(stderr)}, cmd.Start()
}

// Await waits until it has said a line that begins so.
func (h *Helper) Await(prefix string) error {
	for h.lines.Scan() {
		if strings.HasPrefix(h.lines.Text(), prefix) {
			return nil
		}
	}
	return errors.Join(fmt.Errorf("the helper never said %q", prefix), h.lines.Err(), h.cmd.Wait())
}

// Kill kills it with SIGKILL, unless it has ended by itself, and waits for its end.
func (h *Helper) Kill() error {
	if err := h.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	err := h.cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && !exit.Exited() {
		return nil
	}
	return err
}

// UmountIfMounted unmounts the view that was mounted by hand, if there is one.
func UmountIfMounted() { unix.Unmount(Hand, 0) }

// A Gate holds whoever opens a file (fanotify(7), FAN_OPEN_PERM), until it is opened.
type Gate struct {
	f     *os.File
	event unix.FanotifyEventMetadata
}

// NewGate returns a closed gate before the file, which can be one that is only to be
// written to: fanotify opens it as well.
func NewGate(path string) (*Gate, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_WRONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fanotify_init: %w", err)
	}
	g := &Gate{f: os.NewFile(uintptr(fd), "fanotify")}
	if err := unix.FanotifyMark(fd, unix.FAN_MARK_ADD, unix.FAN_OPEN_PERM, unix.AT_FDCWD, path); err != nil {
		return nil, errors.Join(fmt.Errorf("fanotify_mark %q: %w", path, err), g.f.Close())
	}
	return g, nil
}

// Await waits until somebody is held.
func (g *Gate) Await() error {
	if err := g.f.SetReadDeadline(time.Now().Add(waitLimit)); err != nil {
		return err
	}
	buf := make([]byte, unsafe.Sizeof(g.event))
	if _, err := io.ReadFull(g.f, buf); err != nil {
		return fmt.Errorf("nobody opens the file: %w", err)
	}
	g.event = *(*unix.FanotifyEventMetadata)(unsafe.Pointer(&buf[0]))
	return nil
}

// Open lets the one who is held go on. Whoever comes later is held until Close.
func (g *Gate) Open() error {
	answer := unix.FanotifyResponse{Fd: g.event.Fd, Response: unix.FAN_ALLOW}
	_, err := g.f.Write((*(*[unsafe.Sizeof(answer)]byte)(unsafe.Pointer(&answer)))[:])
	return errors.Join(err, unix.Close(int(g.event.Fd)))
}

// Close removes the gate, and lets everybody go on.
func (g *Gate) Close() error { return g.f.Close() }
