package test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/repair"
	"github.com/levelfs/levelfs/internal/testenv"
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
