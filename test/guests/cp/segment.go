package cp

import (
	"fmt"
	"strings"

	"golang.org/x/text/encoding/charmap"
)

// A Type is how the pages of a segment may be used. DEFSEG gives it for each range
// of pages.
type Type byte

// The types, as DIAGNOSE X'64' encodes them: shared or exclusive, and writable,
// read-only, without saved content, or writable by CP only.
const (
	SW Type = iota
	EW
	SR
	ER
	SN
	EN
	SC
)

func (t Type) String() string {
	if t > SC {
		return fmt.Sprintf("type %d", byte(t))
	}
	return [...]string{"SW", "EW", "SR", "ER", "SN", "EN", "SC"}[t]
}

// A Range is a part of a segment, from the first to the last byte.
type Range struct {
	Type       Type
	Start, End uint64
}

// A Segment is a saved segment as DEFSEG defines it.
type Segment struct {
	Name   string // 1 to 8 characters, upper case
	Ranges []Range
	// LoadCode, if not 0, is the return code with which every attempt to load it
	// fails.
	LoadCode uint64
	// Resaved, if not nil, is another content that was saved under the same name.
	Resaved *Save
}

// A Save is a content that CP has under a name beside the old one, which those who
// have it loaded keep: it is what the next to load the segment get.
type Save struct {
	After  int    // how many loads get the old content
	Offset uint64 // in the segment, where the new content differs
	Bytes  []byte
}

// Single is a segment of one range.
func Single(name string, t Type, start, size uint64) Segment {
	return Segment{Name: name, Ranges: []Range{{t, start, start + size - 1}}}
}

// start is the segment's first byte, end its last one.
func (s *Segment) start() uint64 { return s.Ranges[0].Start }
func (s *Segment) end() uint64   { return s.Ranges[len(s.Ranges)-1].End }

// decodeName decodes a name in EBCDIC, padded with blanks.
func decodeName(b []byte) (string, error) {
	text, err := charmap.CodePage037.NewDecoder().Bytes(b)
	return strings.TrimRight(string(text), " "), err
}

// encodeName is the opposite of decodeName.
func encodeName(name string) ([]byte, error) {
	return charmap.CodePage037.NewEncoder().Bytes(fmt.Appendf(nil, "%-8s", name))
}
