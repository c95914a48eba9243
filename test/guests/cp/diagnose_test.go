package cp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// memory is a guest's, all of it at address 0.
type memory []byte

func (m memory) ReadMemory(address uint64, n int) ([]byte, error) {
	if address+uint64(n) > uint64(len(m)) {
		return nil, fmt.Errorf("no memory at %#x", address)
	}
	return bytes.Clone(m[address:][:n]), nil
}

func (m memory) WriteMemory(address uint64, b []byte) error {
	if address+uint64(len(b)) > uint64(len(m)) {
		return fmt.Errorf("no memory at %#x", address)
	}
	copy(m[address:], b)
	return nil
}

// put writes hexadecimal digits, blanks between them ignored.
func (m memory) put(t *testing.T, address uint64, digits string) {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	copy(m[address:], b)
}

// Names in EBCDIC, written out.
const (
	ebcdicFOO = "c6d6d6 4040404040"
	ebcdicBAD = "c2c1c4 4040404040"
	ebcdicNat = "c1 5b 7b 7c 6d f9 4040" // A$#@_9
	ebcdicNo  = "d5d6 404040404040"
)

func newCP(t *testing.T) *CP {
	t.Helper()
	bad := Single("BAD", SR, 0x30000000, 1<<20)
	bad.LoadCode = 1234
	many := Segment{Name: "A$#@_9"}
	for i := range uint64(7) {
		many.Ranges = append(many.Ranges, Range{EN, i << 20, (i+1)<<20 - 1})
	}
	c, err := New(Single("FOO", SR, 0x20000000, 16<<20), bad, many)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLoadAndPurge(t *testing.T) {
	const name = 0x100
	c := newCP(t)
	m := make(memory, 0x200)
	m.put(t, name, ebcdicFOO)
	steps := []struct {
		subcode        uint64
		want           Answer
		loaded, shared bool
	}{
		{purgeSegment, Answer{name, 44, 2}, false, false},
		{loadShared, Answer{0x20000000, 0x20ffffff, 0}, true, true},
		{purgeSegment, Answer{name, purgeSegment, 0}, false, false},
		{loadNonshared, Answer{0x20000000, 0x20ffffff, 0}, true, false},
	}
	for _, s := range steps {
		got, err := c.Segment(m, name, s.subcode)
		if err != nil || got != s.want {
			t.Errorf("subcode %#x: %+v, %v, want %+v", s.subcode, got, err, s.want)
		}
		if loaded, shared := c.Loaded("FOO"); loaded != s.loaded || shared != s.shared {
			t.Errorf("after subcode %#x: loaded %v, shared %v", s.subcode, loaded, shared)
		}
	}
	m.put(t, name, ebcdicNo)
	if got, err := c.Segment(m, name, loadShared); err != nil || got.CC != 2 || got.Ry != 44 {
		t.Errorf("unknown segment: %+v, %v", got, err)
	}
	m.put(t, name, ebcdicBAD)
	if got, err := c.Segment(m, name, loadShared); err != nil || got.CC != 2 || got.Ry != 1234 {
		t.Errorf("segment that cannot be loaded: %+v, %v", got, err)
	}
	if got, err := c.Segment(m, name, 0x2c); err == nil {
		t.Errorf("unknown subcode: %+v", got)
	}
	if got, err := c.Segment(m, 0x1000, loadShared); err == nil {
		t.Errorf("name outside of memory: %+v", got)
	}
}

// TestQuery has both areas written out as the kernel's structures are.
// TestResaved: those who load a segment after it was saved again get another content,
// and those who have it keep theirs.
func TestResaved(t *testing.T) {
	s := Single("FOO", SR, 0x1000, 1<<20)
	s.Resaved = &Save{After: 1, Offset: 2, Bytes: []byte("new")}
	c, err := New(s)
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, 0x3000)
	copy(m[0x1000:], "0 old 0")
	m.put(t, 0x200, ebcdicFOO)
	for _, step := range []struct {
		subcode uint64
		want    string
	}{
		{loadShared, "0 old 0"}, {purgeSegment, "0 old 0"}, {loadShared, "0 new 0"}, {purgeSegment, "0 new 0"}, {loadShared, "0 new 0"},
	} {
		if _, err := c.Segment(m, 0x200, step.subcode); err != nil {
			t.Fatal(err)
		}
		if got := string(m[0x1000:0x1007]); got != step.want {
			t.Errorf("after %#x the segment has %q, want %q", step.subcode, got, step.want)
		}
	}
}

