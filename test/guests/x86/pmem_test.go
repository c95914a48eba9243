//go:build guests

package x86

import (
	"bytes"
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
	"github.com/levelfs/levelfs/test/guests/guest"
	"github.com/levelfs/levelfs/test/guests/x86/layout"
)

// deadline is for all of it: the packages, the images and the guest's work.
const deadline = 8 * time.Minute

// modules in the order in which they need each other.
var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
	"libnvdimm", "nd_btt", "nd_pmem", "nd_virtio", "virtio_pmem",
	"crc16", "crc32c_generic", "mbcache", "jbd2", "ext4", "libcrc32c", "erofs", "overlay", "autofs4", "loop", "nfit",
}

// captured is the part of sysfs that the tests of package pmem run on.
const captured = "../../../internal/pmem/testdata/linux-6.1.sysfs"

var update = flag.Bool("update", false, "write the captured sysfs tree of package pmem anew")

const megabyte = 1 << 20

func TestPmem(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	dir := t.TempDir()
	tree, err := guest.Fetch(ctx, "amd64", "linux-image-cloud-amd64", "busybox-static", "autofs", "mount")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %s", tree.Release)
	content := makeContent(t, dir, filepath.Join(tree.Dir, "bin/busybox"))
	images := makeImages(ctx, t, dir, content)
	initrd := filepath.Join(dir, "initrd")
	makeInitrd(ctx, t, initrd, dir, tree, content, images)
	disk := filepath.Join(dir, "disk.img")
	partition(t, disk, images[layout.Part], images[layout.Compact])

	var sysfs strings.Builder
	numbers := 0
	config := guest.Config{
		Program: "qemu-system-x86_64",
		Kernel:  tree.Kernel,
		Initrd:  initrd,
		// The memory that could be plugged in has the kernel reserve 64 MiB for DMA,
		// which swiotlb=noforce gives back: more than DAX saves in a small guest.
		Append: "console=ttyS0 panic=-1 quiet loglevel=1 swiotlb=noforce",
		Args:   []string{"-M", "q35,nvdimm=on", "-cpu", "max", "-smp", "1", "-m", "512,slots=1,maxmem=2G"},
		Each: func(line string) {
			captured, is := strings.CutPrefix(line, "SYSFS ")
			if !is {
				t.Log(line)
				return
			}
			// The kernel numbers the devices in the order in which it is ready with them,
			// which is another one each time.
			if file, _, _ := strings.Cut(captured, " ="); strings.HasSuffix(file, "/dev") {
				captured = fmt.Sprintf("%s = 259:%d", file, numbers)
				numbers++
			}
			fmt.Fprintln(&sysfs, captured)
		},
	}
	for i, file := range []string{images[layout.Erofs], images[layout.Ext4], disk, images[layout.Unaligned]} {
		config.Args = append(config.Args, pmemArgs(t, i, file)...)
	}
	config.Args = append(config.Args,
		"-object", fmt.Sprintf("memory-backend-file,id=nvdimm,share=on,readonly=on,mem-path=%s,size=%d", images[layout.NVDIMM], 2*megabyte),
		"-device", "nvdimm,memdev=nvdimm,unarmed=on")
	vm, err := guest.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	if _, err := vm.Await("MEASURE"); err != nil {
		t.Fatal(err)
	}
	checkShared(t, vm.PID(), images[layout.Erofs])
	if err := vm.Send("go"); err != nil {
		t.Fatal(err)
	}
	report, err := vm.Report()
	if err != nil {
		t.Error(err)
	}
	for _, r := range report.Results {
		t.Run(r.Name, func(t *testing.T) {
			if r.Why != "" {
				t.Error(r.Why)
			}
		})
	}
	if err := guest.CheckFile(captured, sysfs.String(), *update); err != nil {
		t.Error(err)
	}
}

// pmemArgs has QEMU map the file as a pmem device. A size smaller than the file's
// would be accepted, and the end of the file be missing.
func pmemArgs(t *testing.T, n int, file string) []string {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	return []string{
		"-object", fmt.Sprintf("memory-backend-file,id=m%d,share=on,readonly=on,mem-path=%s,size=%d", n, file, info.Size()),
		"-device", fmt.Sprintf("virtio-pmem-pci,memdev=m%d,id=p%d", n, n),
	}
}

// checkShared makes sure that what the guest has of the image in memory is the
// host's page cache: this process maps it as well, as another guest would, and no
// page is private then.
func checkShared(t *testing.T, pid int, image string) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	m, err := guest.MappingOf(pid, image)
	if err != nil {
		t.Fatal(err)
	}
	if m.RSS < 8*megabyte || m.Private != 0 || m.PSS > m.RSS/2 {
		t.Errorf("%s in the guest's memory: %+v", image, m)
	}
	all, err := guest.MemoryOf(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the guest takes %d MiB of memory, %d MiB of them are the image, shared", all.RSS/megabyte, m.RSS/megabyte)
}

