package cp

import (
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/text/encoding/charmap"
)

// Memory is the guest's memory, by physical address.
type Memory interface {
	ReadMemory(address uint64, n int) ([]byte, error)
	WriteMemory(address uint64, bytes []byte) error
}

// Subcodes of DIAGNOSE X'64' that Linux 6.1 uses (arch/s390/mm/extmem.c).
const (
	purgeSegment  = 0x08
	loadShared    = 0x20 // LOADSHRX
	loadNonshared = 0x24 // LOADNSRX
	queryExtended = 0x38 // SEGEXTX
)

// findA is the operation of queryExtended that Linux asks for.
const findA = 0x0c

// Return codes in Ry that come with condition code 2.
const (
	codeNoSegment = 44
)

// maxRanges is how many ranges the answer to a query has room for.
const maxRanges = 6

// CP is the control program's side of a guest.
type CP struct {
	segments map[string]*Segment
	loaded   map[string]bool // by name: true if shared, false if not
	loads    map[string]int  // how often a segment was loaded
	commands []string
}

// New returns a CP on which the segments are defined.
func New(segments ...Segment) (*CP, error) {
	c := &CP{segments: make(map[string]*Segment), loaded: make(map[string]bool), loads: make(map[string]int)}
	for _, s := range segments {
		if len(s.Name) < 1 || len(s.Name) > 8 || len(s.Ranges) == 0 {
			return nil, fmt.Errorf("segment %q: a name of 1 to 8 characters and a range are needed", s.Name)
		}
		if c.segments[s.Name] != nil {
			return nil, fmt.Errorf("segment %q is defined twice", s.Name)
		}
		c.segments[s.Name] = &s
	}
	return c, nil
}

// Loaded tells whether the guest has the segment loaded, and whether as shared.
func (c *CP) Loaded(name string) (loaded, shared bool) {
	shared, loaded = c.loaded[name]
	return loaded, shared
}

// Commands are the CP commands that the guest has issued.
func (c *CP) Commands() []string { return slices.Clone(c.commands) }

// An Answer is what a DIAGNOSE leaves in the two registers of the instruction, and
// its condition code.
type Answer struct {
	Rx, Ry uint64
	CC     uint64
}

// Segment answers DIAGNOSE X'64'. An error is a request that Linux is not known to
// make.
func (c *CP) Segment(m Memory, rx, ry uint64) (Answer, error) {
	if ry == queryExtended {
		return c.query(m, rx, ry)
	}
	raw, err := m.ReadMemory(rx, 8)
	if err != nil {
		return Answer{}, err
	}
	name, err := decodeName(raw)
	if err != nil {
		return Answer{}, err
	}
	s := c.segments[name]
	switch {
	case ry != purgeSegment && ry != loadShared && ry != loadNonshared:
		return Answer{}, fmt.Errorf("DIAGNOSE X'64' with subcode %#x", ry)
	case s == nil:
		return Answer{Rx: rx, Ry: codeNoSegment, CC: 2}, nil
	case ry == purgeSegment:
		if _, loaded := c.loaded[name]; !loaded {
			return Answer{Rx: rx, Ry: codeNoSegment, CC: 2}, nil
		}
		delete(c.loaded, name)
		return Answer{Rx: rx, Ry: ry}, nil
	case s.LoadCode != 0:
		return Answer{Rx: rx, Ry: s.LoadCode, CC: 2}, nil
	}
	if save := s.Resaved; save != nil && c.loads[name] == save.After {
		if err := m.WriteMemory(s.start()+save.Offset, save.Bytes); err != nil {
			return Answer{}, err
		}
	}
	c.loads[name]++
	c.loaded[name] = ry == loadShared
	return Answer{Rx: s.start(), Ry: s.end()}, nil
}

// query answers with where a segment lies and of which types it is: struct qin64 in,
// struct qout64 out.
func (c *CP) query(m Memory, rx, ry uint64) (Answer, error) {
	in, err := m.ReadMemory(rx, 24)
	if err != nil {
		return Answer{}, err
	}
	name, err := decodeName(in[8:16])
	if err != nil {
		return Answer{}, err
	}
	out := uint64(binary.BigEndian.Uint32(in[16:]))
	length := int(int16(binary.BigEndian.Uint16(in[20:])))
	answer := encodeQuery(c.segments[name])
	if in[0] != findA || length < len(answer) {
		return Answer{}, fmt.Errorf("DIAGNOSE X'64' query with operation %#x and room for %d bytes", in[0], length)
	}
	if c.segments[name] == nil {
		return Answer{Rx: rx, Ry: codeNoSegment, CC: 2}, nil
	}
	if err := m.WriteMemory(out, answer); err != nil {
		return Answer{}, err
	}
	return Answer{Rx: rx, Ry: ry}, nil
}

// encodeQuery renders a struct qout64. Without a segment it is empty, but as long.
func encodeQuery(s *Segment) []byte {
	out := make([]byte, 24+16*maxRanges)
	if s == nil {
		return out
	}
	binary.BigEndian.PutUint64(out[0:], s.start())
	binary.BigEndian.PutUint64(out[8:], s.end())
	binary.BigEndian.PutUint32(out[16:], uint32(len(s.Ranges)))
	returned := s.Ranges[:min(len(s.Ranges), maxRanges)]
	binary.BigEndian.PutUint32(out[20:], uint32(len(returned)))
	for i, r := range returned {
		binary.BigEndian.PutUint64(out[24+16*i:], r.Start&^0xff|uint64(r.Type))
		binary.BigEndian.PutUint64(out[32+16*i:], r.End)
	}
	return out
}

// responsePair is the bit in Ry that says that Rx+1 and Ry+1 describe a buffer for
// the command's output; the length of the command is in the bits below the flags.
const responsePair = 0x40000000

// Command answers DIAGNOSE X'08': it notes the command down, and reports success
// with no output. Pair tells whether the length of the output has to be set.
func (c *CP) Command(m Memory, rx, ry uint64) (answer Answer, pair bool, err error) {
	raw, err := m.ReadMemory(rx, int(ry&0xffffff))
	if err != nil {
		return Answer{}, false, err
	}
	text, err := charmap.CodePage037.NewDecoder().Bytes(raw)
	if err != nil {
		return Answer{}, false, err
	}
	c.commands = append(c.commands, string(text))
	return Answer{Rx: rx}, ry&responsePair != 0, nil
}
