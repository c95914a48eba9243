package layer

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The kernel is the reader that counts: it must show exactly the source.
func TestKernel(t *testing.T) {
	requireRoot(t)
	type test struct {
		fstype string
		specs  []spec
	}
	for name, test := range map[string]test{
		"erofs": {"erofs", rootSample()},
		"ext4":  {"ext4", rootSample()},
		// More than one group, and more than one extent of a file.
		"ext4-groups": {"ext4", append(fewSample(), spec{path: "sparse-large", mode: unix.S_IFREG | 0o644, size: 140 << 20, data: "end"})},
		"erofs-empty": {"erofs", []spec{{path: "", mode: unix.S_IFDIR | 0o700}}},
		"ext4-empty":  {"ext4", []spec{{path: "", mode: unix.S_IFDIR | 0o700}}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			makeTree(t, dir, test.specs, 1)
			r := builtAs(t, dir, test.fstype)
			mnt := mountImage(t, r.Path, test.fstype)
			sameTrees(t, dir, mnt)

			var st unix.Statfs_t
			if err := unix.Statfs(mnt, &st); err != nil {
				t.Fatal(err)
			}
			// ext4 does not count what it needs for itself.
			whole := int64(st.Blocks)*int64(st.Bsize) == r.Size || test.fstype == "ext4"
			magic := map[string]int64{"erofs": unix.EROFS_SUPER_MAGIC_V1, "ext4": unix.EXT4_SUPER_MAGIC}[test.fstype]
			if !whole || int64(uint32(st.Type)) != magic { //nolint:unconvert
				t.Errorf("%d blocks of %d, type %#x", st.Blocks, st.Bsize, st.Type)
			}
			// blkid knows the UUID where others look for it.
			if out, err := exec.Command("blkid", "-p", "-o", "value", "-s", "UUID", r.Path).Output(); err == nil {
				if got := strings.TrimSpace(string(out)); got != r.UUID {
					t.Errorf("blkid says %s, want %s", got, r.UUID)
				}
			}
		})
	}
}

// A layer of whiteouts and opaque directories must work in an overlay.
func TestWhiteoutInOverlay(t *testing.T) {
	requireRoot(t)
	lower, top := t.TempDir(), t.TempDir()
	reg := func(p string) spec { return spec{path: p, mode: unix.S_IFREG | 0o644, data: p} }
	makeTree(t, lower, []spec{reg("gone"), reg("kept"), reg("opaque/gone")}, 0)
	makeTree(t, top, []spec{
		{path: "gone", mode: unix.S_IFCHR},
		{path: "opaque", mode: unix.S_IFDIR | 0o755, xattrs: map[string]string{"trusted.overlay.opaque": "y"}},
		reg("opaque/new"),
	}, 0)
	r := built(t, top)
	mnt := mountImage(t, r.Path, r.FSType)
	view := t.TempDir()
	if err := unix.Mount("t", view, "overlay", unix.MS_RDONLY, "lowerdir="+mnt+":"+lower); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(view, 0); err != nil {
			t.Error(err)
		}
	})
	got := files(t, view)
	for p, want := range map[string]bool{"/gone": false, "/kept": true, "/opaque/gone": false, "/opaque/new": true} {
		if _, ok := got[p]; ok != want {
			t.Errorf("%q: there %v, want %v", p, ok, want)
		}
	}
}

// mountImage mounts the image through a loop device, for this test only, in a
// mount namespace of the test's own thread, and checks afterwards that nothing is
// left.
func mountImage(t *testing.T, image, fstype string) string {
	t.Helper()
	mnt := t.TempDir()
	// Never unlocked: the thread, and with it the namespace, ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", fstype, "-o", "loop,ro,nodev", image, mnt).CombinedOutput(); err != nil {
		dmesg, _ := exec.Command("sh", "-c", "dmesg | tail -5").Output()
		t.Fatalf("mount: %v\n%s%s", err, out, dmesg)
	}
	if len(loops(t, image)) != 1 {
		t.Errorf("loop devices of the image: %v", loops(t, image))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
		if l := loops(t, image); len(l) != 0 {
			t.Errorf("loop devices left: %v", l)
		}
		for _, f := range []string{"/proc/thread-self/mountinfo", "/proc/self/mountinfo"} {
			if b, err := os.ReadFile(f); err != nil || strings.Contains(string(b), mnt) {
				t.Errorf("%s: mount left, or %v", f, err)
			}
		}
	})
	return mnt
}

// loops lists the loop devices that use the file.
func loops(t *testing.T, file string) (out []string) {
	t.Helper()
	paths, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		if b, err := os.ReadFile(p); err == nil && strings.TrimSuffix(string(b), "\n") == file {
			out = append(out, p)
		}
	}
	return out
}
