package layer

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math"
	"os"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"
)

// copySize is how much file data is in memory at once, a multiple of blockSize.
const copySize = 1 << 20

// content names the bytes of a file.
type content struct {
	sum  [sha256.Size]byte
	size int64
}

// writer writes one image. Blocks are given out in ascending order from next.
type writer struct {
	ctx      context.Context
	f        *os.File
	tree     *tree
	progress func(done, total int64)

	next   int64 // first free block
	buf    []byte
	stored map[content]uint32 // to its first block
	done   int64              // bytes of file data
	id     hash.Hash          // of all that decides the image
	sb     superblock
}

func (w *writer) write() error {
	w.next = 1 // after the superblock
	w.buf = make([]byte, copySize)
	w.stored = make(map[content]uint32)
	w.id = sha256.New()

	end := int64(firstInode)
	for _, n := range w.tree.nodes {
		end = placeInode(n, end)
	}
	if err := w.writeFiles(); err != nil {
		return err
	}
	if err := w.writeOther(); err != nil {
		return err
	}
	meta := w.next
	w.next += blocksOf(end)
	size := roundUp(w.next*blockSize, imageUnit)
	if size/blockSize > math.MaxUint32 {
		return fmt.Errorf("the tree needs %d bytes, more than an image can hold", size)
	}
	if err := w.writeInodes(meta * blockSize); err != nil {
		return err
	}
	if err := w.f.Truncate(size); err != nil {
		return err
	}
	w.sb = superblock{
		inodes:  uint64(len(w.tree.nodes)),
		blocks:  uint32(size / blockSize),
		metaBlk: uint32(meta),
		rootNid: uint16(w.tree.root.place.nid),
	}
	w.id.Write(w.sb.encode())
	// Version 8 is for UUIDs with a recipe of one's own (RFC 9562, 5.8). The hash
	// is over this image's own format, which the name space keeps apart.
	space := uuid.NewSHA1(uuid.NameSpaceURL, []byte("https://github.com/levelfs/levelfs/layer/erofs"))
	w.sb.uuid = uuid.NewHash(sha256.New(), space, w.id.Sum(nil), 8)
	w.sb.seal()
	_, err := w.f.WriteAt(w.sb.encode(), 0)
	return err
}

// writeFiles stores the data of all regular files. Those of 2 MiB and more go on
// 2 MiB boundaries, with small ones in the gaps, unless the rest of the gap would
// be more than an eighth of the file.
func (w *writer) writeFiles() error {
	const unit = imageUnit / blockSize
	var small, large []*node
	for _, n := range w.tree.nodes {
		switch {
		case !n.is(unix.S_IFREG) || n.size == 0:
		case n.size >= imageUnit:
			large = append(large, n)
		default:
			small = append(small, n)
		}
	}
	for _, n := range large {
		start := roundUp(w.next, unit)
		for len(small) > 0 && w.next+blocksOf(small[0].size) <= start {
			if err := w.writeFile(small[0]); err != nil {
				return err
			}
			small = small[1:]
		}
		if start-w.next <= blocksOf(n.size)/8 {
			w.next = start
		}
		if err := w.writeFile(n); err != nil {
			return err
		}
	}
	for _, n := range small {
		if err := w.writeFile(n); err != nil {
			return err
		}
	}
	return nil
}

// writeFile stores the data of one regular file, or finds them stored.
func (w *writer) writeFile(n *node) error {
	start := w.next
	if start+blocksOf(n.size) > math.MaxUint32 {
		return fmt.Errorf("%q: the image would be larger than erofs allows", w.tree.abs(n.path))
	}
	sum, err := w.copyFile(n)
	if err != nil {
		return err
	}
	key := content{sum, n.size}
	if blk, ok := w.stored[key]; ok {
		n.place.blk = blk
		w.next = start
		// What was written must not shine through where nothing else is written.
		return w.f.Truncate(start * blockSize)
	}
	n.place.blk = uint32(start)
	w.stored[key] = n.place.blk
	w.id.Write(binary.LittleEndian.AppendUint32(sum[:], n.place.blk))
	return nil
}

// copyFile copies the data of one regular file to the next blocks and returns their
// hash.
func (w *writer) copyFile(n *node) (sum [sha256.Size]byte, err error) {
	path := w.tree.abs(n.path)
	// O_NONBLOCK: should a fifo have taken the file's place, do not wait for it.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	if err := unchanged(f, n); err != nil {
		return sum, fmt.Errorf("%q: %w", path, err)
	}
	if sum, err = w.copyData(f, n.size); err == nil {
		err = unchanged(f, n)
	}
	if err != nil {
		return sum, fmt.Errorf("%q: %w", path, err)
	}
	n.sum = sum
	return sum, nil
}

