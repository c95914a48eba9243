package private

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/mounter"
)

// Retire moves a whole private layer out of the way, with its records: by one rename, into
// a new directory of backups that has a note of what it is. It returns where it is then; to
// move it back brings all of it back. The error is an *[mounter.InUseError] while a view
// uses the private layer.
func Retire(ctx context.Context, c *config.Config, component, user string) (string, error) {
	l := &Layer{Component: component, User: user, Dir: view.PrivateDir(c, user, component), config: c}
	info, err := os.Lstat(l.Dir)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return "", fmt.Errorf("%q is no directory", l.Dir)
	}
	lock, err := l.hold(ctx)
	if errors.Is(err, fs.ErrNotExist) { // it has no files yet, which a view could use
		lock, err = mounter.Lock(ctx, l.Dir)
	}
	if err != nil {
		return "", err
	}
	defer lock.Close()
	level := "-"
	if bases, err := mounter.Bases(l.Dir); err == nil && len(bases) > 0 {
		level = bases[len(bases)-1].Level
	}
	b := l.newBackup(time.Now())
	if err := b.fits(l.Dir); err != nil {
		return "", err
	}
	if err := b.make("repair", level, []string{"."}); err != nil {
		return "", err
	}
	to := filepath.Join(b.dir, "layer")
	err = unix.Renameat2(unix.AT_FDCWD, l.Dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != nil {
		return "", &os.LinkError{Op: "rename", Old: l.Dir, New: to, Err: err}
	}
	return to, errors.Join(syncDir(b.dir), syncDir(filepath.Dir(l.Dir)))
}
