//go:build guests

package s390x

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/test/guests/cp"
	"github.com/levelfs/levelfs/test/guests/gdb"
	"github.com/levelfs/levelfs/test/guests/guest"
	"github.com/levelfs/levelfs/test/guests/s390x/layout"
)

// deadline is for all of it: the packages, the images and the guest's work.
const deadline = 8 * time.Minute

var update = flag.Bool("update", false, "write the captured sysfs tree of package dcss anew")

// modules in an order in which QEMU 7.2 runs them all: it was seen to run stale
// translations of the initialisation of overlay when autofs4 came right after.
var modules = []string{
	"crc16", "crc32c_generic", "mbcache", "jbd2", "ext4", "libcrc32c", "erofs", "overlay", "dcssblk", "autofs4", "loop",
}

func TestSegments(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	dir := t.TempDir()
	tree, err := guest.Fetch(ctx, "s390x", "linux-image-s390x", "busybox-static", "autofs", "mount")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("kernel %s", tree.Release)
	content := makeContent(t, dir, filepath.Join(tree.Dir, "bin/busybox"))
	makeImages(ctx, t, dir, content)
	segments := save(t, dir, layout.Segments())
	initrd := filepath.Join(dir, "initrd")
	makeInitrd(ctx, t, initrd, dir, tree, content)

	socket := filepath.Join(dir, "gdb")
	config := guest.Config{
		Program: "qemu-system-s390x",
		Kernel:  tree.Kernel,
		Initrd:  initrd,
		// mem= leaves the segments' memory out of what Linux uses, nokaslr leaves the
		// kernel where its symbols say, and loglevel=1 keeps the console to the report:
		// the kernel complains of each unmapping of a DAX page ("Bad page map"), as
		// dcssblk's pages have no struct page.
		Append: fmt.Sprintf("console=ttysclp0 panic=-1 quiet loglevel=1 nokaslr mem=%d", layout.LinuxMemory),
		Args: []string{
			"-M", "s390-ccw-virtio", "-cpu", "max", "-smp", "1", "-m", fmt.Sprintf("%dM", layout.Memory>>20),
			"-chardev", "socket,path=" + socket + ",server=on,wait=off,id=gdb", "-gdb", "chardev:gdb",
		},
	}
	for image, address := range layout.Images() {
		config.Args = append(config.Args, "-device",
			fmt.Sprintf("loader,file=%s,addr=%#x,force-raw=on", filepath.Join(dir, image), address))
	}
	var sysfs strings.Builder
	config.Each = func(line string) {
		if captured, is := strings.CutPrefix(line, "SYSFS "); is {
			fmt.Fprintln(&sysfs, captured)
			return
		}
		t.Log(line)
	}
	vm, err := guest.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Stop()
	ready, err := vm.Await("CP-READY ")
	if err != nil {
		t.Fatal(err)
	}
	control, machine, err := playCP(socket, ready, segments)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Send("go"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		err := machine.Run()
		if err != nil {
			cancel() // nobody would ever answer the guest
		}
		ended <- err
	}()
	report, err := vm.Report()
	if err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("CP: %v", err)
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
	if got := control.Commands(); !slices.Equal(got, layout.Commands()) {
		t.Errorf("CP commands %q, want %q", got, layout.Commands())
	}
	for _, s := range layout.Segments() {
		if loaded, _ := control.Loaded(s.Name); loaded {
			t.Errorf("segment %q is still loaded", s.Name)
		}
	}
}

// captured is the driver's part of sysfs that the tests of package dcss run on.
const captured = "../../../dcss/testdata/linux-6.1.sysfs"

// playCP connects to the guest, which stops it, and becomes its CP.
func playCP(socket, ready string, segments []cp.Segment) (*cp.CP, *cp.Machine, error) {
	var text cp.Text
	if _, err := fmt.Sscanf(ready, "%v %v", &text.Start, &text.End); err != nil {
		return nil, nil, fmt.Errorf("%q: %w", ready, err)
	}
	control, err := cp.New(segments...)
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	client, err := gdb.NewClient(conn)
	if err != nil {
		return nil, nil, err
	}
	machine, err := cp.Start(control, client, text)
	return control, machine, err
}

