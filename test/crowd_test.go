package test

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestCrowd has 50 processes access 200 components at once, each component first
// by whoever comes first. Each is two of 30 images, so that many mounts want one
// loop device in the same moment.
func TestCrowd(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs")
	const processes, components, tops = 50, 200, 20

	m := testenv.NewMachine(t, "lnx01")
	var inv testenv.Inventory
	for i := range tops {
		inv.Layers = append(inv.Layers, m.Store.Erofs(fmt.Sprintf("top%d", i), testenv.Files{"top": fmt.Sprint(i) + "\n"}))
	}
	for i := range components / tops {
		inv.Layers = append(inv.Layers, m.Store.Erofs(fmt.Sprintf("bottom%d", i), testenv.Files{"bottom": fmt.Sprint(i) + "\n"}))
	}
	for i := range components {
		inv.Components = append(inv.Components, testenv.Component{Name: fmt.Sprintf("c%d", i), Default: "1",
			Levels: []testenv.Level{{Name: "1", Layers: []string{fmt.Sprintf("top%d", i%tops), fmt.Sprintf("bottom%d", i/tops)}}}})
	}
	m.WriteLDIF("all.ldif", inv.LDIF())
	a, sw := startAutomount(t, m)

	// Each process walks through all of them, from a place of its own.
	script := fmt.Sprintf(`
i=0
while [ $i -lt %[1]d ]; do
	c=$(( (i + $1) %% %[1]d ))
	read top <$2/c$c/top || top=failed
	read bottom <$2/c$c/bottom || bottom=failed
	[ $top = $((c %% %[2]d)) ] && [ $bottom = $((c / %[2]d)) ] || echo "c$c: $top $bottom"
	i=$((i + 1))
done`, components, tops)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var running sync.WaitGroup
	for i := range processes {
		running.Go(func() {
			cmd := exec.CommandContext(ctx, "sh", "-c", script, "sh", strconv.Itoa(i*components/processes), sw)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("process %d: %v\n%s", i, err, out)
			}
		})
	}
	running.Wait()

	mounts, err := testenv.Mounts(sw)
	if err != nil {
		t.Fatal(err)
	}
	times := make(map[string]int)
	var views []string
	for _, v := range mounts {
		if v.FSType == "autofs" {
			continue
		}
		times[v.Mountpoint]++
		views = append(views, v.Mountpoint)
		if want := "levelfs:" + filepath.Base(v.Mountpoint) + "@1"; v.Source != want {
			t.Errorf("%s: source %q, want %q", v.Mountpoint, v.Source, want)
		}
	}
	for target, n := range times {
		if n != 1 {
			t.Errorf("%s is mounted %d times", target, n)
		}
	}
	if len(times) != components {
		t.Errorf("%d views, want %d", len(times), components)
	}
	loops, err := testenv.LoopDevices(m.Store.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := tops + components/tops; len(loops) != want {
		t.Errorf("%d loop devices for %d images", len(loops), want)
	}

	// Most of them by umount(8), as an administrator may, the others by automount,
	// which sleeps for a tenth of a second after each that it expires.
	if r := m.Run("umount", views[:len(views)-10]...); r.Exit != 0 {
		t.Errorf("umount: %v", r)
	}
	a.Expire(sw)
	wantNothingLeft(t, sw, m.Store)
	if log := a.Log(); strings.Contains(log, "levelfs: ") {
		t.Errorf("somebody complained:\n%s", log)
	}
}
