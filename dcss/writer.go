package dcss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// writerName is the name under which a program is run to be the writer.
const writerName = "levelfs-dcss-writer"

// resultFd is where the writer reports. The descriptors after it are locks.
const resultFd = 3

// errOpen is wrapped by the error of a file of the driver that could not be opened:
// that is no answer of the driver.
var errOpen = errors.New("not opened")

// Writer does a write to the driver if that is what this process was started for by
// a [Driver], and tells whether it was. A program that uses a Driver calls it first
// thing in main:
//
//	if exit, ok := dcss.Writer(os.Args); ok {
//		os.Exit(exit)
//	}
//
// Whoever started the process may be gone when the driver is done. The process
// inherits the locks, so that they are held as long as the driver is at work, and
// nothing else: a pipe of its caller's that it kept open would let the reader of
// it wait as well.
func Writer(args []string) (exit int, ok bool) {
	if len(args) == 0 || args[0] != writerName {
		return 0, false
	}
	if len(args) != 3 {
		return 64, true
	}
	result := os.NewFile(resultFd, "result")
	fmt.Fprintln(result, encode(writeOnce(args[1], args[2])))
	return 0, true
}

// writeOnce writes the text with a single write(2), which is one operation for the
// driver. The file has to exist: O_CREATE would turn "no driver" into EACCES.
func writeOnce(file, text string) error {
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(text))
	return err
}

// encode renders the writer's result as "write ERRNO" or "open ERRNO", 0 for success.
func encode(err error) string {
	var errno syscall.Errno
	errors.As(err, &errno)
	if errors.Is(err, errOpen) {
		return fmt.Sprintf("open %d", uint(errno))
	}
	return fmt.Sprintf("write %d", uint(errno))
}

// decode is the opposite of encode.
func decode(result string) error {
	what, number, _ := strings.Cut(strings.TrimSuffix(result, "\n"), " ")
	errno, err := strconv.ParseUint(number, 10, 12)
	switch {
	case err == nil && what == "write" && errno == 0:
		return nil
	case err == nil && what == "write":
		return syscall.Errno(errno)
	case err == nil && what == "open" && errno != 0:
		return fmt.Errorf("%w: %w", errOpen, syscall.Errno(errno))
	}
	return fmt.Errorf("the writer ended without a result: %.80q", result)
}

// process is the path of a program that is a Writer.
type process string

func (p process) write(ctx context.Context, file, text string, locks []*os.File) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	// Not CommandContext: it would kill a process that cannot be killed, and wait.
	cmd := exec.Command(string(p), file, text)
	cmd.Args[0] = writerName
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.ExtraFiles = append([]*os.File{w}, locks...)
	// Its own session: what is sent to the caller's process group is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer r.Close()
		text, readErr := io.ReadAll(io.LimitReader(r, 100))
		waitErr := cmd.Wait()
		err := decode(string(text))
		if err != nil && len(text) == 0 {
			err = errors.Join(err, readErr, waitErr)
		}
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
