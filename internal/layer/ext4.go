package layer

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// The on-disk format, from Documentation/filesystems/ext4 and fs/ext4/ext4.h. All
// integers are little endian, blocks are of blockSize as in erofs.
const (
	ext4Magic       = 0xEF53
	ext4InodeSize   = 256
	ext4ExtraSize   = 32 // of the inode beyond its first 128 bytes; attributes follow
	ext4Root        = 2
	ext4FirstInode  = 11            // those below are the file system's own
	ext4GroupBlocks = 8 * blockSize // one bitmap block for each group
	ext4BlockInodes = blockSize / ext4InodeSize
	ext4Descriptor  = 32
	ext4MaxLinks    = 65000
	ext4MaxExtent   = 1 << 15 // blocks
	ext4RootExtents = 4       // in the inode
	ext4LeafExtents = (blockSize - 12) / 12
	ext4FastLink    = 60 // a shorter target lies in the inode

	ext4CompatExtAttr      = 0x8
	ext4CompatSparseSuper2 = 0x200 // no copies of the superblock but those it names: none

	ext4HasExtents = 0x80000 // an inode's flag

	ext4XattrMagic = 0xEA020000
)

// Features without which, or with which, a kernel may not mount.
const (
	ext4IncompatCompression = 0x1
	ext4IncompatFiletype    = 0x2
	ext4IncompatRecover     = 0x4
	ext4IncompatMetaBG      = 0x10
	ext4IncompatExtents     = 0x40
	ext4Incompat64Bit       = 0x80
	ext4IncompatFlexBG      = 0x200 // bitmaps and inodes may lie outside of their groups
	ext4IncompatInlineData  = 0x8000

	ext4ROCompatLargeFile  = 0x2
	ext4ROCompatGDTSum     = 0x10
	ext4ROCompatDirNlink   = 0x20
	ext4ROCompatExtraIsize = 0x40
	ext4ROCompatMetaSum    = 0x400
	ext4ROCompatReadOnly   = 0x1000 // nobody mounts it writable
)

// ext4Super is the part of the superblock that differs between images.
type ext4Super struct {
	inodes, freeInodes, perGroup int64
	blocks, freeBlocks           int64
	uuid                         [16]byte
}

// encode gives block 0 of the image.
func (sb *ext4Super) encode() []byte {
	block := make([]byte, blockSize)
	b := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], uint32(sb.inodes))
	le.PutUint32(b[4:], uint32(sb.blocks))
	le.PutUint32(b[12:], uint32(sb.freeBlocks))
	le.PutUint32(b[16:], uint32(sb.freeInodes))
	le.PutUint32(b[24:], blockBits-10)
	le.PutUint32(b[28:], blockBits-10) // clusters are blocks
	le.PutUint32(b[32:], ext4GroupBlocks)
	le.PutUint32(b[36:], ext4GroupBlocks)
	le.PutUint32(b[40:], uint32(sb.perGroup))
	// 44, 48, 64, 264: no times, or no two builds would be equal.
	le.PutUint16(b[54:], 0xFFFF) // mounts without a check: any number
	le.PutUint16(b[56:], ext4Magic)
	le.PutUint16(b[58:], 1) // clean
	le.PutUint16(b[60:], 1) // go on after errors
	le.PutUint32(b[76:], 1) // inodes have a size of their own
	le.PutUint32(b[84:], ext4FirstInode)
	le.PutUint16(b[88:], ext4InodeSize)
	le.PutUint32(b[92:], ext4CompatExtAttr|ext4CompatSparseSuper2)
	le.PutUint32(b[96:], ext4IncompatFiletype|ext4IncompatExtents|ext4IncompatFlexBG)
	le.PutUint32(b[100:], ext4ROCompatLargeFile|ext4ROCompatDirNlink|ext4ROCompatExtraIsize|ext4ROCompatReadOnly)
	copy(b[104:120], sb.uuid[:])
	le.PutUint16(b[348:], ext4ExtraSize)
	le.PutUint16(b[350:], ext4ExtraSize)
	return block
}

