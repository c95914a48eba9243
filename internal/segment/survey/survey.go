// Package survey finds out of a fleet which layers are to be planned as segments, and
// which of them one guest may use together: what [segment.Plan] needs to know.
package survey

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

// A Query says whose layers are to be planned.
type Query struct {
	Hosts      string   // a pattern of path.Match for hosts' names; "": all
	Components []string // none: all
	// States are those of levels that are planned although nobody runs them yet:
	// draft, test, released.
	States []string
}

// A Result is which layers a fleet uses, and which of them together.
type Result struct {
	Layers []segment.Layer // to be planned, by name
	Others []segment.Layer // the rest of the inventory's, by name
	// Skipped are layers that are used and cannot be segments, and why.
	Skipped []Skipped
	// Unknown are callers of whom it is not known what they run.
	Unknown []fleet.Answer

	uses map[string][]string        // layer -> components
	with map[string]map[string]bool // component -> components that one caller runs with it
}

// Skipped is a layer that is not planned.
type Skipped struct {
	Layer string `json:"layer"`
	Why   string `json:"why"`
}

// Of asks for every caller of the fleet what it runs. Users count whatever the
// pattern of hosts says: they may log in anywhere. progress, if not nil, is called with
// the number of components of a total that have been asked for.
func Of(ctx context.Context, f *fleet.Fleet, q Query, progress func(done, total int)) (*Result, error) {
	if _, err := path.Match(q.Hosts, ""); err != nil {
		return nil, fmt.Errorf("hosts %q: %w", q.Hosts, err)
	}
	components := f.Components()
	for _, c := range q.Components {
		if !slices.Contains(components, c) {
			return nil, &ldapmap.NotFoundError{What: "component", Name: c}
		}
	}
	s := &Result{uses: make(map[string][]string), with: make(map[string]map[string]bool)}
	levels := make(map[string]bool) // that somebody runs
	hosts := make(map[string][]string)
	users := make(map[string]bool)
	for i, component := range components {
		answers, err := f.Who(ctx, component, nil)
		if err != nil {
			return nil, err
		}
		for _, a := range answers {
			var none *ldapmap.NoLevelError
			var unusable *ldapmap.UnusableError
			here, _ := path.Match(q.Hosts, a.Caller.Host)
			switch {
			case a.Caller.User == "" && q.Hosts != "" && !here, errors.As(a.Err, &none), errors.As(a.Err, &unusable):
			case a.Err != nil:
				s.Unknown = append(s.Unknown, a)
			case a.Caller.User != "":
				users[component] = true
				levels[a.Level] = true
			default:
				hosts[a.Caller.Host] = append(hosts[a.Caller.Host], component)
				levels[a.Level] = true
			}
		}
		if progress != nil {
			progress(i+1, len(components))
		}
	}
	s.meet(hosts, users)
	return s, s.read(f.Sources(), levels, q)
}

// meet notes which components come together. A caller that runs a component now may be
// switched to any level of it that is in use, and runs it with all others that it runs.
func (s *Result) meet(hosts map[string][]string, users map[string]bool) {
	anywhere := slices.Collect(maps.Keys(users))
	sets := map[string][]string{"": anywhere}
	for _, components := range hosts {
		sets[strings.Join(components, " ")] = append(components, anywhere...)
	}
	for _, set := range sets { // far fewer than hosts
		for _, a := range set {
			if s.with[a] == nil {
				s.with[a] = make(map[string]bool)
			}
			for _, b := range set {
				s.with[a][b] = true
			}
		}
	}
}

// Together reports whether one guest may use both layers. A component that nobody runs
// yet may be given to anybody.
func (s *Result) Together(a, b string) bool {
	for _, x := range s.uses[a] {
		for _, y := range s.uses[b] {
			if x == y || s.with[x] == nil || s.with[y] == nil || s.with[x][y] {
				return true
			}
		}
	}
	return false
}

