package test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/repair"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// runRepair runs levelfs repair and returns its report.
func (r *rig) runRepair(args ...string) (repair.Report, testenv.Result) {
	r.t.Helper()
	got := r.RunLevelfs(append([]string{"repair", "--json"}, args...)...)
	var report repair.Report
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil {
		r.t.Fatalf("%v: %v", err, got)
	}
	return report, got
}

// found are the findings as CODE OBJECT, sorted.
func found(findings []finding.Finding) []string {
	list := []string{}
	for _, f := range findings {
		list = append(list, string(f.Code)+" "+f.Object)
	}
	slices.Sort(list)
	return list
}

// difference is what is in one list and not in the other, a line each.
func difference(got, want []string) string {
	var b strings.Builder
	for _, g := range got {
		if !slices.Contains(want, g) {
			fmt.Fprintf(&b, "too much: %s\n", g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			fmt.Fprintf(&b, "missing: %s\n", w)
		}
	}
	if b.Len() == 0 && !slices.Equal(got, want) {
		fmt.Fprintf(&b, "not as often: %q, want %q\n", got, want)
	}
	return b.String()
}

// privateContent is the content of all files that people have: in the upper directories
// of private layers, in backups, and where views were made to write. Where they are does
// not matter, so that it is a sorted list of digests.
func (w *faulty) privateContent() []string {
	w.t.Helper()
	var all []string
	for _, dir := range []string{"var/lib/levelfs/private", "var/lib/levelfs/backup", "x/upper"} {
		err := filepath.WalkDir(w.Path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil && os.IsNotExist(err) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() || !strings.Contains(path, "/upper/") {
				return err
			}
			text, err := os.ReadFile(path)
			sum := sha256.Sum256(text)
			all = append(all, hex.EncodeToString(sum[:]))
			return err
		})
		w.must(err)
	}
	slices.Sort(all)
	return all
}

// TestManyFaults: of 50 faults and more at once each is found, none twice; repair leaves
// only what it says that it does not mend, and all private files.
func TestManyFaults(t *testing.T) {
	testenv.Require(t, "slapd")
	w := newFaulty(t)
	all := injections()
	var want, left []string
	for _, f := range all {
		if f.prepare != nil {
			f.prepare(w)
		}
	}
	w.save()
	if got := w.RunLevelfs("check", "--lint"); got.Exit != 0 || got.Stdout+got.Stderr != "" {
		t.Fatalf("of a machine without faults: %v", got)
	}

	hung := slices.IndexFunc(all, func(f injection) bool { return strings.HasPrefix(f.finds[0], "LV264") })
	all = append([]injection{all[hung]}, slices.Delete(slices.Clone(all), hung, hung+1)...) // it has to grow old
	var rights []injection
	for _, f := range all {
		// The file of the configuration is written anew by others.
		if strings.HasPrefix(f.finds[0], "LV250") {
			rights = append(rights, f)
			continue
		}
		f.inject(w)
	}
	for _, f := range rights {
		f.inject(w)
	}
	for _, f := range all {
		for _, find := range f.finds {
			code, _, _ := strings.Cut(find, " ")
			want = append(want, w.resolve(find))
			if finding.Code(code).Mending().Repair == finding.Manual || slices.Contains(f.manual, find) {
				left = append(left, w.resolve(find))
			}
		}
	}
	slices.Sort(want)
	slices.Sort(left)
	if len(all) < 50 || len(slices.Compact(slices.Clone(want))) != len(want) {
		t.Fatalf("%d faults, %q", len(all), want)
	}
	var report check.Report
	// It takes as long as WaitFor waits: half of it first.
	testenv.WaitFor(t, "a process that hangs for some time", func() error {
		if hung, err := check.Hung("/proc", time.Now().Add(15*time.Second)); err != nil || len(hung) == 0 {
			return fmt.Errorf("%v, %v", hung, err)
		}
		return nil
	})
	testenv.WaitFor(t, "all faults", func() error {
		report, _ = w.check("--lint")
		if !slices.ContainsFunc(report.Findings, func(f finding.Finding) bool { return f.Code == finding.HungMap }) {
			return fmt.Errorf("the hung process is not old enough")
		}
		return nil
	})
	if diff := difference(found(report.Findings), want); diff != "" || len(report.Unchecked) > 0 {
		t.Fatalf("of %d faults:\n%sunchecked: %v", len(all), diff, report.Unchecked)
	}

	before, mounts := w.privateContent(), mountTable(t)
	dry, got := w.runRepair("--dry-run", "--lint")
	if got.Exit != 1 || !dry.DryRun || len(dry.Left) != len(want) || len(dry.Steps) == 0 {
		t.Errorf("dry run: %v", got)
	}
	for _, s := range dry.Steps {
		if s.Outcome != repair.Planned || len(s.Does) == 0 {
			t.Errorf("dry run: %+v", s)
		}
	}
	if report, _ = w.check("--lint"); difference(found(report.Findings), want) != "" || !slices.Equal(mountTable(t), mounts) {
		t.Errorf("a dry run changes something: %s", difference(found(report.Findings), want))
	}

	mended, got := w.runRepair("--yes", "--lint")
	for _, s := range mended.Steps {
		if s.Outcome != repair.Done {
			t.Errorf("%+v", s)
		}
	}
	if got.Exit != 1 || len(mended.Unchecked) > 0 {
		t.Errorf("exit %d, %v, %v", got.Exit, mended.Unchecked, got.Stderr)
	}
	for _, l := range mended.Left {
		if l.Repair != finding.Manual || l.Why == "" {
			t.Errorf("left, and not said to be: %+v", l)
		}
	}
	report, _ = w.check("--lint")
	if diff := difference(found(report.Findings), left); diff != "" || len(report.Unchecked) > 0 {
		t.Errorf("after repair:\n%sunchecked: %v", diff, report.Unchecked)
	}
	if now := w.privateContent(); !slices.Equal(now, before) || len(now) < 10 {
		t.Errorf("private files are other ones: %q, and were %q", now, before)
	}
	if again, _ := w.runRepair("--yes", "--lint"); len(again.Steps) > 0 {
		t.Errorf("again: %+v", again.Steps)
	}
}

