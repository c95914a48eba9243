package mounter

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// TestViewMarks tells marks of file systems that the kernel has from those of others.
func TestViewMarks(t *testing.T) {
	t.Parallel()
	run := t.TempDir()
	var st unix.Stat_t
	if err := unix.Stat("/proc", &st); err != nil {
		t.Fatal(err)
	}
	gone := unix.Mkdev(0xfff, 0xfffff) // no driver has as many
	if superblockGone(st.Dev) || !superblockGone(gone) {
		return // an architecture without ustat(2), where no mark is ever removed
	}
	for _, dev := range []uint64{st.Dev, gone} {
		if err := noteView(run, dev, nil, []string{"a@0123456789ab+segment.A", "b@dir"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"0:x", "00:1", "readme"} {
		if err := os.WriteFile(filepath.Join(run, "views", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	marks, err := Marks(run)
	if err != nil || len(marks) != 1 || marks[0].Major != unix.Major(st.Dev) || marks[0].Minor != unix.Minor(st.Dev) ||
		!slices.Equal(marks[0].Layers, []string{"a@0123456789ab+segment.A", "b@dir"}) {
		t.Errorf("%+v, %v", marks, err)
	}
	path := viewMark(run, 0xfff, 0xfffff)
	for _, dryRun := range []bool{true, false} {
		if removed, err := RemoveMarks(run, dryRun); err != nil || !slices.Equal(removed, []string{path}) {
			t.Errorf("dry run %v: %q, %v", dryRun, removed, err)
		}
	}
	if removed, err := RemoveMarks(run, false); err != nil || removed != nil {
		t.Errorf("again: %q, %v", removed, err)
	}
	// One whose number was given out again in between comes back.
	live := viewMark(run, marks[0].Major, marks[0].Minor)
	if removed, err := removeMark(live, st.Dev); removed || err != nil {
		t.Errorf("in use: %v, %v", removed, err)
	}
	if _, err := os.Stat(live); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(filepath.Join(run, "views"))
	if err != nil || len(entries) != 4 {
		t.Errorf("left: %v, %v", entries, err)
	}
	if marks, err := Marks(t.TempDir()); marks != nil || err != nil {
		t.Errorf("no directory: %v, %v", marks, err)
	}
}

func TestIsOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		layer, segment string
		want           bool
	}{
		{"a@0123456789ab+segment.EMACS294", "EMACS294", true},
		{"a@0123456789ab+segment.EMACS294", "EMACS29", false},
		{"a@0123456789ab+segment.A", "A:B", true},
		{"a@0123456789ab+segment.A_", "A$", true},
		{"a@0123456789ab+pmem.A", "A", false},
		{"a+segment.A@0123456789ab", "A", false},
		{"a@0123456789ab", "A", false},
		{"a@0123456789ab", "", false},
	} {
		if got := IsOf(c.layer, Device{Kind: Segment, Name: c.segment}); got != c.want {
			t.Errorf("%s of %s: %v", c.layer, c.segment, got)
		}
	}
}
