package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// temp is a file beside the image that becomes the image, or nothing. The usual
// libraries for atomic files replace what is there; a layer must not.
type temp struct {
	f     *os.File
	image string
	done  bool
}

func newTemp(image string) (*temp, error) {
	f, err := os.CreateTemp(filepath.Dir(image), ".levelfs-layer-*")
	if err != nil {
		return nil, err
	}
	return &temp{f: f, image: image}, nil
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
	if err := renameNew(t.f.Name(), t.image); err != nil {
		return err
	}
	t.done = true
	if err := errors.Join(t.f.Close(), syncDir(filepath.Dir(t.image))); err != nil {
		return errors.Join(err, os.Remove(t.image))
	}
	return nil
}

// discard removes the file unless it was published.
func (t *temp) discard() {
	if !t.done {
		t.f.Close()
		os.Remove(t.f.Name())
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
