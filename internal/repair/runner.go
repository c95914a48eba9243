package repair

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
)

const (
	// stepTime bounds one step: one that waits for something dead must not keep the
	// others from being done.
	stepTime = time.Minute
	// rounds is how often it is checked at most: each but the last mends something.
	rounds = 5
)

// A Runner mends what its check finds.
type Runner struct {
	// Check looks at the machine, and says what is wrong with it.
	Check func(context.Context) (*check.State, []finding.Finding, error)
	// Codes are those of the findings to mend; none: of all.
	Codes []finding.Code
	// Switch changes the level of a view.
	Switch Switch
	// Confirm is asked before a step that is not safe.
	Confirm func(Step) bool
	DryRun  bool
}

// An Outcome is what became of a step.
type Outcome string

// The outcomes.
const (
	Planned Outcome = "planned" // of a dry run
	Done    Outcome = "done"
	Failed  Outcome = "failed"
	Refused Outcome = "refused" // it was not confirmed
)

// A Result is a step and what became of it.
type Result struct {
	Step
	Outcome Outcome `json:"outcome"`
	Error   string  `json:"error,omitempty"`
}

// A Left is a finding that is still there.
type Left struct {
	finding.Finding
	Repair finding.Repair `json:"repair"` // Manual: it was not tried
	Why    string         `json:"why"`
}

// A Report is what a run came to.
type Report struct {
	DryRun    bool              `json:"dryRun"`
	Steps     []Result          `json:"steps"`
	Left      []Left            `json:"left"` // of the last check
	Unchecked []check.Unchecked `json:"unchecked"`
}

// Healthy reports whether nothing is left, and all was looked at.
func (r *Report) Healthy() bool { return len(r.Left)+len(r.Unchecked) == 0 }

// Run mends, and returns also with an error what was done. A step that fails is no error,
// and does not keep others from being done.
func (r *Runner) Run(ctx context.Context) (*Report, error) {
	report := &Report{DryRun: r.DryRun, Steps: []Result{}, Left: []Left{}, Unchecked: []check.Unchecked{}}
	tried := make(map[string]Result)
	for range rounds {
		steps, err := r.look(ctx, report)
		if err != nil {
			return report, err
		}
		changed := false
		for _, s := range steps {
			if _, known := tried[s.id]; known || s.Repair == finding.Manual {
				continue
			}
			result := r.step(ctx, s)
			tried[s.id] = result
			report.Steps = append(report.Steps, result)
			changed = changed || result.Outcome == Done
		}
		report.explain(steps, tried)
		if !changed {
			return report, ctx.Err()
		}
	}
	_, err := r.look(ctx, report)
	return report, err
}

// look checks, and plans what is to be mended.
func (r *Runner) look(ctx context.Context, report *Report) ([]Step, error) {
	state, findings, err := r.Check(ctx)
	if err != nil {
		return nil, err
	}
	findings = slices.DeleteFunc(slices.Clone(findings), func(f finding.Finding) bool {
		return len(r.Codes) > 0 && !slices.Contains(r.Codes, f.Code)
	})
	report.Left, report.Unchecked = []Left{}, append([]check.Unchecked{}, state.Unchecked...)
	for _, f := range findings {
		report.Left = append(report.Left, Left{Finding: f, Repair: f.Code.Mending().Repair, Why: f.Code.Mending().Does})
	}
	return Plan(ctx, state, findings, r.Switch), nil
}

// step executes one, if it may.
func (r *Runner) step(ctx context.Context, s Step) Result {
	switch {
	case r.DryRun:
		return Result{Step: s, Outcome: Planned}
	case s.Repair == finding.Ask && !r.Confirm(s):
		return Result{Step: s, Outcome: Refused}
	}
	_, err := check.Try(ctx, stepTime, func(ctx context.Context) (struct{}, error) { return struct{}{}, s.do(ctx) })
	if err != nil {
		return Result{Step: s, Outcome: Failed, Error: oneLine(err)}
	}
	return Result{Step: s, Outcome: Done}
}

// explain says of what is left why it is.
func (r *Report) explain(steps []Step, tried map[string]Result) {
	for _, s := range steps {
		for i := range r.Left {
			l := &r.Left[i]
			if !slices.Contains(s.Findings, l.Finding) {
				continue
			}
			l.Repair, l.Why = s.Repair, s.Why
			switch result := tried[s.id]; result.Outcome {
			case Failed:
				l.Why = result.Error
			case Refused:
				l.Why = "it is mended only after a question, or with --yes"
			case Planned:
				l.Why = "nothing was done"
			case Done:
				l.Why = "it was there again after it was mended"
			}
		}
	}
}

// oneLine joins the lines of joined errors.
func oneLine(err error) string {
	return check.Printable(strings.ReplaceAll(err.Error(), "\n", "; "))
}
