package lint

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/ldapmap"
)

// overlaps are the segments that share a megabyte with another one, and who loads both: with
// a level, or with what lies above it.
type overlaps struct {
	ranges   []placed          // by where they begin
	near     [][2]int          // pairs of ranges that overlap
	layers   map[string][]int  // layer -> those of its ranges that overlap with any; no others are here
	levels   map[string][]int  // level -> those of its layers; every level is here
	above    map[string]bool   // components above whose levels an entry puts such a layer
	defaults map[string]string // component -> its default; where neither it nor what is above has any it is not here
	bare     map[string]*stack // component -> what lies there for callers who add nothing

	mu     sync.Mutex
	pairs  map[[2]int]*crowd       // of ranges that a caller loads both of
	hosts  map[string]map[int]bool // component of those in above -> what a host loads with it
	guests []guest
}

// A placed range says in which megabytes a segment lies.
type placed struct {
	segment.Segment
	layer    string // the first that has it
	from, to int64  // megabytes; the last one is part of it
}

// A guest is a user with layers above levels that hosts give.
type guest struct {
	fleet.Surveyed
	loads []int            // as without any host
	above map[string][]int // component that no rule of the user gives -> what is added above it
}

func newOverlaps() *overlaps {
	return &overlaps{layers: make(map[string][]int), levels: make(map[string][]int), above: make(map[string]bool),
		defaults: make(map[string]string), bare: make(map[string]*stack), pairs: make(map[[2]int]*crowd), hosts: make(map[string]map[int]bool)}
}

// loaders find out which layers, by the segments that they have, and so which levels have a
// range that overlaps with another one.
func (l *linter) loaders(segments map[string][]string) {
	o := l.overlaps
	all := make([]int, len(o.ranges))
	for i := range all {
		all[i] = i
	}
	touched := make(map[string][]int) // by segment
	o.sweep(all, func(a, b int) {
		for _, i := range []int{a, b} {
			name := o.ranges[i].Name
			if !slices.Contains(touched[name], i) {
				touched[name] = append(touched[name], i)
			}
		}
		o.near = append(o.near, [2]int{a, b})
	})
	for layer, names := range segments {
		for _, name := range names {
			if len(touched[name]) > 0 {
				o.layers[layer] = append(o.layers[layer], touched[name]...)
			}
		}
	}
	for name, v := range l.levels {
		o.levels[name] = o.of(v.Layers)
	}
	for _, e := range l.entries {
		all, _ := e.Customizations()
		for _, c := range all {
			if len(o.layers[c.Layer]) > 0 {
				o.above[c.Component] = true
			}
		}
	}
	for name, c := range l.components {
		o.bare[name] = &stack{component: name}
		if level := name + "@" + c.Default; c.Default != "" && (len(o.levels[level]) > 0 || o.above[name]) {
			o.defaults[name] = c.Default
		}
	}
}

// of are the ranges of layers.
func (o *overlaps) of(layers []string) (loads []int) {
	for _, layer := range layers {
		loads = append(loads, o.layers[layer]...)
	}
	return loads
}

// overlap reports whether the ranges are those of different segments and share a megabyte.
func (o *overlaps) overlap(a, b int) bool {
	x, y := o.ranges[a], o.ranges[b]
	return x.from <= y.to && y.from <= x.to && x.Name != y.Name
}

// sweep calls hit for overlapping ranges of different segments: for each range once at
// most, with the one before it that reaches furthest. So every range that overlaps with
// any is in a pair, without there being a pair for any two.
func (o *overlaps) sweep(ranges []int, hit func(a, b int)) {
	furthest := -1
	for _, i := range ranges {
		if furthest >= 0 && o.overlap(furthest, i) {
			hit(furthest, i)
		}
		if furthest < 0 || o.ranges[i].to > o.ranges[furthest].to {
			furthest = i
		}
	}
}

