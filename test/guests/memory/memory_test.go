//go:build guests

package memory

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/layer"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/test/guests/guest"
	"github.com/levelfs/levelfs/test/guests/memory/place"
)

// limit is for one way, with all of its guests.
const limit = 8 * time.Minute

// packages are what the level is made of: programs, libraries and many small files.
var packages = []string{
	"libllvm14", "gcc-12", "cpp-12", "g++-12", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib",
	"perl-base", "perl-modules-5.36", "emacs-nox", "libicu72",
}

var modules = []string{
	"virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk",
	"libnvdimm", "nd_btt", "nd_pmem", "nd_virtio", "virtio_pmem",
	"crc16", "crc32c_generic", "mbcache", "jbd2", "ext4", "libcrc32c", "erofs", "overlay", "autofs4", "loop",
}

// counts are the numbers of guests at which is measured.
var counts = []int{1, 2, 4}

// A result is what was measured, in bytes.
type result struct {
	Kernel  string                   `json:"kernel"`
	Image   int64                    `json:"image"`   // size of the level's image
	Touched int64                    `json:"touched"` // size of its files, of which every page was touched
	PSS     map[string]map[int]int64 `json:"pss"`     // way -> number of guests -> sum over them
	Taken   map[string]int64         `json:"taken"`   // way -> of its own memory, in a guest
}

// A bed is what all guests are started with.
type bed struct {
	kernel, initrd string
	files          map[string]string // way -> image of its device
}