// TestRepairAsks: what needs a question is not done without one, and what is in use not
// at all.
func TestRepairAsks(t *testing.T) {
	w := newFaulty(t)
	mounted("m203")(w)
	w.save()
	stranger := w.Mkdir("sw/stranger")
	w.must(unix.Mount("tmpfs", stranger, "tmpfs", 0, ""))
	config := w.Path("etc/levelfs/levelfs.toml")
	w.must(os.Chmod(config, 0o666))
	for _, args := range [][]string{{"LV999"}, {"lv201"}, {"LV201", "emacs"}} {
		if got := w.RunLevelfs(append([]string{"repair"}, args...)...); got.Exit != 64 || got.Stdout != "" {
			t.Errorf("%q: %v", args, got)
		}
	}
	mode := func() os.FileMode {
		info, err := os.Stat(config)
		w.must(err)
		return info.Mode().Perm()
	}
	if got := w.RunLevelfs("repair", "LV203"); got.Exit != 1 || mode() != 0o666 || !strings.Contains(got.Stdout, "left warning LV203 "+stranger) ||
		!strings.Contains(got.Stdout, "why: it is mended only after a question, or with --yes") || strings.Contains(got.Stdout, "LV250") {
		t.Errorf("by its code: %v", got)
	}
	report, got := w.runRepair()
	if len(report.Steps) != 2 || len(report.Left) != 1 || report.Left[0].Code != finding.Stranger || mode() != 0o644 || got.Exit != 1 {
		t.Errorf("%v", got)
	}

	_, end := w.start("sh", "-c", `cd "$1" && `+untilEOF, "sh", stranger)
	report, got = w.runRepair("--yes")
	if got.Exit != 1 || len(report.Steps) != 1 || report.Steps[0].Outcome != repair.Failed || len(report.Left) != 1 || !strings.Contains(report.Left[0].Why, "is in use by process ") {
		t.Errorf("in use: %v", got)
	}
	end()

	// On a terminal it asks.
	for _, answer := range []string{"n\n", "\n"} {
		if said, got := w.onTerminal(answer, "repair"); got != 1 || !strings.Contains(said, "umount "+stranger) || !strings.Contains(said, "Do that? [y/N]") {
			t.Errorf("%q: exit %d, %q", answer, got, said)
		}
	}
	if said, got := w.onTerminal("y\n", "repair"); got != 0 {
		t.Errorf("exit %d, %q", got, said)
	}
	if got := w.RunLevelfs("repair"); got.Exit != 0 || got.Stdout+got.Stderr != "" {
		t.Errorf("of a healthy machine: %v", got)
	}
}

