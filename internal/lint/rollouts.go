package lint

import (
	"fmt"
	"strings"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/ldapmap"
)

// rollouts looks at roll-outs that are not over.
func (l *linter) rollouts() {
	for _, e := range l.entries {
		if !ldapmap.IsRollout(e.Entry) {
			continue
		}
		r, err := e.Rollout()
		if err != nil || r.State == ldapmap.RolloutDone || r.State == ldapmap.RolloutAborted && r.At < 0 {
			continue
		}
		abort := "levelfs rollout abort " + r.Level.Component
		if v, ok := l.levels[r.Level.String()]; !ok {
			l.add(finding.RolloutOfNone, e, fmt.Sprintf("it is of a level %q that is not there", r.Level), abort)
		} else if v.State == "retired" {
			l.add(finding.RolloutOfNone, e, fmt.Sprintf("it is of a level %q that is retired", r.Level), abort)
		}
		for i, ring := range r.Rings {
			profile, ok := l.profiles[strings.ToLower(ring.Profile)]
			if !ok {
				l.add(finding.RolloutOfNone, e, fmt.Sprintf("its ring %q is a profile that is not there", ring.Profile),
					fmt.Sprintf("levelfs profile create %s, or %s", ring.Profile, abort))
				continue
			}
			if i <= r.At {
				l.ring(e, r, ring, profile)
			}
		}
	}
}

// ring looks whether the profile of a ring that was given the level has it; or, after an
// abort, has it no more.
func (l *linter) ring(e entry, r ldapmap.Rollout, ring ldapmap.Ring, profile entry) {
	level := ""
	assignments, _ := profile.Assignments()
	for _, a := range assignments {
		if a.Component == r.Level.Component && !a.Mandatory {
			level = a.Level
		}
	}
	aborted := r.State == ldapmap.RolloutAborted
	switch {
	case aborted && level == r.Level.Level && level != ring.Before:
		l.add(finding.RolloutHalf, e, fmt.Sprintf("it is aborted, and its ring %q has %s still", ring.Profile, r.Level),
			"levelfs rollout abort "+r.Level.Component)
	case !aborted && level != r.Level.Level:
		l.add(finding.RolloutHalf, e, fmt.Sprintf("its ring %q was given %s, and does not assign it", ring.Profile, r.Level),
			fmt.Sprintf("levelfs rollout promote %[1]s, or levelfs rollout abort %[1]s", r.Level.Component))
	}
}
