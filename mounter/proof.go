package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// proofSample is how many files of a layer are looked at on every mount.
const proofSample = 32

// A Proof is what the kernel says of files: whether they are executed in place. It is
// never assumed: erofs drops DAX in silence, from the mount or from single files
// (Documentation/filesystems/dax.rst says that statx(2) is how to ask).
type Proof struct {
	Files  int    `json:"files"`            // regular files with content that were looked at
	Active int    `json:"active"`           // of them, those with STATX_ATTR_DAX
	Reason string `json:"reason,omitempty"` // why not all of them are; "" if that is not known
}

// ProofState is what a Proof comes to.
type ProofState string

// The states.
const (
	Active  ProofState = "active"
	Partial ProofState = "partial"
	Off     ProofState = "off"
)

// State sums the proof up. Where there are no files, nothing is in place.
func (p Proof) State() ProofState {
	switch {
	case p.Active == 0:
		return Off
	case p.Active < p.Files:
		return Partial
	}
	return Active
}

// String is "active", "partial (3 of 8 files)" or "off (REASON)".
func (p Proof) String() string {
	var words []string
	if p.State() == Partial {
		words = append(words, fmt.Sprintf("%d of %d files", p.Active, p.Files))
	}
	if p.Reason != "" {
		words = append(words, p.Reason)
	}
	if len(words) == 0 {
		return string(p.State())
	}
	return string(p.State()) + " (" + strings.Join(words, ": ") + ")"
}

// Prove looks at up to limit regular files below dir, of those that skip, if given,
// lets pass; 0 is all of them. It follows no symbolic link and leaves no mount.
func Prove(ctx context.Context, dir string, limit int) (Proof, error) {
	return ProveSome(ctx, dir, limit, nil)
}

// ProveSome is Prove for a view, in which files that are the caller's own are left
// out: skip is asked with the path relative to dir.
func ProveSome(ctx context.Context, dir string, limit int, skip func(path string) bool) (Proof, error) {
	var p Proof
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if rel, err := filepath.Rel(dir, path); err != nil || skip != nil && skip(rel) {
			return err
		}
		var st unix.Statx_t
		err = unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_DONT_SYNC, unix.STATX_SIZE, &st)
		if errors.Is(err, unix.ENOENT) {
			return nil // removed from the view since
		}
		if err != nil {
			return &os.PathError{Op: "statx", Path: path, Err: err}
		}
		if st.Size == 0 {
			return nil // nothing to map
		}
		p.Files++
		if st.Attributes&unix.STATX_ATTR_DAX != 0 {
			p.Active++
		}
		if limit > 0 && p.Files == limit {
			return fs.SkipAll
		}
		return nil
	})
	return p, err
}

// explain finds the likely reason for files that are not in place.
func (p *Proof) explain(fstype string, device *os.File) {
	switch {
	case p.State() == Active:
	case p.Files == 0:
		p.Reason = "no files"
	case fstype == "squashfs":
		p.Reason = "squashfs has no DAX"
	case !daxDevice(device):
		p.Reason = "the kernel has no DAX for this device, or it is not aligned to 2 MiB"
	case fstype == "erofs":
		p.Reason = "files are compressed or have inline tails: build the image with levelfs layer build"
	default:
		p.Reason = "the file system did not take it"
	}
}

// daxDevice reports whether the driver can map the device (queue/dax in sysfs; a
// partition's queue is that of the whole device).
func daxDevice(device *os.File) bool {
	var st unix.Stat_t
	if unix.Fstat(int(device.Fd()), &st) != nil {
		return false
	}
	dir := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)))
	for _, file := range []string{dir + "/queue/dax", dir + "/../queue/dax"} {
		if text, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(text)) == "1"
		}
	}
	return false
}
