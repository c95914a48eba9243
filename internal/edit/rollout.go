package edit

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/levelfs/levelfs/ldapmap"
)

// Verbs of the records of roll-outs.
const (
	VerbStart   = "rollout-start"
	VerbPromote = "rollout-promote"
	VerbPause   = "rollout-pause"
	VerbResume  = "rollout-resume"
	VerbAbort   = "rollout-abort"
	VerbSettle  = "rollout-restored"
	VerbFinish  = "rollout-finish"
)

// rolloutName is the cn of a roll-out: there is one below each component, so that two who
// start one at once are told of each other, on any server.
const rolloutName = "rollout"

// A Found is a roll-out that is there.
type Found struct {
	ldapmap.Rollout
	Source int
	Entry  ldapmap.Entry
}

// Rollouts returns the roll-outs of the inventory, of the component or of all, those that
// cannot be decoded as errors.
func (inv Inventory) Rollouts(component string) (found []Found, invalid []error) {
	for _, h := range inv.search(ldapmap.IsRollout) {
		r, err := h.entry.Rollout()
		switch {
		case err != nil && (component == "" || r.Level.Component == "" || r.Level.Component == component):
			invalid = append(invalid, err)
		case err == nil && (component == "" || r.Level.Component == component):
			found = append(found, Found{Rollout: r, Source: h.source, Entry: h.entry})
		}
	}
	return found, invalid
}

// RolloutOf is what is not found of a component that has no roll-out.
const RolloutOf = "roll-out of component"

// Rollout is the roll-out of a component. That there is none is a *NotFoundError.
func (inv Inventory) Rollout(component string) (Found, error) {
	found, invalid := inv.Rollouts(component)
	switch {
	case len(invalid) > 0:
		return Found{}, errors.Join(invalid...)
	case len(found) == 0:
		return Found{}, &ldapmap.NotFoundError{What: RolloutOf, Name: component}
	case len(found) > 1:
		return Found{}, &AmbiguousNameError{Name: component, Candidates: []string{found[0].DN, found[1].DN}}
	}
	return found[0], nil
}

// A RolloutStateError is a roll-out whose state does not allow for what is wanted.
type RolloutStateError struct {
	Rollout string // its level
	State   ldapmap.RolloutState
	Wanted  string // what was to be done
}

func (e *RolloutStateError) Error() string {
	return fmt.Sprintf("the roll-out of %s is %s: it cannot be %s", e.Rollout, e.State, e.Wanted)
}

// A ChangedError is a ring's profile that was changed besides the roll-out.
type ChangedError struct {
	Profile   string
	Component string
	Level     string // that it assigns now, or ""
	Want      string // that it should by the roll-out
}

func (e *ChangedError) Error() string {
	is := "assigns no level of " + e.Component
	if e.Level != "" {
		is = "assigns " + e.Component + "=" + e.Level
	}
	return fmt.Sprintf("profile %q %s by now, and not %s=%s: somebody has changed it besides the roll-out", e.Profile, is, e.Component, e.Want)
}

// A rung is a ring's profile as it is.
type rung struct {
	place
	level string // that it assigns, or ""
}

// rung finds the profile of a ring.
func (inv Inventory) rung(profile, component string, w Where) (rung, error) {
	at, err := inv.locate(Caller{Kind: Profile, Name: profile}, w)
	if err != nil {
		return rung{}, err
	}
	r := rung{place: at}
	assignments, invalid := at.was.Assignments()
	if len(invalid) > 0 {
		return rung{}, errors.Join(invalid...)
	}
	n := 0
	for _, a := range assignments {
		switch {
		case a.Component != component:
		case a.Mandatory:
			return rung{}, fmt.Errorf("profile %q assigns %s as mandatory: a roll-out would change nothing", profile, a)
		default:
			r.level = a.Level
			n++
		}
	}
	if n > 1 {
		return rung{}, fmt.Errorf("profile %q assigns two levels of component %q", profile, component)
	}
	return r, nil
}

// give are the steps that give a ring the level. A ring that does not assign what it did
// before is left alone.
func (inv Inventory) give(ring ldapmap.Ring, key ldapmap.Key, w Where) ([]Step, error) {
	r, err := inv.rung(ring.Profile, key.Component, w)
	switch {
	case err != nil || r.level == key.Level:
		return nil, err
	case r.level != ring.Before:
		return nil, &ChangedError{Profile: ring.Profile, Component: key.Component, Level: r.level, Want: key.Level}
	}
	return assign(r.place, []ldapmap.Key{key}, nil, false)
}

