package segment

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sizes in bytes.
const (
	PageSize = 4096
	// Unit is what devices begin and end at a multiple of.
	Unit = 2 << 20
	// MaxBytes is how much one segment can hold.
	MaxBytes = 2046 << 20
)

const (
	unitPages = Unit / PageSize
	maxPages  = MaxBytes / PageSize
	loadPages = 1 << 20 / PageSize // ranges collide in units of this
	// lastPage is the highest page of a segment: MAX_DCSS_ADDR of
	// arch/s390/include/asm/extmem.h, 512 GiB.
	lastPage = 0x7FFFFFF
)

// A Range is a range of pages of 4 KiB, both ends included, as DEFSEG takes it.
type Range struct{ Begin, End int64 }

// DefaultRange is where segments are planned if nothing else is said: from 64 GiB, above
// the storage of most guests, to 512 GiB, where addresses of segments end.
func DefaultRange() Range { return Range{64 << 30 / PageSize, lastPage} }

// ParseRange reads BEGIN-END, page numbers in hexadecimal.
func ParseRange(s string) (Range, error) {
	begin, end, ok := strings.Cut(s, "-")
	r := Range{page(begin), page(end)}
	if !ok || r.Begin < 0 || r.End < 0 {
		return Range{}, fmt.Errorf("page range %q: want BEGIN-END, hexadecimal page numbers up to %X", s, lastPage)
	}
	if r.End < r.Begin {
		return Range{}, fmt.Errorf("page range %q: ends before it begins", s)
	}
	return r, nil
}

// page reads a page number; -1 if it is none.
func page(s string) int64 {
	if s == "" || len(s) > 16 || !only(s, "0123456789abcdefABCDEF") {
		return -1
	}
	n, err := strconv.ParseInt(s, 16, 64)
	if err != nil || n > lastPage {
		return -1
	}
	return n
}

// String is the inverse of ParseRange.
func (r Range) String() string { return fmt.Sprintf("%05X-%05X", r.Begin, r.End) }

// MarshalText implements encoding.TextMarshaler.
func (r Range) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// Bytes is how much the range holds.
func (r Range) Bytes() int64 { return (r.End - r.Begin + 1) * PageSize }

// Collides reports whether one guest cannot load both: whether there is a megabyte of
// which both have a part.
func (r Range) Collides(o Range) bool {
	return r.Begin/loadPages <= o.End/loadPages && o.Begin/loadPages <= r.End/loadPages
}

// A Segment is a name and its pages.
type Segment struct {
	Name  string `json:"name"`
	Range Range  `json:"range"`
}

// ParseSegment reads NAME:BEGIN-END, as the inventory has it (levelfsRange).
func ParseSegment(s string) (Segment, error) {
	name, pages, ok := strings.Cut(s, ":")
	if !ok {
		return Segment{}, fmt.Errorf("segment %q: want NAME:BEGIN-END", s)
	}
	name, err := parseName(name)
	if err != nil {
		return Segment{}, err
	}
	r, err := ParseRange(pages)
	if err != nil {
		return Segment{}, fmt.Errorf("segment %q: %w", name, err)
	}
	return Segment{name, r}, nil
}

// String is the inverse of ParseSegment.
func (s Segment) String() string { return s.Name + ":" + s.Range.String() }

// ParseNames reads the names of the segments of one device, A or A:B, as the inventory
// has them (levelfsSegment). They are returned in upper case.
func ParseNames(s string) ([]string, error) {
	var names []string
	for part := range strings.SplitSeq(s, ":") {
		name, err := parseName(part)
		if err != nil {
			return nil, err
		}
		if slices.Contains(names, name) {
			return nil, fmt.Errorf("segment %q is there twice", name)
		}
		names = append(names, name)
	}
	return names, nil
}

const (
	letters      = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	alphanumeric = letters + "0123456789"
)

// parseName returns a segment's name in upper case, as CP and the driver turn it.
func parseName(s string) (string, error) {
	name := strings.ToUpper(s)
	// Some letters outside of ASCII have a capital inside of it.
	ascii := only(s, alphanumeric+strings.ToLower(letters)+"$#@")
	if s == "" || len(s) > 8 || !ascii || !strings.Contains(alphanumeric, name[:1]) {
		return "", fmt.Errorf("segment name %q: want 1 to 8 letters, digits and $ # @, of which the first is a letter or a digit", s)
	}
	return name, nil
}

// only reports whether s has no other bytes than those of set.
func only(s, set string) bool {
	for i := range len(s) {
		if strings.IndexByte(set, s[i]) < 0 {
			return false
		}
	}
	return true
}

// Parts is how many segments an image of that many bytes needs.
func Parts(size int64) int { return int((size + MaxBytes - 1) / MaxBytes) }
