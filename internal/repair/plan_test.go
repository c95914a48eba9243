package repair

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/mounter"
)

// TestPlanners: what the table says can be mended has a planner, and nothing else has.
func TestPlanners(t *testing.T) {
	t.Parallel()
	for _, k := range finding.Kinds() {
		_, planned := planners()[k.Code]
		if mendable := k.Code.Mending().Repair != finding.Manual; mendable != planned {
			t.Errorf("%s: repair is %s, and there is a planner: %v", k.Code, k.Code.Mending().Repair, planned)
		}
	}
}

func state(t *testing.T) *check.State {
	t.Helper()
	c, err := config.LoadFrom(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &check.State{Config: c, Now: time.Now()}
}

// TestPlan: each finding is in one step, the deepest mounts go first, and what is gone or
// in memory is left.
func TestPlan(t *testing.T) {
	t.Parallel()
	s := state(t)
	dir := s.Config.Tree
	s.Mounts = []check.Mount{
		{ID: 10, Parent: 1, Target: dir + "/a", FSType: "ext4", Source: "x"},
		{ID: 12, Parent: 10, Target: dir + "/a/b/c", FSType: "ext4", Source: "x"},
		{ID: 11, Parent: 10, Target: dir + "/a/b", FSType: "ext4", Source: "x"},
	}
	s.Views = []check.View{{View: mounter.View{ID: 20, Parent: 1, Target: "/v", Name: "v@1", Upper: s.Config.RunDir() + "/layers/upper"}}}
	var findings []finding.Finding
	add := func(code finding.Code, object string) {
		findings = append(findings, finding.New(code, "", object, "text", "fix"))
	}
	for _, m := range s.Mounts {
		add(finding.Stranger, m.Target)
	}
	add(finding.MountInView, dir+"/a/b")
	add(finding.Stranger, dir+"/gone")
	add(finding.UnsafeOptions, "/v")
	add(finding.NoMoreLevel, "x")
	steps := Plan(t.Context(), s, findings, nil)
	var got []string
	n := 0
	for _, step := range steps {
		n += len(step.Findings)
		switch step.Repair {
		case finding.Manual:
			got = append(got, string(step.Findings[0].Code)+" "+step.Why)
		default:
			got = append(got, strings.Join(step.Does, "; "))
		}
	}
	want := []string{
		`LV203 "` + dir + `/gone" is not there any more`, "LV204 its private layer is in memory, and what is in it would be lost: umount /v gives it up",
		"LV202 It never changes an inventory.", "umount " + dir + "/a/b/c", "umount " + dir + "/a/b", "umount " + dir + "/a",
	}
	if !slices.Equal(got, want) || n != len(findings) {
		t.Errorf("%d findings of %d:\n%s\nwant\n%s", n, len(findings), strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestOnTop: a mount that was put beneath another is not on top, whatever its number.
func TestOnTop(t *testing.T) {
	t.Parallel()
	views := []mounter.View{{ID: 7, Parent: 9, Target: "/v"}, {ID: 8, Parent: 1, Target: "/w"}, {ID: 9, Parent: 1, Target: "/v"}}
	at := func(target string) func(mounter.View) bool {
		return func(v mounter.View) bool { return v.Target == target }
	}
	if i, j := onTop(views, at("/v"), viewNumbers), onTop(views, at("/x"), viewNumbers); i != 0 || j != -1 {
		t.Errorf("%d, %d", i, j)
	}
}

// TestRunner: it goes on while something is mended, asks what is not safe, and says why
// something is left.
func TestRunner(t *testing.T) {
	t.Parallel()
	s := state(t)
	one := finding.New(finding.NoMoreLevel, "", "x", "text", "fix")
	checks := 0
	r := Runner{
		Check: func(context.Context) (*check.State, []finding.Finding, error) {
			checks++
			return s, []finding.Finding{one}, nil
		},
		Confirm: func(Step) bool { t.Error("asked"); return false },
	}
	report, err := r.Run(t.Context())
	if err != nil || report.Healthy() || checks != 1 || len(report.Left) != 1 || report.Left[0].Why == "" || report.Left[0].Repair != finding.Manual {
		t.Errorf("%+v, %v, %d checks", report, err, checks)
	}
	r.Codes = []finding.Code{finding.Stranger}
	if report, err := r.Run(t.Context()); err != nil || !report.Healthy() {
		t.Errorf("of other codes: %+v, %v", report, err)
	}
	broken := errors.New("no check")
	r.Check = func(context.Context) (*check.State, []finding.Finding, error) { return nil, nil, broken }
	if _, err := r.Run(t.Context()); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	if got := oneLine(errors.Join(errors.New("a"), errors.New("b\x1b"))); got != "a; b?" {
		t.Errorf("%q", got)
	}
}
