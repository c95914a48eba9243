package layer

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// The on-disk format, from Documentation/filesystems/erofs.rst and
// fs/erofs/erofs_fs.h. All integers are little endian.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	imageUnit = 2 << 20 // the image's size is a multiple of this

	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2

	compatChecksum = 0x1 // the superblock has a checksum
	compatMtime    = 0x2 // the inodes' times are mtime, not ctime

	inodeSize = 64 // struct erofs_inode_extended: the form with an mtime
	nidSize   = 32 // an inode number counts 32-byte slots from meta_blkaddr

	layoutFlatPlain  = 0
	layoutFlatInline = 2

	noBlock = math.MaxUint32 // EROFS_NULL_ADDR
)

// firstInode is where the root's inode starts, in bytes after meta_blkaddr. It is
// not 0 as the kernel takes inode numbers from this place, and some readers of
// directories skip entries with inode number 0.
const firstInode = inodeSize

// superblock is the part of it that differs between images.
type superblock struct {
	inodes   uint64
	blocks   uint32
	metaBlk  uint32
	rootNid  uint16
	uuid     uuid.UUID
	checksum uint32
}

// encode gives block 0 of the image.
func (sb *superblock) encode() []byte {
	block := make([]byte, blockSize)
	b := block[superOffset : superOffset+superSize]
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[4:], sb.checksum)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], sb.rootNid)
	le.PutUint64(b[16:], sb.inodes)
	// 24, 32: the build time stays 0, or no two builds would be equal.
	le.PutUint32(b[36:], sb.blocks)
	le.PutUint32(b[40:], sb.metaBlk)
	copy(b[48:64], sb.uuid[:])
	// 80: no incompatible features.
	return block
}

// seal sets the checksum: CRC-32C of block 0 from the superblock on, with the
// field itself zero. The kernel's crc32c does not invert the result, Go's does.
func (sb *superblock) seal() {
	sb.checksum = 0
	sb.checksum = ^crc32.Checksum(sb.encode()[superOffset:], crc32.MakeTable(crc32.Castagnoli))
}

// place says where the parts of an inode are in the image.
type place struct {
	nid    uint64
	blk    uint32 // first data block, or noBlock
	inline int64  // bytes of data, at their end, that follow the inode; 0 for regular files
}

// offset is where the inode starts, in bytes after meta_blkaddr.
func (p place) offset() int64 { return int64(p.nid) * nidSize }

// placeInode places n at or after the offset off and returns where it ends.
func placeInode(n *node, off int64) (end int64) {
	off = roundUp(off, nidSize)
	head := int64(inodeSize + len(n.xattrs))
	var tail int64
	if n.is(unix.S_IFDIR) || n.is(unix.S_IFLNK) {
		tail = n.size % blockSize
		// Linux up to 6.11 takes a symbolic link for corrupt when the inode, its
		// attributes and the target are not in one block.
		if head+tail > blockSize {
			tail = 0
		}
	}
	need := head
	if tail == 0 {
		need = inodeSize // attributes may go on in the next block, the inode should not
	} else {
		need += tail
	}
	if off%blockSize+need > blockSize {
		off = roundUp(off, blockSize)
	}
	n.place = place{nid: uint64(off / nidSize), blk: noBlock, inline: tail}
	return off + head + tail
}

// encodeInode gives the inode of n, number i of the image, without its attributes.
func encodeInode(n *node, i int) []byte {
	b := make([]byte, inodeSize)
	le := binary.LittleEndian
	layout, data := uint16(layoutFlatPlain), n.place.blk
	if n.place.inline > 0 {
		layout = layoutFlatInline
	}
	switch n.mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		data = n.rdev
	case unix.S_IFIFO:
		data = 0
	}
	le.PutUint16(b[0:], 1|layout<<1) // 1: extended
	le.PutUint16(b[2:], xattrCount(n.xattrs))
	le.PutUint16(b[4:], uint16(n.mode))
	le.PutUint64(b[8:], uint64(n.size))
	le.PutUint32(b[16:], data)
	le.PutUint32(b[20:], uint32(i)+1) // only what old 32-bit stat calls show
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(n.mtime)) // the kernel reads it as signed
	le.PutUint32(b[40:], n.mtimeNs)
	le.PutUint32(b[44:], n.nlink)
	return b
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }

func blocksOf(size int64) int64 { return roundUp(size, blockSize) / blockSize }
