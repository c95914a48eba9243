package layer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Features of erofs, and layouts of its inodes (fs/erofs/erofs_fs.h).
const (
	erofsLZ4        = 0x1 // any compression
	erofsDevices    = 0x8
	erofsIncompat   = 0x7f // those that are known here: from 0x80 on, addresses are longer
	erofsChunkBased = 4
)

// erofsInode is what the check needs of an inode.
type erofsInode struct {
	mode   uint32
	layout uint16
	size   int64
	blk    int64
	inline int64 // where data would follow the inode, in bytes
}

// erofs looks at the superblock and at every file of the tree, as erofs_iget does
// (fs/erofs/inode.c): S_DAX only for FLAT_PLAIN and chunk-based.
func (x *xip) erofs(b []byte) error {
	le := binary.LittleEndian
	incompat := le.Uint32(b[80:])
	if !x.blocks(uint32(b[12]), int64(le.Uint32(b[36:]))) {
		return nil
	}
	if incompat&^erofsIncompat != 0 {
		return fmt.Errorf("has features %#x that are not known here", incompat&^erofsIncompat)
	}
	if incompat&erofsDevices != 0 && le.Uint16(b[86:]) > 0 {
		x.whole(MoreDevices, "data lie on %d other devices", le.Uint16(b[86:]))
	}
	meta := int64(le.Uint32(b[40:])) * x.BlockSize
	seen := make(map[uint64]bool)
	next := []uint64{uint64(le.Uint16(b[14:]))}
	for len(next) > 0 {
		nid := next[len(next)-1]
		next = next[:len(next)-1]
		if seen[nid] {
			continue // "..", or a further hard link
		}
		seen[nid] = true
		if nid > uint64(x.Size)/nidSize {
			return fmt.Errorf("damaged: there is no inode %d", nid)
		}
		i, err := x.erofsInode(meta + int64(nid)*nidSize)
		if err != nil {
			return fmt.Errorf("inode %d: %w", nid, err)
		}
		switch {
		case i.mode&unix.S_IFMT == unix.S_IFDIR:
			if next, err = x.erofsDir(i, next); err != nil {
				return fmt.Errorf("directory with inode %d: %w", nid, err)
			}
		case i.mode&unix.S_IFMT != unix.S_IFREG || i.size == 0:
		default:
			x.Files++
			switch i.layout {
			case layoutFlatPlain, erofsChunkBased:
			case layoutFlatInline:
				x.counts[InlineTails]++
			default:
				x.counts[Compressed]++
			}
		}
	}
	return nil
}

func (x *xip) erofsInode(at int64) (i erofsInode, err error) {
	b := make([]byte, inodeSize/2)
	if err := x.read(b, at); err != nil {
		return i, err
	}
	le := binary.LittleEndian
	format := le.Uint16(b)
	i = erofsInode{mode: uint32(le.Uint16(b[4:])), layout: format >> 1 & 7, size: int64(le.Uint32(b[8:])),
		blk: int64(le.Uint32(b[16:])), inline: at + inodeSize/2}
	if format&1 != 0 { // extended
		i.size = int64(le.Uint64(b[8:]))
		i.inline = at + inodeSize
	}
	if count := int64(le.Uint16(b[2:])); count > 0 {
		i.inline += xattrBodyHeader + (count-1)*xattrEntryHeader
	}
	if i.size < 0 {
		return i, errors.New("damaged: negative size")
	}
	return i, nil
}

// erofsDir appends the inode numbers of a directory's entries.
func (x *xip) erofsDir(i erofsInode, nids []uint64) ([]uint64, error) {
	if i.layout != layoutFlatPlain && i.layout != layoutFlatInline {
		return nil, fmt.Errorf("has the layout %d: not read", i.layout)
	}
	if i.size > x.Size {
		return nil, errors.New("damaged: larger than the image")
	}
	block := make([]byte, x.BlockSize)
	for pos := int64(0); pos < i.size; pos += x.BlockSize {
		at, b := i.blk*x.BlockSize+pos, block
		if left := i.size - pos; left < x.BlockSize {
			b = block[:left]
		}
		if i.layout == layoutFlatInline && i.size-pos <= x.BlockSize && i.size%x.BlockSize != 0 {
			at = i.inline
		}
		if err := x.read(b, at); err != nil {
			return nil, err
		}
		if len(b) < direntSize {
			return nil, errors.New("damaged: half an entry")
		}
		// The first name begins where the entries end.
		names := int(binary.LittleEndian.Uint16(b[8:]))
		if names%direntSize != 0 || names == 0 || names > len(b) {
			return nil, errors.New("damaged: no entries")
		}
		for ; names > 0; names -= direntSize {
			nids = append(nids, binary.LittleEndian.Uint64(b[names-direntSize:]))
		}
	}
	return nids, nil
}