// read finds the levels' layers, and all others.
func (s *Result) read(sources []*memsource.Source, running map[string]bool, q Query) error {
	layers := make(map[string]segment.Layer)
	levels := make(map[string]ldapmap.Entry)
	var errs []error
	for _, source := range sources {
		for _, e := range source.Entries() {
			name := e.First("cn")
			switch {
			case e.Is("levelfsLevel"):
				if _, known := levels[name]; !known { // the first source has it
					levels[name] = e
				}
			case e.Is("levelfsLayer"):
				if _, known := layers[name]; known {
					continue
				}
				l, err := decode(e)
				errs = append(errs, err)
				layers[name] = l
			}
		}
	}
	planned := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(levels)) {
		e := levels[name]
		component, _, _ := strings.Cut(name, "@")
		state := strings.ToLower(e.First("levelfsstate"))
		if state == "" {
			state = "released"
		}
		if !running[name] && !slices.Contains(q.States, state) {
			continue
		}
		for _, ref := range slices.Sorted(slices.Values(e.Attrs["levelfslayerref"])) {
			_, layer, _ := strings.Cut(ref, ":")
			l, ok := layers[layer]
			if !ok {
				errs = append(errs, &ldapmap.NotFoundError{What: "layer", Name: layer, By: e.DN})
				continue
			}
			s.uses[layer] = append(s.uses[layer], component)
			l.Levels = append(l.Levels, name)
			layers[layer] = l
			if len(q.Components) == 0 || slices.Contains(q.Components, component) {
				planned[layer] = true
			}
		}
	}
	for _, ref := range customized(sources) {
		l, ok := layers[ref.layer]
		if !ok {
			errs = append(errs, &ldapmap.NotFoundError{What: "layer", Name: ref.layer, By: ref.by})
			continue
		}
		s.uses[ref.layer] = append(s.uses[ref.layer], ref.component)
		l.Levels = append(l.Levels, "above "+ref.component)
		layers[ref.layer] = l
		if s.with[ref.component] != nil && (len(q.Components) == 0 || slices.Contains(q.Components, ref.component)) {
			planned[ref.layer] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(layers)) {
		switch l := layers[name]; {
		case !planned[name]:
			s.Others = append(s.Others, l)
		case l.FSType != "erofs" && l.FSType != "ext4":
			s.Others = append(s.Others, l)
			s.Skipped = append(s.Skipped, Skipped{name, fmt.Sprintf("%s cannot be executed in place", l.FSType)})
		default:
			s.Layers = append(s.Layers, l)
		}
	}
	return errors.Join(errs...)
}

// A reference is a layer that lies above the levels of a component for somebody.
type reference struct{ layer, component, by string }

// customized are those of all entries, each layer above a component once. For whom it is
// does not matter: whoever runs the component may be among them.
func customized(sources []*memsource.Source) []reference {
	seen := make(map[[2]string]bool)
	var refs []reference
	for _, source := range sources {
		for _, e := range source.Entries() {
			all, _ := e.Customizations()
			for _, c := range all {
				if at := [2]string{c.Layer, c.Component}; !seen[at] {
					seen[at] = true
					refs = append(refs, reference{c.Layer, c.Component, e.DN})
				}
			}
		}
	}
	slices.SortFunc(refs, func(a, b reference) int {
		return cmp.Or(cmp.Compare(a.layer, b.layer), cmp.Compare(a.component, b.component))
	})
	return refs
}

// decode reads what concerns segments of a layer's entry.
func decode(e ldapmap.Entry) (segment.Layer, error) {
	l := segment.Layer{Name: e.First("cn"), DN: e.DN, FSType: strings.ToLower(e.First("levelfsfstype"))}
	invalid := func(attr, value, want string) error {
		return &ldapmap.InvalidError{DN: e.DN, Attr: attr, Value: value, Want: want}
	}
	if !ldapmap.ValidLayer(l.Name) {
		return l, invalid("cn", l.Name, "a layer's name")
	}
	if v := e.First("levelfssize"); v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n <= 0 {
			return l, invalid("levelfsSize", v, "a number of bytes")
		}
		l.Size = n
	}
	if images := slices.Sorted(slices.Values(e.Attrs["levelfsimage"])); len(images) > 0 {
		if l.Image = images[0]; !ldapmap.PlainPath(l.Image) {
			return l, invalid("levelfsImage", l.Image, "a path of letters, digits and /._+@~-")
		}
	}
	for _, v := range slices.Sorted(slices.Values(e.Attrs["levelfssegment"])) {
		names, err := segment.ParseNames(v)
		if err != nil {
			return l, invalid("levelfsSegment", v, "names of segments of 1 to 8 characters, joined by a colon")
		}
		l.Devices = append(l.Devices, names)
	}
	for _, v := range slices.Sorted(slices.Values(e.Attrs["levelfsrange"])) {
		placed, err := segment.ParseSegment(v)
		if err != nil {
			return l, invalid("levelfsRange", v, "NAME:BEGIN-END with page numbers in hexadecimal")
		}
		if slices.ContainsFunc(l.Segments, func(s segment.Segment) bool { return s.Name == placed.Name }) {
			return l, invalid("levelfsRange", v, "one range of each segment")
		}
		l.Segments = append(l.Segments, placed)
	}
	return l, nil
}
