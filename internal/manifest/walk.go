package manifest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Walk calls f for every file below dir, dir itself included, in the order of
// [Compare]. Entries have all extended attributes, and no digests: see [Digest]. One
// directory's names are in memory for each level of directories. No symbolic link is
// followed, but for dir itself.
func Walk(ctx context.Context, dir string, f func(*Entry) error) error {
	e, err := stat(dir+"/.", ".")
	if err != nil {
		return err
	}
	if err := f(e); err != nil {
		return err
	}
	return walk(ctx, dir, "", f)
}

func walk(ctx context.Context, dir, below string, f func(*Entry) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := open(join(dir, below), unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	if err := errors.Join(err, d.Close()); err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		rel := name
		if below != "" {
			rel = below + "/" + name
		}
		e, err := stat(join(dir, rel), rel)
		if err != nil {
			return err
		}
		if err := f(e); err != nil {
			return err
		}
		if e.Type == Dir {
			if err := walk(ctx, dir, rel, f); err != nil {
				return err
			}
		}
	}
	return nil
}

// open opens for reading, without a trace in the access time where that is allowed: to the
// owner and to root (O_NOATIME, open(2)).
func open(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOATIME|flags, 0)
	if errors.Is(err, unix.EPERM) {
		return os.OpenFile(path, os.O_RDONLY|flags, 0)
	}
	return f, err
}

func join(dir, rel string) string {
	if rel == "" || rel == "." {
		return dir
	}
	return dir + "/" + rel
}

// Stat is the entry of one file below dir, without a digest.
func Stat(dir, rel string) (*Entry, error) { return stat(join(dir, rel), rel) }

func stat(path, rel string) (*Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	e := &Entry{
		Path: rel, Type: typeOf(st.Mode), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		Time: time.Unix(int64(st.Mtim.Sec), int64(st.Mtim.Nsec)), //nolint:unconvert
	}
	var err error
	switch e.Type {
	case "":
		return nil, fmt.Errorf("%q: unknown file type %#o", path, st.Mode&unix.S_IFMT)
	case File:
		e.Size = st.Size
	case Link:
		e.Target, err = os.Readlink(path)
	case Char, Block:
		e.Major, e.Minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)) //nolint:unconvert
	}
	if err == nil {
		e.Xattrs, err = xattrs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%q: %w", path, err)
	}
	return e, nil
}

func xattrs(path string) ([]Xattr, error) {
	buf := make([]byte, 256)
	names, err := grow(&buf, func(b []byte) (int, error) { return unix.Llistxattr(path, b) })
	if errors.Is(err, unix.EOPNOTSUPP) || names == "" && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var list []Xattr
	for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
		value, err := grow(&buf, func(b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue // a view that the driver offers, or gone since
		}
		if err != nil {
			return nil, fmt.Errorf("read extended attribute %q: %w", name, err)
		}
		list = append(list, Xattr{name, value})
	}
	slices.SortFunc(list, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// grow calls read, which fills a buffer and returns the length, with ever larger ones.
func grow(buf *[]byte, read func([]byte) (int, error)) (string, error) {
	for {
		n, err := read(*buf)
		if err == nil {
			return string((*buf)[:n]), nil
		}
		// XATTR_SIZE_MAX and XATTR_LIST_MAX are 64 KiB.
		if !errors.Is(err, unix.ERANGE) || len(*buf) > 1<<16 {
			return "", err
		}
		*buf = make([]byte, 4*len(*buf))
	}
}

// Digest is "sha256:…" of a regular file's bytes. The file is opened only if it is one,
// and no symbolic link.
func Digest(ctx context.Context, path string) (string, error) {
	f, err := open(path, unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return DigestOf(ctx, f)
}

// DigestOf is Digest of a file that was opened and not read yet.
func DigestOf(ctx context.Context, f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return "", errors.Join(fmt.Errorf("%q: no regular file", f.Name()), err)
	}
	h := sha256.New()
	// Most files are small: a large buffer for each is what would take most of the time.
	buf := make([]byte, min(info.Size()+1, 1<<17))
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// Make writes the manifest of a directory, such as a mounted image.
func Make(ctx context.Context, dir string, out io.Writer) error {
	w := NewWriter(out)
	err := Walk(ctx, dir, func(e *Entry) error {
		e.Xattrs = slices.DeleteFunc(e.Xattrs, func(x Xattr) bool { return HostOnly(x.Name) })
		if e.Type == File {
			var err error
			if e.Digest, err = Digest(ctx, join(dir, e.Path)); err != nil {
				return err
			}
		}
		return w.Write(e)
	})
	if err != nil {
		return err
	}
	return w.Close()
}