// ext4Inode is an inode and where its parts are in the image.
type ext4Inode struct {
	*node
	number     uint32
	start      int64 // first block of the data
	blocks     int64 // of data
	leaf       int64 // first block of extents that do not fit into the inode
	leaves     int64
	xattrBlock int64  // 0: none
	body       []byte // attributes in the inode, encoded
	outer      []byte // attributes in the block of their own, encoded
}

// newExt4Inode finds out what the node needs.
func newExt4Inode(n *node, number uint32) (*ext4Inode, error) {
	i := &ext4Inode{node: n, number: number}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFREG:
		i.blocks = blocksOf(n.size)
	case unix.S_IFDIR:
		for entries := ext4Order(n.entries); len(entries) > 0; i.blocks++ {
			entries = entries[ext4DirentBlock(entries):]
		}
	case unix.S_IFLNK:
		if n.size >= ext4FastLink {
			i.blocks = 1
		}
	}
	if extents := (i.blocks + ext4MaxExtent - 1) / ext4MaxExtent; extents > ext4RootExtents {
		i.leaves = (extents + ext4LeafExtents - 1) / ext4LeafExtents
		if i.leaves > ext4RootExtents {
			return nil, fmt.Errorf("it has %d bytes, more than a file of an ext4 layer can have", n.size)
		}
	}
	if !n.is(unix.S_IFDIR) && n.nlink > ext4MaxLinks {
		return nil, fmt.Errorf("it has %d names, an ext4 file can have %d", n.nlink, ext4MaxLinks)
	}
	if n.mtime < -1<<31 || n.mtime >= 1<<34-1<<31 {
		return nil, fmt.Errorf("its modification time, %d seconds after 1970, does not fit into ext4", n.mtime)
	}
	var err error
	i.body, i.outer, err = ext4Xattrs(n.attrs)
	return i, err
}

// sectors is what the inode occupies, in 512 bytes.
func (i *ext4Inode) sectors() int64 {
	blocks := i.blocks + i.leaves
	if i.outer != nil {
		blocks++
	}
	return blocks * (blockSize / 512)
}

// encode gives the inode.
func (i *ext4Inode) encode() []byte {
	b := make([]byte, ext4InodeSize)
	le := binary.LittleEndian
	size := i.size
	if i.is(unix.S_IFDIR) {
		size = i.blocks * blockSize
	}
	nlink := i.nlink
	if nlink > ext4MaxLinks {
		nlink = 1 // a directory of that many: not counted
	}
	// A time is 34 bits of seconds from 1901 on, 30 of nanoseconds.
	epoch := uint32((i.mtime-int64(int32(i.mtime)))>>32) & 3
	extra := epoch | i.mtimeNs<<2

	le.PutUint16(b[0:], uint16(i.mode))
	le.PutUint16(b[2:], uint16(i.uid))
	le.PutUint32(b[4:], uint32(size))
	for _, at := range []int{8, 12, 16, 144} { // access, change, modification, birth
		le.PutUint32(b[at:], uint32(i.mtime))
	}
	le.PutUint16(b[24:], uint16(i.gid))
	le.PutUint16(b[26:], uint16(nlink))
	le.PutUint32(b[28:], uint32(i.sectors()))
	switch i.mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		le.PutUint32(b[44:], i.rdev)
	case unix.S_IFREG, unix.S_IFDIR:
		le.PutUint32(b[32:], ext4HasExtents)
		copy(b[40:100], i.extentRoot())
	case unix.S_IFLNK:
		if i.blocks == 0 {
			copy(b[40:100], i.target)
		} else {
			le.PutUint32(b[32:], ext4HasExtents)
			copy(b[40:100], i.extentRoot())
		}
	}
	le.PutUint32(b[104:], uint32(i.xattrBlock))
	le.PutUint32(b[108:], uint32(size>>32))
	le.PutUint16(b[120:], uint16(i.uid>>16))
	le.PutUint16(b[122:], uint16(i.gid>>16))
	le.PutUint16(b[128:], ext4ExtraSize)
	for _, at := range []int{132, 136, 140, 148} {
		le.PutUint32(b[at:], extra)
	}
	copy(b[128+ext4ExtraSize:], i.body)
	return b
}

