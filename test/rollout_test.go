package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/levelfs/levelfs/internal/rollout"
	"github.com/levelfs/levelfs/internal/testenv"
)

// status is how the roll-out of emacs goes.
func (f *fleet) status() *rollout.Status {
	f.t.Helper()
	var all []*rollout.Status
	r := levelfs(f.t, f.admin, 0, "rollout status emacs --json")
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || len(all) != 1 {
		f.t.Fatalf("%v: %v", err, r)
	}
	return all[0]
}

// wantStatus wants the roll-out in that state, and hosts of it in these.
func (f *fleet) wantStatus(state string, hosts map[string]rollout.HostState) {
	f.t.Helper()
	s := f.status()
	got := make(map[string]rollout.HostState)
	for _, r := range s.Rings {
		for _, h := range r.Hosts {
			got[h.Name] = h.State
		}
	}
	if string(s.State) != state || fmt.Sprint(got) != fmt.Sprint(hosts) {
		f.t.Errorf("%s with %v, want %s with %v", s.State, got, state, hosts)
	}
}

// TestRollout takes a level through three rings. A host that reports a failure keeps it
// from going on; an abort has the rings as they were.
func TestRollout(t *testing.T) {
	f := newFleet(t, "canary-1", "canary-2", "early-1", "all-1")
	guests := make(map[string]*guest)
	for _, name := range []string{"canary-1", "canary-2", "early-1", "all-1"} {
		guests[name] = f.guest(name, "")
		f.mount(guests[name])
		levelfs(t, guests[name].Machine, 0, "report")
	}
	const start = "rollout start emacs 2 --rings canary,early,all"
	levelfs(t, f.admin, 1, "rollout status emacs", `no roll-out of component "emacs"`)
	levelfs(t, f.admin, 0, "rollout list", "LEVEL")
	levelfs(t, f.admin, 0, start+" --dry-run", "ring canary: 2 hosts, canary-1, canary-2", "ring all: 1 host, all-1",
		"2 hosts change from emacs@1 to emacs@2", "nothing was written")
	levelfs(t, f.admin, 1, "rollout status emacs", "no roll-out")
	levelfs(t, f.admin, 0, start, "change: rollout-start emacs=2,ring=canary", "change: assign emacs=1 -> emacs=2", "done, recorded")
	levelfs(t, f.admin, 0, start, "it is so already")
	levelfs(t, f.admin, 1, "rollout start emacs 2 --rings early", "is running: it cannot be replaced", "hint: ")
	f.wantStatus("running", map[string]rollout.HostState{"canary-1": "pending", "canary-2": "pending", "early-1": "later", "all-1": "later"})
	levelfs(t, f.admin, 1, "rollout promote emacs", "2 hosts that did not report it yet: canary-1, canary-2", "hint: ")
	levelfs(t, f.admin, 1, "rollout promote emacs --missing-ok 1", "2 hosts that")

	// One takes it, and one cannot.
	levelfs(t, guests["canary-1"].Machine, 0, "refresh", "emacs@2, was emacs@1")
	image := filepath.Join(guests["canary-2"].Store.Dir, "emacs-2.erofs")
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	levelfs(t, guests["canary-2"].Machine, 1, "refresh", "not on this machine")
	f.wantStatus("running", map[string]rollout.HostState{"canary-1": "on-level", "canary-2": "failed", "early-1": "later", "all-1": "later"})
	levelfs(t, f.admin, 1, "rollout promote emacs --missing-ok 100", "1 host with a failure: canary-2", "hint: see to these hosts")
	levelfs(t, f.admin, 0, "rollout status", "failed: canary-2 in canary: failed emacs@2 layer \"emacs-2\": not on this machine")
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}
	levelfs(t, guests["canary-2"].Machine, 0, "refresh", "emacs@2, was emacs@1")

	levelfs(t, f.admin, 0, "rollout pause emacs", "rollout-pause")
	levelfs(t, f.admin, 1, "rollout promote emacs", "is paused: it cannot be promoted", "rollout resume")
	levelfs(t, f.admin, 0, "rollout resume emacs", "rollout-resume")
	// Any admin's host goes on: here one that has nothing but the configuration.
	other := testenv.NewMachine(t, "other")
	config, err := os.ReadFile(f.admin.Path("etc/levelfs/levelfs.toml"))
	if err != nil {
		t.Fatal(err)
	}
	other.WriteConfig(string(config))
	levelfs(t, other, 0, "rollout promote emacs --dry-run", "1 host changes from emacs@1 to emacs@2", "nothing was written")
	levelfs(t, other, 0, "rollout promote emacs", "ring=early", "1 host changes from emacs@1 to emacs@2")
	levelfs(t, guests["early-1"].Machine, 0, "refresh", "emacs@2, was emacs@1")
	wantFile(t, guests["early-1"].seen+"/which", "2")
	wantFile(t, guests["all-1"].seen+"/which", "1")

	// Back to where it began, and once more to the end.
	levelfs(t, f.admin, 0, "rollout abort emacs", "change: assign emacs=2 -> emacs=1 on cn=early", "3 hosts change from emacs@2 to emacs@1")
	levelfs(t, f.admin, 0, "rollout abort emacs", "it is so already")
	levelfs(t, f.admin, 1, "rollout promote emacs", "is aborted: it cannot be promoted")
	for name, g := range guests {
		levelfs(t, g.Machine, 0, "refresh")
		wantFile(t, g.seen+"/which", "1")
		f.wantReport(name, "emacs@1 ok")
	}
	for _, ring := range []string{"canary", "early", "all"} {
		if got, err := f.slapd.Values(testenv.ProfileDN(ring), "levelfsAssignment"); err != nil || !slices.Equal(got, []string{"emacs=1"}) {
			t.Errorf("%s assigns %q, %v", ring, got, err)
		}
	}
	levelfs(t, f.admin, 0, "rollout start emacs 2 --rings canary,early,all")
	for _, ring := range [][]string{{"canary-1", "canary-2"}, {"early-1"}, {"all-1"}} {
		for _, name := range ring {
			levelfs(t, guests[name].Machine, 0, "refresh", "emacs@2, was emacs@1")
		}
		levelfs(t, f.admin, 0, "rollout promote emacs")
	}
	f.wantStatus("done", map[string]rollout.HostState{"canary-1": "on-level", "canary-2": "on-level", "early-1": "on-level", "all-1": "on-level"})
	levelfs(t, f.admin, 1, "rollout abort emacs", "is done: it cannot be aborted")
	if r := levelfs(t, f.admin, 0, "level history emacs@2", "rollout-start", "rollout-promote", "rollout-abort", "rollout-finish"); !strings.Contains(r.Stdout, "dn:"+testenv.EditorDN) {
		t.Errorf("who did it: %v", r)
	}
}

