package layer

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const direntSize = 12 // struct erofs_dirent

// direntBlock returns how many of the entries fit into one block, and how many
// bytes of it they need. A block holds the fixed parts and then the names; a name
// has at most 255 bytes, so one always fits.
func direntBlock(entries []dirent) (count, used int) {
	for _, e := range entries {
		need := used + direntSize + len(e.name)
		if need > blockSize {
			break
		}
		count, used = count+1, need
	}
	return count, used
}

// direntsSize is i_size of a directory: whole blocks, and what the last one needs.
func direntsSize(entries []dirent) int64 {
	var size int64
	for len(entries) > 0 {
		n, used := direntBlock(entries)
		entries = entries[n:]
		if len(entries) > 0 {
			used = blockSize
		}
		size += int64(used)
	}
	return size
}

// appendDirents appends one block's worth of entries to out, without padding.
// The nodes must have their places.
func appendDirents(out []byte, entries []dirent) []byte {
	nameOff := len(entries) * direntSize
	for _, e := range entries {
		out = binary.LittleEndian.AppendUint64(out, e.node.place.nid)
		out = binary.LittleEndian.AppendUint16(out, uint16(nameOff))
		out = append(out, fileType(e.node.mode), 0)
		nameOff += len(e.name)
	}
	for _, e := range entries {
		out = append(out, e.name...)
	}
	return out
}

// fileType is the type of a directory entry, the same for erofs and ext4
// (include/linux/fs_types.h, FT_*).
func fileType(mode uint32) uint8 {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFCHR:
		return 3
	case unix.S_IFBLK:
		return 4
	case unix.S_IFIFO:
		return 5
	case unix.S_IFLNK:
		return 7
	}
	return 0 // scan lets nothing else in
}
