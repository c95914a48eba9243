package mounter

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A Mark is what the run directory has of the last view with a device number. It tells
// of a view that was unmounted lazily, of which no mount table tells any more.
type Mark struct {
	Major, Minor uint32
	Layers       []string // mounts of its layers, as a [View] names them
	Name, Target string   // level, and where it was mounted; "" if it is not known
	// Mount is the number of its mount that no other mount has in this boot, 0 if it is not
	// known. Who holds that mount holds this view, and none that had the device number later.
	Mount uint64
}

// viewLine begins the line of a mark that says which mount the view is.
const viewLine = "view "

// mount takes from such a line what is good in this boot.
func (m *Mark) mount(line string) {
	var id uint64
	var boot, name, target string
	if n, err := fmt.Sscanf(line, viewLine+"%d %s %s %q", &id, &boot, &name, &target); n == 4 && err == nil && boot == bootID() {
		m.Mount, m.Name, m.Target = id, name, target
	}
}

// UniqueMountID is the number of the mount that the path is on, relative to the directory,
// which no other mount has or will have in this boot (STATX_MNT_ID_UNIQUE of Linux 6.8). An
// empty path is the descriptor's own file.
func UniqueMountID(dir int, path string) (uint64, error) {
	flags := unix.AT_STATX_DONT_SYNC
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var st unix.Statx_t
	if err := unix.Statx(dir, path, flags, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return 0, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_MNT_ID_UNIQUE == 0 {
		return 0, errors.ErrUnsupported
	}
	return st.Mnt_id, nil
}

// Marks returns those of which the kernel still has a file system with the number. Of
// a view that is gone the number may have been given to something else.
func Marks(run string) ([]Mark, error) {
	var marks []Mark
	err := eachMark(run, func(path string, dev uint64) error {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || superblockGone(dev) {
			return nil
		}
		if err != nil {
			return err
		}
		_, rest, _ := bytes.Cut(text, []byte("\n"))
		m := Mark{Major: unix.Major(dev), Minor: unix.Minor(dev)}
		for line := range strings.Lines(string(rest)) {
			switch name, complete := strings.CutSuffix(line, "\n"); {
			case complete && strings.HasPrefix(name, viewLine):
				m.mount(name)
			case complete:
				m.Layers = append(m.Layers, name)
			}
		}
		marks = append(marks, m)
		return nil
	})
	return marks, err
}

// RemoveMarks removes the marks of which the kernel has no file system with the number,
// and returns their paths. With dryRun it only returns them.
func RemoveMarks(run string, dryRun bool) ([]string, error) {
	var removed []string
	err := eachMark(run, func(path string, dev uint64) error {
		if !superblockGone(dev) {
			return nil
		}
		if !dryRun {
			gone, err := removeMark(path, dev)
			if err != nil || !gone {
				return err
			}
		}
		removed = append(removed, path)
		return nil
	})
	return removed, err
}

// removeMark removes a mark unless a new view gets its number right then. A view makes
// its mark after the kernel has made its file system: so the mark is first moved out of
// the way, and comes back if there is a file system after all and no newer mark.
func removeMark(path string, dev uint64) (removed bool, err error) {
	aside := path + ".new" // what a killed process leaves is removed as such
	if err := os.Rename(path, aside); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		return false, err
	}
	if !superblockGone(dev) {
		if err := os.Link(aside, path); err != nil && !errors.Is(err, fs.ErrExist) {
			return false, err
		}
		return false, os.Remove(aside)
	}
	return true, os.Remove(aside)
}

// eachMark calls f for every mark.
func eachMark(run string, f func(path string, dev uint64) error) error {
	dir := filepath.Join(run, "views")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		var major, minor uint32
		if n, err := fmt.Sscanf(e.Name(), "%d:%d", &major, &minor); n != 2 || err != nil || viewMark(run, major, minor) != filepath.Join(dir, e.Name()) {
			continue
		}
		if err := f(filepath.Join(dir, e.Name()), unix.Mkdev(major, minor)); err != nil {
			return err
		}
	}
	return nil
}
