package bench

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

const (
	checkViews      = 200
	checkComponents = 1000
	checkRuns       = 15
	// What a check of a healthy machine may take.
	checkTime   = time.Second
	checkMemory = 64 << 10 // KiB
)

// BenchmarkCheck checks a healthy machine with 200 views, by an inventory of 1,000
// components of two layers each, in files and in slapd. It fails if the median takes more
// than a second, or one run more than 64 MiB.
func BenchmarkCheck(b *testing.B) {
	testenv.Require(b, "root", "slapd", "overlay", "erofs")
	m := testenv.NewMachine(b, "lnx01")
	inv := testenv.Inventory{Layers: []testenv.Layer{m.Store.Erofs("common", testenv.Files{"share/text": "shared"})}}
	host := testenv.Caller{Name: "lnx01"}
	for i := range 20 {
		inv.Layers = append(inv.Layers, m.Store.Erofs(fmt.Sprintf("layer%02d", i), testenv.Files{fmt.Sprintf("bin/p%d", i): "program"}))
	}
	for i := range checkComponents {
		c := testenv.Component{Name: fmt.Sprintf("tool%04d", i), Default: "1", Levels: []testenv.Level{
			{Name: "1", Layers: []string{fmt.Sprintf("layer%02d", i%20), "common"}}}}
		inv.Components = append(inv.Components, c)
		if i < checkViews {
			host.Assign = append(host.Assign, c.Name+"=1")
		}
	}
	inv.Hosts = []testenv.Caller{host}
	m.WriteLDIF("all.ldif", inv.LDIF())
	m.Configure(fmt.Sprintf("tree = %q\n", m.Path("sw")))
	for i := range checkViews {
		target := m.Mkdir("sw", inv.Components[i].Name)
		if got := m.RunHelper(inv.Components[i].Name, target); got.Exit != 0 {
			b.Fatal(got)
		}
		b.Cleanup(func() {
			if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
				b.Error(err)
			}
		})
	}
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	slapd, err := testenv.StartSlapd(b.Context(), dir, "../../packaging/schema", testenv.SlapdOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer slapd.Stop()
	if err := slapd.Add(inv.LDIF()); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("levelfs check, %d views, %d components, %d runs each\n%-6s %10s %10s %12s\n", checkViews, checkComponents, checkRuns, "", "median", "slowest", "memory")
	for b.Loop() {
		measureCheck(b, m, "LDIF")
		m.Configure(fmt.Sprintf("tree = %q\n%s", m.Path("sw"), testenv.LDAPSource(slapd.Base, slapd.URI)))
		measureCheck(b, m, "LDAP")
	}
}

func measureCheck(b *testing.B, m *testenv.Machine, name string) {
	b.Helper()
	var took []time.Duration
	var memory int64 // largest resident set, KiB
	for range checkRuns {
		cmd := exec.Command(m.Levelfs, "check")
		cmd.Env, cmd.Dir = m.Env(), "/"
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		start := time.Now()
		if err := cmd.Run(); err != nil || out.Len() > 0 {
			b.Fatalf("%s: %v: %s", name, err, out.String())
		}
		took = append(took, time.Since(start))
		memory = max(memory, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
	}
	slices.Sort(took)
	median := took[len(took)/2]
	fmt.Printf("%-6s %10v %10v %8.1f MiB\n", name, median.Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), float64(memory)/1024)
	if median > checkTime || memory > checkMemory {
		b.Errorf("%s: more than %v or %d KiB", name, checkTime, checkMemory)
	}
}
