package mounter

import (
	"fmt"
	"os"
	"runtime"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// A stage is a mount namespace (mount_namespaces(7)) with a tmpfs for the layers'
// mounts. It belongs to one operating system thread, which ends with it, so that
// neither the namespace nor the working directory of the rest of the process ever
// changes: a chroot stays one, and the target is looked up where the caller meant
// it. If the process is killed the kernel takes the namespace and every mount in
// it away.
type stage struct {
	work chan func()
	done chan error // the error of closing
}

// openStage makes the namespace and mounts the tmpfs at dir in it.
func openStage(dir string) (*stage, error) {
	s := &stage{work: make(chan func()), done: make(chan error, 1)}
	ready := make(chan error)
	go s.thread(dir, ready)
	if err := <-ready; err != nil {
		return nil, err
	}
	return s, nil
}

func (s *stage) thread(dir string, ready chan<- error) {
	runtime.LockOSThread() // and never unlock: the thread ends with this function
	home, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		ready <- err
		return
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		ready <- fmt.Errorf("a mount namespace of its own: %w", err)
		return
	}
	// Nothing that is mounted here may propagate to where it is seen.
	err = mount.MakeRPrivate("/")
	if err == nil {
		err = mount.Mount("levelfs-stage", dir, "tmpfs", "mode=0755")
	}
	ready <- err
	if err != nil {
		return
	}
	for f := range s.work {
		f()
	}
	// Leaving, rather than just ending, frees the mounts before close returns.
	s.done <- unix.Setns(int(home.Fd()), unix.CLONE_NEWNS)
}

// do runs f on the stage.
func (s *stage) do(f func() error) error {
	result := make(chan error)
	s.work <- func() { result <- f() }
	return <-result
}

// close gives the stage up, once.
func (s *stage) close() error {
	if s.work == nil {
		return nil
	}
	close(s.work)
	s.work = nil
	if err := <-s.done; err != nil {
		return fmt.Errorf("leave the stage: %w", err)
	}
	return nil
}
