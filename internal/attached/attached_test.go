package attached

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Args[0] == testenv.SegmentWriter {
		testenv.SegmentDriver()
	}
	os.Exit(m.Run())
}

// machine is a machine with these devices, which somebody else attached.
func machine(t *testing.T, devices ...string) (s *Segments, root string) {
	t.Helper()
	root = t.TempDir()
	plug(t, root, devices...)
	c, err := config.LoadFrom(root)
	if err != nil {
		t.Fatal(err)
	}
	return New(c), root
}

func plug(t *testing.T, root string, devices ...string) {
	t.Helper()
	if err := testenv.PlugSegments(root, devices...); err != nil {
		t.Fatal(err)
	}
}

func refuse(t *testing.T, root, segment string, errno syscall.Errno) {
	t.Helper()
	if err := testenv.RefuseSegment(root, segment, errno); err != nil {
		t.Fatal(err)
	}
}

// node makes what Open opens: it refuses what is no block device.
func node(t *testing.T, root string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "dev/dcssblk0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

// want compares the marks with those that should be there.
func (s *Segments) want(t *testing.T, marks ...string) {
	t.Helper()
	got, err := s.Marks()
	if err != nil || !slices.Equal(got, marks) {
		t.Errorf("marks %q, %v; want %q", got, err, marks)
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	s, _ := machine(t, "OTHER")
	device, err := s.Attach(t.Context(), true, "a", "b")
	if err != nil || device.Name != "A" {
		t.Fatalf("%+v, %v", device, err)
	}
	s.want(t, "A")
	if ours, err := s.Ours(device); !ours || err != nil {
		t.Errorf("ours: %v, %v", ours, err)
	}
	// Who attaches it by hand wants it to stay.
	if _, err := s.Attach(t.Context(), false, "A", "B"); err != nil {
		t.Fatal(err)
	}
	s.want(t)
	// And what others attached can be given to levelfs.
	if _, err := s.Attach(t.Context(), true, "OTHER"); err != nil {
		t.Fatal(err)
	}
	s.want(t, "OTHER")
	if err := s.Detach(t.Context(), "other"); err != nil {
		t.Fatal(err)
	}
	s.want(t)
	if _, err := s.Inspect("OTHER"); !errors.Is(err, dcss.ErrNotAttached) {
		t.Errorf("detached: %v", err)
	}
}

// TestRefused: what was not attached leaves no mark, which somebody else's later device
// would be taken for.
func TestRefused(t *testing.T) {
	t.Parallel()
	s, root := machine(t, "B:C")
	refuse(t, root, "A", syscall.ENOENT)
	var refused *dcss.Error
	if _, err := s.Open(t.Context(), "A"); !errors.As(err, &refused) || refused.Errno != syscall.ENOENT {
		t.Errorf("open: %v", err)
	}
	s.want(t)
	var held *dcss.HeldError
	if _, err := s.Open(t.Context(), "B"); !errors.As(err, &held) {
		t.Errorf("of another device: %v", err)
	}
	if _, err := s.Open(t.Context(), "D", "B"); !errors.As(err, &held) {
		t.Errorf("with another device: %v", err)
	}
	s.want(t)
	refuse(t, root, "B", syscall.EBUSY)
	if err := s.Detach(t.Context(), "B"); !errors.As(err, &refused) || !refused.InUse() {
		t.Errorf("detach: %v", err)
	}
	if _, err := s.Open(t.Context(), "no such"); err == nil {
		t.Error("a name that is none")
	}
}

// TestOpen: what the helper attaches is marked, what was attached before is not; and
// the device is opened before the locks are let go.
func TestOpen(t *testing.T) {
	t.Parallel()
	for name, devices := range map[string][]string{"new": nil, "there": {"A"}} {
		s, root := machine(t, devices...)
		node(t, root)
		// The file is no block device, which is found out after it was opened.
		if f, err := s.Open(t.Context(), "A"); err == nil {
			t.Fatalf("%s: opened %q", name, f.Name())
		}
		if name == "new" {
			s.want(t, "A")
		} else {
			s.want(t)
		}
	}
}

// TestOpenWaits: a segment that is being detached is attached again.
func TestOpenWaits(t *testing.T) {
	t.Parallel()
	s, _ := machine(t, "A")
	hold, err := s.Hold(t.Context(), "A")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	var late *dcss.DeadlineError
	if _, err := s.Open(ctx, "A"); !errors.As(err, &late) || late.Started {
		t.Errorf("held: %v", err)
	}
	hold.Release()
	s.want(t)
}

func TestCollect(t *testing.T) {
	t.Parallel()
	s, root := machine(t, "OTHER", "X:Y")
	collect := func(name string, dryRun bool, want Outcome) {
		t.Helper()
		if got, err := s.Collect(t.Context(), name, dryRun, nil); err != nil || got != want {
			t.Errorf("collect %s: %s, %v; want %s", name, got, err, want)
		}
	}
	if _, err := s.Attach(t.Context(), true, "A"); err != nil {
		t.Fatal(err)
	}
	collect("A", true, Detached)
	refuse(t, root, "A", syscall.EBUSY)
	collect("A", false, Kept)
	s.want(t, "A")
	refuse(t, root, "A", syscall.EIO)
	if got, err := s.Collect(t.Context(), "A", false, nil); err == nil || got != Kept {
		t.Errorf("EIO: %s, %v", got, err)
	}
	refuse(t, root, "A", syscall.ENODEV)
	collect("A", false, Stale)
	s.want(t)
	refuse(t, root, "A", 0)
	if _, err := s.Attach(t.Context(), true, "A"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Collect(t.Context(), "A", false, func(dcss.Device) (bool, error) { return true, nil }); err != nil || got != Kept {
		t.Errorf("a view uses it: %s, %v", got, err)
	}
	collect("A", false, Detached)
	s.want(t)
	if _, err := s.Inspect("A"); !errors.Is(err, dcss.ErrNotAttached) {
		t.Errorf("detached: %v", err)
	}

	// Marks without their devices: of none, of one that another device has, and of an
	// earlier one of the name.
	for _, name := range []string{"GONE", "Y"} {
		if err := s.announce(name); err != nil {
			t.Fatal(err)
		}
	}
	collect("GONE", true, Stale)
	s.want(t, "GONE", "Y")
	collect("GONE", false, Stale)
	collect("Y", false, Stale)
	if _, err := s.Attach(t.Context(), true, "OTHER"); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "sys/devices/dcssblk/OTHER")
	if err := os.Rename(dir, filepath.Join(t.TempDir(), "old")); err != nil {
		t.Fatal(err)
	}
	plug(t, root, "OTHER")
	if device, err := s.Inspect("OTHER"); err != nil {
		t.Fatal(err)
	} else if ours, err := s.Ours(device); ours || err != nil {
		t.Errorf("of somebody else, but ours: %v, %v", ours, err)
	}
	collect("OTHER", false, Stale)
	s.want(t)
	if _, err := s.Inspect("OTHER"); err != nil {
		t.Errorf("of somebody else, and detached: %v", err)
	}

	// One that was announced by a helper that was killed while the driver went on.
	if err := s.announce("X"); err != nil {
		t.Fatal(err)
	}
	collect("X", false, Detached)
	// Without a driver no device is there.
	if err := s.announce("A"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "sys")); err != nil {
		t.Fatal(err)
	}
	collect("A", false, Stale)
	s.want(t)
}
