package ldifsource

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// replace gives the file another text, at once and whole. Who may read and change it
// stays as it is; a symbolic link stays one, and what it points to is replaced.
func replace(path string, text []byte) error {
	switch real, err := filepath.EvalSymlinks(path); {
	case err == nil:
		path = real
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// The directory is named: by itself renameio takes $TMPDIR where that is on the same
	// file system, and a file keeps the SELinux label of where it was made.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)),
		renameio.WithPermissions(0o644), renameio.WithExistingPermissions())
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if err := keepAccess(f.File, path); err != nil {
		return err
	}
	if _, err := f.Write(text); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}

// keepAccess gives the new file the owner, the group and the access control list of the
// one that it is to replace, if there is one. The mode it has already.
func keepAccess(f *os.File, path string) error {
	var old, made unix.Stat_t
	switch err := unix.Stat(path, &old); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := unix.Fstat(int(f.Fd()), &made); err != nil {
		return &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if old.Uid != made.Uid || old.Gid != made.Gid {
		err := f.Chown(int(old.Uid), int(old.Gid))
		if errors.Is(err, fs.ErrPermission) && old.Gid != made.Gid {
			// Who may change the file by its group only cannot give it to its owner.
			err = f.Chown(-1, int(old.Gid))
		} else if errors.Is(err, fs.ErrPermission) {
			err = nil
		}
		if err != nil {
			return fmt.Errorf("keep the group of %q: %w", path, err)
		}
	}
	const acl = "system.posix_acl_access"
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Getxattr(path, acl, value)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err == nil {
		err = unix.Fsetxattr(int(f.Fd()), acl, value[:n], 0)
	}
	if err != nil {
		return fmt.Errorf("keep the access control list of %q: %w", path, err)
	}
	return nil
}
