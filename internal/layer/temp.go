package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// temp is a file that becomes the image, or nothing. The usual libraries for atomic
// files replace what is there; a layer must not.
type temp struct {
	f     *os.File
	name  string // "" while it has none: the kernel then removes it with the process
	image string
	done  bool
}

func newTemp(image string) (*temp, error) {
	dir := filepath.Dir(image)
	fd, err := unix.Open(dir, unix.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return &temp{f: os.NewFile(uintptr(fd), image), image: image}, nil
	}
	// Not every file system can; those of old NFS servers, for one.
	f, err := os.CreateTemp(dir, ".levelfs-layer-*")
	if err != nil {
		return nil, err
	}
	return &temp{f: f, name: f.Name(), image: image}, nil
}

// publish gives the file its mode and its name once it is on disk. The error
// wraps fs.ErrExist if the name is taken.
func (t *temp) publish() error {
	if err := t.f.Chmod(0o444); err != nil {
		return err
	}
	if err := t.f.Sync(); err != nil {
		return err
	}
	if err := t.link(); err != nil {
		return err
	}
	t.done = true
	if err := errors.Join(t.f.Close(), syncDir(filepath.Dir(t.image))); err != nil {
		return errors.Join(err, os.Remove(t.image))
	}
	return nil
}

func (t *temp) link() error {
	if t.name != "" {
		return renameNew(t.name, t.image)
	}
	// By way of /proc, as linking a descriptor itself (AT_EMPTY_PATH) takes a
	// capability: open(2), O_TMPFILE.
	from := fmt.Sprintf("/proc/self/fd/%d", t.f.Fd())
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, t.image, unix.AT_SYMLINK_FOLLOW); err != nil {
		return &os.LinkError{Op: "link", Old: from, New: t.image, Err: err}
	}
	return nil
}

// discard removes the file unless it was published.
func (t *temp) discard() {
	if t.done {
		return
	}
	t.f.Close()
	if t.name != "" {
		os.Remove(t.name)
	}
}

// renameNew renames a file to a name that must not exist.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// NFS, for one, has no such flag; a new link never replaces either.
		if err := os.Link(from, to); err != nil {
			return err
		}
		return os.Remove(from)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Not every file system can sync a directory; none that says so loses the name.
	if err := d.Sync(); err != nil && !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("sync %q: %w", dir, err)
	}
	return nil
}
