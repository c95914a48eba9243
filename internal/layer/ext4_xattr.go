package layer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	ext4XattrEntry = 16                                  // struct ext4_xattr_entry, without the name
	ext4BodySize   = ext4InodeSize - 128 - ext4ExtraSize // with its magic
	ext4OuterHead  = 32                                  // struct ext4_xattr_header
)

// ext4Xattrs encodes extended attributes: as many as fit behind the inode, and the
// rest in a block of its own.
func ext4Xattrs(attrs []xattr) (body, outer []byte, err error) {
	const end = 4 // zeros after the last entry
	bodyLeft := ext4BodySize - 4 - end
	outerLeft := blockSize - ext4OuterHead - end
	var in, out []xattr
	for _, a := range attrs {
		if a, err = ext4Xattr(a); err != nil {
			return nil, nil, err
		}
		need := ext4XattrEntry + int(roundUp(int64(len(a.name)), 4)+roundUp(int64(len(a.value)), 4))
		switch {
		case need <= bodyLeft:
			in = append(in, a)
			bodyLeft -= need
		case need <= outerLeft:
			out = append(out, a)
			outerLeft -= need
		default:
			return nil, nil, fmt.Errorf("its extended attributes are more than an ext4 inode can have")
		}
	}
	if in != nil {
		body = make([]byte, ext4BodySize)
		binary.LittleEndian.PutUint32(body, ext4XattrMagic)
		putExt4Xattrs(body[4:], in, 0)
	}
	if out != nil {
		// The kernel's lookup stops where a name would have stood.
		slices.SortFunc(out, func(a, b xattr) int {
			return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
		})
		outer = make([]byte, blockSize)
		binary.LittleEndian.PutUint32(outer[0:], ext4XattrMagic)
		binary.LittleEndian.PutUint32(outer[4:], 1) // inodes that use the block
		binary.LittleEndian.PutUint32(outer[8:], 1) // blocks
		putExt4Xattrs(outer[ext4OuterHead:], out, ext4OuterHead)
	}
	return body, outer, nil
}

// putExt4Xattrs writes entries from the start of b, and values from its end. The
// values' places count from before bytes before b.
func putExt4Xattrs(b []byte, attrs []xattr, before int) {
	le := binary.LittleEndian
	at, end := 0, len(b)
	for _, a := range attrs {
		e := b[at:]
		e[0], e[1] = uint8(len(a.name)), a.index
		if len(a.value) > 0 {
			end -= int(roundUp(int64(len(a.value)), 4))
			copy(b[end:], a.value)
			le.PutUint16(e[2:], uint16(before+end))
		}
		le.PutUint32(e[8:], uint32(len(a.value)))
		le.PutUint32(e[12:], ext4XattrHash(a))
		copy(e[ext4XattrEntry:], a.name)
		at += ext4XattrEntry + int(roundUp(int64(len(a.name)), 4))
	}
}

// ext4XattrHash is what the kernel and e2fsck check an entry by
// (fs/ext4/xattr.c, ext4_xattr_hash_entry).
func ext4XattrHash(a xattr) uint32 {
	var h uint32
	for i := range len(a.name) {
		h = h<<5 ^ h>>27 ^ uint32(a.name[i])
	}
	value := append(slices.Clone(a.value), make([]byte, -len(a.value)&3)...)
	for ; len(value) > 0; value = value[4:] {
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(value)
	}
	return h
}

// ext4Xattr is the attribute as ext4 stores it: access control lists have a form of
// their own on disk (fs/ext4/acl.h), everything else is as read.
func ext4Xattr(a xattr) (xattr, error) {
	if a.name != "" { // lists are known by their number alone
		return a, nil
	}
	const (
		user, group = 0x02, 0x08 // the tags of entries with a qualifier
		entry       = 8          // struct posix_acl_xattr_entry: tag, permissions, id
	)
	le := binary.LittleEndian
	if len(a.value) < 4 || len(a.value)%entry != 4 || le.Uint32(a.value) != 2 {
		return a, fmt.Errorf("its access control list is none of version 2")
	}
	b := le.AppendUint32(nil, 1)
	for e := a.value[4:]; len(e) > 0; e = e[entry:] {
		b = append(b, e[:4]...)
		if tag := le.Uint16(e); tag == user || tag == group {
			b = append(b, e[4:entry]...)
		}
	}
	a.value = b
	return a, nil
}
