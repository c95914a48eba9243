package diff

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/mounter"
)

// originUUID is the UUID of the file system that a file was copied up from, in canonical
// form, or "" if overlayfs has noted none. The attribute is a struct ovl_fh
// (fs/overlayfs/overlayfs.h): version 0, magic 0xfb, length, flags, type of the file
// handle, UUID of 16 bytes, file handle.
func originUUID(e *manifest.Entry) string {
	const head = 1 + 1 + 1 + 1 + 1
	value, _ := e.Xattr("trusted.overlay.origin")
	if len(value) < head+16 || value[0] != 0 || value[1] != 0xfb || int(value[2]) != len(value) {
		return ""
	}
	id := value[head : head+16]
	if id == string(make([]byte, 16)) {
		return "" // squashfs has none
	}
	x := hex.EncodeToString([]byte(id))
	return x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
}

// born is when the inode came into being, or the zero time where the file system does not
// say. A copied-up file is a new inode. Whiteouts are links of one that overlayfs makes
// for each mount.
func born(path string) (time.Time, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BTIME, &st); err != nil {
		return time.Time{}, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}, nil
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)), nil
}

// An origin is where a private file came from, as far as it is known.
type origin struct {
	base *mounter.Base // nil: not known
	by   Evidence
	uuid string // of the layer, by overlayfs's note; "" if there is none
	why  string // it is not known
}

// origin finds the level that the private file was made under.
func (d *differ) origin(e *manifest.Entry) (*origin, error) {
	if record := d.Adopted[e.Path]; record != "" {
		for i := range d.Bases {
			if Record(d.Bases[i]) == record {
				return &origin{base: &d.Bases[i], by: ByAdoption}, nil
			}
		}
		if Record(d.Now) == record { // before the private layer was under it
			return &origin{base: &d.Now, by: ByAdoption}, nil
		}
	}
	birth, err := born(filepath.Join(d.Upper, e.Path))
	if err != nil {
		return nil, err
	}
	then := d.during(birth)
	uuid := originUUID(e)
	if uuid == "" {
		return then, nil
	}
	last, all := -1, true
	for i, b := range d.Bases {
		if slices.ContainsFunc(b.Layers, func(l mounter.BaseLayer) bool { return l.UUID == uuid }) {
			if then.base == &d.Bases[i] {
				return &origin{base: then.base, by: ByOrigin, uuid: uuid}, nil
			}
			last = i
		}
		all = all && !slices.ContainsFunc(b.Layers, func(l mounter.BaseLayer) bool { return l.UUID == "" })
	}
	switch {
	case last >= 0: // restored from a backup, for one
		return &origin{base: &d.Bases[last], by: ByOrigin, uuid: uuid}, nil
	case !all: // it is that of a layer whose UUID was not recorded, such as a directory
		return then, nil
	}
	return &origin{why: fmt.Sprintf("copied up from the file system %s, which no recorded level has", uuid)}, nil
}

// during finds the level that the private layer was under at a time.
func (d *differ) during(t time.Time) *origin {
	if t.IsZero() {
		return &origin{why: "the file system does not say when the file came into being"}
	}
	for i, b := range slices.Backward(d.Bases) {
		if !t.Before(b.Since) && b.Level == "" {
			return &origin{why: "the record of the time when it was made names no level"}
		}
		if !t.Before(b.Since) {
			return &origin{base: &d.Bases[i], by: ByBirth}
		}
	}
	return &origin{why: "it is older than the record of levels"}
}
