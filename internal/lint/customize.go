package lint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// customizations finds what an entry alone shows to be wrong with the layers that it puts
// above levels, and customisation layers that no entry refers to.
func (l *linter) customizations() {
	used := make(map[string]bool)
	for _, e := range l.entries {
		if ldapmap.IsLevel(e.Entry) || ldapmap.IsLayer(e.Entry) {
			continue
		}
		type place struct {
			component, kind string
			order           int
		}
		taken := make(map[place]string)
		all, _ := e.Customizations()
		for _, c := range all {
			used[c.Layer] = true
			value := "levelfsCustomize: " + c.String()
			if _, ok := l.components[c.Component]; !ok {
				l.add(finding.NoComponent, e, fmt.Sprintf("%q is about a component that is not there", value), fmt.Sprintf("correct or delete %q", value))
			}
			y, ok := l.layers[c.Layer]
			if !ok {
				l.add(finding.NoLayerAbove, e, fmt.Sprintf("%q names a layer that is not there", value), fmt.Sprintf("correct or delete %q", value))
				continue
			}
			if want := takes(e); y.Kind != "" && !slices.Contains(want, y.Kind) {
				l.add(finding.WrongKind, e, fmt.Sprintf("%q: the layer is of kind %s, and the entry takes those of kind %s", value, y.Kind, strings.Join(want, ", ")),
					fmt.Sprintf("correct or delete %q", value))
			}
			at := place{c.Component, y.Kind, c.Order}
			if other, twice := taken[at]; twice && other != c.Layer {
				l.add(finding.SameOrder, e, fmt.Sprintf("layers %q and %q above %q have the same number %02d", other, c.Layer, c.Component, c.Order),
					fmt.Sprintf("give one of them another number: %q", value))
			}
			taken[at] = c.Layer
		}
	}
	for _, e := range l.entries {
		if y, err := e.Layer(); ldapmap.IsLayer(e.Entry) && err == nil && y.Kind != ldapmap.KindVendor && !used[y.Name] {
			l.add(finding.UnusedLayer, e, fmt.Sprintf("layer %q of kind %s is above no level", y.Name, y.Kind),
				fmt.Sprintf("levelfs customize CALLER COMPONENT=%s, or delete the layer", y.Name))
		}
	}
}

// takes are the kinds of layers that the entry may put above levels.
func takes(e entry) []string {
	switch {
	case ldapmap.IsComponent(e.Entry):
		return []string{ldapmap.KindSite}
	case ldapmap.IsProfile(e.Entry):
		return ldapmap.Kinds()[1:]
	case ldapmap.IsHost(e.Entry):
		return []string{ldapmap.KindHost}
	case ldapmap.IsUser(e.Entry):
		return []string{ldapmap.KindUser}
	}
	return []string{ldapmap.KindGroup}
}

// A stack is who has layers above a component by values that are the same but for the
// entries that they are on: what they make is the same for all.
type stack struct {
	crowd
	component string
	by        []ldapmap.Addition // of the first

	once  sync.Once // for what follows
	above []string
	err   error
}

// layers are those that lie there, topmost first, as the resolver says of one of the callers.
func (st *stack) layers(ctx context.Context, f *fleet.Fleet, one fleet.Caller) ([]string, error) {
	st.once.Do(func() { st.above, st.err = f.Above(ctx, one, st.component) })
	return st.above, st.err
}

// seeStacks notes what is added above components for a caller, and returns it by component.
func (s *survey) seeStacks(c fleet.Surveyed) map[string]*stack {
	byComponent := make(map[string][]ldapmap.Addition)
	for _, a := range c.Additions {
		byComponent[a.Component()] = append(byComponent[a.Component()], a)
	}
	stacks := make(map[string]*stack, len(byComponent))
	for component, additions := range byComponent {
		var written []string
		for _, a := range additions {
			written = append(written, fmt.Sprintf("%s %s %d:%s %v", a.Rank, a.Source, a.Order, a.Layer, len(a.Via) > 0))
		}
		slices.Sort(written)
		key := component + " " + strings.Join(written, " ")
		s.mu.Lock()
		st := s.stacks[key]
		if st == nil {
			st = &stack{component: component}
			s.stacks[key] = st
		}
		if st.add(c) {
			st.by = additions
		}
		s.mu.Unlock()
		stacks[component] = st
	}
	return stacks
}

// badStacks asks for the layers that the first caller of each kind has, and reports those
// that cannot be stacked where no entry alone shows it.
func (s *survey) badStacks(ctx context.Context) {
	for _, st := range s.stacks {
		_, err := s.fleet.Above(ctx, st.first.Caller, st.component)
		var order *ldapmap.OrderError
		var kind *ldapmap.KindError
		switch {
		case errors.As(err, &order) && (order.A.DN != order.B.DN || !slices.Equal(order.A.Via, order.B.Via)):
			about := s.stating(order.A)
			s.add(finding.SameOrder, about, fmt.Sprintf("%s no layers above %q: %v", st.verb("gets", "get"), st.component, order),
				fmt.Sprintf("give one of them another number, such as %q", "levelfsCustomize: "+ldapmap.Customization{Component: st.component, Order: order.A.Order, Layer: order.A.Layer}.String()))
		case errors.As(err, &kind):
			i := slices.IndexFunc(st.by, func(a ldapmap.Addition) bool { return a.Layer == kind.Layer && len(a.Via) > 0 })
			if i < 0 || kind.Kind == ldapmap.KindVendor {
				continue
			}
			s.add(finding.WrongKind, s.stating(st.by[i]), fmt.Sprintf("%s no layers above %q: %v", st.verb("gets", "get"), st.component, kind),
				fmt.Sprintf("refer to layer %q in a profile for callers of kind %s", kind.Layer, kind.Kind))
		}
	}
}

// stating is the entry that the addition is written on: the last profile on the way, or
// the speaker itself.
func (s *survey) stating(a ldapmap.Addition) entry {
	if len(a.Via) > 0 {
		return s.profiles[strings.ToLower(a.Via[len(a.Via)-1])]
	}
	return entry{ldapmap.Entry{DN: a.DN}, a.Source}
}
