package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/manifest"
)

// xattrPrefixes are the namespaces that an image can store, each as a number before
// the rest of the name: erofs took its numbers from ext4 (fs/erofs/erofs_fs.h,
// EROFS_XATTR_INDEX_*).
var xattrPrefixes = [...]struct {
	prefix string
	whole  bool // the prefix is the whole name
	index  uint8
}{
	{"user.", false, 1},
	{"system.posix_acl_access", true, 2},
	{"system.posix_acl_default", true, 3},
	{"trusted.", false, 4},
	{"security.", false, 6},
}

const (
	xattrBodyHeader  = 12 // struct erofs_xattr_ibody_header
	xattrEntryHeader = 4  // struct erofs_xattr_entry
)

type xattr struct {
	index uint8
	name  string // without the prefix
	value []byte
}

// readXattrs returns the extended attributes of path, by namespace and name. Unless
// nofollow, path may be a symbolic link to the file.
func readXattrs(path string, nofollow bool) ([]xattr, error) {
	list, get := unix.Listxattr, unix.Getxattr
	if nofollow {
		list, get = unix.Llistxattr, unix.Lgetxattr
	}
	names, err := grow(func(b []byte) (int, error) { return list(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	if len(names) == 0 {
		return nil, nil
	}
	var attrs []xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if manifest.HostOnly(name) {
			continue
		}
		a, err := splitXattr(name)
		if err != nil {
			return nil, err
		}
		a.value, err = grow(func(b []byte) (int, error) { return get(path, name, b) })
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		if len(a.value) > math.MaxUint16 {
			return nil, fmt.Errorf("extended attribute %q is %d bytes long, an image has at most %d", name, len(a.value), math.MaxUint16)
		}
		attrs = append(attrs, a)
	}
	sort.Slice(attrs, func(i, j int) bool {
		a, b := attrs[i], attrs[j]
		return a.index < b.index || a.index == b.index && a.name < b.name
	})
	return attrs, nil
}

func splitXattr(name string) (xattr, error) {
	for _, p := range xattrPrefixes {
		rest, ok := strings.CutPrefix(name, p.prefix)
		if ok && p.whole == (rest == "") {
			return xattr{index: p.index, name: rest}, nil
		}
	}
	return xattr{}, fmt.Errorf("extended attribute %q: an image has no such namespace", name)
}

// encodeXattrs gives the body that follows an erofs inode: a header and the entries,
// each padded to 4 bytes. All integers on disk are little endian.
func encodeXattrs(attrs []xattr) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	// The header stays zero: no name filter (feature not set), none shared.
	out := make([]byte, xattrBodyHeader)
	for _, a := range attrs {
		out = append(out, uint8(len(a.name)), a.index)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(a.value)))
		out = append(out, a.name...)
		out = append(out, a.value...)
		out = append(out, make([]byte, -len(out)&(xattrEntryHeader-1))...)
	}
	if (len(out)-xattrBodyHeader)/xattrEntryHeader+1 > math.MaxUint16 {
		return nil, fmt.Errorf("extended attributes need %d bytes, more than an inode can have", len(out))
	}
	return out, nil
}

// xattrCount is i_xattr_icount: 0, or 1 for the header and 1 for each 4 bytes.
func xattrCount(body []byte) uint16 {
	if len(body) == 0 {
		return 0
	}
	return uint16((len(body)-xattrBodyHeader)/xattrEntryHeader + 1)
}

// grow calls read, which fills a buffer and returns the length, until the buffer
// is large enough; it starts with what fits nearly always.
func grow(read func([]byte) (int, error)) ([]byte, error) {
	buf := make([]byte, 256)
	for {
		n, err := read(buf)
		if err == nil {
			return bytes.Clone(buf[:n]), nil
		}
		// XATTR_SIZE_MAX and XATTR_LIST_MAX are 64 KiB.
		if !errors.Is(err, unix.ERANGE) || len(buf) > 1<<16 {
			return nil, err
		}
		buf = make([]byte, 4*len(buf))
	}
}
