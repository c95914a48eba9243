package private

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/config"
)

// backupTime is the form of the names of backups, in UTC; a further one of the same
// moment has "-2" and so on behind it.
const backupTime = "20060102T150405.000Z"

// A backup is a directory of files that were taken out at one time: note says what they
// are, and files has them under their paths.
type backup struct{ root, dir string }

// newBackup names a backup that is not there yet.
func (l *Layer) newBackup(now time.Time) *backup {
	owner := "host"
	if l.User != "" {
		owner = filepath.Join("user", l.User)
	}
	root := l.config.BackupDir()
	name := filepath.Join(root, owner, l.Component, now.UTC().Format(backupTime))
	dir := name
	for n := 2; ; n++ {
		if _, err := os.Lstat(dir); err != nil {
			return &backup{root, dir}
		}
		dir = fmt.Sprintf("%s-%d", name, n)
	}
}

func (b *backup) file(p string) string { return filepath.Join(b.dir, "files", p) }

// fits reports an error if the backup would be on another file system than the private layer,
// before anything is made. Of two mounts of one file system only renaming tells.
func (b *backup) fits(layer string) error {
	var from, to unix.Stat_t
	if err := unix.Stat(layer, &from); err != nil {
		return &fs.PathError{Op: "stat", Path: layer, Err: err}
	}
	above := b.root
	err := unix.Stat(above, &to)
	for errors.Is(err, unix.ENOENT) && above != "/" {
		above = filepath.Dir(above)
		err = unix.Stat(above, &to)
	}
	if err != nil {
		return &fs.PathError{Op: "stat", Path: above, Err: err}
	}
	if from.Dev != to.Dev {
		return b.elsewhere(layer)
	}
	return nil
}

func (b *backup) elsewhere(layer string) error {
	return fmt.Errorf("%q is on another file system than %q, so that nothing can be renamed to it: %w", b.dir, layer, unix.EXDEV)
}

// make makes the directory and the note, on the disk.
func (b *backup) make(verb, level string, paths []string) error {
	if err := makeDirs(filepath.Dir(b.root), filepath.Join(b.dir, "files")); err != nil {
		return err
	}
	var note strings.Builder
	fmt.Fprintf(&note, "verb %s\nlevel %s\n", verb, level)
	for _, p := range paths {
		fmt.Fprintf(&note, "path %q\n", p)
	}
	f, err := os.OpenFile(filepath.Join(b.dir, "note"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(note.String())
	return errors.Join(err, f.Sync(), f.Close(), syncDir(b.dir))
}

// parent makes the directory for the file's backup, and opens it.
func (b *backup) parent(p string) (*os.File, error) {
	dir := filepath.Dir(b.file(p))
	if err := makeDirs(b.dir, dir); err != nil {
		return nil, err
	}
	return os.Open(dir)
}

// RemoveBackups removes the backups that were made before a time, which their names tell,
// and returns their paths; with dryRun it only does that. What is mounted in one keeps it
// from being removed.
func RemoveBackups(c *config.Config, before time.Time, dryRun bool) ([]string, error) {
	root := c.BackupDir()
	var paths []string
	var errs []error
	for _, pattern := range []string{"host/*/*", "user/*/*/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		errs = append(errs, err)
		for _, path := range found {
			name, _, _ := strings.Cut(filepath.Base(path), "-")
			made, err := time.Parse(backupTime, name)
			if err != nil || !made.Before(before) {
				continue // it is no backup, or not that old
			}
			if !dryRun {
				err = removeBackup(path)
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			paths = append(paths, path)
		}
	}
	return paths, errors.Join(errs...)
}

func removeBackup(path string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(path))
	if err != nil {
		return err
	}
	if len(mounts) > 0 {
		return fmt.Errorf("%q is mounted in a backup, which stays", mounts[0].Mountpoint)
	}
	return os.RemoveAll(path)
}

// makeDirs makes dir and those above it that are below top, for root only, and has each
// on the disk.
func makeDirs(top, dir string) error {
	if dir == top || len(dir) < len(top) {
		return nil
	}
	if err := makeDirs(top, filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