// copyData copies size bytes from f to the next blocks and returns their hash.
func (w *writer) copyData(f *os.File, size int64) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for size > 0 {
		if err := w.ctx.Err(); err != nil {
			return sum, err
		}
		buf := w.buf[:min(size, copySize)]
		if _, err := io.ReadFull(f, buf); err == io.EOF || err == io.ErrUnexpectedEOF {
			return sum, fmt.Errorf("%w: it became shorter", ErrChanged)
		} else if err != nil {
			return sum, err
		}
		h.Write(buf)
		n := int64(len(buf))
		padded := w.buf[:roundUp(n, blockSize)]
		clear(padded[n:])
		if _, err := w.f.WriteAt(padded, w.next*blockSize); err != nil {
			return sum, err
		}
		w.next += blocksOf(n)
		size -= n
		w.done += n
		if w.progress != nil {
			w.progress(w.done, w.tree.data)
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// unchanged returns an error that wraps ErrChanged unless f is the file that scan
// saw at n.
func unchanged(f *os.File, n *node) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("fstat: %w", err)
	}
	switch {
	case idOf(&st) != n.id || uint32(st.Mode) != n.mode: //nolint:unconvert
		return fmt.Errorf("%w: it was replaced", ErrChanged)
	case st.Size != n.size:
		return fmt.Errorf("%w: it had %d bytes, now %d", ErrChanged, n.size, st.Size)
	case int64(st.Mtim.Sec) != n.mtime || uint32(st.Mtim.Nsec) != n.mtimeNs:
		return fmt.Errorf("%w: its modification time is another", ErrChanged)
	}
	return nil
}

// writeOther stores what does not fit beside an inode: the whole blocks of
// directories, and long targets of symbolic links.
func (w *writer) writeOther() error {
	out := w.section(w.next * blockSize)
	for _, n := range w.tree.nodes {
		if n.is(unix.S_IFREG) || n.size == n.place.inline {
			continue
		}
		n.place.blk = uint32(w.next)
		if n.is(unix.S_IFLNK) {
			out.put([]byte(n.target))
			out.pad(blockSize)
			w.next++
			continue
		}
		entries := n.entries
		for range blocksOf(n.size - n.place.inline) {
			count, _ := direntBlock(entries)
			out.put(appendDirents(w.buf[:0], entries[:count]))
			out.pad(blockSize)
			entries = entries[count:]
			w.next++
		}
		if w.next > math.MaxUint32 {
			return fmt.Errorf("%q: the image would be larger than erofs allows", w.tree.abs(n.path))
		}
	}
	return out.flush()
}

// writeInodes stores the inodes, each with its attributes and inline data, from
// the byte start on.
func (w *writer) writeInodes(start int64) error {
	out := w.section(start)
	for i, n := range w.tree.nodes {
		if i%1024 == 0 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		out.skipTo(n.place.offset())
		out.put(encodeInode(n, i))
		out.put(n.xattrs)
		switch {
		case n.place.inline == 0:
		case n.is(unix.S_IFLNK):
			out.put([]byte(n.target))
		default:
			entries := n.entries
			for range (n.size - n.place.inline) / blockSize {
				count, _ := direntBlock(entries)
				entries = entries[count:]
			}
			out.put(appendDirents(w.buf[:0], entries))
		}
	}
	return out.flush()
}

// section writes metadata in sequence, to the image and to the hash. The first
// error stays and is returned by flush.
type section struct {
	b   *bufio.Writer
	id  hash.Hash
	pos int64
}

func (w *writer) section(start int64) *section {
	return &section{b: bufio.NewWriterSize(io.NewOffsetWriter(w.f, start), 1<<18), id: w.id}
}

func (s *section) put(p []byte) {
	s.b.Write(p)
	s.id.Write(p)
	s.pos += int64(len(p))
}

func (s *section) skipTo(pos int64) {
	var zero [nidSize]byte
	for s.pos < pos {
		s.put(zero[:min(pos-s.pos, nidSize)])
	}
}

func (s *section) pad(unit int64) { s.skipTo(roundUp(s.pos, unit)) }

func (s *section) flush() error { return s.b.Flush() }
