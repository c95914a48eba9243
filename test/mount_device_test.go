package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// pmem makes a device look like a pmem device of the machine: the image on a loop
// device, and beside it what sysfs would say. It has no DAX, which only the real
// driver has (test/guests); everything else about a layer from memory is the same.
func (r *rig) pmem(image string) {
	r.t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", image).Output()
	if err != nil {
		r.t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	r.t.Cleanup(func() {
		// The kernel keeps BLKROSET for whatever is on the loop device next.
		for _, args := range [][]string{{"blockdev", "--setrw", loop}, {"losetup", "--detach", loop}} {
			if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
				r.t.Errorf("%v: %v: %s", args, err, out)
			}
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(loop, &st); err != nil {
		r.t.Fatal(err)
	}
	size, err := os.Stat(image)
	if err != nil {
		r.t.Fatal(err)
	}
	sys := r.Mkdir("sys/block/pmem0/queue")
	for file, text := range map[string]string{
		"../dev": fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), "../size": fmt.Sprint(size.Size() / 512),
		"../ro": "0", "dax": "0",
	} {
		writeFile(r.t, filepath.Join(sys, file), text+"\n")
	}
	if err := unix.Mknod(filepath.Join(r.Mkdir("dev"), "pmem0"), unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		r.t.Fatal(err)
	}
}

// TestMountDevice: a layer that is in shared memory is mounted from there, and it is
// said what became of execution in place.
func TestMountDevice(t *testing.T) {
	r := newRig(t)
	l := r.Store.Erofs("base", testenv.Files{"bin/tool": "the tool\n"})
	file := filepath.Join(r.Store.Dir, l.Images[0])
	r.pmem(file)
	away := filepath.Join(r.Store.Dir, "away")
	if err := os.Rename(file, away); err != nil { // the device is enough
		t.Fatal(err)
	}
	r.level("1", l)

	got := r.RunHelper("emacs", r.target)
	if got.Exit != 0 || got.Stdout != "" || !strings.Contains(got.Stderr, "warning") ||
		!strings.Contains(got.Stderr, "pmem pmem0: execution in place is off") {
		t.Fatalf("%v; want a warning that there is no DAX", got)
	}
	wantFile(t, filepath.Join(r.target, "bin/tool"), "the tool\n")
	views, err := mounter.Views()
	if err != nil || len(views) != 1 || len(views[0].Layers) != 1 || !strings.HasSuffix(views[0].Layers[0], "+pmem.pmem0") {
		t.Errorf("%+v, %v; want a layer that says that it is of pmem0", views, err)
	}
	status := r.RunLevelfs("status", "--json")
	if !strings.Contains(status.Stdout, `"xip": "off"`) {
		t.Errorf("%v; want xip off", status)
	}
	writeFile(t, filepath.Join(r.target, "mine"), "mine\n") // and a private layer as ever
	r.Umount(r.target)
	wantFile(t, filepath.Join(r.PrivateDir("emacs"), "upper/mine"), "mine\n")

	// Mandatory, it is refused, and nothing stays.
	r.Configure("xip = \"require\"\n")
	r.unchanged(func() {
		got := r.RunHelper("emacs", r.target)
		if got.Exit != 32 || !strings.Contains(got.Stderr, "execution in place is required, but it is off") {
			t.Errorf("%v; want exit 32", got)
		}
	})
	// Switched off, the file is used, or asked for.
	r.Configure("xip = \"off\"\n")
	if got := r.RunHelper("emacs", r.target); got.Exit != 32 || !strings.Contains(got.Stderr, "not on this machine") {
		t.Errorf("%v; want exit 32", got)
	}
	if err := os.Rename(away, file); err != nil {
		t.Fatal(err)
	}
	r.mount()
	r.Umount(r.target)
}

// TestMountDeviceOther: memory that holds something else than the layer is not used,
// and both digests are named.
func TestMountDeviceOther(t *testing.T) {
	r := newRig(t)
	l := r.Store.Erofs("base", testenv.Files{"bin/tool": "the tool\n"})
	image, err := os.ReadFile(filepath.Join(r.Store.Dir, l.Images[0]))
	if err != nil {
		t.Fatal(err)
	}
	// Same file system UUID, another byte at the end: an older save under one name.
	image[len(image)-1] ^= 1
	other := r.Path("other.img")
	if err := os.WriteFile(other, image, 0o644); err != nil {
		t.Fatal(err)
	}
	r.pmem(other)
	r.level("1", l)
	got := r.RunHelper("emacs", r.target)
	if got.Exit != 0 || strings.Count(got.Stderr, "sha256:") != 2 || !strings.Contains(got.Stderr, l.Digest) ||
		!strings.Contains(got.Stderr, "using the image file") {
		t.Fatalf("%v; want the image file, and a warning with both digests", got)
	}
	wantFile(t, filepath.Join(r.target, "bin/tool"), "the tool\n")
	r.umountDevice()

	r.Configure("xip = \"require\"\n")
	r.unchanged(func() {
		got := r.RunHelper("emacs", r.target)
		if got.Exit != 32 || !strings.Contains(got.Stderr, l.Digest) {
			t.Errorf("%v; want exit 32 and the digests", got)
		}
	})
}

// umountDevice unmounts the view, and waits until only the loop device that poses as
// pmem is left.
func (r *rig) umountDevice() {
	r.t.Helper()
	r.Umount(r.target)
	testenv.WaitFor(r.t, "freed loop devices", func() error {
		if loops := r.loops(); len(loops) > 0 {
			return fmt.Errorf("%v", loops)
		}
		return nil
	})
}

// TestMountSegmentFallback: a machine without z/VM uses the image file of a layer that
// also is in a segment, and plan says why.
func TestMountSegmentFallback(t *testing.T) {
	r := newRig(t)
	l := r.Store.Erofs("base", testenv.Files{"bin/tool": "the tool\n"})
	l.Segments = []string{"TOOL01"}
	r.level("1", l)
	r.mount()
	wantFile(t, filepath.Join(r.target, "bin/tool"), "the tool\n")
	r.umount(r.target)
	if got := r.RunLevelfs("plan", "emacs"); got.Exit != 0 || !strings.Contains(got.Stdout, "image file (the machine has no driver for segments, it is on no pmem device)") {
		t.Errorf("%v; want the reason", got)
	}
	r.Configure("xip = \"require\"\n")
	r.unchanged(func() {
		got := r.RunHelper("emacs", r.target)
		if got.Exit != 32 || !strings.Contains(got.Stderr, "execution in place is required, but the machine has no driver for segments") {
			t.Errorf("%v; want exit 32", got)
		}
	})
}

// TestMountSegmentRefused: a driver that refuses the segment (here a file in the place
// of its sysfs attribute, which is no driver at all) costs a warning, not the mount.
func TestMountSegmentRefused(t *testing.T) {
	r := newRig(t)
	l := r.Store.Erofs("base", testenv.Files{"bin/tool": "the tool\n"})
	l.Segments = []string{"TOOL01"}
	r.level("1", l)
	writeFile(t, filepath.Join(r.Mkdir("sys/devices/dcssblk"), "add"), "")
	got := r.RunHelper("emacs", r.target)
	if got.Exit != 0 || !strings.Contains(got.Stderr, "segment TOOL01") || !strings.Contains(got.Stderr, "using the image file") {
		t.Errorf("%v; want the image file and a warning", got)
	}
	r.umount(r.target)
	if got := r.RunLevelfs("plan", "emacs"); !strings.Contains(got.Stdout, "segment TOOL01, else image file") ||
		!strings.Contains(got.Stdout, "echo TOOL01 > /sys/devices/dcssblk/add") {
		t.Errorf("%v; want the segment first", got)
	}
}
