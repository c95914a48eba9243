package layer

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// ext4Writer writes one ext4 image. Unlike in erofs, everything has its place before
// the first byte is written: the group descriptors come first and depend on the size.
type ext4Writer struct {
	writer
	inodes   []*ext4Inode // in the order of the tree
	groups   int64
	perGroup int64        // inodes of a group
	others   int64        // blocks of attributes, extents, directories and links
	files    []*ext4Inode // with data, in the order of their places
	blocks   int64        // of the image
	max      int64        // bytes that it may have, or 0
}

func (w *ext4Writer) write() error {
	w.buf = make([]byte, copySize)
	w.id = sha256.New()
	for n, node := range w.tree.nodes {
		number := uint32(ext4FirstInode + n - 1)
		if node == w.tree.root {
			number = ext4Root
		}
		i, err := newExt4Inode(node, number)
		if err != nil {
			return fmt.Errorf("%q: %w", w.tree.abs(node.path), err)
		}
		w.inodes = append(w.inodes, i)
	}
	if err := w.lay(); err != nil {
		return err
	}
	if size := w.blocks * blockSize; w.max != 0 && size > w.max {
		return &SizeError{Size: size, Max: w.max} // before the long work
	}
	for _, i := range w.files {
		w.next = i.start
		sum, err := w.copyFile(i.node)
		if err != nil {
			return err
		}
		w.id.Write(binary.LittleEndian.AppendUint32(sum[:], uint32(i.start)))
	}
	sb, err := w.writeMeta()
	if err != nil {
		return err
	}
	if err := w.f.Truncate(w.blocks * blockSize); err != nil {
		return err
	}
	w.id.Write(sb.encode())
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/levelfs/levelfs/layer/ext4"))
	w.sb.uuid = uuid.NewHash(sha256.New(), space, w.id.Sum(nil), 8)
	sb.uuid = w.sb.uuid
	_, err = w.f.WriteAt(sb.encode(), 0)
	return err
}

// lay finds a place for everything:
//
//	block 0     1024 zero bytes, superblock
//	            group descriptors; bitmaps of blocks and of inodes, by group; inodes
//	            attributes, extents, directories, long symbolic links
//	            file data, those of 2 MiB and more on 2 MiB boundaries as in erofs
func (w *ext4Writer) lay() error {
	inodes := int64(ext4FirstInode - 1 + len(w.inodes) - 1)
	for _, i := range w.inodes {
		if w.others += i.leaves; i.outer != nil {
			w.others++
		}
		if !i.is(unix.S_IFREG) {
			w.others += i.blocks
		}
	}
	for w.groups = 1; ; w.groups++ {
		w.perGroup = roundUp((inodes+w.groups-1)/w.groups, ext4BlockInodes)
		if w.perGroup > ext4GroupBlocks {
			continue
		}
		end := w.placeFiles(w.head() + w.others)
		// The last group has to begin inside of the file system.
		end = max(end, (w.groups-1)*ext4GroupBlocks+1)
		if w.blocks = roundUp(end*blockSize, imageUnit) / blockSize; w.blocks > math.MaxUint32 {
			return errors.New("the image would be larger than ext4 allows")
		}
		need := (w.blocks + ext4GroupBlocks - 1) / ext4GroupBlocks
		if need == w.groups {
			break
		}
		w.groups = need - 1 // one more group is more metadata, and never less to place
	}
	next := w.head()
	for _, i := range w.inodes {
		if i.outer != nil {
			i.xattrBlock = next
			next++
		}
		i.leaf = next
		next += i.leaves
		if !i.is(unix.S_IFREG) {
			i.start = next
			next += i.blocks
		}
	}
	return nil
}

// head is how many blocks come before those of attributes.
func (w *ext4Writer) head() int64 {
	return 1 + blocksOf(w.groups*ext4Descriptor) + 2*w.groups + w.groups*w.perGroup/ext4BlockInodes
}

// placeFiles places the data of all regular files from the block next on and returns
// the block after them.
func (w *ext4Writer) placeFiles(next int64) int64 {
	const unit = imageUnit / blockSize
	var small, large []*ext4Inode
	for _, i := range w.inodes {
		switch {
		case !i.is(unix.S_IFREG) || i.size == 0:
		case i.size >= imageUnit:
			large = append(large, i)
		default:
			small = append(small, i)
		}
	}
	w.files = w.files[:0]
	place := func(i *ext4Inode) {
		i.start = next
		next += i.blocks
		w.files = append(w.files, i)
	}
	for _, i := range large {
		start := roundUp(next, unit)
		for len(small) > 0 && next+small[0].blocks <= start {
			place(small[0])
			small = small[1:]
		}
		if start-next <= i.blocks/8 {
			next = start
		}
		place(i)
	}
	for _, i := range small {
		place(i)
	}
	return next
}