// interrupted are the steps that complete what somebody began: the ring that the roll-out
// is at was not given the level. The rings before it must have it.
func (inv Inventory) interrupted(f Found, w Where) ([]Step, error) {
	for i, ring := range f.Rings[:f.At] {
		r, err := inv.rung(ring.Profile, f.Level.Component, w)
		if err != nil {
			return nil, err
		}
		if r.level != f.Level.Level {
			return nil, &ChangedError{Profile: f.Rings[i].Profile, Component: f.Level.Component, Level: r.level, Want: f.Level.Level}
		}
	}
	return inv.give(f.Rings[f.At], f.Level, w)
}

// Given is the inventory as it would be if every ring had been given the level, and why
// some cannot be.
func (inv Inventory) Given(f Found, w Where) (Inventory, []error) {
	var problems []error
	for _, ring := range f.Rings {
		r, err := inv.rung(ring.Profile, f.Level.Component, w)
		if err == nil && r.level != f.Level.Level {
			var steps []Step
			if steps, err = assign(r.place, []ldapmap.Key{f.Level}, nil, false); err == nil {
				inv, err = inv.With(steps[0])
			}
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("ring %q: %w", ring.Profile, err))
		}
	}
	return inv, problems
}

// mayRollOut refuses a level that a ring must not be given. The last ring is everybody
// who is left: it gets released levels only.
func (inv Inventory) mayRollOut(key ldapmap.Key, last bool) error {
	level, err := inv.level(key)
	switch {
	case err != nil:
		return err
	case level.State == "retired":
		return unusable(level, "is retired")
	case level.State == "draft":
		return unusable(level, "is in state draft: only a level in state test or released is rolled out")
	case last && level.State != "released":
		return unusable(level, "is in state "+level.State+": the last ring is given a released level only")
	}
	return nil
}

// set are the Mods that give an entry exactly these values of an attribute.
func set(was *ldapmap.Entry, attr string, values ...string) []ldapmap.Mod {
	var remove []string
	add := slices.Clone(values)
	if was != nil {
		for _, v := range was.Attrs[strings.ToLower(attr)] {
			if i := slices.Index(add, v); i >= 0 {
				add = slices.Delete(add, i, i+1)
			} else {
				remove = append(remove, v)
			}
		}
	}
	return replace(attr, remove, add)
}

func before(number int, component, level string) string {
	if level == "" {
		return fmt.Sprintf("%02d:", number)
	}
	return fmt.Sprintf("%02d:%s=%s", number, component, level)
}

// state is the step that changes the state of a roll-out.
func (f Found) state(to ldapmap.RolloutState, verb string) Step {
	s := Step{Source: f.Source, DN: f.DN, Was: &f.Entry, Verb: verb, Mods: set(&f.Entry, "levelfsRolloutState", string(to))}
	if s.New = f.Level.Component + "=" + f.Level.Level; to == ldapmap.RolloutAborted {
		s.Old, s.New = s.New, ""
	}
	return s
}

// Start begins a roll-out: it makes the entry of it, and gives the first ring the level.
// Repeated, it completes what was interrupted between the two.
type Start struct {
	Key      ldapmap.Key // with its level
	Profiles []string    // of the rings, in their order
	Gate     string
	Where
}

// Terms implements [Intention].
func (Start) Terms() []ldapmap.Term { return nil }

// Steps implements [Intention].
func (s Start) Steps(inv Inventory) ([]Step, error) {
	if len(s.Profiles) == 0 {
		return nil, errors.New("a roll-out takes at least one ring")
	}
	component, err := inv.pick(s.Where, "component", s.Key.Component, inv.called(ldapmap.IsComponent, s.Key.Component))
	if err != nil {
		return nil, err
	}
	if err := inv.mayRollOut(s.Key, len(s.Profiles) == 1); err != nil {
		return nil, err
	}
	var rings []string
	var first rung
	for i, profile := range s.Profiles {
		if hasFold(s.Profiles[:i], profile) {
			return nil, fmt.Errorf("profile %q is two rings", profile)
		}
		r, err := inv.rung(profile, s.Key.Component, s.Where)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			first = r
		}
		rings = append(rings, fmt.Sprintf("%02d:%s", i, profile))
	}
	var was *ldapmap.Entry
	there, err := inv.Rollout(s.Key.Component)
	var none *ldapmap.NotFoundError
	switch {
	case errors.As(err, &none):
	case err != nil:
		return nil, err
	case there.State == ldapmap.RolloutRunning && s.is(there):
		return inv.interrupted(there, s.Where)
	default:
		if err := s.over(inv, there); err != nil {
			return nil, err
		}
		was = &there.Entry
	}
	step := Step{Verb: VerbStart, New: s.Key.Component + "=" + s.Key.Level + ",ring=" + s.Profiles[0], Was: was}
	if was != nil {
		step.Source, step.DN = there.Source, there.DN
	} else {
		step.Source = component.source
		if step.DN, err = child("cn="+rolloutName, component.entry.DN); err != nil {
			return nil, err
		}
		step.Mods = append(step.Mods,
			ldapmap.Mod{Op: ldapmap.ModAdd, Attr: "objectClass", Values: []string{"levelfsRollout"}},
			ldapmap.Mod{Op: ldapmap.ModAdd, Attr: "cn", Values: []string{rolloutName}})
	}
	for _, m := range []ldapmap.Mod{
		{Attr: "levelfsRolloutLevel", Values: []string{s.Key.String()}},
		{Attr: "levelfsRing", Values: rings},
		{Attr: "levelfsRingAt", Values: []string{"0"}},
		{Attr: "levelfsRingBefore", Values: []string{before(0, s.Key.Component, first.level)}},
		{Attr: "levelfsGate", Values: []string{s.Gate}},
		{Attr: "levelfsRolloutState", Values: []string{string(ldapmap.RolloutRunning)}},
	} {
		step.Mods = append(step.Mods, set(was, m.Attr, m.Values...)...)
	}
	steps := []Step{step}
	if first.level == s.Key.Level {
		return steps, nil
	}
	given, err := assign(first.place, []ldapmap.Key{s.Key}, nil, false)
	return append(steps, given...), err
}

