package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// resident maps the file and returns how many of its pages are in memory.
func resident(t *testing.T, path string) (in, pages int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	memory, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	vector := make([]byte, (len(memory)+os.Getpagesize()-1)/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&memory[0])), uintptr(len(memory)), uintptr(unsafe.Pointer(&vector[0])))
	if errno != 0 {
		t.Fatal("mincore:", errno)
	}
	for _, v := range vector {
		in += int(v & 1)
	}
	return in, len(vector)
}

// forget drops the file's clean pages.
func forget(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
}

// TestMountSharing: a layer is one loop device, one superblock and one page cache
// for all views that it is in.
func TestMountSharing(t *testing.T) {
	r := newRig(t)
	big := bytes.Repeat([]byte("0123456789abcde\n"), 8<<20/16)
	common := r.Store.Erofs("common", testenv.Files{"lib/big": string(big)})
	inv := testenv.Inventory{Layers: []testenv.Layer{common}}
	views := make(map[string]string)
	for _, name := range []string{"emacs", "vi", "ed"} {
		own := r.Store.Erofs(name, testenv.Files{"bin/" + name: name})
		inv.Layers = append(inv.Layers, own)
		inv.Components = append(inv.Components, testenv.Component{
			Name: name, Default: "1", Levels: []testenv.Level{{Name: "1", Layers: []string{name, "common"}}},
		})
		views[name] = r.Mkdir("sw", name)
	}
	r.WriteLDIF("all.ldif", inv.LDIF())
	image := filepath.Join(r.Store.Dir, common.Images[0])

	forget(t, image) // the mount reads all of it, for its digest
	// By the helper, by mount(8), and read-only.
	r.mountAt("emacs", views["emacs"])
	if got := r.Mount("-t", "levelfs", "vi", views["vi"]); got.Exit != 0 {
		t.Fatal(got)
	}
	r.mountAt("ed@1", views["ed"], "-o", "ro")
	loops := r.loops()
	device := ""
	for d, file := range loops {
		if file == image {
			if device != "" {
				t.Errorf("two devices for one image: %s and %s", device, d)
			}
			device = d
		}
	}
	if len(loops) != 4 || device == "" {
		t.Fatalf("loop devices %v, want 4, one of them for %s", loops, image)
	}
	sys := "/sys/block/" + strings.TrimPrefix(device, "/dev/")
	for file, want := range map[string]string{"ro": "1", "loop/autoclear": "1", "loop/offset": "0", "loop/sizelimit": "0"} {
		r.wantAt(sys, map[string]string{file: want + "\n"})
	}
	direct, err := os.OpenFile(image, os.O_RDONLY|unix.O_DIRECT, 0)
	if err == nil {
		direct.Close()
		r.wantAt(sys, map[string]string{"loop/dio": "1\n"})
	}

	file := filepath.Join("lib", "big")
	if in, pages := resident(t, filepath.Join(views["vi"], file)); in > pages/2 {
		t.Fatalf("%d of %d pages are in memory before the file was read: this test cannot fail", in, pages)
	}
	if text, err := os.ReadFile(filepath.Join(views["emacs"], file)); err != nil || !bytes.Equal(text, big) {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	for _, name := range []string{"vi", "ed"} {
		if in, pages := resident(t, filepath.Join(views[name], file)); in != pages {
			t.Errorf("%s: %d of %d pages are in memory after another view has read the file", name, in, pages)
		}
	}
	if in, pages := resident(t, image); err == nil && in > pages/2 {
		t.Errorf("%d of %d pages of the image itself are in memory too, in spite of direct I/O", in, pages)
	}

	// One after the other, as automount does it; the device stays for the last.
	for i, name := range []string{"emacs", "ed", "vi"} {
		if out, err := exec.Command("umount", "-n", views[name]).CombinedOutput(); err != nil {
			t.Fatalf("umount: %v\n%s", err, out)
		}
		left := 3 - i
		if i == 2 {
			left = 0
		}
		testenv.WaitFor(t, fmt.Sprint(left, " loop devices"), func() error {
			if loops := r.loops(); len(loops) != left {
				return fmt.Errorf("they are %v", loops)
			}
			return nil
		})
	}
	mounts, err := testenv.Mounts(r.Root)
	if err != nil || len(mounts) != 0 {
		t.Errorf("mounts left: %v, %v", mounts, err)
	}
}
