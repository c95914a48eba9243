package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/mounter"
)

// afterKill checks what a killed switch leaves: the old view or the new one, as a whole
// and readable at every instant; and, after the next command has healed it, a view that
// is alone, can be written, and goes with the record, over a private layer in which
// nothing has changed. It returns the level, and whether there was anything to heal.
func (r *switchRig) afterKill(files string, from string) (level string, healed bool) {
	t := r.t
	t.Helper()
	which, err := os.ReadFile(r.target + "/which")
	if err != nil {
		t.Fatalf("the view is not there: %v", err)
	}
	views, err := mounter.Views()
	if err != nil {
		t.Fatal(err)
	}
	level = string(which)
	r.want(map[string]string{"d/which": level, "only-" + level: "", "common": "common"})
	r.wantKept()
	if now := r.upperFiles(); now != files {
		t.Errorf("private layer is now\n%sand was\n%s", now, files)
	}
	interrupted := mounter.Interruptions(r.Path("/run/levelfs"), views)
	status := r.RunLevelfs("status")
	if got := strings.Contains(status.Stderr, "interrupted"); status.Exit != 0 || got != (len(interrupted) > 0) {
		t.Errorf("status: %v; %d interruptions", status, len(interrupted))
	}
	// Nobody gets the private layer meanwhile. Being refused, the helper heals it, too:
	// after every other kill.
	if r.kills++; r.kills%2 == 0 {
		r.wantRefusal(r.RunHelper("emacs@"+level, r.Mkdir("sw/other")), 32, "in use by the view at")
	} else if got := r.RunLevelfs("refresh", "--dry-run"); got.Exit != 0 && len(interrupted) == 0 {
		t.Errorf("refresh --dry-run: %v", got)
	} else {
		healing, err := mounter.Heal(t.Context(), r.Path("/run/levelfs"), views)
		if err != nil || len(healing) != len(interrupted) {
			t.Errorf("healed %v, %v; want %v", healing, err, interrupted)
		}
	}
	v := r.view() // there is one only
	if covered := len(views) > 1; covered {
		level = map[string]string{"1": "2", "2": "1"}[level]
	}
	if v.Name != "emacs@"+level || v.Frozen || v.ReadOnly {
		t.Errorf("healed view %+v", v)
	}
	r.wantLevel(level)
	r.wantKept()
	record, err := os.ReadFile(r.PrivateDir("emacs") + "/level")
	if err != nil || !strings.HasPrefix(string(record), "level emacs@"+level+"\n") {
		t.Errorf("view of level %s, record %q, %v", level, record, err)
	}
	if now := r.upperFiles(); now != files {
		t.Errorf("private layer is now\n%sand was\n%s", now, files)
	}
	if level != from && level != map[string]string{"1": "2", "2": "1"}[from] {
		t.Errorf("level %s", level)
	}
	r.wantWritable()
	views, err = mounter.Views()
	if err != nil || len(mounter.Interruptions(r.Path("/run/levelfs"), views)) != 0 {
		t.Errorf("still something to heal: %v", err)
	}
	r.wantRefusal(r.RunHelper("emacs@"+level, r.Mkdir("sw/other")), 32, "in use by the view at", r.target)
	return level, len(interrupted) > 0
}

// TestSwitchKill kills a switch before each of its system calls that change something.
func TestSwitchKill(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	files := r.upperFiles()
	level := "1"
	other := func() string { return map[string]string{"1": "2", "2": "1"}[level] }
	var whole traced
	for range 3 { // so that all is there that is made once
		if whole = traceKill(t, killPoint{}, r.Env(), r.Levelfs, "switch", "emacs", "--to", other()); whole.exit != 0 {
			t.Fatalf("traced, but not killed: exit %d", whole.exit)
		}
		level = other()
	}
	start := time.Now()
	healed, changed := 0, 0
	first := 0
	if !everyCall {
		// Before the lock is taken nothing is touched: from there on.
		first = slices.Index(whole.calls, unix.SYS_UNSHARE) - 3
		if first < 0 {
			t.Fatal("a switch without a mount namespace")
		}
	}
	for _, at := range whole.points()[first:] {
		killed := traceKill(t, at, r.Env(), r.Levelfs, "switch", "emacs", "--to", other())
		if !killed.killed {
			if killed.exit != 0 {
				t.Fatalf("not killed before %v: exit %d", at, killed.exit)
			}
			level = other() // this run did without that call
			continue
		}
		now, had := r.afterKill(files, level)
		if had {
			healed++
		}
		if now != level {
			changed++
		}
		level = now
		if t.Failed() {
			t.Fatalf("killed before %v", at)
		}
		t.Logf("%v: healed %v, level %s", at, had, now)
	}
	t.Logf("%d to heal, %d with the new view, %v", healed, changed, time.Since(start))
	if healed < 5 || changed < 2 {
		t.Errorf("only %d needed to be healed, only %d were changed: is everything counted?", healed, changed)
	}
	r.wantLevel(level)
	r.umount(r.target)
}

// TestSwitchKillRandom kills switches at random instants: 20, or as many as
// LEVELFS_TEST_KILLS says.
func TestSwitchKillRandom(t *testing.T) {
	kills := 20
	if text := os.Getenv("LEVELFS_TEST_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	files := r.upperFiles()
	level := "1"
	other := func() string { return map[string]string{"1": "2", "2": "1"}[level] }
	// How long it takes, for an instant within.
	begin := time.Now()
	for range 4 {
		r.levelfs("switch", "emacs", "--to", other())
		level = other()
	}
	took := time.Since(begin) / 4
	healed, changed, late := 0, 0, 0
	for n := range kills {
		cmd := exec.Command(r.Levelfs, "switch", "emacs", "--to", other())
		cmd.Env = r.Env()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		instant := time.NewTimer(time.Duration(rand.Int64N(int64(took))))
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case <-instant.C:
			cmd.Process.Kill()
			<-done
		case err := <-done:
			if err != nil {
				t.Fatalf("not killed: %v", err)
			}
			late++
		}
		now, had := r.afterKill(files, level)
		if had {
			healed++
		}
		if now != level {
			changed++
		}
		level = now
		if t.Failed() {
			t.Fatalf("kill %d", n)
		}
	}
	t.Logf("%d kills (a switch takes %v): %d too late, %d left something to heal, %d with the new view", kills, took, late, healed, changed)
	r.umount(r.target)
	// bases, history, level, level.before, level.new, lock, upper, work, work2: no more
	// than these, however often.
	if entries, err := filepath.Glob(r.PrivateDir("emacs") + "/*"); err != nil || len(entries) > 9 {
		t.Errorf("private layer: %v, %v", entries, err)
	}
	if left := fmt.Sprint(mountsBelow(t, r.Root)); left != "[]" {
		t.Error(left)
	}
}