// is reports whether the roll-out is the one that is to be started.
func (s Start) is(f Found) bool {
	return f.Level == s.Key && f.Gate == s.Gate && f.At == 0 && slices.EqualFunc(f.Rings, s.Profiles, func(r ldapmap.Ring, profile string) bool {
		return strings.EqualFold(r.Profile, profile)
	})
}

// over refuses to replace a roll-out that is not over: one that runs or is paused, or that
// was aborted and has rings left that are not as they were.
func (s Start) over(inv Inventory, f Found) error {
	if f.State == ldapmap.RolloutRunning || f.State == ldapmap.RolloutPaused {
		return &RolloutStateError{Rollout: f.Level.String(), State: f.State, Wanted: "replaced by another one"}
	}
	if f.State == ldapmap.RolloutAborted && f.At >= 0 {
		if left, err := inv.restore(f, s.Where); err != nil || len(left) > 0 {
			return errors.Join(&UnfinishedError{Component: f.Level.Component, Profiles: dns(left)}, err)
		}
	}
	return nil
}

// An UnfinishedError is an abort that was interrupted.
type UnfinishedError struct {
	Component string
	Profiles  []string // DNs of those that have the level still
}

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("the last roll-out of %q was aborted, and not all of its rings have their former level again: %s",
		e.Component, strings.Join(e.Profiles, ", "))
}

func dns(steps []Step) []string {
	var all []string
	for _, s := range steps {
		all = append(all, s.DN)
	}
	return all
}

// Promote gives the next ring the level; after the last one it says that the roll-out is
// done. Repeated, it completes what was interrupted. Whether the rings so far are well is
// for the caller to find out first.
type Promote struct {
	Component string
	Where
}

// Terms implements [Intention].
func (Promote) Terms() []ldapmap.Term { return nil }

// running is the roll-out, if it is one that goes on.
func (p Promote) running(inv Inventory) (Found, error) {
	f, err := inv.Rollout(p.Component)
	if err == nil && f.State != ldapmap.RolloutRunning {
		err = &RolloutStateError{Rollout: f.Level.String(), State: f.State, Wanted: "promoted"}
	}
	return f, err
}

// Interrupted reports whether the ring that the roll-out is at was not given the level:
// then that is all that a promotion does, and nothing has to be found out for it.
func (p Promote) Interrupted(inv Inventory) (bool, error) {
	f, err := p.running(inv)
	if err != nil {
		return false, err
	}
	steps, err := inv.interrupted(f, p.Where)
	return len(steps) > 0, err
}

// Steps implements [Intention].
func (p Promote) Steps(inv Inventory) ([]Step, error) {
	f, err := p.running(inv)
	if err != nil {
		return nil, err
	}
	if steps, err := inv.interrupted(f, p.Where); err != nil || len(steps) > 0 {
		return steps, err
	}
	next := f.At + 1
	if next == len(f.Rings) {
		return []Step{f.state(ldapmap.RolloutDone, VerbFinish)}, nil
	}
	if err := inv.mayRollOut(f.Level, next == len(f.Rings)-1); err != nil {
		return nil, err
	}
	ring := f.Rings[next]
	r, err := inv.rung(ring.Profile, f.Level.Component, p.Where)
	if err != nil {
		return nil, err
	}
	step := Step{Source: f.Source, DN: f.DN, Was: &f.Entry, Verb: VerbPromote, Old: "ring=" + f.Rings[f.At].Profile,
		New: f.Level.Component + "=" + f.Level.Level + ",ring=" + ring.Profile}
	step.Mods = append(step.Mods, set(&f.Entry, "levelfsRingAt", strconv.Itoa(ring.Number))...)
	values := []string{before(ring.Number, f.Level.Component, r.level)}
	for _, earlier := range f.Rings[:next] {
		values = append(values, before(earlier.Number, f.Level.Component, earlier.Before))
	}
	step.Mods = append(step.Mods, set(&f.Entry, "levelfsRingBefore", values...)...)
	steps := []Step{step}
	if r.level == f.Level.Level {
		return steps, nil
	}
	given, err := assign(r.place, []ldapmap.Key{f.Level}, nil, false)
	return append(steps, given...), err
}

