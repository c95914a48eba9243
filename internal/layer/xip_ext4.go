package layer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Flags of inodes (fs/ext4/ext4.h).
const (
	ext4Compr       = 0x4
	ext4Encrypt     = 0x800
	ext4JournalData = 0x4000
	ext4Verity      = 0x100000
	ext4InlineData  = 0x10000000
)

// ext4 looks at the superblock and at every inode that is used, as
// ext4_should_enable_dax and ext4_fill_super do (fs/ext4/inode.c, super.c).
func (x *xip) ext4(b []byte) error {
	le := binary.LittleEndian
	incompat, rocompat := le.Uint32(b[96:]), le.Uint32(b[100:])
	blocks := int64(le.Uint32(b[4:]))
	descriptor := int64(ext4Descriptor)
	if incompat&ext4Incompat64Bit != 0 {
		blocks |= int64(le.Uint32(b[336:])) << 32
		descriptor = int64(le.Uint16(b[254:]))
	}
	if incompat&ext4IncompatRecover != 0 {
		x.whole(Journal, "its journal has to be replayed")
	} else if le.Uint16(b[58:])&1 == 0 {
		x.whole(Journal, "it was not unmounted")
	}
	if incompat&ext4IncompatInlineData != 0 {
		x.whole(InlineTails, "its inodes may hold data (inline_data)")
	}
	if incompat&ext4IncompatCompression != 0 {
		x.whole(Compressed, "it may be compressed")
	}
	if !x.blocks(le.Uint32(b[24:])+10, blocks) {
		return nil
	}
	inodes, perGroup, groupBlocks := int64(le.Uint32(b[0:])), int64(le.Uint32(b[40:])), int64(le.Uint32(b[32:]))
	size := int64(128)
	if le.Uint32(b[76:]) > 0 {
		size = int64(le.Uint16(b[88:]))
	}
	switch {
	case incompat&ext4IncompatMetaBG != 0:
		return errors.New("its group descriptors are spread (meta_bg): not read")
	case descriptor < ext4Descriptor || perGroup == 0 || perGroup > 8*x.BlockSize || groupBlocks == 0 ||
		size < 128 || size > x.BlockSize || inodes > blocks*(x.BlockSize/size):
		return errors.New("damaged: no geometry of ext4")
	}
	table := (int64(le.Uint32(b[20:])) + 1) * x.BlockSize // after the first data block
	sums := rocompat&(ext4ROCompatGDTSum|ext4ROCompatMetaSum) != 0
	for g := int64(0); g*perGroup < inodes; g++ {
		d := make([]byte, descriptor)
		if err := x.read(d, table+g*descriptor); err != nil {
			return err
		}
		used := perGroup
		if sums {
			if le.Uint16(d[18:])&1 != 0 { // no inode was ever used
				continue
			}
			used -= min(used, int64(le.Uint16(d[28:])))
		}
		at := int64(le.Uint32(d[8:]))
		if descriptor >= 64 {
			at |= int64(le.Uint32(d[40:])) << 32
		}
		if err := x.ext4Inodes(at*x.BlockSize, used, size, g*perGroup); err != nil {
			return fmt.Errorf("inodes of group %d: %w", g, err)
		}
	}
	return nil
}

// ext4Inodes looks at n inodes of one table; before is how many there are in the
// tables before it.
func (x *xip) ext4Inodes(at, n, size, before int64) error {
	le := binary.LittleEndian
	for done := int64(0); done < n; {
		count := min(n-done, copySize/size)
		table := make([]byte, count*size)
		if err := x.read(table, at+done*size); err != nil {
			return err
		}
		for i := range count {
			b := table[i*size:]
			number := before + done + i + 1
			own := number < ext4FirstInode && number != ext4Root
			if own || le.Uint16(b)&unix.S_IFMT != unix.S_IFREG || le.Uint16(b[26:]) == 0 || le.Uint32(b[4:])|le.Uint32(b[108:]) == 0 {
				continue
			}
			x.Files++
			flags := le.Uint32(b[32:])
			for _, f := range []struct {
				flag uint32
				kind ProblemKind
			}{
				{ext4InlineData, InlineTails}, {ext4Compr, Compressed}, {ext4Encrypt | ext4Verity, Encrypted}, {ext4JournalData, Journal},
			} {
				if flags&f.flag != 0 {
					x.counts[f.kind]++
				}
			}
		}
		done += count
	}
	return nil
}
