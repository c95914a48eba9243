package usage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/mounter"
)

// Views and lazily unmounted ones are in package test, as they need root.

// TestOf finds a process by the file system of what it runs: this test's parent and
// others are on some. Nobody is on one that is not there.
func TestOf(t *testing.T) {
	t.Parallel()
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		t.Fatal(err)
	}
	devices := []Device{
		{mounter.Device{Kind: mounter.Segment, Name: "HERE"}, unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))},
		{mounter.Device{Kind: mounter.Segment, Name: "NOWHERE"}, 0xfff, 0xfffff},
	}
	uses, err := Of(t.Context(), t.TempDir(), devices)
	var incomplete *IncompleteError
	if err != nil && (!errors.As(err, &incomplete) || incomplete.Denied == 0 || !errors.Is(err, fs.ErrPermission)) {
		t.Fatal(err)
	}
	if len(uses) != 2 || uses[1].Any() {
		t.Fatalf("%+v", uses)
	}
	for _, p := range uses[0].Processes {
		if p.PID == os.Getpid() || p.Command == "" || p.How == "" {
			t.Errorf("%+v", p)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	uses, err = Of(ctx, t.TempDir(), devices)
	if !errors.As(err, &incomplete) || !errors.Is(err, context.Canceled) || len(uses) != 2 {
		t.Errorf("given up: %+v, %v", uses, err)
	}
}

func TestField(t *testing.T) {
	t.Parallel()
	const text = "pos:\t0\nmnt_id:\t273\ninotify wd:1 ino:d sdev:48 mask:400\n"
	for name, want := range map[string]string{"mnt_id:": "273", "sdev:": "48", "pid:": "", "mask:": "400"} {
		if got := field([]byte(text), name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
}

// TestFileSystem compares what the watch says with stat(2), where that is right.
func TestFileSystem(t *testing.T) {
	t.Parallel()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, path := range []string{"/proc/version", "/sys/kernel", "/dev"} {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			t.Fatal(err)
		}
		got, err := fileSystem(fd, path)
		if want := (number{unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))}); err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", path, got, err, want)
		}
	}
	if _, err := fileSystem(fd, "/nonexistent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