// save saves another content in the segments that are to have one: what differs is the
// text of a file, so that all that tells them apart is the digest.
func save(t *testing.T, dir string, segments []cp.Segment) []cp.Segment {
	t.Helper()
	for name, after := range map[string]int{layout.Other: 0, layout.Resaved: 1} {
		image, err := os.ReadFile(filepath.Join(dir, strings.ToLower(name)+".img"))
		if err != nil {
			t.Fatal(err)
		}
		offset := bytes.Index(image, []byte(layout.Content))
		i := slices.IndexFunc(segments, func(s cp.Segment) bool { return s.Name == name })
		if offset < 0 || i < 0 {
			t.Fatalf("no segment %s with the content to be changed", name)
		}
		segments[i].Resaved = &cp.Save{After: after, Offset: uint64(offset), Bytes: []byte(layout.Changed)}
	}
	return segments
}

// makeContent makes the trees that the images are made of, which the guest has as
// well to compare. Busybox is the program that is executed in place.
func makeContent(t *testing.T, dir, busybox string) string {
	t.Helper()
	content := filepath.Join(dir, "content")
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	// More than one half of the joined segments, and every page another one.
	var large strings.Builder
	for page := range (layout.JoinedHalf + layout.JoinedHalf/2) / 4096 {
		fmt.Fprintf(&large, "%-4095d\n", page)
	}
	for file, text := range map[string][]byte{
		"ext4/busybox":      program,
		"ext4/etc/small":    []byte("ext4\n"),
		"other/content":     []byte(layout.Content),
		"other/name":        []byte("other"),
		"resaved/content":   []byte(layout.Content),
		"resaved/name":      []byte("resaved"),
		"spare/content":     []byte(layout.Content),
		"spare/name":        []byte("spare"),
		"compact/tail":      []byte("what mkfs.erofs puts into its inode"),
		"compact/page":      bytes.Repeat([]byte("page"), 1024),
		"erofs/bin/busybox": program,
		"erofs/etc/tail":    []byte("a file of less than a block, which mkfs.erofs would put into its inode\n"),
		"joined/large":      []byte(large.String()),
		"joined/small":      []byte("joined\n"),
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

// makeImages makes the images of the segments.
func makeImages(ctx context.Context, t *testing.T, dir, content string) {
	t.Helper()
	// EROFS has DAX for none of the files whose ends are in their inodes.
	compact := filepath.Join(dir, "compact.img")
	if out, err := exec.CommandContext(ctx, "mkfs.erofs", "--quiet", compact, filepath.Join(content, "compact")).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v\n%s", err, out)
	}
	for name, limit := range map[string]int64{
		"ext4": layout.Ext4Size, "erofs": layout.ErofsSize, "joined": 2 * layout.JoinedHalf,
		"other": layout.SmallSize, "resaved": layout.SmallSize, "spare": layout.SmallSize,
	} {
		options := layer.BuildOptions{XIP: true, MaxSize: limit}
		if name == "ext4" {
			options.FSType = "ext4"
		}
		if _, err := layer.Build(ctx, filepath.Join(content, name), filepath.Join(dir, name+".img"), options); err != nil {
			t.Fatal(err)
		}
	}
}

func makeInitrd(ctx context.Context, t *testing.T, file, dir string, tree *guest.Tree, content string) {
	t.Helper()
	program := filepath.Join(dir, "init")
	if err := guest.Build(ctx, "s390x", "github.com/levelfs/levelfs/test/guests/s390x/init", program); err != nil {
		t.Fatal(err)
	}
	archive := guest.NewArchive()
	archive.Copy("/init", program, 0o755)
	archive.Modules(tree, modules...)
	archive.Tree("/content", content)
	if err := archive.Software(ctx, "s390x", tree, dir); err != nil {
		t.Fatal(err)
	}
	var inv testenv.Inventory
	for _, c := range layout.Components() {
		l, err := guest.Describe(c.Name, filepath.Join(dir, c.Image+".img"))
		if err != nil {
			t.Fatal(err)
		}
		l.Segments = []string{c.Segment}
		inv.Layers = append(inv.Layers, l)
		inv.Components = append(inv.Components, guest.Tool(c.Name, c.XIP, c.Name))
	}
	archive.Inventory(inv)
	// The others are in segments, and need no file.
	for _, name := range []string{"other", "resaved", "spare"} {
		archive.Image(filepath.Join(dir, name+".img"))
	}
	for _, mount := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/mnt"} {
		archive.Dir(mount)
	}
	if err := archive.WriteFile(file); err != nil {
		t.Fatal(err)
	}
}