// onTerminal runs the command with a terminal as its input, types the answer, and returns
// what it said on standard error and its exit status.
func (r *rig) onTerminal(answer string, args ...string) (said string, exit int) {
	r.t.Helper()
	// O_NOCTTY: it is not to be the terminal of the tests, which would end with it.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer master.Close()
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		r.t.Fatal(err)
	}
	fd, _, errno := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		r.t.Fatal(errno)
	}
	terminal := os.NewFile(fd, "terminal")
	defer terminal.Close()
	if _, err := master.WriteString(answer); err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(r.Levelfs, args...)
	cmd.Env, cmd.Dir, cmd.Stdin = r.Env(), "/", terminal
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err = cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		r.t.Fatal(err)
	}
	return stderr.String(), cmd.ProcessState.ExitCode()
}

// TestRepairKill kills repair before its system calls that change something. What it
// leaves is a fault or none, never half a file; no private file is lost or changed; and
// another run ends it.
func TestRepairKill(t *testing.T) {
	w := newFaulty(t)
	mounted("m201")(w)
	w.save()
	master, config := w.Path("etc/auto.master"), w.Path("etc/levelfs/levelfs.toml")
	const without = "+auto.master\n"
	old := w.PrivateDir("old")
	breakIt := func() {
		w.write(master, without)
		w.must(os.Chmod(config, 0o666))
		w.must(os.MkdirAll(filepath.Join(old, "upper"), 0o700))
		w.write(filepath.Join(old, "upper/mine"), "private file of nobody")
	}
	breakIt()
	before := w.privateContent()
	argv := []string{w.Levelfs, "repair", "--yes"}
	// The worker is what is to be killed, by its name.
	const worker = "levelfs-worker"
	whole := traceKillAs(t, killPoint{}, w.Env(), worker, argv...)
	if whole.exit != 0 {
		t.Fatalf("as a whole: exit %d", whole.exit)
	}
	first := slices.IndexFunc(whole.calls, func(nr uint64) bool { return nr == unix.SYS_FCHMODAT || nr == unix.SYS_CHMOD })
	if first < 0 {
		t.Fatalf("no mode is changed: %v", whole.calls)
	}
	kills := 0
	for _, at := range whole.points()[first:] {
		// What the last run has moved away is the one private file.
		w.must(os.RemoveAll(w.Path("var/lib/levelfs/backup")))
		w.must(os.RemoveAll(old))
		breakIt()
		killed := traceKillAs(t, at, w.Env(), worker, argv...)
		text, err := os.ReadFile(master)
		if err != nil || string(text) != without && string(text) != without+"+dir:/etc/auto.master.d\n" {
			t.Errorf("killed before %v: auto.master is %q, %v", at, text, err)
		}
		if now := w.privateContent(); !slices.Equal(now, before) {
			t.Errorf("killed before %v: private files %q, and were %q", at, now, before)
		}
		if got := w.RunLevelfs("repair", "--yes"); got.Exit != 0 {
			t.Errorf("killed before %v: %v", at, got)
		}
		if now := w.privateContent(); !slices.Equal(now, before) {
			t.Errorf("killed before %v, and repaired: private files %q, and were %q", at, now, before)
		}
		if t.Failed() {
			t.FailNow()
		}
		if killed.killed {
			kills++
		}
	}
	if kills < 10 {
		t.Errorf("%d kills only: is everything counted?", kills)
	}
}

// TestRepairSwitch: a change of level by repair is one like any other: hooks before it and
// on-stale can stop it.
func TestRepairSwitch(t *testing.T) {
	r, inv := checkRig(t)
	r.write(filepath.Join(r.target, "bin/emacs"), "mine")
	inv.Hosts[0].Assign = []string{"emacs=2"}
	r.WriteLDIF("all.ldif", inv.LDIF())
	repair := func(level, says string) {
		t.Helper()
		got := r.RunLevelfs("repair", "LV201")
		if got.Exit != 1 && level == "emacs@1" || !strings.Contains(got.Stdout+got.Stderr, says) {
			t.Errorf("want %q: %v", says, got)
		}
		views, err := mounter.Views()
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range views {
			if v.Target == r.target && v.Name != level {
				t.Errorf("%s is mounted, want %s: %v", v.Name, level, got)
			}
		}
	}
	hook := filepath.Join(r.Mkdir("etc/levelfs/hooks.d/switch.d"), "10-no")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\necho not now\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	repair("emacs@1", "10-no: not now")
	if err := os.Remove(hook); err != nil {
		t.Fatal(err)
	}
	r.configureCheck("on-stale = \"stop\"\n")
	repair("emacs@1", `private files are not settled for emacs@2: "bin/emacs" (stale)`)
	r.configureCheck("")
	repair("emacs@2", "levelfs switch emacs")
}
