package mounter

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLastUse(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := lastUse(f); got != (use{}) {
		t.Errorf("new lock file: %+v", got)
	}
	const other = "00000000-0000-0000-0000-000000000000"
	for _, want := range []use{
		{bootID(), 1<<64 - 1, 1<<64 - 1, 1<<64 - 1}, // written over one another
		{other, 0x123, 0, 0},
		{bootID(), 1, 2, 4026531841},
	} {
		if err := want.note(f); err != nil {
			t.Fatal(err)
		}
		if got := lastUse(f); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	whole := use{boot: other, dev: 12}.String()
	for name, content := range map[string]string{
		"empty":      "",
		"no number":  other + strings.Repeat(" ", 30),
		"no boot":    strings.Repeat(" ", 37) + "12" + strings.Repeat(" ", 30),
		"text":       strings.Replace(whole, "12", "xx", 1),
		"negative":   strings.Replace(whole, " 12", " -1", 1),
		"short boot": whole[1:] + " ",
		"zeros":      strings.Repeat("\x00", len(whole)),
		"cut":        whole[:len(whole)-2],
		"no device":  use{boot: other, leaving: 12}.String(),
		"one device": whole[:36+1+20+1] + strings.Repeat(" ", 42),
	} {
		if err := errors.Join(f.Truncate(0), os.WriteFile(f.Name(), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got := lastUse(f); got != (use{}) {
			t.Errorf("%s: %+v; want that it is not known", name, got)
		}
	}
}

// TestMarks checks that a device number is taken for free only if another view is
// known to have had it since.
func TestMarks(t *testing.T) {
	t.Parallel()
	run := t.TempDir()
	mine, other := &Private{Dir: "/private/mine"}, &Private{Dir: "/private/other"}
	const dev = 0x2a
	if markedByOther(run, dev, mine) {
		t.Error("there is no mark")
	}
	for _, c := range []struct {
		owner *Private
		free  bool
	}{{mine, false}, {other, true}, {mine, false}, {nil, true}, {mine, false}} {
		if err := noteView(run, dev, c.owner, nil); err != nil {
			t.Fatal(err)
		}
		if got := markedByOther(run, dev, mine); got != c.free {
			t.Errorf("marked by %v: %v, want %v", c.owner, got, c.free)
		}
		if markedByOther(run, dev+1, mine) {
			t.Error("another number's mark was taken for this one's")
		}
	}
	if err := noteView(run, dev, other, []string{"base@0123456789ab"}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(viewMark(run, 0, dev))
	if err != nil {
		t.Fatal(err)
	}
	for n := range bytes.IndexByte(whole, '\n') + 1 { // cut by a crash
		if err := os.WriteFile(viewMark(run, 0, dev), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if markedByOther(run, dev, mine) {
			t.Errorf("a mark cut to %q was trusted", whole[:n])
		}
	}
}

func TestLockFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := lockFile(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if f, err := lockFile(ctx, path); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, %v; want an error that names %s", f, err, path)
	}
	type result struct {
		f   *os.File
		err error
	}
	done := make(chan result)
	go func() {
		f, err := lockFile(context.Background(), path)
		done <- result{f, err}
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	if err := r.f.Close(); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v; want mode 0600", info, err)
	}
}

func TestWriteDurably(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "level")
	write := func(text string) os.FileInfo {
		t.Helper()
		if err := writeDurably(path, text); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != text {
			t.Fatalf("got %q, %v; want %q", got, err, text)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v; want mode 0600", info, err)
		}
		return info
	}
	one := write("one")
	// What a killed helper left.
	if err := os.WriteFile(path+".new", []byte("half of something much longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	if two := write("two"); os.SameFile(one, two) {
		t.Error("it was changed in place, and could be torn")
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("left %v, %v", entries, err)
	}
}

func TestMakePrivate(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	top, upper, work := filepath.Join(base, "top"), filepath.Join(base, "upper"), filepath.Join(base, "work")
	if err := errors.Join(os.Mkdir(top, 0o700), os.Chmod(top, os.ModeSticky|0o751),
		os.Mkdir(upper+".new", 0o777)); err != nil { // and what a killed helper left
		t.Fatal(err)
	}
	if err := makePrivate(top, upper, work, nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(upper)
	if err != nil || info.Mode() != os.ModeDir|os.ModeSticky|0o751 {
		t.Errorf("%v, %v; want the mode of the topmost layer", info, err)
	}
	if _, err := os.Stat(upper + ".new"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("upper.new: %v", err)
	}
	// A private layer that is there is left alone.
	if err := errors.Join(os.Chmod(upper, 0o700), os.WriteFile(filepath.Join(upper, "mine"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := makePrivate(top, upper, work, nil); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(upper); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v; want it as it was", info, err)
	}
	if _, err := os.Stat(filepath.Join(upper, "mine")); err != nil {
		t.Error(err)
	}
	if err := errors.Join(os.RemoveAll(upper), os.WriteFile(upper, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := makePrivate(top, upper, work, nil); err == nil || !strings.Contains(err.Error(), "is no directory") {
		t.Errorf("a file as upper directory: %v", err)
	}
}

func TestLevelRecord(t *testing.T) {
	t.Parallel()
	l := erofs("a", "1")
	l.UUID = uuidText
	p, err := Build(request(kept(), l, dir("b")))
	if err != nil {
		t.Fatal(err)
	}
	want := "level emacs@29.4-1\nlayer a " + l.Digest + " " + uuidText + "\nlayer b - -\n"
	if got := p.levelRecord(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestMountAttrs(t *testing.T) {
	t.Parallel()
	// The values of MOUNT_ATTR_* in include/uapi/linux/mount.h.
	for flags, want := range map[string]int{
		"": 0, "ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 0x10, "strictatime": 0x20,
		"nodiratime": 0x80, "relatime": 0, "ro,nodev,nosuid": 7,
	} {
		got, err := mountAttrs(strings.FieldsFunc(flags, func(r rune) bool { return r == ',' }))
		if err != nil || got != want {
			t.Errorf("%s: %#x, %v; want %#x", flags, got, err, want)
		}
	}
	if _, err := mountAttrs([]string{"nodev", "sync"}); err == nil || !strings.Contains(err.Error(), `"sync"`) {
		t.Errorf("unknown flag: %v", err)
	}
}

// TestApplyCancelled checks that a plan that is given up at once says which step it
// came to, and touches nothing.
func TestApplyCancelled(t *testing.T) {
	t.Parallel()
	p, err := Build(request(&Private{Dir: filepath.Join(t.TempDir(), "private")}, dir("a")))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var failed *StepError
	if err := new(Applier).Apply(ctx, p); !errors.As(err, &failed) || !errors.Is(err, context.Canceled) || failed.Step.Op != OpTarget {
		t.Errorf("got %v", err)
	}
	if _, err := os.Lstat(p.Private.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("private layer: %v", err)
	}
}
