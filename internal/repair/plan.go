package repair

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// A Step mends one thing, which several findings may be about.
type Step struct {
	Findings []finding.Finding `json:"findings"`
	Repair   finding.Repair    `json:"repair"`
	Does     []string          `json:"does,omitempty"` // commands, or sentences
	Why      string            `json:"why,omitempty"`  // it is Manual

	id    string // what it does, to what: two steps with one are one
	stage stage
	do    func(context.Context) error
}

// A stage is done before the next: what stands in the way of others first.
type stage int

// The stages.
const (
	stageRights    stage = iota // who could change what, while it is mended?
	stageMachine                // files that automount and mount(8) need, notes, hung processes
	stageHeal                   // views as they were meant
	stageUnmount                // the deepest first
	stageLeftovers              // of mounts
	stageLevels                 // of views that nothing stands in the way of
	stageUnused                 // what no view uses any more
)

// Plan turns the findings about the machine into steps, in the order in which they are to
// be done. Each finding is in exactly one. It changes nothing. change is what steps use that
// change the level of a view.
func Plan(ctx context.Context, s *check.State, findings []finding.Finding, change Switch) []Step {
	p := &planner{State: s, change: change}
	var steps []Step
	for _, f := range findings {
		step := p.plan(ctx, f)
		if i := slices.IndexFunc(steps, func(other Step) bool { return other.id == step.id }); i >= 0 {
			steps[i].Findings = append(steps[i].Findings, f)
			continue
		}
		step.Findings = []finding.Finding{f}
		steps = append(steps, step)
	}
	slices.SortStableFunc(steps, func(a, b Step) int {
		if a.stage != b.stage {
			return int(a.stage) - int(b.stage)
		}
		if a.stage == stageUnmount { // what lies below another comes before it
			return strings.Compare(b.id, a.id)
		}
		return 0
	})
	return steps
}

// A Switch gives a mounted view a level, as levelfs switch does it: with the hooks, and with
// the comparison of the private files.
type Switch func(ctx context.Context, v mounter.View, r *ldapmap.Resolution) error

type planner struct {
	*check.State
	change Switch
}

// planners have a function for each code whose findings can be mended. Without a step it
// returns why not.
func planners() map[finding.Code]func(p *planner, ctx context.Context, f finding.Finding) (Step, error) {
	return map[finding.Code]func(p *planner, ctx context.Context, f finding.Finding) (Step, error){
		finding.OtherLevel:      (*planner).otherLevel,
		finding.Stranger:        (*planner).foreignMount,
		finding.UnsafeOptions:   (*planner).unmountView,
		finding.ForeignUpper:    (*planner).unmountView,
		finding.ReadOnlyPrivate: (*planner).readOnly,
		finding.StackedViews:    (*planner).stacked,
		finding.MountInView:     (*planner).foreignMount,
		finding.XIPOff:          (*planner).mountAnew,
		finding.UnusedSegment:   (*planner).unusedSegment,
		finding.PrivateOfNone:   (*planner).nobodys,
		finding.PrivateOfNobody: (*planner).nobodys,
		finding.Unfinished:      (*planner).unfinished,
		finding.ServersDown:     (*planner).noteDown,
		finding.OldAnswers:      (*planner).noteDown,
		finding.OpenConfig:      (*planner).rights,
		finding.OpenPrivate:     (*planner).rights,
		finding.OpenCache:       (*planner).rights,
		finding.OpenSecret:      (*planner).rights,
		finding.NoMapProgram:    (*planner).mapProgram,
		finding.NotIncluded:     (*planner).include,
		finding.NoHelper:        (*planner).helper,
		finding.HungMap:         (*planner).hung,
	}
}

// plan is the step for one finding, in what its kind allows.
func (p *planner) plan(ctx context.Context, f finding.Finding) Step {
	kind := f.Code.Mending()
	make, mendable := planners()[f.Code]
	if !mendable || kind.Repair == finding.Manual {
		return manual(f, kind.Does)
	}
	step, err := make(p, ctx, f)
	if err != nil {
		return manual(f, oneLine(err))
	}
	if step.Repair == "" {
		step.Repair = kind.Repair
	}
	return step
}

// manual is the step of what is left to people.
func manual(f finding.Finding, why string) Step {
	return Step{Repair: finding.Manual, Why: why, id: fmt.Sprintf("manual %s %s %s", f.Code, f.Object, f.Text)}
}

// A goneError is a finding whose object is not in the state that it was made of.
type goneError struct{ object string }

func (e *goneError) Error() string { return fmt.Sprintf("%q is not there any more", e.object) }

// is reports whether the name, as it is, is the object of the finding.
func is(f finding.Finding, name string) bool { return check.Printable(name) == f.Object }
