package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

const (
	quietSwitches = 200  // timed while nobody else does anything
	busySwitches  = 1000 // while the readers read
	readers       = 50
)

// A change is one way to change a level, timed.
type change struct {
	Name     string  `json:"name"`
	Layers   int     `json:"layers"`
	Readers  int     `json:"readers"`
	MedianMS float64 `json:"median_ms"`
	P95MS    float64 `json:"p95_ms"`
	times    []time.Duration
}

// BenchmarkSwitch is the time that a change of level takes: by the command, by the plan
// alone, and by systemd-sysext, which takes its merged file systems away and mounts them
// anew; they take turns. Levels are of erofs images, extensions of plain directories,
// which is in favour of systemd-sysext: it sets up no loop devices.
//
// Then 50 processes open and read files all the time, while the view is switched 1,000
// times: no open may fail, and no file may have bytes of two levels.
func BenchmarkSwitch(b *testing.B) {
	testenv.Require(b, "root", "overlay", "erofs", "systemd-sysext")
	if b.N > 1 {
		b.Fatal("run it with -benchtime 1x")
	}
	var changes []*change
	var tally testenv.Tally
	for _, layers := range []int{1, 10} {
		// Before the view is there: what it does is in a mount namespace of its own, where
		// the view would stay as it was.
		sysext := startSysext(b, testenv.NewMachine(b, "lnx02"), layers)
		r := newSwitchRig(b, layers)
		ways := []struct {
			*change
			do func(level int)
		}{
			{&change{Name: "levelfs switch", Layers: layers}, r.command},
			{&change{Name: "levelfs, the plan alone", Layers: layers}, r.apply},
			{&change{Name: "systemd-sysext refresh", Layers: layers}, sysext},
		}
		level := [3]int{1, 1, 1}
		for i := range quietSwitches {
			for j := range ways {
				k := (i + j) % len(ways)
				// The first two are the same view's.
				turn := &level[k/2]
				*turn = 3 - *turn
				start := time.Now()
				ways[k].do(*turn)
				ways[k].times = append(ways[k].times, time.Since(start))
				if k < 2 {
					r.check(*turn)
				}
			}
		}
		busy := &change{Name: "levelfs, the plan alone", Layers: layers, Readers: readers}
		loops := len(r.loops())
		processes := testenv.StartReaders(b, readers, r.files...)
		for range busySwitches / 2 {
			level[0] = 3 - level[0]
			start := time.Now()
			r.apply(level[0])
			busy.times = append(busy.times, time.Since(start))
		}
		sum := processes.Stop()
		tally.Opened, tally.Failed, tally.Mixed = tally.Opened+sum.Opened, tally.Failed+sum.Failed, tally.Mixed+sum.Mixed
		r.check(level[0])
		if views, err := testenv.Mounts(r.target); err != nil || len(views) != 1 {
			b.Errorf("%d mounts at the target, %v", len(views), err)
		}
		testenv.WaitFor(b, "no loop device more", func() error {
			if now := r.loops(); len(now) > loops {
				return fmt.Errorf("%d, and were %d", len(now), loops)
			}
			return nil
		})
		r.Umount(r.target)
		for _, w := range ways {
			changes = append(changes, w.change)
		}
		changes = append(changes, busy)
	}
	if tally.Failed != 0 || tally.Mixed != 0 || tally.Opened == 0 {
		b.Errorf("%+v", tally)
	}
	reportSwitch(b, changes, tally)
}

// A switchRig is a machine with a mounted view of a component that has two levels.
type switchRig struct {
	*testenv.Machine
	b      *testing.B
	target string
	layers [3][]mounter.Layer // by level
	files  []string
}

func newSwitchRig(b *testing.B, n int) *switchRig {
	r := &switchRig{Machine: testenv.NewMachine(b, "lnx01"), b: b}
	r.target = r.Mkdir("sw/emacs")
	component := testenv.Component{Name: "emacs", Default: "1"}
	var inv testenv.Inventory
	for level := 1; level <= 2; level++ {
		text := strings.Repeat(fmt.Sprint(level), 32<<10)
		l := testenv.Level{Name: fmt.Sprint(level), State: "released"}
		for i := range n {
			name := fmt.Sprintf("l%d-%02d", level, i)
			layer := r.Store.Erofs(name, testenv.Files{fmt.Sprintf("d%02d/file", i): text, "which": text})
			l.Layers = append(l.Layers, name)
			inv.Layers = append(inv.Layers, layer)
			r.layers[level] = append(r.layers[level], mounter.Layer{
				Name: name, FSType: layer.FSType, Digest: layer.Digest, Size: layer.Size, UUID: layer.UUID, Dir: r.Store.Dir, Path: layer.Images[0],
			})
		}
		component.Levels = append(component.Levels, l)
	}
	for i := range n {
		r.files = append(r.files, fmt.Sprintf("%s/d%02d/file", r.target, i))
	}
	r.files = append(r.files, r.target+"/which")
	inv.Components = append(inv.Components, component)
	r.WriteLDIF("emacs.ldif", inv.LDIF())
	inMemory(b, filepath.Dir(r.PrivateDir("emacs")))
	if got := r.RunHelper("emacs", r.target); got.Exit != 0 {
		b.Fatal(got)
	}
	return r
}