func TestMemory(t *testing.T) {
	// Inherited by QEMU. Huge pages would count as used what was never touched.
	if err := unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r := &result{PSS: make(map[string]map[int]int64), Taken: make(map[string]int64)}
	b := makeBed(t, dir, r)
	for _, way := range []string{place.Idle, place.Pmem, place.Disk} {
		r.PSS[way] = b.measure(t, way, r)
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"LEVELFS_BENCH_JSON": string(text) + "\n", "LEVELFS_BENCH_SVG": r.plot()} {
		if file := os.Getenv(name); file != "" {
			if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	fmt.Print(r.table())
	// What it is all about. The exact figures are for reading.
	if shared, own := r.extra(place.Pmem), r.extra(place.Disk); shared > mib(r.Touched)/5 || own < mib(r.Touched)*4/5 || own > mib(r.Touched)*6/5 {
		t.Errorf("a further guest takes %.1f MiB more with the level shared, and %.1f MiB without", shared, own)
	}
}

// makeBed makes what the guests need.
func makeBed(t *testing.T, dir string, r *result) bed {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tree, err := guest.Fetch(ctx, "amd64", "linux-image-cloud-amd64", "busybox-static", "autofs", "mount")
	if err != nil {
		t.Fatal(err)
	}
	software, err := guest.FetchFiles(ctx, "amd64", packages...)
	if err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	image, disk := filepath.Join(store, "software.erofs"), filepath.Join(dir, "disk.ext4")
	built, err := layer.Build(ctx, software, image, layer.BuildOptions{XIP: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := layer.Build(ctx, store, disk, layer.BuildOptions{FSType: "ext4"}); err != nil {
		t.Fatal(err)
	}
	r.Kernel, r.Image = tree.Release, built.Size

	program := filepath.Join(dir, "init")
	if err := guest.Build(ctx, "amd64", "github.com/levelfs/levelfs/test/guests/memory/init", program); err != nil {
		t.Fatal(err)
	}
	archive := guest.NewArchive()
	archive.Copy("/init", program, 0o755)
	archive.Modules(tree, modules...)
	if err := archive.Software(ctx, "amd64", tree, dir); err != nil {
		t.Fatal(err)
	}
	l, err := guest.Describe(place.Component, image)
	if err != nil {
		t.Fatal(err)
	}
	archive.Inventory(testenv.Inventory{
		Layers:     []testenv.Layer{l},
		Components: []testenv.Component{guest.Tool(place.Component, "", place.Component)},
	})
	for _, mount := range []string{"/proc", "/sys", "/dev", "/run", "/tmp", "/mnt", place.Images} {
		archive.Dir(mount)
	}
	initrd := filepath.Join(dir, "initrd")
	if err := archive.WriteFile(initrd); err != nil {
		t.Fatal(err)
	}
	return bed{kernel: tree.Kernel, initrd: initrd, files: map[string]string{place.Pmem: image, place.Disk: disk}}
}

// measure starts guests, one after the other until there are so many, and returns what
// they take together.
func (b bed) measure(t *testing.T, way string, r *result) map[int]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	sums := make(map[int]int64)
	var guests []*guest.VM
	for _, count := range counts {
		for len(guests) < count {
			vm, err := guest.Start(ctx, b.config(t, way))
			if err != nil {
				t.Fatal(err)
			}
			defer vm.Stop()
			guests = append(guests, vm)
			if _, err := vm.Await("MEASURE"); err != nil {
				t.Fatal(err)
			}
		}
		for _, vm := range guests {
			m, err := guest.MemoryOf(vm.PID())
			if err != nil {
				t.Fatal(err)
			}
			sums[count] += m.PSS
		}
		t.Logf("%s: %d guests take %.1f MiB", way, count, mib(sums[count]))
	}
	for _, vm := range guests {
		if err := vm.Send("go"); err != nil {
			t.Fatal(err)
		}
		report, err := vm.Report()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range report.Results {
			if c.Why != "" {
				t.Fatalf("%s: %s", way, c.Why)
			}
		}
		if way != place.Idle {
			r.Taken[way], r.Touched = report.Values["taken"], report.Values["touched"]
		}
	}
	return sums
}

func (b bed) config(t *testing.T, way string) guest.Config {
	c := guest.Config{
		Program: "qemu-system-x86_64", Kernel: b.kernel, Initrd: b.initrd,
		// Without swiotlb=noforce a guest that memory could be added to reserves 64 MiB.
		Append: "console=ttyS0 panic=-1 quiet loglevel=1 swiotlb=noforce levelfs=" + way,
		// tb-size bounds what the emulation keeps of the code that it has translated,
		// which is none of the guest's memory and grows with all that runs in it.
		Args: []string{"-M", "q35", "-accel", "tcg,tb-size=16", "-cpu", "max", "-smp", "1", "-m", "768,maxmem=2G"},
	}
	switch way {
	case place.Pmem:
		info, err := os.Stat(b.files[way])
		if err != nil {
			t.Fatal(err)
		}
		c.Args = append(c.Args,
			"-object", fmt.Sprintf("memory-backend-file,id=m,share=on,readonly=on,mem-path=%s,size=%d", b.files[way], info.Size()),
			"-device", "virtio-pmem-pci,memdev=m,id=p")
	case place.Disk:
		c.Args = append(c.Args, "-drive", "file="+b.files[way]+",format=raw,if=virtio,readonly=on")
	}
	return c
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// above is what so many guests take more than as many idle ones, in MiB.
func (r *result) above(way string, count int) float64 {
	return mib(r.PSS[way][count] - r.PSS[place.Idle][count])
}

// extra is what each guest after the first takes more than an idle one, in MiB.
func (r *result) extra(way string) float64 {
	first, last := counts[0], counts[len(counts)-1]
	return (r.above(way, last) - r.above(way, first)) / float64(last-first)
}

// table is the result as Markdown.
func (r *result) table() string {
	text := fmt.Sprintf("Linux %s, an image of %.0f MiB, of which %.0f MiB of files are touched; MiB\n\n", r.Kernel, mib(r.Image), mib(r.Touched)) +
		"| guests | idle | shared: virtio-pmem | own: virtio-blk | shared − idle | own − idle |\n|---|---|---|---|---|---|\n"
	for _, n := range counts {
		text += fmt.Sprintf("| %d | %.1f | %.1f | %.1f | %.1f | %.1f |\n", n, mib(r.PSS[place.Idle][n]), mib(r.PSS[place.Pmem][n]),
			mib(r.PSS[place.Disk][n]), r.above(place.Pmem, n), r.above(place.Disk, n))
	}
	return text + fmt.Sprintf("| each further guest | | | | %.1f | %.1f |\n", r.extra(place.Pmem), r.extra(place.Disk)) +
		fmt.Sprintf("\nof a guest's own memory: %.1f shared, %.1f own\n", mib(r.Taken[place.Pmem]), mib(r.Taken[place.Disk]))
}

func (r *result) plot() string {
	line := func(name, color, way string) Series {
		s := Series{Name: name, Color: color, MiB: make(map[int]float64)}
		for _, n := range counts {
			s.MiB[n] = r.above(way, n)
		}
		return s
	}
	return Plot(fmt.Sprintf("Host memory (MiB) for guests that use the same %.0f MiB of software", mib(r.Touched)), counts, []Series{
		line("each its own", "#c0392b", place.Disk),
		line("shared", "#2471a3", place.Pmem),
	})
}
