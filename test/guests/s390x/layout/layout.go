// Package layout says which segments CP has for the s390x guest and what is in them.
// The test that plays CP and the program in the guest both go by it.
package layout

import "github.com/levelfs/levelfs/test/guests/cp"

const megabyte = 1 << 20

// Memory of the guest that Linux uses; what QEMU gives it above that is for
// segments.
const (
	LinuxMemory = 512 * megabyte
	Memory      = 1024 * megabyte
)

// The segments, by name.
const (
	Ext4     = "EXT4"    // SR: an ext4 image
	Erofs    = "EROFS"   // SR: an erofs image
	First    = "A"       // SR: the first half of an erofs image,
	Second   = "B"       // SR: and the second
	Gap      = "C"       // SR: does not follow B
	Mixed    = "D"       // EW: follows C
	Work     = "WORK"    // SR: to be written in exclusive mode
	CPOnly   = "CPONLY"  // SC: of which there is no exclusive mode
	Copied   = "COPIED"  // EW: writable as it is
	Overlap  = "OVERLAP" // in the middle of EXT4
	InRAM    = "INRAM"   // in the memory that Linux uses
	Far      = "FAR"     // beyond all that Linux maps
	Broken   = "BROKEN"  // CP fails to load it
	Parts    = "PARTS"   // has parts of types that Linux cannot have in one
	Many     = "MANY"    // has more parts than Linux can take
	Merged   = "MERGED"  // has two parts that it can take
	Unknown  = "UNKNOWN" // is not defined
	National = "A$#@_9"  // with characters that are no letters
	Other    = "OTHER"   // SR: an erofs image in which something else was saved
	Resaved  = "RESAVED" // SR: an erofs image; after the first load, something else
	Compact  = "COMPACT" // SR: erofs as mkfs.erofs makes it, which is not all DAX
	Spare    = "SPARE"   // SR: an erofs image of which the guest has the file as well
)

// Where the images are, and how large they may be.
const (
	Ext4Start   = 0x20000000
	Ext4Size    = 16 * megabyte
	ErofsStart  = 0x22000000
	ErofsSize   = 16 * megabyte
	JoinedStart = 0x24000000
	JoinedHalf  = 4 * megabyte
	WorkStart   = 0x26000000

	OtherStart   = 0x2e000000
	ResavedStart = 0x2e400000
	CompactStart = 0x2e800000
	SpareStart   = 0x2ec00000
	SmallSize    = 2 * megabyte // of each of these four
)

// What the file "content" of Other and Resaved has, and what was saved in its place.
const (
	Content = "as the inventory has it"
	Changed = "saved by another person"
)

// Images are the images in memory, by file name.
func Images() map[string]uint64 {
	return map[string]uint64{
		"ext4.img": Ext4Start, "erofs.img": ErofsStart, "joined.img": JoinedStart,
		"other.img": OtherStart, "resaved.img": ResavedStart, "compact.img": CompactStart,
		"spare.img": SpareStart,
	}
}

// Segments are what CP has.
func Segments() []cp.Segment {
	broken := cp.Single(Broken, cp.SR, 0x29000000, megabyte)
	broken.LoadCode = 1234
	many := cp.Segment{Name: Many}
	for i := range uint64(7) {
		start := 0x2c000000 + i*megabyte
		many.Ranges = append(many.Ranges, cp.Range{Type: cp.EW, Start: start, End: start + megabyte - 1})
	}
	return []cp.Segment{
		cp.Single(Ext4, cp.SR, Ext4Start, Ext4Size),
		cp.Single(Erofs, cp.SR, ErofsStart, ErofsSize),
		cp.Single(First, cp.SR, JoinedStart, JoinedHalf),
		cp.Single(Second, cp.SR, JoinedStart+JoinedHalf, JoinedHalf),
		cp.Single(Gap, cp.SR, 0x25000000, megabyte),
		cp.Single(Mixed, cp.EW, 0x25100000, megabyte),
		cp.Single(Work, cp.SR, WorkStart, megabyte),
		cp.Single(CPOnly, cp.SC, 0x27000000, megabyte),
		cp.Single(Copied, cp.EW, 0x28000000, megabyte),
		cp.Single(Overlap, cp.SR, Ext4Start+8*megabyte, megabyte),
		cp.Single(InRAM, cp.SR, 0x10000000, megabyte),
		cp.Single(Far, cp.SR, 0x40000000000, megabyte),
		broken,
		{Name: Parts, Ranges: []cp.Range{
			{Type: cp.SR, Start: 0x2a000000, End: 0x2a0fffff},
			{Type: cp.EW, Start: 0x2a100000, End: 0x2a1fffff},
		}},
		many,
		{Name: Merged, Ranges: []cp.Range{
			{Type: cp.EW, Start: 0x2b000000, End: 0x2b0fffff},
			{Type: cp.EN, Start: 0x2b100000, End: 0x2b1fffff},
		}},
		cp.Single(National, cp.SN, 0x2d000000, megabyte),
		cp.Single(Other, cp.SR, OtherStart, SmallSize),
		cp.Single(Resaved, cp.SR, ResavedStart, SmallSize),
		cp.Single(Compact, cp.SR, CompactStart, SmallSize),
		cp.Single(Spare, cp.SR, SpareStart, SmallSize),
	}
}

// A Component has one level of one layer.
type Component struct {
	Name    string
	Segment string // of the layer, "A:B" if there are several
	Image   string // of the layer, without ".img"
	XIP     string // "require", or ""
}

// Components are the inventory.
func Components() []Component {
	return []Component{
		{"ext4", Ext4, "ext4", ""},
		{"erofs", Erofs, "erofs", "require"},
		{"joined", First + ":" + Second, "joined", ""},
		{"compact", Compact, "compact", ""},
		{"compact-required", Compact, "compact", "require"},
		{"unknown", Unknown, "other", ""},
		{"unknown-required", Unknown, "other", "require"},
		{"broken", Broken, "other", ""},
		{"overlap", Overlap, "other", ""},
		{"half", First, "other", ""},
		{"other", Other, "other", ""},
		{"other-required", Other, "other", "require"},
		{"resaved", Resaved, "resaved", ""},
		{"spare", Spare, "spare", ""},
	}
}

// Commands are the CP commands that the program in the guest causes.
func Commands() []string {
	return []string{"DEFSEG WORK 26000-260FF SR", "SAVESEG WORK"}
}
