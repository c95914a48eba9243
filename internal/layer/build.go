package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/manifest"
)

// ErrChanged is wrapped by the error of [Build] when a file was not the same at
// the end of reading it as when the tree was listed.
var ErrChanged = errors.New("changed while the layer was built")

// ErrSocket is wrapped by the error of [Build] when the tree holds a socket. A
// socket belongs to a running process and has no meaning in a layer.
var ErrSocket = errors.New("sockets cannot be part of a layer")

// ErrInside is wrapped by the error of [Build] when the image would be written
// into the tree it is made from.
var ErrInside = errors.New("the image lies inside the directory it is built from")

// BuildOptions are the choices of one [Build]. The zero value is ready for use.
type BuildOptions struct {
	// Progress, if not nil, is called from Build's goroutine after each piece of
	// file data: done and total are bytes, total is the size of all regular files
	// with hard links counted once, and the last call has done equal to total.
	// It is not called for a tree without file data.
	Progress func(done, total int64)
	// FSType is the file system, "erofs" or "ext4"; empty stands for erofs.
	FSType string
	// XIP has the finished image checked, before it gets its name: that it can be
	// executed in place is then seen, and not assumed. If it cannot, the error is an
	// *[UnfitError].
	XIP bool
	// MaxSize, if not 0, is how many bytes the image may have; if it has more, the
	// error is a *[SizeError].
	MaxSize int64
}

// A SizeError is an image that became too large.
type SizeError struct{ Size, Max int64 }

func (e *SizeError) Error() string {
	return fmt.Sprintf("the image has %d bytes, at most %d are wanted", e.Size, e.Max)
}

// Result describes the image that [Build] wrote.
type Result struct {
	Path   string // of the image, as it was given to Build
	Digest string // "sha256:" and 64 hexadecimal digits, over all bytes of the image
	Size   int64  // of the image in bytes, a multiple of 2 MiB
	UUID   string // of the file system, in lower-case canonical form
	FSType string // "erofs" or "ext4"
	Files  int    // names in the tree that are not directories
	// Manifest is the digest of the file manifest (package manifest) that lies beside the
	// image, under its name with [ManifestSuffix].
	Manifest string
}

// ManifestSuffix is what the name of an image's manifest ends in.
const ManifestSuffix = ".mtree"

// Build writes the tree below dir as an image to the new file image.
//
// Beside it goes its manifest, at IMAGE.mtree. The image appears under its name only when it is complete and on disk, with
// mode 0444. Build never replaces a file: if image exists the error wraps
// [fs.ErrExist]. Otherwise errors name the path they are about and wrap
// [ErrChanged], [ErrSocket], [ErrInside], an *[UnfitError], a *[SizeError], the
// context's error, or what the operating system said; then nothing is left behind,
// nor if the process is killed, where the file system of the image has O_TMPFILE.
func Build(ctx context.Context, dir, image string, o BuildOptions) (Result, error) {
	if image == "" {
		return Result{}, errors.New("build layer: empty image name")
	}
	r, err := build(ctx, dir, image, o)
	if err != nil {
		return Result{}, fmt.Errorf("build layer %q: %w", image, err)
	}
	return r, nil
}

func build(ctx context.Context, dir, image string, o BuildOptions) (Result, error) {
	if o.FSType == "" {
		o.FSType = "erofs"
	}
	if o.FSType != "erofs" && o.FSType != "ext4" {
		return Result{}, fmt.Errorf("file system %q: want erofs or ext4", o.FSType)
	}
	// Asked before the long work; publish decides without a race.
	if _, err := os.Lstat(image); err == nil {
		return Result{}, fs.ErrExist
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Result{}, err
	}
	var parent unix.Stat_t
	if err := unix.Stat(filepath.Dir(image), &parent); err != nil {
		return Result{}, &fs.PathError{Op: "stat", Path: filepath.Dir(image), Err: err}
	}
	t, err := scan(ctx, dir, idOf(&parent))
	if err != nil {
		return Result{}, err
	}
	tmp, err := newTemp(image)
	if err != nil {
		return Result{}, err
	}
	defer tmp.discard()

	id, err := writeTree(ctx, tmp.f, t, o)
	if err != nil {
		return Result{}, err
	}
	info, err := tmp.f.Stat()
	if err != nil {
		return Result{}, err
	}
	r := Result{Path: image, Size: info.Size(), UUID: id.String(), FSType: o.FSType, Files: t.names}
	if o.MaxSize != 0 && r.Size > o.MaxSize {
		return Result{}, &SizeError{Size: r.Size, Max: o.MaxSize}
	}
	if o.XIP {
		report, err := checkXIP(tmp.f, r.Size)
		if err != nil {
			return Result{}, err
		}
		report.Image = image
		if !report.Fit() {
			return Result{}, &UnfitError{Report: report}
		}
	}
	if r.Digest, err = digestOf(ctx, tmp.f); err != nil {
		return Result{}, err
	}
	if r.Manifest, err = publish(tmp, t); err != nil {
		return Result{}, err
	}
	return r, nil
}

// publish gives the image its name, and before it the manifest, so that there is none
// without it. A manifest that is there already and is the same was left by a build that
// was killed.
func publish(image *temp, t *tree) (digest string, err error) {
	name := image.image + ManifestSuffix
	tmp, err := newTemp(name)
	if err != nil {
		return "", err
	}
	defer tmp.discard()
	h := sha256.New()
	if err := t.writeManifest(io.MultiWriter(tmp.f, h)); err != nil {
		return "", err
	}
	digest = "sha256:" + hex.EncodeToString(h.Sum(nil))
	made := true
	if err := tmp.publish(); errors.Is(err, fs.ErrExist) {
		if old, readErr := manifest.Digest(context.Background(), name); readErr != nil || old != digest {
			return "", fmt.Errorf("manifest %q: %w", name, err)
		}
		made = false
	} else if err != nil {
		return "", err
	}
	if err := image.publish(); err != nil {
		if made {
			err = errors.Join(err, os.Remove(name))
		}
		return "", err
	}
	return digest, nil
}

// writeTree writes the image and returns its file system's UUID.
func writeTree(ctx context.Context, f *os.File, t *tree, o BuildOptions) (uuid.UUID, error) {
	w := writer{ctx: ctx, f: f, tree: t, progress: o.Progress}
	if o.FSType == "ext4" {
		e := &ext4Writer{writer: w, max: o.MaxSize}
		err := e.write()
		return e.sb.uuid, err
	}
	err := w.write()
	return w.sb.uuid, err
}

// digestOf reads all of f. A second pass is needed: the superblock at the start
// holds what is known only at the end.
func digestOf(ctx context.Context, f *os.File) (string, error) {
	h := sha256.New()
	r := &ctxReader{ctx: ctx, r: io.NewSectionReader(f, 0, 1<<62)}
	if _, err := io.CopyBuffer(h, r, make([]byte, copySize)); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// ctxReader is r until ctx ends.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *ctxReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
