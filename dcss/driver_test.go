package dcss

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestAttach(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	f := fake(t, root, nil)
	f.react = func(w write) error { plug(t, root, 3, "C", "D"); return nil }
	got, err := f.Attach(t.Context(), "c", "d")
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "C" || got.Node != "dcssblk3" || !slices.Equal(got.Segments, []string{"C", "D"}) {
		t.Errorf("%+v", got)
	}
	// Again, it is there already.
	if again, err := f.Attach(t.Context(), "C", "D"); err != nil || again.Node != got.Node {
		t.Errorf("%+v, %v", again, err)
	}
	if want := []write{{"add", "C:D\n"}}; !slices.Equal(f.writes, want) {
		t.Errorf("writes %q, want %q", f.writes, want)
	}
}

func TestAttachHeld(t *testing.T) {
	f := fake(t, tree(t, "linux-6.1.sysfs"), answer(0))
	for _, segments := range [][]string{{"A"}, {"B"}, {"A", "B"}, {"C", "A"}, {"B", "A", "C"}} {
		_, err := f.Attach(t.Context(), segments...)
		var held *HeldError
		if !errors.As(err, &held) || held.Device.Name != "B" || held.Device.Node != "dcssblk1" || !errors.Is(err, syscall.EEXIST) {
			t.Errorf("attach %q: %v", segments, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, `"B:A"`) || !strings.Contains(text, "dcssblk1") {
			t.Errorf("attach %q: %q does not name the device", segments, text)
		}
	}
	if len(f.writes) != 0 {
		t.Errorf("writes %q", f.writes)
	}
}

// TestAttachRace has somebody attach the segments between our look and our write.
func TestAttachRace(t *testing.T) {
	for name, c := range map[string]struct {
		others []string
		held   bool
	}{"the same": {[]string{"C", "D"}, false}, "another": {[]string{"D"}, true}} {
		root := tree(t, "linux-6.1.sysfs")
		f := fake(t, root, func(write) error {
			plug(t, root, 3, c.others...)
			return syscall.EEXIST
		})
		device, err := f.Attach(t.Context(), "C", "D")
		var held *HeldError
		if c.held != errors.As(err, &held) || !c.held && (err != nil || device.Node != "dcssblk3") {
			t.Errorf("%s: %+v, %v", name, device, err)
		}
	}
	f := fake(t, tree(t, "linux-6.1.sysfs"), answer(syscall.EEXIST))
	var refused *Error
	if _, err := f.Attach(t.Context(), "C"); !errors.As(err, &refused) || refused.Errno != syscall.EEXIST {
		t.Errorf("nobody has it: %v", err)
	}
}

// TestHold has nobody detach what is attached and not opened yet.
func TestHold(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	f := fake(t, root, func(write) error { plug(t, root, 3, "C", "D"); return nil })
	hold, err := f.Hold(t.Context(), "d", "c")
	if err != nil {
		t.Fatal(err)
	}
	hold.Release()
	if hold, err = f.Hold(t.Context(), "c", "d"); err != nil {
		t.Fatal(err)
	}
	if _, err := hold.Inspect(); !errors.Is(err, ErrNotAttached) {
		t.Errorf("before: %v", err)
	}
	device, attached, err := hold.Attach(t.Context())
	if err != nil || !attached || device.Name != "C" {
		t.Fatalf("%+v, %v, %v", device, attached, err)
	}
	if _, attached, err := hold.Attach(t.Context()); attached || err != nil {
		t.Errorf("again: %v, %v", attached, err)
	}
	other := NewFromRoot(root, f.run, "/nonexistent")
	for what, do := range map[string]func(context.Context) error{
		"detach": func(ctx context.Context) error { return other.Detach(ctx, "c") },
		"shared": func(ctx context.Context) error { return other.SetShared(ctx, "c", true) },
		"attach": func(ctx context.Context) error { _, err := other.Attach(ctx, "D"); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		err := do(ctx)
		cancel()
		var late *DeadlineError
		if !errors.As(err, &late) || late.Started {
			t.Errorf("%s in between: %v", what, err)
		}
	}
	f.react = answer(syscall.EBUSY)
	var refused *Error
	if err := hold.Detach(t.Context()); !errors.As(err, &refused) || refused.Op != OpRemove || refused.Errno != syscall.EBUSY {
		t.Errorf("detach: %v", err)
	}
	hold.Release()
	f.react = answer(0)
	if err := f.Detach(t.Context(), "c"); err != nil {
		t.Errorf("released: %v", err)
	}
	if want := []write{{"add", "C:D\n"}, {"remove", "C\n"}, {"remove", "C\n"}}; !slices.Equal(f.writes, want) {
		t.Errorf("writes %q, want %q", f.writes, want)
	}
}

// TestInstance tells a device from the next one of its name.
func TestInstance(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	d := NewFromRoot(root, t.TempDir(), "/nonexistent")
	device, err := d.Inspect("EXT4")
	if err != nil {
		t.Fatal(err)
	}
	first, err := d.Instance(device)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "sys/devices/dcssblk/EXT4")
	if err := os.Rename(dir, filepath.Join(t.TempDir(), "old")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Instance(device); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
	plug(t, root, 2, "EXT4")
	if second, err := d.Instance(device); err != nil || second == first {
		t.Errorf("%d after %d, %v", second, first, err)
	}
}

func TestAttachLies(t *testing.T) {
	f := fake(t, tree(t, "linux-6.1.sysfs"), answer(0))
	if device, err := f.Attach(t.Context(), "C"); err == nil {
		t.Errorf("success without a device: %+v", device)
	}
}

func TestWrites(t *testing.T) {
	f := fake(t, tree(t, "linux-6.1.sysfs"), answer(0))
	err := errors.Join(
		f.Detach(t.Context(), "ext4"),
		f.SetShared(t.Context(), "ext4", false),
		f.SetShared(t.Context(), "EXT4", true),
		f.Save(t.Context(), "ext4"))
	if err != nil {
		t.Fatal(err)
	}
	want := []write{{"remove", "EXT4\n"}, {"EXT4/shared", "0\n"}, {"EXT4/shared", "1\n"}, {"EXT4/save", "1\n"}}
	if !slices.Equal(f.writes, want) {
		t.Errorf("writes %q, want %q", f.writes, want)
	}
}

// TestFacts has each error of the driver come out with its meaning.
func TestFacts(t *testing.T) {
	seen := make(map[Op]map[syscall.Errno]bool)
	for _, fact := range Facts() {
		if fact.Meaning == "" || seen[fact.Op][fact.Errno] {
			t.Errorf("%s, %v: without a meaning, or twice", fact.Op, fact.Errno)
		}
		if seen[fact.Op] == nil {
			seen[fact.Op] = make(map[syscall.Errno]bool)
		}
		seen[fact.Op][fact.Errno] = true
		f := fake(t, tree(t, "linux-6.1.sysfs"), answer(fact.Errno))
		var err error
		switch fact.Op {
		case OpAdd:
			_, err = f.Attach(t.Context(), "C")
		case OpRemove:
			err = f.Detach(t.Context(), "C")
		case OpShared:
			err = f.SetShared(t.Context(), "C", true)
		case OpSave:
			err = f.Save(t.Context(), "C")
		default:
			t.Fatalf("operation %q", fact.Op)
		}
		var refused *Error
		if !errors.As(err, &refused) || *refused != (Error{fact.Op, "C", fact.Errno}) {
			t.Errorf("%s, %v: %v", fact.Op, fact.Errno, err)
			continue
		}
		if refused.Meaning() != fact.Meaning || refused.Look() != fact.Look || !strings.Contains(err.Error(), fact.Meaning) || !errors.Is(err, fact.Errno) {
			t.Errorf("%s, %v: %v", fact.Op, fact.Errno, err)
		}
	}
	if e := (&Error{OpAdd, "C", syscall.EXDEV}); e.Meaning() != "" || e.Error() != `dcssblk: add "C": invalid cross-device link` {
		t.Errorf("error that the driver does not know: %q", e.Error())
	}
}

func TestNames(t *testing.T) {
	for name, want := range map[string]string{"a": "A", "EMACS294": "EMACS294", "x$#@_+-1": "X$#@_+-1"} {
		if got, err := ParseName(name); err != nil || got != want {
			t.Errorf("%q is %q, %v, want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"", "ninechars", "a:b", "a/b", "..", "a b", "a\n", "a\x00", "ä", "a,b", "a(local)"} {
		if got, err := ParseName(name); err == nil {
			t.Errorf("%q is %q", name, got)
		}
	}
	f := fake(t, tree(t, "linux-6.1.sysfs"), answer(0))
	for _, names := range [][]string{{}, {"C", ""}, {"C", "c"}, {"C:D"}} {
		_, err := f.Attach(t.Context(), names...)
		var wrong *NameError
		if !errors.As(err, &wrong) {
			t.Errorf("attach %q: %v", names, err)
		}
	}
	if len(f.writes) != 0 {
		t.Errorf("writes %q", f.writes)
	}
}

// TestLocksInOrder has two callers that name the same segments in opposite orders:
// each gets both or waits, and none waits for ever.
func TestLocksInOrder(t *testing.T) {
	f := fake(t, tree(t, "linux-6.1.sysfs"), answer(syscall.ENOENT))
	done := make(chan error, 2)
	for _, names := range [][]string{{"C", "D"}, {"D", "C"}} {
		go func() {
			for range 100 {
				locks, err := f.lock(t.Context(), OpAdd, names)
				if err != nil {
					done <- err
					return
				}
				unlock(locks)
			}
			done <- nil
		}()
	}
	if err := errors.Join(<-done, <-done); err != nil {
		t.Error(err)
	}
}

func TestRunDirectory(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	run := filepath.Join(t.TempDir(), "not/there")
	f := fake(t, root, answer(syscall.ENOENT))
	f.run = run
	f.Attach(t.Context(), "C")
	info, err := os.Stat(filepath.Join(run, "dcss"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
}