// makeContent makes the trees that the images are made of, which the guest has as
// well to compare.
func makeContent(t *testing.T, dir, busybox string) string {
	t.Helper()
	content := filepath.Join(dir, "content")
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	var large strings.Builder
	for page := range 12 * megabyte / 4096 {
		fmt.Fprintf(&large, "%-4095d\n", page)
	}
	for file, text := range map[string][]byte{
		"erofs/bin/busybox": program,
		"erofs/large":       []byte(large.String()),
		"ext4/small":        []byte("ext4\n"),
		"part/part":         []byte("part\n"),
		"compact/small":     []byte("compact\n"),
		"compact/page":      bytes.Repeat([]byte("page"), 1024),
		"nvdimm/small":      []byte("nvdimm\n"),
		"unaligned/small":   []byte("unaligned\n"),
	} {
		name := filepath.Join(content, file)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, text, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return content
}

// makeImages makes an image of each tree.
func makeImages(ctx context.Context, t *testing.T, dir, content string) map[string]string {
	t.Helper()
	images := make(map[string]string)
	for _, name := range []string{layout.Erofs, layout.Part, layout.NVDIMM} {
		images[name] = filepath.Join(dir, name+".img")
		if _, err := layer.Build(ctx, filepath.Join(content, name), images[name], layer.BuildOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for name, size := range map[string]string{layout.Ext4: "8M", layout.Unaligned: "3M"} {
		images[name] = filepath.Join(dir, name+".img")
		run(ctx, t, "mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-O", "^has_journal", "-d", filepath.Join(content, name), images[name], size)
	}
	images[layout.Compact] = filepath.Join(dir, "compact.img")
	run(ctx, t, "mkfs.erofs", "--quiet", images[layout.Compact], filepath.Join(content, layout.Compact))
	if err := os.Truncate(images[layout.Compact], 2*megabyte); err != nil {
		t.Fatal(err)
	}
	return images
}

func run(ctx context.Context, t *testing.T, program string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(ctx, program, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

// partition makes a disk with the images in partitions that are multiples of 2 MiB
// and start at one, and an MBR for them.
func partition(t *testing.T, disk string, images ...string) {
	t.Helper()
	const sector, align = 512, 2 * megabyte
	content := make([]byte, align)
	for i, image := range images {
		part, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		if len(part)%align != 0 {
			t.Fatalf("%s has %d bytes", image, len(part))
		}
		entry := content[446+16*i:]
		entry[4] = 0x83 // type: Linux
		binary.LittleEndian.PutUint32(entry[8:], uint32(len(content)/sector))
		binary.LittleEndian.PutUint32(entry[12:], uint32(len(part)/sector))
		content = append(content, part...)
	}
	content[510], content[511] = 0x55, 0xaa
	if err := os.WriteFile(disk, content, 0o644); err != nil {
		t.Fatal(err)
	}
}

func makeInitrd(ctx context.Context, t *testing.T, file, dir string, tree *guest.Tree, content string, images map[string]string) {
	t.Helper()
	program := filepath.Join(dir, "init")
	if err := guest.Build(ctx, "amd64", "github.com/levelfs/levelfs/test/guests/x86/init", program); err != nil {
		t.Fatal(err)
	}
	var uuids strings.Builder
	for name, image := range images {
		f, err := os.Open(image)
		if err != nil {
			t.Fatal(err)
		}
		fstype, uuid, err := mounter.Probe(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&uuids, name, uuid, fstype)
	}
	archive := guest.NewArchive()
	archive.Copy("/init", program, 0o755)
	archive.Modules(tree, modules...)
	archive.Tree("/content", content)
	archive.File(layout.UUIDFile, 0o644, []byte(uuids.String()))
	if err := archive.Software(ctx, "amd64", tree, dir); err != nil {
		t.Fatal(err)
	}
	var inv testenv.Inventory
	for _, name := range slices.Sorted(maps.Keys(images)) {
		l, err := guest.Describe(name, images[name])
		if err != nil {
			t.Fatal(err)
		}
		inv.Layers = append(inv.Layers, l)
		inv.Components = append(inv.Components, guest.Tool(name, "", name), guest.Tool(name+layout.Required, "require", name))
	}
	archive.Inventory(inv)
	archive.Image(images[layout.Unaligned]) // the others are on devices, and need no file
	for _, mount := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/mnt"} {
		archive.Dir(mount)
	}
	if err := archive.WriteFile(file); err != nil {
		t.Fatal(err)
	}
}