func (r *switchRig) command(level int) {
	if got := r.RunLevelfs("switch", "emacs", "--to", fmt.Sprint(level)); got.Exit != 0 || got.Stderr != "" {
		r.b.Fatal(got)
	}
}

func (r *switchRig) apply(level int) {
	views, err := mounter.Views()
	if err != nil {
		r.b.Fatal(err)
	}
	for _, v := range views {
		if v.Target != r.target {
			continue
		}
		p, err := mounter.Build(mounter.Request{
			Name: fmt.Sprint("emacs@", level), Target: r.target, Layers: r.layers[level], Released: true,
			Private: &mounter.Private{Dir: r.PrivateDir("emacs")}, Replaces: &v, Flags: v.Flags(),
			Run: r.Path("/run/levelfs"), Cache: r.Path("/var/cache/levelfs"),
		})
		if err == nil {
			err = new(mounter.Applier).Apply(r.b.Context(), p)
		}
		if err != nil {
			r.b.Fatal(err)
		}
		return
	}
	r.b.Fatal("no view")
}

func (r *switchRig) check(level int) {
	for _, file := range r.files {
		if text, err := os.ReadFile(file); err != nil || string(text) != strings.Repeat(fmt.Sprint(level), 32<<10) {
			r.b.Fatalf("%s is not of level %d: %v", file, level, err)
		}
	}
}

func (r *switchRig) loops() map[string]string {
	loops, err := testenv.LoopDevices(r.Store.Dir)
	if err != nil {
		r.b.Fatal(err)
	}
	return loops
}

// startSysext merges extensions into /opt in a mount namespace of their own, and returns
// how to change their level: their directory is renamed, and another takes its place.
func startSysext(b *testing.B, m *testenv.Machine, n int) func(level int) {
	dir := m.Mkdir("extensions")
	id, err := exec.Command("sh", "-c", ". /etc/os-release && echo ID=$ID && echo VERSION_ID=$VERSION_ID").Output()
	if err != nil {
		b.Fatal(err)
	}
	for level := 1; level <= 2; level++ {
		for i := range n {
			name := fmt.Sprintf("x%02d", i)
			for file, text := range map[string]string{
				"usr/lib/extension-release.d/extension-release." + name: string(id),
				fmt.Sprintf("opt/d%02d/file", i):                        fmt.Sprint(level),
			} {
				path := filepath.Join(dir, fmt.Sprint(level), name, file)
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", `
mount --make-rshared /
mount -t tmpfs run /run
mkdir -p /opt
mount -t tmpfs opt /opt
cp -a "$0/1" "$0/2" /run/
level=
while read next; do
	[ -z "$level" ] || mv /run/extensions "/run/$level"
	mv "/run/$next" /run/extensions
	level=$next
	systemd-sysext refresh >/dev/null 2>/run/log || { cat /run/log >&2; exit 1; }
	cat /opt/d00/file || exit 1
	echo
done
systemd-sysext unmerge >/dev/null 2>&1`, dir)
	cmd.Env = append(os.Environ(), "SYSTEMD_SYSEXT_HIERARCHIES=/opt")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := errors.Join(in.Close(), cmd.Wait()); err != nil {
			b.Error(err)
		}
	})
	lines := bufio.NewReader(out)
	do := func(level int) {
		if _, err := io.WriteString(in, fmt.Sprintln(level)); err != nil {
			b.Fatal(err)
		}
		if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintln(level) {
			b.Fatalf("systemd-sysext: %q, %v", line, err)
		}
	}
	do(1)
	return do
}

func reportSwitch(b *testing.B, changes []*change, tally testenv.Tally) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nchange of level\tlayers\treaders\tmedian ms\tp95 ms\t\n")
	for _, c := range changes {
		c.MedianMS, c.P95MS = milliseconds(percentile(c.times, 50)), milliseconds(percentile(c.times, 95))
		fmt.Fprintf(w, "%s\t%d\t%d\t%.2f\t%.2f\t\n", c.Name, c.Layers, c.Readers, c.MedianMS, c.P95MS)
	}
	w.Flush()
	fmt.Printf("%d switches while %d processes read: %d files opened, %d failed, %d mixed\n\n", busySwitches, readers, tally.Opened, tally.Failed, tally.Mixed)
	path := os.Getenv("LEVELFS_BENCH_JSON")
	if path == "" {
		return
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		b.Fatal(err)
	}
	text, err := json.MarshalIndent(map[string]any{
		"benchmark": "change of level", "kernel": unix.ByteSliceToString(uts.Release[:]), "go": runtime.Version(), "cpus": runtime.NumCPU(),
		"quiet_switches": quietSwitches, "busy_switches": busySwitches, "read": tally, "changes": changes,
	}, "", "  ")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		b.Fatal(err)
	}
}
