package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math"
	"os"
	"sort"

	"golang.org/x/sys/unix"
)

// fileID tells inodes of one machine apart. It never reaches the image.
type fileID struct{ dev, ino uint64 }

func idOf(st *unix.Stat_t) fileID {
	// The fields differ in width between architectures.
	return fileID{uint64(st.Dev), uint64(st.Ino)} //nolint:unconvert
}

// dirent is one name in a directory.
type dirent struct {
	name string
	node *node
}

// node is one inode of the image.
type node struct {
	path     string // below the tree's directory, "" for the root; the first name of a hard-linked file
	id       fileID
	mode     uint32 // with the type, as in st_mode
	uid, gid uint32
	nlink    uint32
	mtime    int64 // seconds since 1970, may be negative
	mtimeNs  uint32
	rdev     uint32            // encoded as on disk
	size     int64             // of the data: file content, link target, directory blocks
	attrs    []xattr           // extended attributes, sorted
	xattrs   []byte            // the same as they follow an erofs inode, nil if there are none
	target   string            // symbolic link
	entries  []dirent          // directory, sorted, with "." and ".."
	sum      [sha256.Size]byte // of a regular file's data, once it was copied
	place    place
}

func (n *node) is(typ uint32) bool { return n.mode&unix.S_IFMT == typ }

// tree is what scan found, complete and in the order of the image.
type tree struct {
	dir   string
	root  *node
	nodes []*node // every inode once, parents first, siblings by name
	names int     // that are not directories
	data  int64   // bytes in regular files
}

func (t *tree) abs(rel string) string {
	if rel == "" {
		return t.dir
	}
	return t.dir + "/" + rel
}

// scanner is the state of one walk.
type scanner struct {
	*tree
	ctx       context.Context
	forbidden fileID // the directory that will hold the image
	links     map[fileID]*node
}

// scan lists the tree below dir. It reads no file data. The error wraps
// ErrInside if one of the directories is forbidden: compared as an inode, so
// that neither a symbolic link nor a bind mount hides it.
func scan(ctx context.Context, dir string, forbidden fileID) (*tree, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil, &fs.PathError{Op: "read", Path: dir, Err: unix.ENOTDIR}
	}
	s := &scanner{
		tree:      &tree{dir: dir},
		ctx:       ctx,
		forbidden: forbidden,
		links:     make(map[fileID]*node),
	}
	root, err := s.node("", &st)
	if err != nil {
		return nil, err
	}
	s.root = root
	if err := s.readDir(root, root); err != nil {
		return nil, err
	}
	return s.tree, nil
}

// readDir fills the directory n and all below it.
func (s *scanner) readDir(n, parent *node) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	path := s.abs(n.path)
	if n.id == s.forbidden {
		return fmt.Errorf("%q: %w", path, ErrInside)
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return fmt.Errorf("list %q: %w", path, err)
	}
	// The kernel's lookup is a binary search over bytes, "." and ".." included.
	names = append(names, ".", "..")
	sort.Strings(names)

	n.entries = make([]dirent, 0, len(names))
	n.nlink = 2
	for _, name := range names {
		switch name {
		case ".":
			n.entries = append(n.entries, dirent{name, n})
			continue
		case "..":
			n.entries = append(n.entries, dirent{name, parent})
			continue
		}
		rel := name
		if n.path != "" {
			rel = n.path + "/" + name
		}
		child, err := s.child(rel)
		if err != nil {
			return err
		}
		n.entries = append(n.entries, dirent{name, child})
		if !child.is(unix.S_IFDIR) {
			s.names++
			continue
		}
		n.nlink++
		if err := s.readDir(child, n); err != nil {
			return err
		}
	}
	n.size = direntsSize(n.entries)
	return nil
}

// child returns the inode of the name rel: a new one, or for a further hard link
// of a regular file the one it had before. Hard links of anything else become
// inodes of their own: overlayfs links all whiteouts of an upper directory to one
// inode, which says nothing about the content.
func (s *scanner) child(rel string) (*node, error) {
	var st unix.Stat_t
	if err := unix.Lstat(s.abs(rel), &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: s.abs(rel), Err: err}
	}
	linked := st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1
	if linked {
		if n := s.links[idOf(&st)]; n != nil {
			n.nlink++
			return n, nil
		}
	}
	n, err := s.node(rel, &st)
	if err != nil {
		return nil, err
	}
	if linked {
		s.links[n.id] = n
	}
	return n, nil
}

// node makes the inode for the file at rel and appends it to the list.
func (s *scanner) node(rel string, st *unix.Stat_t) (*node, error) {
	path := s.abs(rel)
	n := &node{
		path:    rel,
		id:      idOf(st),
		mode:    uint32(st.Mode), //nolint:unconvert
		uid:     st.Uid,
		gid:     st.Gid,
		nlink:   1, // what the file has outside the tree is not in the image
		mtime:   int64(st.Mtim.Sec),
		mtimeNs: uint32(st.Mtim.Nsec),
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.size = st.Size
		s.data += n.size
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		n.target, n.size = target, int64(len(target))
	case unix.S_IFCHR, unix.S_IFBLK:
		rdev, err := encodeDev(uint64(st.Rdev)) //nolint:unconvert
		if err != nil {
			return nil, fmt.Errorf("%q: %w", path, err)
		}
		n.rdev = rdev
	case unix.S_IFDIR, unix.S_IFIFO:
	case unix.S_IFSOCK:
		return nil, fmt.Errorf("%q: %w", path, ErrSocket)
	default:
		return nil, fmt.Errorf("%q: unknown file type %#o", path, n.mode&unix.S_IFMT)
	}
	var err error
	if n.attrs, err = readXattrs(path, rel != ""); err == nil {
		n.xattrs, err = encodeXattrs(n.attrs)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	if len(s.nodes) == math.MaxUint32 {
		return nil, fmt.Errorf("%q: more files than an image can hold", path)
	}
	s.nodes = append(s.nodes, n)
	return n, nil
}

// encodeDev is the kernel's new_encode_dev (include/linux/kdev_t.h).
func encodeDev(dev uint64) (uint32, error) {
	major, minor := unix.Major(dev), unix.Minor(dev)
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("device number %d:%d does not fit into an image", major, minor)
	}
	return minor&0xff | major<<8 | (minor&^0xff)<<12, nil
}
