package segment

import (
	"strings"
	"testing"
)

func TestParseRange(t *testing.T) {
	for s, want := range map[string]Range{
		"20000-20FFF":     {0x20000, 0x20fff},
		"0-0":             {0, 0},
		"1000000-7ffffff": {0x1000000, 0x7ffffff},
	} {
		if got, err := ParseRange(s); err != nil || got != want {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "-", "1", "1-", "-1", "2-1", "0-8000000", "+1-2", "1-2-3", "0x1-2", " 1-2", "1_0-20", "g-h", "00000000000000001-2"} {
		if got, err := ParseRange(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}

func TestCollides(t *testing.T) {
	for _, test := range []struct {
		a, b Range
		want bool
	}{
		{Range{0, 255}, Range{256, 511}, false},
		{Range{0, 256}, Range{257, 511}, true}, // one megabyte
		{Range{0, 1000}, Range{300, 400}, true},
		{Range{512, 1023}, Range{0, 511}, false},
	} {
		if test.a.Collides(test.b) != test.want || test.b.Collides(test.a) != test.want {
			t.Errorf("%v, %v: want %v", test.a, test.b, test.want)
		}
	}
}

func TestParseNames(t *testing.T) {
	for s, want := range map[string]string{"foo": "FOO", "A:B:c": "A B C", "EMACS$#@": "EMACS$#@", "1A": "1A"} {
		if got, err := ParseNames(s); err != nil || strings.Join(got, " ") != want {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", ":", "A:", ":A", "A::B", "A:a", "NINECHARS", "A B", "A\n", "$A", "ſ", "Ä", "A-B"} {
		if got, err := ParseNames(s); err == nil {
			t.Errorf("%q: %q", s, got)
		}
	}
}

func TestParts(t *testing.T) {
	for size, want := range map[int64]int{1: 1, 2046 << 20: 1, 2046<<20 + 1: 2, 4092 << 20: 2, 100 << 30: 51} {
		if got := Parts(size); got != want {
			t.Errorf("%d: %d parts, want %d", size, got, want)
		}
	}
}

// What is read is written the same, and nothing else is read.
func FuzzParseSegment(f *testing.F) {
	for _, s := range []string{"FOO:20000-20FFF", "a:0-1", "FOO:1-0", "FOO", ":1-2", "FOO:BAR:1-2", "ſ:1-2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseSegment(s)
		if err != nil {
			return
		}
		again, err := ParseSegment(got.String())
		if err != nil || again != got {
			t.Fatalf("%q: %v, then %v, %v", s, got, again, err)
		}
		if names, err := ParseNames(got.Name); err != nil || len(names) != 1 || names[0] != got.Name {
			t.Errorf("%q: name %q", s, got.Name)
		}
		if got.Range.Begin < 0 || got.Range.Bytes() < PageSize || got.Range.End > lastPage {
			t.Errorf("%q: %v", s, got.Range)
		}
	})
}