// A bitmap has a bit for each block or inode, set if it is used.
type bitmap []byte

func (b bitmap) set(from, to int64) {
	for ; from < to; from++ {
		b[from/8] |= 1 << (from % 8)
	}
}

func (b bitmap) used(from, to int64) (n int64) {
	for ; from < to; from++ {
		n += int64(b[from/8] >> (from % 8) & 1)
	}
	return n
}

// writeMeta writes all between the superblock, which it returns, and the file data.
func (w *ext4Writer) writeMeta() (ext4Super, error) {
	blocks := make(bitmap, w.groups*blockSize)
	blocks.set(0, w.head()+w.others)
	for _, i := range w.files {
		blocks.set(i.start, i.start+i.blocks)
	}
	sb := ext4Super{inodes: w.groups * w.perGroup, perGroup: w.perGroup, blocks: w.blocks}
	sb.freeBlocks = w.blocks - blocks.used(0, w.blocks)
	blocks.set(w.blocks, w.groups*ext4GroupBlocks) // what is not there is not free
	last := int64(ext4FirstInode - 1 + len(w.inodes) - 1)
	sb.freeInodes = sb.inodes - last
	dirs := make([]uint16, w.groups)
	numbers := make(map[*node]uint32, len(w.inodes))
	for _, i := range w.inodes {
		numbers[i.node] = i.number
		if i.is(unix.S_IFDIR) {
			dirs[int64(i.number-1)/w.perGroup]++
		}
	}

	out := w.section(blockSize)
	bitmaps := 1 + blocksOf(w.groups*ext4Descriptor)
	tables := bitmaps + 2*w.groups
	for g := range w.groups {
		d := make([]byte, ext4Descriptor)
		le := binary.LittleEndian
		le.PutUint32(d[0:], uint32(bitmaps+g))
		le.PutUint32(d[4:], uint32(bitmaps+w.groups+g))
		le.PutUint32(d[8:], uint32(tables+g*w.perGroup/ext4BlockInodes))
		from := g * ext4GroupBlocks
		le.PutUint16(d[12:], uint16(ext4GroupBlocks-blocks.used(from, from+ext4GroupBlocks)))
		le.PutUint16(d[14:], uint16(w.perGroup-w.inodesIn(g)))
		le.PutUint16(d[16:], dirs[g])
		out.put(d)
	}
	out.pad(blockSize)
	out.put(blocks)
	for g := range w.groups {
		inodes := make(bitmap, blockSize)
		inodes.set(0, w.inodesIn(g))
		inodes.set(w.perGroup, ext4GroupBlocks)
		out.put(inodes)
	}
	w.putInodes(out)
	out.skipTo((w.head() - 1) * blockSize)
	w.putOthers(out, numbers)
	return sb, out.flush()
}

// inodesIn is how many inodes of a group are used.
func (w *ext4Writer) inodesIn(group int64) int64 {
	last := int64(ext4FirstInode - 1 + len(w.inodes) - 1)
	return min(max(last-group*w.perGroup, 0), w.perGroup)
}

// putInodes writes the inodes, with zeros for those of the file system itself.
func (w *ext4Writer) putInodes(out *section) {
	start := out.pos
	for _, i := range w.inodes {
		out.skipTo(start + int64(i.number-1)*ext4InodeSize)
		out.put(i.encode())
	}
}

// putOthers writes what lay has placed between the inodes and the file data, in the
// same order.
func (w *ext4Writer) putOthers(out *section, numbers map[*node]uint32) {
	for _, i := range w.inodes {
		out.put(i.outer)
		for _, leaf := range i.extentLeaves() {
			out.put(leaf)
			out.pad(blockSize)
		}
		switch {
		case i.is(unix.S_IFDIR):
			for entries := ext4Order(i.entries); len(entries) > 0; {
				n := ext4DirentBlock(entries)
				out.put(ext4Dirents(entries[:n], numbers))
				entries = entries[n:]
			}
		case i.is(unix.S_IFLNK) && i.blocks > 0:
			out.put([]byte(i.target))
			out.pad(blockSize)
		}
	}
}
