package layer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrUnknownImage is wrapped by the error of [CheckXIP] for a file that is no image
// of a file system that layers have.
var ErrUnknownImage = errors.New("neither erofs nor ext4 nor squashfs")

// A Report says whether an image can be executed in place: whether the kernel maps
// its files from the device's own memory (DAX) instead of copying them.
type Report struct {
	Image     string    `json:"image"`
	FSType    string    `json:"fstype"`
	Size      int64     `json:"size"`                // bytes of the file
	BlockSize int64     `json:"blockSize,omitempty"` // of the file system
	Files     int       `json:"files"`               // regular files that are not empty
	Problems  []Problem `json:"problems"`            // none: it can
}

// Fit reports whether there is nothing against execution in place.
func (r Report) Fit() bool { return len(r.Problems) == 0 }

// A Problem is one reason against it.
type Problem struct {
	Kind  ProblemKind `json:"kind"`
	Files int         `json:"files,omitempty"` // that have it; 0: the image as a whole has
	Text  string      `json:"text"`
}

// ProblemKind tells problems apart by what can be done about them.
type ProblemKind string

// The kinds of problem.
const (
	NeverXIP    ProblemKind = "file-system" // has no execution in place at all
	BadSize     ProblemKind = "size"        // not a multiple of 2 MiB
	Truncated   ProblemKind = "truncated"   // the file system is larger than the file
	BadBlocks   ProblemKind = "block-size"  // not 4096
	InlineTails ProblemKind = "inline"      // data in inodes
	Compressed  ProblemKind = "compressed"
	MoreDevices ProblemKind = "devices"   // data on other devices
	Journal     ProblemKind = "journal"   // has to be replayed, which nobody can on a read-only device
	Encrypted   ProblemKind = "encrypted" // or authenticated by fs-verity
)

// An UnfitError is a Report with problems.
type UnfitError struct{ Report }

func (e *UnfitError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		texts[i] = p.Text
	}
	return fmt.Sprintf("%q cannot be executed in place: %s", e.Image, strings.Join(texts, "; "))
}

// CheckXIP reads an image, of whatever origin, and says whether it can be executed in
// place. It looks at every inode and not at the options that the image was made with.
// An error means that this is not known: the file cannot be read, is damaged, or
// wraps [ErrUnknownImage].
func CheckXIP(image string) (Report, error) {
	// O_NONBLOCK: a fifo is no image, and not to be waited for.
	f, err := os.OpenFile(image, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return Report{}, err
	}
	defer f.Close()
	// A block device has no size in its inode.
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return Report{}, err
	}
	r, err := checkXIP(f, size)
	r.Image = image
	if err != nil {
		return r, fmt.Errorf("check %q: %w", image, err)
	}
	return r, nil
}

func checkXIP(f io.ReaderAt, size int64) (Report, error) {
	head := make([]byte, 2*superOffset)
	if n, err := f.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return Report{}, err
	} else if n < len(head) {
		return Report{}, ErrUnknownImage
	}
	x := &xip{f: f, Report: Report{Size: size}, counts: make(map[ProblemKind]int)}
	super := head[superOffset:]
	var err error
	switch le := binary.LittleEndian; {
	case le.Uint32(super) == superMagic:
		x.FSType = "erofs"
		err = x.erofs(super)
	case le.Uint16(super[56:]) == ext4Magic:
		x.FSType = "ext4"
		err = x.ext4(super)
	case bytes.HasPrefix(head, []byte("hsqs")):
		x.FSType = "squashfs"
		x.whole(NeverXIP, "squashfs has no execution in place")
		return x.Report, nil
	default:
		return Report{}, ErrUnknownImage
	}
	if err != nil {
		return x.Report, err
	}
	if size%imageUnit != 0 {
		x.whole(BadSize, "its size, %d bytes, is no multiple of 2 MiB", size)
	}
	for _, k := range []struct {
		kind ProblemKind
		what string
	}{
		{InlineTails, "have data in their inodes"},
		{Compressed, "are compressed"},
		{Encrypted, "are encrypted or under fs-verity"},
		{Journal, "have their data in the journal"},
	} {
		if n := x.counts[k.kind]; n > 0 {
			x.Problems = append(x.Problems, Problem{Kind: k.kind, Files: n,
				Text: fmt.Sprintf("%d of %d files %s", n, x.Files, k.what)})
		}
	}
	return x.Report, nil
}

// xip is the state of one check.
type xip struct {
	Report
	f      io.ReaderAt
	counts map[ProblemKind]int // files
}

// whole notes a problem of the image as a whole.
func (x *xip) whole(kind ProblemKind, format string, a ...any) {
	x.Problems = append(x.Problems, Problem{Kind: kind, Text: fmt.Sprintf(format, a...)})
}

// blocks checks the geometry that a superblock states. It returns false if the rest
// of the image cannot be looked at.
func (x *xip) blocks(bits uint32, count int64) bool {
	if bits < 9 || bits > 16 {
		x.whole(BadBlocks, "its block size is 2^%d", bits)
		return false
	}
	x.BlockSize = 1 << bits
	if x.BlockSize != blockSize {
		x.whole(BadBlocks, "its block size is %d and not %d", x.BlockSize, blockSize)
	}
	if count > x.Size>>bits {
		x.whole(Truncated, "its file system has %d blocks of %d, the file only %d bytes", count, x.BlockSize, x.Size)
		return false
	}
	return true
}

// read fills b, or says that the image ends before.
func (x *xip) read(b []byte, at int64) error {
	if at < 0 || at > x.Size-int64(len(b)) {
		return fmt.Errorf("damaged: it refers to byte %d, and has %d", at, x.Size)
	}
	_, err := x.f.ReadAt(b, at)
	return err
}
