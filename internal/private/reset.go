package private

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/manifest"
)

// A Moved is a private file that was, or would be, taken out of the private layer.
type Moved struct {
	Path   string `json:"path"`
	Backup string `json:"backup"` // where it is now
}

// Reset takes files out of the private layer, so that the shared ones are seen again. Each
// goes by rename, directories with all in them, into a new directory of backups that has
// a note of what it is. With dry nothing is done, and it is said what would be. The error
// is an *[mounter.InUseError] while a view uses the private layer.
func (l *Layer) Reset(ctx context.Context, paths []string, dry bool) (moved []Moved, err error) {
	paths, err = clean(paths)
	if err != nil {
		return nil, err
	}
	lock, err := l.hold(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	for _, p := range paths {
		dir, name, err := l.parent(p)
		if err != nil {
			return nil, err
		}
		var st unix.Stat_t
		err = unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW)
		dir.Close()
		if err != nil {
			return nil, &fs.PathError{Op: "lstat", Path: filepath.Join(l.upper(), p), Err: err}
		}
	}
	b := l.newBackup(time.Now())
	if err := b.fits(l.Dir); err != nil {
		return nil, err
	}
	if dry {
		for _, p := range paths {
			moved = append(moved, Moved{p, b.file(p)})
		}
		return moved, nil
	}
	if err := b.make("reset", l.Now().Level, paths); err != nil {
		return nil, err
	}
	for _, p := range paths {
		if err := l.take(b, p); err != nil {
			return moved, err
		}
		moved = append(moved, Moved{p, b.file(p)})
	}
	return moved, l.adopt(paths, "")
}

// take moves one file into the backup.
func (l *Layer) take(b *backup, p string) error {
	dir, name, err := l.parent(p)
	if err != nil {
		return err
	}
	defer dir.Close()
	to, err := b.parent(p)
	if err != nil {
		return err
	}
	defer to.Close()
	err = unix.Renameat2(int(dir.Fd()), name, int(to.Fd()), name, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EXDEV) {
		return b.elsewhere(l.Dir)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: filepath.Join(l.upper(), p), New: b.file(p), Err: err}
	}
	// The new name first: after a crash there are two rather than none.
	return errors.Join(to.Sync(), dir.Sync())
}

// parent opens the directory that the private file is in, and returns the file's name in
// it. No symbolic link is followed, and nothing outside of the upper directory is reached,
// whoever made what is in there.
func (l *Layer) parent(p string) (*os.File, string, error) {
	top, err := os.Open(l.upper())
	if err != nil {
		return nil, "", err
	}
	defer top.Close()
	dir, err := openBelow(top, path.Dir(p))
	return dir, path.Base(p), err
}

func openBelow(top *os.File, p string) (*os.File, error) {
	fd, err := unix.Openat2(int(top.Fd()), p, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(top.Name(), p), Err: err}
	}
	return os.NewFile(uintptr(fd), filepath.Join(top.Name(), p)), nil
}

// clean checks the paths and leaves out those below others.
func clean(paths []string) ([]string, error) {
	paths = slices.Clone(paths)
	for i, p := range paths {
		if paths[i] = path.Clean(p); path.IsAbs(p) || paths[i] == "." || paths[i] == ".." || strings.HasPrefix(paths[i], "../") || strings.IndexByte(p, 0) >= 0 {
			return nil, &PathError{p}
		}
	}
	slices.SortFunc(paths, manifest.Compare)
	var rest []string
	for _, p := range paths {
		if n := len(rest); n == 0 || rest[n-1] != p && !manifest.Inside(p, rest[n-1]) {
			rest = append(rest, p)
		}
	}
	return rest, nil
}

// A PathError is a path that cannot name a file of a private layer.
type PathError struct{ Path string }

func (e *PathError) Error() string {
	return fmt.Sprintf("%q: want a path relative to the root of the view", e.Path)
}
