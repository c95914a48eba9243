package usage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// A walk looks at every process but this one, in a goroutine that is left behind if one
// does not let itself be looked at.
type walk struct {
	inotify int // descriptor, or -1

	mu     sync.Mutex // for what follows, and for what is found
	at     int        // process
	denied int
}

// all calls each look for every process, one look after the other. It gives up when the
// context ends; with an *[IncompleteError] not everything was seen. Until mu is taken, what
// the looks find may still change.
func (w *walk) all(ctx context.Context, looks ...func(pid int) error) error {
	done := make(chan error, 1)
	go func() { done <- w.processes(ctx, looks) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case err != nil && ctx.Err() != nil:
		return &IncompleteError{Waiting: w.at, Err: err}
	case err == nil && w.denied > 0:
		return &IncompleteError{Denied: w.denied}
	}
	return err
}

func (w *walk) processes(ctx context.Context, looks []func(pid int) error) error {
	w.inotify = -1
	if fd, err := unix.InotifyInit1(unix.IN_CLOEXEC); err == nil {
		w.inotify = fd
		defer unix.Close(fd)
	}
	pids, err := pids()
	if err != nil {
		return err
	}
	for _, look := range looks {
		for _, pid := range pids {
			w.mu.Lock()
			w.at = pid
			w.mu.Unlock()
			err := look(pid)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case errors.Is(err, fs.ErrPermission):
				w.deny()
			case err != nil && !over(err):
				return err
			}
		}
	}
	return nil
}

// deny counts a process that may not be looked at.
func (w *walk) deny() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.denied++
}

// over reports whether the error is that of a process that has ended, or of a
// descriptor that was closed.
func over(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

func pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func proc(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// spaceKey is the same for processes that see the same mounts: those of one mount namespace
// with one root directory.
func spaceKey(pid int) (string, error) {
	namespace, err := os.Readlink(proc(pid, "ns/mnt"))
	if err != nil {
		return "", err
	}
	root, err := os.Readlink(proc(pid, "root"))
	return namespace + root, err
}