// An extent is a run of blocks; at counts from the file's start.
type extent struct{ at, start, blocks int64 }

// extents are the parts of the one run that the data are.
func (i *ext4Inode) extents() []extent {
	var list []extent
	for at := int64(0); at < i.blocks; at += ext4MaxExtent {
		list = append(list, extent{at, i.start + at, min(ext4MaxExtent, i.blocks-at)})
	}
	return list
}

// extentRoot gives the part of the extent tree in the inode.
func (i *ext4Inode) extentRoot() []byte {
	list := i.extents()
	if i.leaves == 0 {
		return extentNode(list, ext4RootExtents)
	}
	b := extentHeader(int(i.leaves), ext4RootExtents, 1)
	for l := range i.leaves {
		b = binary.LittleEndian.AppendUint32(b, uint32(list[l*ext4LeafExtents].at))
		b = binary.LittleEndian.AppendUint32(b, uint32(i.leaf+l))
		b = append(b, 0, 0, 0, 0)
	}
	return b
}

// extentLeaves gives the blocks of the extent tree.
func (i *ext4Inode) extentLeaves() [][]byte {
	list := i.extents()
	var leaves [][]byte
	for range i.leaves {
		n := min(len(list), ext4LeafExtents)
		leaves = append(leaves, extentNode(list[:n], ext4LeafExtents))
		list = list[n:]
	}
	return leaves
}

func extentHeader(n, most, depth int) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, 0xF30A)
	b = le.AppendUint16(b, uint16(n))
	b = le.AppendUint16(b, uint16(most))
	b = le.AppendUint16(b, uint16(depth))
	return append(b, 0, 0, 0, 0)
}

func extentNode(list []extent, most int) []byte {
	b := extentHeader(len(list), most, 0)
	for _, e := range list {
		b = binary.LittleEndian.AppendUint32(b, uint32(e.at))
		b = binary.LittleEndian.AppendUint16(b, uint16(e.blocks))
		b = append(b, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(e.start))
	}
	return b
}

// ext4Order has "." and ".." first: unlike erofs, ext4 wants it so.
func ext4Order(entries []dirent) []dirent {
	ordered := make([]dirent, 2, len(entries))
	for _, e := range entries {
		switch e.name {
		case ".":
			ordered[0] = e
		case "..":
			ordered[1] = e
		default:
			ordered = append(ordered, e)
		}
	}
	return ordered
}

func ext4DirentSize(e dirent) int { return 8 + int(roundUp(int64(len(e.name)), 4)) }

// ext4DirentBlock returns how many of the entries fit into one block.
func ext4DirentBlock(entries []dirent) (count int) {
	used := 0
	for _, e := range entries {
		if used += ext4DirentSize(e); used > blockSize {
			break
		}
		count++
	}
	return count
}

// ext4Dirents gives one block of a directory. numbers are the inodes'.
func ext4Dirents(entries []dirent, numbers map[*node]uint32) []byte {
	b := make([]byte, 0, blockSize)
	for i, e := range entries {
		size := ext4DirentSize(e)
		length := size
		if i == len(entries)-1 {
			length = blockSize - len(b) // the last one owns the rest
		}
		b = binary.LittleEndian.AppendUint32(b, numbers[e.node])
		b = binary.LittleEndian.AppendUint16(b, uint16(length))
		b = append(b, uint8(len(e.name)), fileType(e.node.mode))
		b = append(b, e.name...)
		b = append(b, make([]byte, size-8-len(e.name))...)
	}
	return append(b, make([]byte, blockSize-len(b))...)
}