// TestRolloutInterrupted: a promotion that is cut off between its two changes is completed
// by the next one, on a server that refused the second for a while.
func TestRolloutInterrupted(t *testing.T) {
	f := newFleet(t, "canary-1", "early-1")
	const database = "olcDatabase={1}mdb,cn=config"
	rules, err := f.slapd.ConfigValues(database, "olcAccess")
	if err != nil {
		t.Fatal(err)
	}
	refuse := func(which string) {
		t.Helper()
		rule := `{0}to dn.exact="` + testenv.ProfileDN(which) + `" by * read`
		if which == "" {
			rule = ""
		}
		values := rules
		if rule != "" {
			values = []string{rule}
			for i, r := range rules {
				_, text, _ := strings.Cut(r, "}")
				values = append(values, fmt.Sprintf("{%d}%s", i+1, text))
			}
		}
		if err := f.slapd.Configure(database, "olcAccess", values...); err != nil {
			t.Fatal(err)
		}
	}
	assigned := func(ring, want string) {
		t.Helper()
		if got, err := f.slapd.Values(testenv.ProfileDN(ring), "levelfsAssignment"); err != nil || !slices.Equal(got, []string{"emacs=" + want}) {
			t.Errorf("%s assigns %q, %v; want %s", ring, got, err, want)
		}
	}
	cut := func(command, ring string) {
		t.Helper()
		refuse(ring)
		levelfs(t, f.admin, 1, command, "Insufficient Access Rights (50)")
		levelfs(t, f.admin, 1, command, "Insufficient Access Rights (50)")
		refuse("")
	}
	const start = "rollout start emacs 2 --rings canary,early"
	cut(start, "canary")
	assigned("canary", "1")
	levelfs(t, f.admin, 0, start, "change: assign emacs=1 -> emacs=2 on cn=canary")
	assigned("canary", "2")
	cut("rollout promote emacs --missing-ok 1", "early")
	assigned("early", "1")
	// The gate was passed: nobody has to report anything for the rest of it.
	levelfs(t, f.admin, 0, "rollout promote emacs", "was interrupted: this completes it", "change: assign emacs=1 -> emacs=2 on cn=early")
	assigned("early", "2")
	levelfs(t, f.admin, 1, "rollout promote emacs", "2 hosts that did not report it yet")
	cut("rollout abort emacs", "canary")
	assigned("early", "1")
	assigned("canary", "2")
	levelfs(t, f.admin, 1, start, "not all of its rings have their former level", "hint: complete it: levelfs rollout abort emacs")
	levelfs(t, f.admin, 0, "rollout abort emacs", "change: assign emacs=2 -> emacs=1 on cn=canary")
	assigned("canary", "1")
	levelfs(t, f.admin, 0, start)
}