func TestQuery(t *testing.T) {
	const in, out = 0x100, 0x200
	c := newCP(t)
	query := func(name string) (memory, Answer, error) {
		m := make(memory, 0x300)
		m.put(t, in, "0c000000 00000000 "+name+" 00000200 0078 0000")
		answer, err := c.Segment(m, in, queryExtended)
		return m, answer, err
	}
	m, answer, err := query(ebcdicFOO)
	if err != nil || answer.CC != 0 {
		t.Fatalf("%+v, %v", answer, err)
	}
	want := make(memory, 120)
	want.put(t, 0, "0000000020000000 0000000020ffffff 00000001 00000001 0000000020000002 0000000020ffffff")
	if !bytes.Equal(m[out:out+120], want) {
		t.Errorf("answer is\n%x, want\n%x", m[out:out+120], want)
	}
	m, answer, err = query(ebcdicNat)
	if err != nil || answer.CC != 0 {
		t.Fatalf("%+v, %v", answer, err)
	}
	if count, returned := binary.BigEndian.Uint32(m[out+16:]), binary.BigEndian.Uint32(m[out+20:]); count != 7 || returned != 6 {
		t.Errorf("7 ranges: %d, of which %d are returned", count, returned)
	}
	if last := binary.BigEndian.Uint64(m[out+24+5*16:]); last != 0x500005 {
		t.Errorf("the sixth range starts at %#x", last)
	}
	m, answer, err = query(ebcdicNo)
	if err != nil || answer.CC != 2 || answer.Ry != 44 {
		t.Errorf("unknown segment: %+v, %v", answer, err)
	}
	if slices.ContainsFunc(m[out:], func(b byte) bool { return b != 0 }) {
		t.Error("unknown segment: something was written")
	}
	m = make(memory, 0x300)
	m.put(t, in, "0c000000 00000000 "+ebcdicFOO+" 00000200 0048 0000")
	if answer, err := c.Segment(m, in, queryExtended); err == nil {
		t.Errorf("too small an area: %+v", answer)
	}
}

func TestCommand(t *testing.T) {
	const at = 0x40
	c := newCP(t)
	m := make(memory, 0x100)
	m.put(t, at, "e2c1e5c5e2c5c7 40 c6d6d6") // SAVESEG FOO
	for _, pair := range []bool{false, true} {
		length := uint64(11)
		if pair {
			length |= responsePair
		}
		answer, gotPair, err := c.Command(m, at, length)
		if err != nil || gotPair != pair || answer != (Answer{Rx: at}) {
			t.Errorf("pair %v: %+v, %v, %v", pair, answer, gotPair, err)
		}
	}
	if got, want := c.Commands(), []string{"SAVESEG FOO", "SAVESEG FOO"}; !slices.Equal(got, want) {
		t.Errorf("commands %q, want %q", got, want)
	}
}

func TestNames(t *testing.T) {
	for name, digits := range map[string]string{"FOO": ebcdicFOO, "A$#@_9": ebcdicNat} {
		want, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := encodeName(name); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q is %x, %v, want %x", name, got, err, want)
		}
		if got, err := decodeName(want); err != nil || got != name {
			t.Errorf("%x is %q, %v, want %q", want, got, err, name)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for what, segments := range map[string][]Segment{
		"long name": {Single("NINECHARS", SR, 0, 1)},
		"no name":   {Single("", SR, 0, 1)},
		"no range":  {{Name: "FOO"}},
		"twice":     {Single("FOO", SR, 0, 1), Single("FOO", SR, 0, 1)},
	} {
		if _, err := New(segments...); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestFindSites(t *testing.T) {
	// bcr; diag %r1,%r2,0x64; ipm; at an odd address diag; diag %r4,%r6,8; diag 0x500.
	text := make(memory, 64)
	text.put(t, 0, "0707 83120064 b2220010 ff 83120064 ff 83460008 83120500 8312")
	got := findSites(text, 0x100000)
	want := map[uint64]site{0x100002: {0x64, 1, 2}, 0x100010: {0x08, 4, 6}}
	if len(got) != len(want) {
		t.Errorf("sites %+v, want %+v", got, want)
	}
	for address, s := range want {
		if got[address] != s {
			t.Errorf("site at %#x is %+v, want %+v", address, got[address], s)
		}
	}
}
