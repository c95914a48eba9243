package mounter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A MismatchError is an image that is not the layer that the inventory describes.
type MismatchError struct {
	Layer, Image string
	What         string // "size", "fstype", "uuid", "digest"
	Got, Want    string
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("layer %q: image %q: %s is %s, but the inventory says %s", e.Layer, e.Image, e.What, e.Got, e.Want)
}

// checkImage opens the layer's image and makes sure that it is the layer: its
// size, its file system's type and UUID each time, all of its bytes the first
// time. That they were read and were right is remembered in the cache, together
// with the file's identity and its change time, which nobody can set: the image
// is read again as soon as it has changed in any way.
func (a *Applier) checkImage(ctx context.Context, l Layer, cache string) (*os.File, error) {
	root, err := os.OpenRoot(l.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// O_NONBLOCK: opening a FIFO would wait for a writer. It changes nothing else.
	opened, err := root.OpenFile(l.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("layer %q: %w", l.Name, err)
	}
	// os.Root names the file by its relative path; the loop device wants to show
	// all of it.
	fd, err := unix.FcntlInt(opened.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	opened.Close()
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), l.File())
	if err := a.checkOpen(ctx, f, l, cache); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (a *Applier) checkOpen(ctx context.Context, f *os.File, l Layer, cache string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("layer %q: %q is no regular file", l.Name, f.Name())
	}
	if l.Size != 0 && st.Size != l.Size {
		return &MismatchError{Layer: l.Name, Image: f.Name(), What: "size",
			Got: fmt.Sprintf("%d bytes", st.Size), Want: fmt.Sprintf("%d", l.Size)}
	}
	if err := l.checkSuperblock(f); err != nil {
		return err
	}
	stamp := fmt.Appendf(nil, "dev %d ino %d size %d mtime %d.%09d ctime %d.%09d\n",
		st.Dev, st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
	return a.checkBytes(ctx, image{f.Name(), &passing{f: f}, st.Size}, l, filepath.Join(cache, "verified"), stamp)
}

// checkSuperblock compares what the file system in the image says of itself.
func (l Layer) checkSuperblock(f *os.File) error {
	fstype, uuid, err := Probe(f)
	if err != nil {
		return fmt.Errorf("layer %q: image %q: %w", l.Name, f.Name(), err)
	}
	if fstype != l.FSType {
		return &MismatchError{Layer: l.Name, Image: f.Name(), What: "fstype", Got: fstype, Want: l.FSType}
	}
	if l.UUID != "" && uuid != l.UUID {
		return &MismatchError{Layer: l.Name, Image: f.Name(), What: "uuid", Got: uuid, Want: l.UUID}
	}
	return nil
}

// checkDevice is checkOpen for an image in shared memory. CP keeps old and new content
// alive under one name, so that a name says nothing: the bytes are read when the
// device is new on this machine. It may be larger than the image.
func (a *Applier) checkDevice(ctx context.Context, f *os.File, l Layer, cache string) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if size < l.Size {
		return &MismatchError{Layer: l.Name, Image: f.Name(), What: "size",
			Got: fmt.Sprintf("%d bytes", size), Want: fmt.Sprintf("%d", l.Size)}
	}
	if err := l.checkSuperblock(f); err != nil {
		return err
	}
	if l.Size != 0 {
		size = l.Size
	}
	stamp, err := deviceStamp(f, size)
	if err != nil {
		return err
	}
	// Read past the page cache: it would hold in this machine's memory what is shared
	// so that it need not.
	direct, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return fmt.Errorf("layer %q: %q: %w", l.Name, f.Name(), err)
	}
	defer direct.Close()
	return a.checkBytes(ctx, image{f.Name(), direct, size}, l, filepath.Join(cache, "verified-devices"), stamp)
}

// An image is what is read to check its digest.
type image struct {
	name  string
	bytes io.Reader // from the start
	size  int64     // of them; there may be more
}

// passing reads a file from its start, and leaves nothing of it in the page cache. What
// is used later comes through the loop device, which reads past it: the image would be
// in memory a second time.
type passing struct {
	f  *os.File
	at int64
}

func (p *passing) Read(b []byte) (int, error) {
	n, err := p.f.ReadAt(b, p.at)
	p.at += int64(n)
	// From the start, since what reaches over the end of what is dropped stays. It is an
	// advice: where it is not taken more memory is used until it is needed.
	_ = unix.Fadvise(int(p.f.Fd()), 0, p.at, unix.FADV_DONTNEED)
	return n, err
}

// checkBytes reads the image and compares its digest, unless the directory remembers
// under it that an image with that stamp was right.
func (a *Applier) checkBytes(ctx context.Context, i image, l Layer, dir string, stamp []byte) error {
	stampFile := filepath.Join(dir, strings.TrimPrefix(l.Digest, "sha256:"))
	if old, err := os.ReadFile(stampFile); err == nil && bytes.Equal(old, stamp) {
		return nil
	}
	if a.Long != nil {
		var done context.CancelFunc
		ctx, done = a.Long(ctx)
		defer done()
	}
	digest, err := hash(ctx, i.bytes, i.size)
	if err != nil {
		return fmt.Errorf("layer %q: image %q: %w", l.Name, i.name, err)
	}
	if digest != l.Digest {
		return &MismatchError{Layer: l.Name, Image: i.name, What: "digest", Got: digest, Want: l.Digest}
	}
	return remember(stampFile, stamp)
}

// remember writes a stamp. It is only a cache: a torn one is another content, and
// the image is read again.
func remember(path string, stamp []byte) error {
	err := os.WriteFile(path, stamp, 0o600)
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, stamp, 0o600)
}

// hash returns "sha256:…" of the first size bytes. It reads whole pages into whole
// pages, as direct I/O needs it.
func hash(ctx context.Context, r io.Reader, size int64) (string, error) {
	buf, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return "", fmt.Errorf("mmap: %w", err)
	}
	defer unix.Munmap(buf)
	h := sha256.New()
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		some := min(int64(n), size)
		h.Write(buf[:some])
		size -= some
		if err == io.EOF && size > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && size > 0 {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// Probe tells the type and the UUID of the file system in an image from its
// superblock. A squashfs has no UUID. Offsets: fs/erofs/erofs_fs.h,
// fs/squashfs/squashfs_fs.h, fs/ext4/ext4.h.
func Probe(r io.ReaderAt) (fstype, uuid string, err error) {
	head := make([]byte, 2048)
	if n, err := r.ReadAt(head, 0); n < len(head) {
		return "", "", fmt.Errorf("too short for a file system: %w", err)
	}
	super := head[1024:]
	switch {
	case bytes.HasPrefix(super, []byte{0xe2, 0xe1, 0xf5, 0xe0}):
		return "erofs", formatUUID(super[0x30:0x40]), nil
	case bytes.HasPrefix(head, []byte("hsqs")):
		return "squashfs", "", nil
	case bytes.HasPrefix(super[0x38:], []byte{0x53, 0xef}):
		return "ext4", formatUUID(super[0x68:0x78]), nil
	}
	return "", "", errors.New("no erofs, squashfs or ext4 file system in it")
}

func formatUUID(b []byte) string {
	x := hex.EncodeToString(b)
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}