// Pause keeps a roll-out from being promoted, or with Resume lets it be again.
type Pause struct {
	Component string
	Resume    bool
}

// Terms implements [Intention].
func (Pause) Terms() []ldapmap.Term { return nil }

// Steps implements [Intention].
func (p Pause) Steps(inv Inventory) ([]Step, error) {
	f, err := inv.Rollout(p.Component)
	if err != nil {
		return nil, err
	}
	from, to, verb, wanted := ldapmap.RolloutRunning, ldapmap.RolloutPaused, VerbPause, "paused"
	if p.Resume {
		from, to, verb, wanted = to, from, VerbResume, "resumed"
	}
	switch f.State {
	case to:
		return nil, nil
	case from:
		return []Step{f.state(to, verb)}, nil
	}
	return nil, &RolloutStateError{Rollout: f.Level.String(), State: f.State, Wanted: wanted}
}

// Abort ends a roll-out, and has its rings assign what they did before it, the last one
// first. Repeated, it completes what was interrupted. A ring that assigns something else
// by now stays as it is.
type Abort struct {
	Component string
	Where
}

// Terms implements [Intention].
func (Abort) Terms() []ldapmap.Term { return nil }

// Steps implements [Intention]. That it is aborted is said first: nobody promotes it from
// then on.
func (a Abort) Steps(inv Inventory) ([]Step, error) {
	f, err := inv.Rollout(a.Component)
	if err != nil {
		return nil, err
	}
	var steps []Step
	switch f.State {
	case ldapmap.RolloutDone:
		return nil, &RolloutStateError{Rollout: f.Level.String(), State: f.State, Wanted: "aborted"}
	case ldapmap.RolloutAborted:
	default:
		steps = append(steps, f.state(ldapmap.RolloutAborted, VerbAbort))
	}
	restored, err := inv.restore(f, a.Where)
	if steps = append(steps, restored...); err != nil || len(steps) > 0 {
		return steps, err
	}
	return a.Settled(inv)
}

// Settled are the steps after those of an abort: it is written down that all rings have
// been restored, so that what is assigned from then on is not taken for what was left
// over. They are for an inventory that was read again, and none if there is nothing to
// be written down.
func (a Abort) Settled(inv Inventory) ([]Step, error) {
	f, err := inv.Rollout(a.Component)
	if err != nil || f.State != ldapmap.RolloutAborted || f.At < 0 {
		return nil, err
	}
	if left, err := inv.restore(f, a.Where); err != nil || len(left) > 0 {
		return nil, err
	}
	return []Step{{Source: f.Source, DN: f.DN, Was: &f.Entry, Verb: VerbSettle, Old: f.Level.Component + "=" + f.Level.Level,
		Mods: set(&f.Entry, "levelfsRingAt")}}, nil
}

// restore are the steps that give the rings their former levels.
func (inv Inventory) restore(f Found, w Where) ([]Step, error) {
	var steps []Step
	for _, ring := range slices.Backward(f.Rings[:f.At+1]) {
		r, err := inv.rung(ring.Profile, f.Level.Component, w)
		if err != nil {
			return nil, err
		}
		if r.level != f.Level.Level || r.level == ring.Before {
			continue
		}
		var former []ldapmap.Key
		if ring.Before != "" {
			former = []ldapmap.Key{{Component: f.Level.Component, Level: ring.Before}}
		}
		step, err := assign(r.place, former, []string{f.Level.Component}[len(former):], false)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step...)
	}
	return steps, nil
}

// Others are the rings that an abort leaves alone, because their profiles assign something
// else by now than what the roll-out gave them, and than before it.
func (a Abort) Others(inv Inventory) ([]error, error) {
	f, err := inv.Rollout(a.Component)
	if err != nil {
		return nil, err
	}
	var others []error
	for _, ring := range f.Rings[:f.At+1] {
		r, err := inv.rung(ring.Profile, f.Level.Component, a.Where)
		if err != nil {
			return nil, err
		}
		if r.level != f.Level.Level && r.level != ring.Before {
			others = append(others, &ChangedError{Profile: ring.Profile, Component: f.Level.Component, Level: r.level, Want: f.Level.Level})
		}
	}
	return others, nil
}
