package mounter

import (
	"errors"
	"fmt"
	"os"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// A stage is a mount namespace (mount_namespaces(7)) with a tmpfs for the layers'
// mounts, which the calling thread enters. Layers are mounted there, out of sight.
// If the process is killed the kernel takes the namespace and every mount in it
// away.
//
// Entering gives the thread a root and a working directory of its own, and
// leaving sets them to the namespace's root. Both are put back, so that a chroot
// stays one and the target is looked up where the caller meant it. Still the
// thread no longer shares them with the others of the process: it must not be
// used for anything else, which is why [Applier.Apply] has one of its own.
type stage struct{ home, root, cwd *os.File }

// enterStage makes the namespace, enters it, and mounts the tmpfs at dir in it.
func enterStage(dir string) (*stage, error) {
	s := new(stage)
	for _, place := range []struct {
		path string
		fd   **os.File
	}{{"/proc/thread-self/ns/mnt", &s.home}, {"/", &s.root}, {".", &s.cwd}} {
		fd, err := unix.Open(place.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			s.forget()
			return nil, &os.PathError{Op: "open", Path: place.path, Err: err}
		}
		*place.fd = os.NewFile(uintptr(fd), place.path)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		s.forget()
		return nil, fmt.Errorf("a mount namespace of its own: %w", err)
	}
	// Nothing that is mounted here may propagate to where it is seen.
	err := mount.MakeRPrivate("/")
	if err == nil {
		err = mount.Mount("levelfs-stage", dir, "tmpfs", "mode=0755")
	}
	if err != nil {
		return nil, errors.Join(err, s.leave())
	}
	return s, nil
}

// leave returns to where the thread came from. With its last member the namespace
// goes, and every mount in it. Leaving again does nothing.
func (s *stage) leave() error {
	if s.home == nil {
		return nil
	}
	defer s.forget()
	if err := unix.Setns(int(s.home.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("leave the stage: %w", err)
	}
	if err := unix.Fchdir(int(s.root.Fd())); err != nil {
		return fmt.Errorf("leave the stage: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("leave the stage: %w", err)
	}
	if err := unix.Fchdir(int(s.cwd.Fd())); err != nil {
		return fmt.Errorf("leave the stage: %w", err)
	}
	return nil
}

func (s *stage) forget() {
	for _, f := range []*os.File{s.home, s.root, s.cwd} {
		if f != nil {
			f.Close()
		}
	}
	s.home = nil
}
