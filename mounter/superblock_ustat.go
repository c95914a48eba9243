//go:build amd64 || s390x || ppc64le || 386

package mounter

import (
	"errors"

	"golang.org/x/sys/unix"
)

// superblockGone reports whether no mounted file system has the device number.
// ustat(2) is obsolete for what it tells of a file system, but it is the one call
// that finds a superblock by number, in whichever namespace it is mounted and
// even if it was unmounted lazily.
func superblockGone(dev uint64) bool {
	var buf unix.Ustat_t
	return errors.Is(unix.Ustat(int(dev), &buf), unix.EINVAL)
}