// TestRolloutRace: of many who promote at once, one does.
func TestRolloutRace(t *testing.T) {
	f := newFleet(t, "canary-1", "early-1", "late-1", "all-1")
	levelfs(t, f.admin, 0, "rollout start emacs 2 --rings canary,early,late,all")
	const admins = 8
	results := make([]testenv.Result, admins)
	begin := make(chan struct{})
	var running sync.WaitGroup
	for i := range admins {
		running.Go(func() {
			<-begin
			// Only the canary may be missing: who comes later is refused by the gate.
			results[i] = f.admin.RunLevelfs("rollout", "promote", "emacs", "--missing-ok", "1")
		})
	}
	close(begin)
	running.Wait()
	won := 0
	for _, r := range results {
		switch {
		case strings.Contains(r.Stdout, "change: rollout-promote") && r.Exit == 0:
			won++
		// One that came between the two changes of another has completed them, or was
		// told that the other had.
		case r.Exit == 0 && strings.Contains(r.Stdout, "was interrupted"):
		case r.Exit == 1 && (strings.Contains(r.Stderr, "changed by somebody else") || strings.Contains(r.Stderr, "hosts that did not report")):
		default:
			t.Errorf("%v", r)
		}
	}
	promoted := 0
	for _, r := range results {
		if strings.Contains(r.Stdout, "done, recorded as serial 2 on cn=rollout") {
			promoted++
		}
	}
	if s := f.status(); s.At != "early" || promoted != 1 || won > 1 {
		t.Errorf("it is at %s; %d promoted it, %d as a whole", s.At, promoted, won)
	}
	if got, err := f.slapd.Values(testenv.ProfileDN("late"), "levelfsAssignment"); err != nil || !slices.Equal(got, []string{"emacs=1"}) {
		t.Errorf("the ring after it assigns %q, %v", got, err)
	}
}

// TestRolloutGate: a program decides, without a shell, with what is documented, within its
// time, and only if nobody else could have written it.
func TestRolloutGate(t *testing.T) {
	f := newFleet(t, "canary-1", "early-1")
	gate, said := f.admin.Path("gate"), f.admin.Path("said")
	program := func(text string, mode os.FileMode) {
		t.Helper()
		writeFile(t, gate, text)
		if err := os.Chmod(gate, mode); err != nil {
			t.Fatal(err)
		}
	}
	levelfs(t, f.admin, 64, "rollout start emacs 2 --rings canary,early --gate gate", "invalid gate")
	levelfs(t, f.admin, 0, "rollout start emacs 2 --rings canary,early --gate "+gate)
	refused := func(says string, more ...string) {
		t.Helper()
		levelfs(t, f.admin, 1, "rollout promote emacs "+strings.Join(more, " "), "gate ", says, "hint: ")
		if s := f.status(); s.At != "canary" {
			t.Errorf("it is at %s", s.At)
		}
	}
	refused("no such file")
	program("#!/bin/sh\nexit 0\n", 0o644)
	refused("permission denied")
	program("#!/bin/sh\nexit 0\n", 0o775)
	refused("could have changed it")
	program("#!/bin/sh\necho not yet; exit 7\n", 0o755)
	refused("exit status 7")
	program("#!/bin/sh\nsleep 1000\n", 0o755)
	refused("no answer within 100ms", "--gate-time", "100ms")
	program("#!/bin/sh\nenv | grep -e ^LEVELFS_ -e ^PATH | sort >"+said+"\ncat >"+said+".json\n", 0o755)
	levelfs(t, f.admin, 0, "rollout promote emacs --dry-run")
	levelfs(t, f.admin, 0, "rollout promote emacs", "ring=early")
	wantFile(t, said, "LEVELFS_COMPONENT=emacs\nLEVELFS_LEVEL=emacs@2\nLEVELFS_NEXT=early\nLEVELFS_RING=canary\nLEVELFS_ROOT="+f.admin.Root+
		"\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n")
	text, err := os.ReadFile(said + ".json")
	var s rollout.Status
	if err != nil || json.Unmarshal(text, &s) != nil || len(s.Rings) != 2 || s.Rings[0].Hosts[0].Name != "canary-1" || s.Rings[0].Hosts[0].State != rollout.Silent {
		t.Errorf("%s, %v", text, err)
	}
	// After the last ring, too; and a failure goes before it.
	g := f.guest("early-1", "")
	if err := os.Remove(filepath.Join(g.Store.Dir, "emacs-2.erofs")); err != nil {
		t.Fatal(err)
	}
	levelfs(t, g.Machine, 0, "report", "failed emacs@2")
	levelfs(t, f.admin, 1, "rollout promote emacs", "1 host with a failure: early-1")
}