// seeOverlaps notes which overlapping segments the caller loads together: those of the levels
// that its rules give, of the other components' defaults, and of what lies above them.
func (s *survey) seeOverlaps(ctx context.Context, c fleet.Surveyed, stacks map[string]*stack) {
	o := s.overlaps
	if len(o.layers) == 0 || c.Err != nil {
		return
	}
	above := func(component string) ([]string, error) {
		st := stacks[component]
		if st == nil {
			st = o.bare[component]
		}
		if st == nil {
			return nil, &ldapmap.NotFoundError{What: "component", Name: component}
		}
		return st.layers(ctx, s.fleet, c.Caller)
	}
	var loads []int
	views := make(map[string][]int) // of the components in above
	run := func(component, level string) {
		own, known := o.levels[component+"@"+level]
		if !known || len(own) == 0 && !o.above[component] {
			return
		}
		layers, err := above(component)
		if err != nil {
			return // of such a component nothing is loaded
		}
		view := append(slices.Clip(own), o.of(layers)...)
		loads = append(loads, view...)
		if o.above[component] {
			views[component] = view
		}
	}
	decided := make(map[string]bool)
	for _, v := range c.Verdicts {
		decided[v.Component] = true
		if v.Err == nil {
			run(v.Component, v.Winner.Level)
		}
	}
	for component, level := range o.defaults {
		if !decided[component] {
			run(component, level)
		}
	}
	slices.Sort(loads)
	loads = slices.Compact(loads)
	g := guest{Surveyed: fleet.Surveyed{Caller: c.Caller, Index: c.Index}, loads: loads, above: make(map[string][]int)}
	for component := range stacks {
		if c.Caller.Host == "" && o.above[component] && !decided[component] {
			if layers, err := above(component); err == nil {
				g.above[component] = o.of(layers)
			}
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if c.Caller.User == "" {
		o.meet(views)
	}
	if len(g.above) > 0 {
		o.guests = append(o.guests, g) // until it is known what hosts load
		return
	}
	o.sweep(loads, func(a, b int) { o.pair(a, b).add(c) })
}

// meet notes what a host loads with the components that it runs.
func (o *overlaps) meet(views map[string][]int) {
	for component, loads := range views {
		if o.hosts[component] == nil {
			o.hosts[component] = make(map[int]bool)
		}
		for _, i := range loads {
			o.hosts[component][i] = true
		}
	}
}

// visit notes what a user's layers overlap with on hosts: a user without a rule runs what the
// host does, and has layers of its own above it.
func (o *overlaps) visit(g guest) {
	pairs := make(map[[2]int]bool)
	o.sweep(g.loads, func(a, b int) { pairs[[2]int{a, b}] = true })
	for component, own := range g.above {
		there, runs := o.hosts[component]
		if !runs {
			continue
		}
		beside := slices.Concat(own, g.loads, slices.Collect(maps.Keys(there)))
		for _, a := range own {
			for _, b := range beside {
				if o.overlap(a, b) {
					pairs[[2]int{min(a, b), max(a, b)}] = true
				}
			}
		}
	}
	for pair := range pairs {
		o.pair(pair[0], pair[1]).add(g.Surveyed)
	}
}

// pair is who loads both ranges.
func (o *overlaps) pair(a, b int) *crowd {
	pair := [2]int{a, b}
	if o.pairs[pair] == nil {
		o.pairs[pair] = new(crowd)
	}
	return o.pairs[pair]
}

// overlapping reports the overlaps, when all callers have been seen.
func (l *linter) overlapping() {
	o := l.overlaps
	for _, g := range o.guests {
		o.visit(g)
	}
	report := func(code finding.Code, pair [2]int, who string) {
		a, b := o.ranges[pair[0]], o.ranges[pair[1]]
		l.add(code, l.layers[b.layer].entry, fmt.Sprintf("segments %q (%s) of layer %q and %q (%s) of layer %q overlap%s",
			a.Name, a.Range, a.layer, b.Name, b.Range, b.layer, who),
			fmt.Sprintf("levelfs segment plan finds other pages for %s", b.Name))
	}
	for pair, c := range o.pairs {
		report(finding.OverlapTogether, pair, fmt.Sprintf(", and %s both", c.verb("loads", "load")))
	}
	for _, pair := range o.near {
		if o.pairs[pair] == nil {
			report(finding.Overlap, pair, "")
		}
	}
}
