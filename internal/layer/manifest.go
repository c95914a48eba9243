package layer

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/manifest"
)

// writeManifest lists the tree. Its files have been copied, so that their digests are
// known.
func (t *tree) writeManifest(out io.Writer) error {
	w := manifest.NewWriter(out)
	if err := writeEntries(w, t.root, "."); err != nil {
		return err
	}
	return w.Close()
}

func writeEntries(w *manifest.Writer, n *node, path string) error {
	if err := w.Write(n.entry(path)); err != nil || !n.is(unix.S_IFDIR) {
		return err
	}
	for _, d := range n.entries {
		if d.name == "." || d.name == ".." {
			continue
		}
		below := d.name
		if path != "." {
			below = path + "/" + d.name
		}
		if err := writeEntries(w, d.node, below); err != nil {
			return err
		}
	}
	return nil
}

// entry is the inode as its manifest has it, under one of its names.
func (n *node) entry(path string) *manifest.Entry {
	e := &manifest.Entry{
		Path: path, Mode: n.mode & 0o7777, UID: n.uid, GID: n.gid, Time: time.Unix(n.mtime, int64(n.mtimeNs)),
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		e.Type, e.Size = manifest.File, n.size
		sum := n.sum
		if n.size == 0 { // nothing was copied
			sum = sha256.Sum256(nil)
		}
		e.Digest = "sha256:" + hex.EncodeToString(sum[:])
	case unix.S_IFDIR:
		e.Type = manifest.Dir
	case unix.S_IFLNK:
		e.Type, e.Target = manifest.Link, n.target
	case unix.S_IFCHR:
		e.Type = manifest.Char
	case unix.S_IFBLK:
		e.Type = manifest.Block
	case unix.S_IFIFO:
		e.Type = manifest.FIFO
	}
	if e.Type == manifest.Char || e.Type == manifest.Block { // as encodeDev put them together
		e.Major, e.Minor = n.rdev>>8&0xfff, n.rdev&0xff|n.rdev>>12&0xfff00
	}
	for _, a := range n.attrs {
		e.Xattrs = append(e.Xattrs, manifest.Xattr{Name: a.fullName(), Value: string(a.value)})
	}
	slices.SortFunc(e.Xattrs, func(a, b manifest.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return e
}

// fullName is the attribute's name with its name space.
func (a xattr) fullName() string {
	for _, p := range xattrPrefixes {
		if p.index == a.index {
			return p.prefix + a.name
		}
	}
	return a.name
}
