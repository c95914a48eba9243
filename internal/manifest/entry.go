package manifest

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Type is the type of a file, by its name in mtree(5).
type Type string

// The types that there are in layers.
const (
	File   Type = "file"
	Dir    Type = "dir"
	Link   Type = "link"
	Char   Type = "char"
	Block  Type = "block"
	FIFO   Type = "fifo"
	Socket Type = "socket" // in private layers only
)

// An Entry is one file.
type Entry struct {
	Path     string // relative and clean; "." is the root
	Type     Type
	Mode     uint32 // permissions, and the bits for set-id and sticky
	UID, GID uint32
	Time     time.Time // of the last modification
	Size     int64     // bytes of a regular file
	Digest   string    // "sha256:…" of a regular file's bytes; "" if they were not read
	Target   string    // of a symbolic link
	Major    uint32    // of a device
	Minor    uint32
	Xattrs   []Xattr // sorted by name
}

// An Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// Xattr returns the value of an extended attribute.
func (e *Entry) Xattr(name string) (string, bool) {
	i := slices.IndexFunc(e.Xattrs, func(x Xattr) bool { return x.Name == name })
	if i < 0 {
		return "", false
	}
	return e.Xattrs[i].Value, true
}

// Whiteout reports whether the entry hides the name in the layers below, and is none
// itself (overlayfs.rst, "whiteouts and opaque directories").
func (e *Entry) Whiteout() bool { return e.Type == Char && e.Major == 0 && e.Minor == 0 }

// Opaque reports whether the entry is a directory that hides those of the layers below.
func (e *Entry) Opaque() bool {
	value, _ := e.Xattr("trusted.overlay.opaque")
	return e.Type == Dir && value == "y"
}

// HostOnly tells whether an extended attribute describes the machine or the driver it
// was read from and not the file.
func HostOnly(name string) bool {
	switch name {
	case "trusted.overlay.origin", "trusted.overlay.impure", "trusted.overlay.nlink",
		"trusted.overlay.upper", "trusted.overlay.uuid":
		// Inode handles and counters of an upper directory: overlayfs ignores
		// them in a lower layer (Documentation/filesystems/overlayfs.rst).
		return true
	case "system.posix_acl_access", "system.posix_acl_default":
		return false
	}
	return strings.HasPrefix(name, "system.")
}

// Compare orders paths as a walk has them: a directory before what is in it, and that
// before the directory's next sibling. It is the order of bytes with the slash as the
// lowest of all.
func Compare(a, b string) int {
	if a == b {
		return 0
	}
	if a == "." {
		return -1
	}
	if b == "." {
		return 1
	}
	for i := range min(len(a), len(b)) {
		switch {
		case a[i] == b[i]:
		case a[i] == '/':
			return -1
		case b[i] == '/':
			return 1
		case a[i] < b[i]:
			return -1
		default:
			return 1
		}
	}
	return len(a) - len(b)
}

// Inside reports whether the path is below the directory.
func Inside(path, dir string) bool {
	if dir == "." {
		return path != "."
	}
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// typeOf is the type in a file's mode, or "".
func typeOf(mode uint32) Type {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Dir
	case unix.S_IFLNK:
		return Link
	case unix.S_IFCHR:
		return Char
	case unix.S_IFBLK:
		return Block
	case unix.S_IFIFO:
		return FIFO
	case unix.S_IFSOCK:
		return Socket
	}
	return ""
}
