package hook

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// An Event is what hooks are there for.
type Event string

// The events.
const (
	Mount  Event = "mount"
	Switch Event = "switch"
	Umount Event = "umount"
)

// Events are all of them.
func Events() []Event { return []Event{Mount, Switch, Umount} }

// UmountHelper is the option of a mount that has umount(8) call umount.levelfs for it, see
// package utab.
const UmountHelper = "helper=levelfs"

// place is where hooks are, below the root.
const place = "etc/levelfs/hooks.d"

// A Dir is the directory of all hooks. The nil Dir has none.
type Dir struct{ root string }

// Open looks whether there are hooks below the root, which costs one system call if there
// are none. It is then the nil Dir.
func Open(root string) (*Dir, error) {
	var st unix.Stat_t
	path := filepath.Join(root, place)
	err := unix.Lstat(path, &st)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return &Dir{root}, nil
}

// A Set is the hooks of one event. The nil Set has none.
type Set struct {
	Event   Event
	Hooks   []string  // absolute paths, in the order in which they run
	Ignored []Ignored // what else is there, and does not run
	// Refused are hooks that must not be run, and directories of them. While there is one
	// none is run.
	Refused []*RefusedError

	root string
}

// An Ignored is a file beside hooks that is none.
type Ignored struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// A RefusedError is a hook, or a directory on the way to it, that others than root have a
// hand in, or that is no plain file.
type RefusedError struct {
	Path   string
	Why    string
	Remedy string // what to type
}

func (e *RefusedError) Error() string { return fmt.Sprintf("hook %q is refused: %s", e.Path, e.Why) }

// Set looks for the hooks of an event.
func (d *Dir) Set(e Event) (*Set, error) {
	if d == nil {
		return nil, nil
	}
	s := &Set{Event: e, root: d.root}
	dir, err := s.walk(filepath.Join(place, string(e)+".d"))
	if dir == nil || err != nil {
		return s, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return s, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, entry := range entries {
		if err := s.add(dir, entry.Name()); err != nil {
			return s, err
		}
	}
	return s, nil
}

// walk opens a directory below the root, and looks at the rights of each on the way. It is
// nil if there is none, or if it is refused.
func (s *Set) walk(path string) (*os.File, error) {
	dir, err := os.OpenFile(s.root, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	for _, name := range strings.Split(path, "/") {
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		below := filepath.Join(dir.Name(), name)
		ok := s.owned(dir)
		dir.Close()
		switch {
		case errors.Is(err, unix.ENOENT):
			return nil, nil
		case errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR):
			s.refuse(below, "it is no directory", "make it a directory: symbolic links are not followed")
			return nil, nil
		case err != nil:
			return nil, &fs.PathError{Op: "open", Path: below, Err: err}
		}
		if dir = os.NewFile(uintptr(fd), below); !ok {
			dir.Close()
			return nil, nil
		}
	}
	if !s.owned(dir) {
		dir.Close()
		return nil, nil
	}
	return dir, nil
}

// owned reports whether nobody but root can write to the directory, and refuses it if not.
func (s *Set) owned(dir *os.File) bool {
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		s.refuse(dir.Name(), err.Error(), "run it as root")
		return false
	}
	return s.safe(dir.Name(), &st)
}

func (s *Set) safe(path string, st *unix.Stat_t) bool {
	if st.Uid == 0 && st.Mode&0o022 == 0 {
		return true
	}
	s.refuse(path, fmt.Sprintf("others than root can write to it: mode %04o, owner uid %d", st.Mode&0o7777, st.Uid),
		fmt.Sprintf("chown root %[1]s && chmod go-w %[1]s", path))
	return false
}

func (s *Set) refuse(path, why, remedy string) {
	s.Refused = append(s.Refused, &RefusedError{Path: path, Why: why, Remedy: remedy})
}

// add takes in one entry of the directory.
func (s *Set) add(dir *os.File, name string) error {
	path := filepath.Join(dir.Name(), name)
	ignore := func(why string) { s.Ignored = append(s.Ignored, Ignored{path, why}) }
	if !plainName(name) {
		ignore("its name is not of letters, digits, _ and - only")
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		ignore("it is a directory")
	case st.Mode&unix.S_IFMT == unix.S_IFLNK:
		s.refuse(path, "it is a symbolic link", fmt.Sprintf("put the program there, or a script that runs it: rm %s", path))
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		s.refuse(path, "it is no plain file", "rm "+path)
	case st.Mode&0o111 == 0:
		ignore("it is not executable")
	case s.safe(path, &st):
		s.Hooks = append(s.Hooks, path)
	}
	return nil
}

// plainName is run-parts(8)'s rule for names: so what editors and package managers leave,
// such as x~, x.bak, .x.swp and x.dpkg-old, is never run.
func plainName(name string) bool {
	return name != "" && strings.IndexFunc(name, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '-'
	}) < 0
}

// Err is an error if a hook is refused.
func (s *Set) Err() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, r := range s.Refused {
		errs = append(errs, r)
	}
	return errors.Join(errs...)
}

// None reports whether there is nothing to run, and nothing that is refused.
func (s *Set) None() bool { return s == nil || len(s.Hooks) == 0 && len(s.Refused) == 0 }
