package mounter

import (
	"os"
	"strings"
	"testing"
	"time"
)

// TestBases: every period is kept, and levels that come and go take a line each time.
func TestBases(t *testing.T) {
	t.Parallel()
	p := &Private{Dir: t.TempDir()}
	records := []string{
		"level emacs@1\nlayer a " + digest("1") + " -\n",
		"level emacs@2\nlayer b " + digest("2") + " -\nlayer a " + digest("1") + " -\n",
		"level emacs@1\nabove site s " + digest("3") + " -\nlayer a " + digest("1") + " -\n",
	}
	order := []int{0, 1, 0, 1, 2, 0, 0, 2, 1} // the second 0 in a row is no other period
	start := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	put := func(i int, record string) {
		t.Helper()
		if i > 0 {
			if err := p.keepBase(); err != nil {
				t.Fatal(err)
			}
		}
		when := start.Add(time.Duration(i) * time.Hour)
		if err := os.WriteFile(p.level(), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(p.level(), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for i, n := range order {
		put(i, records[n])
	}
	bases, err := Bases(p.Dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []struct{ at, record int }{{0, 0}, {1, 1}, {2, 0}, {3, 1}, {4, 2}, {5, 0}, {7, 2}, {8, 1}}
	if len(bases) != len(want) {
		t.Fatalf("%d periods, want %d: %+v", len(bases), len(want), bases)
	}
	for i, w := range want {
		one, err := parseBases("since " + start.Format(time.RFC3339Nano) + "\n" + records[w.record])
		if err != nil {
			t.Fatal(err)
		}
		b := bases[i]
		if !b.Since.Equal(start.Add(time.Duration(w.at)*time.Hour)) || b.Level != one[0].Level || len(b.Layers) != len(one[0].Layers) || b.Layers[0] != one[0].Layers[0] {
			t.Errorf("period %d: %+v, want record %d since hour %d", i, b, w.record, w.at)
		}
	}
	text, err := os.ReadFile(p.bases())
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range records {
		if n := strings.Count(string(text), "\n"+record); n != 1 {
			t.Errorf("%d times in the file: %q\n%s", n, record, text)
		}
	}
	for _, bad := range []string{"same 0\n", "since 2027-01-01T00:00:00Z\nsame 0\n", "since 2027-01-01T00:00:00Z\nsame -1\n", "since 2027-01-01T00:00:00Z\nsame x\n"} {
		if got, err := parseBases(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, got)
		}
	}
}
