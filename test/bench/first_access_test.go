// Package bench measures what levelfs costs where users feel it. Its benchmarks
// are not run by "make test": "make bench" runs them and prints their tables.
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// keys is how many cold keys of each kind are accessed.
const keys = 60

// A variant is one way to get the same two directories under one private layer.
type variant struct {
	Name     string  `json:"name"`
	MedianMS float64 `json:"median_ms"`
	P95MS    float64 `json:"p95_ms"`
	Ratio    float64 `json:"ratio"` // of the median to that of the static file map
	tree     string
	times    []time.Duration
}

// BenchmarkFirstAccess is the time of the first access to a directory under
// automount, from the system call to the answer. Each variant has an automount of
// its own and the same two layers (plain directories) under a private layer for
// each key; the variants take turns within each round. Private layers are in
// memory, for all of them: what is compared is ways to a mount, not disks.
func BenchmarkFirstAccess(b *testing.B) {
	testenv.Require(b, "root", "automount", "slapd", "overlay")
	variants := setUp(b)
	for range b.N {
		for i := range keys {
			for j := range variants {
				v := &variants[(i+j)%len(variants)]
				v.times = append(v.times, access(b, filepath.Join(v.tree, key(i))))
			}
		}
		b.StopTimer()
		if b.N > 1 {
			b.Fatal("run it with -benchtime 1x: a key is cold once")
		}
	}
	static := percentile(variants[0].times, 50)
	for i := range variants {
		v := &variants[i]
		v.MedianMS = milliseconds(percentile(v.times, 50))
		v.P95MS = milliseconds(percentile(v.times, 95))
		v.Ratio = float64(percentile(v.times, 50)) / float64(static)
		b.ReportMetric(v.MedianMS, strings.ReplaceAll(v.Name, " ", "-")+"-ms")
	}
	report(b, variants)
}

func key(i int) string { return fmt.Sprintf("tool%02d", i) }

func access(b *testing.B, dir string) time.Duration {
	start := time.Now()
	_, err := os.Stat(filepath.Join(dir, "bin", "tool"))
	took := time.Since(start)
	if err != nil {
		b.Fatal(err)
	}
	return took
}

// setUp starts the variants.
func setUp(b *testing.B) []variant {
	plain := testenv.NewMachine(b, "lnx01")
	top := plain.Store.Directory("top", testenv.Files{"bin/tool": "1\n"})
	bottom := plain.Store.Directory("bottom", testenv.Files{"share/doc": "2\n"})
	inventory := inventoryOf(top, bottom)

	static, shell := rawMaps(b, plain, top, bottom)
	variants := []variant{
		{Name: "static file map", tree: start(b, plain, "file", "file:"+static)},
		{Name: "sh program map", tree: start(b, plain, "sh", "program:"+shell)},
		{Name: "Go map and helper that decide nothing", tree: start(b, plain, "floor", "program:"+floor(b, plain))},
	}
	ldif := testenv.NewMachine(b, "lnx01")
	ldif.Store = plain.Store
	ldif.Configure("")
	ldif.WriteLDIF("tools.ldif", inventory.LDIF())

	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	module, err := testenv.ModuleDir()
	if err != nil {
		b.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "sl") // short: it holds a socket
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	slapd, err := testenv.StartSlapd(ctx, dir, filepath.Join(module, "packaging/schema"), testenv.SlapdOptions{LogLevel: "none"})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := slapd.Stop(); err != nil {
			b.Error(err)
		}
	})
	if err := slapd.Add(inventory.LDIF()); err != nil {
		b.Fatal(err)
	}
	ldap := testenv.NewMachine(b, "lnx01")
	ldap.Store = plain.Store
	ldap.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))

	for _, v := range []struct {
		name    string
		machine *testenv.Machine
	}{{"levelfs with LDIF", ldif}, {"levelfs with slapd", ldap}} {
		inMemory(b, filepath.Dir(v.machine.PrivateDir(key(0))))
		variants = append(variants, variant{Name: v.name, tree: start(b, v.machine, "sw", "program:"+v.machine.Map)})
	}
	return variants
}

// start runs an automount with one indirect map.
func start(b *testing.B, m *testenv.Machine, name, spec string) string {
	tree := m.Path(name)
	testenv.StartAutomount(b, m, tree+" "+spec)
	return tree
}

// inMemory mounts a tmpfs.
func inMemory(b *testing.B, dir string) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := unix.Mount("bench", dir, "tmpfs", 0, ""); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			b.Error(err)
		}
	})
}

// rawMaps writes a file map of overlay entries, and a program that prints the
// same ones.
func rawMaps(b *testing.B, m *testenv.Machine, layers ...testenv.Layer) (file, program string) {
	var lower []string
	for _, l := range layers {
		lower = append(lower, filepath.Join(m.Store.Dir, l.Name))
	}
	entry := func(name, private string) string {
		return fmt.Sprintf("-fstype=overlay,rw,\"lowerdir=%s,upperdir=%s,workdir=%s\" overlay",
			strings.Join(lower, ":"), filepath.Join(private, name, "upper"), filepath.Join(private, name, "work"))
	}
	var text strings.Builder
	inMemory(b, m.Path("raw"))
	for i := range keys {
		for _, owner := range []string{"static", "shell", "floor"} {
			m.Mkdir("raw", owner, key(i), "upper")
			m.Mkdir("raw", owner, key(i), "work")
		}
		fmt.Fprintf(&text, "%s %s\n", key(i), entry(key(i), m.Path("raw", "static")))
	}
	file, program = m.Path("auto.static"), m.Path("auto.sh")
	script := "#!/bin/sh\necho '" + strings.ReplaceAll(entry("KEY", m.Path("raw", "shell")), "KEY", `'"$1"'`) + "'\n"
	for path, content := range map[string]string{file: text.String(), program: script} {
		mode := os.FileMode(0o644)
		if path == program {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			b.Fatal(err)
		}
	}
	return file, program
}

// floor builds the programs of the directory floor, installs the helper and
// returns the map: no Go map and helper can be quicker.
func floor(b *testing.B, m *testenv.Machine) string {
	dir := m.Mkdir("bin")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/", "./floor/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	// The sandbox has a /sbin of its own.
	if err := exec.Command("cp", filepath.Join(dir, "mount.floor"), "/sbin/mount.floor").Run(); err != nil {
		b.Fatal(err)
	}
	if err := os.Symlink(m.Store.Dir, m.Path("lower")); err != nil {
		b.Fatal(err)
	}
	return filepath.Join(dir, "auto.floor")
}

func percentile(times []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[(len(sorted)-1)*p/100]
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// report prints the table, and JSON to the file that LEVELFS_BENCH_JSON names.
func report(b *testing.B, variants []variant) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nfirst access through automount, %d cold keys each\tmedian ms\tp95 ms\tratio\t\n", keys)
	for _, v := range variants {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t\n", v.Name, v.MedianMS, v.P95MS, v.Ratio)
	}
	w.Flush()
	path := os.Getenv("LEVELFS_BENCH_JSON")
	if path == "" {
		return
	}
	text, err := json.MarshalIndent(map[string]any{
		"benchmark": "first access through automount", "keys": keys,
		"go": runtime.Version(), "cpus": runtime.NumCPU(), "variants": variants,
	}, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
}
