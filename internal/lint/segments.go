package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/segment"
)

const (
	// Two segments of one guest must not have a megabyte in common.
	pagesPerMega = 1 << 20 / segment.PageSize
	// Linux maps devices for DAX in these units.
	pagesPerUnit = segment.Unit / segment.PageSize
)

// segments checks the segments of layers: their names, and their places in the address
// space, which all guests share out among the segments by hand.
func (l *linter) segments() {
	o := &overlaps{segments: make(map[string][]string), pairs: make(map[[2]int]*crowd)}
	l.overlaps = o
	holder := make(map[string]layer) // of a segment, the first
	for _, y := range l.sortedLayers() {
		ranges := l.ranges(y)
		for _, value := range y.Segments {
			l.segment(y, value, ranges)
			for name := range strings.SplitSeq(strings.ToUpper(value), ":") {
				other, taken := holder[name]
				switch {
				case !taken:
					holder[name] = y
				case other.Digest != y.Digest:
					l.add(finding.SegmentContent, y.entry, fmt.Sprintf("segment %q is that of layer %q as well, which has another digest", name, other.Name),
						fmt.Sprintf("correct %q", "levelfsSegment: "+value))
				}
				if !slices.Contains(o.segments[y.Name], name) {
					o.segments[y.Name] = append(o.segments[y.Name], name)
				}
			}
		}
		for _, r := range ranges {
			if holder[r.Name].Name == y.Name { // two layers may share a segment, which is there once then
				o.ranges = append(o.ranges, placed{r, y.Name, r.Range.Begin / pagesPerMega, r.Range.End / pagesPerMega})
			}
		}
	}
	slices.SortStableFunc(o.ranges, func(a, b placed) int { return cmp.Compare(a.from, b.from) })
	l.loaders()
}

// loaders find out which levels load a segment that overlaps with another one.
func (l *linter) loaders() {
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
	o.loads, o.defaults = make(map[string][]int), make(map[string][]int)
	for level, v := range l.levels {
		var loads []int
		for _, y := range v.Layers {
			for _, name := range o.segments[y] {
				loads = append(loads, touched[name]...)
			}
		}
		if len(loads) > 0 {
			o.loads[level] = loads
		}
	}
	for name, c := range l.components {
		if loads := o.loads[name+"@"+c.Default]; len(loads) > 0 {
			o.defaults[name] = loads
		}
	}
}

// sweep calls hit for overlapping ranges of different segments: for each range once at
// most, with the one before it that reaches furthest. So every range that overlaps with
// any is in a pair, without there being a pair for any two.
func (o *overlaps) sweep(ranges []int, hit func(a, b int)) {
	furthest := -1
	for _, i := range ranges {
		if furthest >= 0 && o.ranges[i].from <= o.ranges[furthest].to && o.ranges[i].Name != o.ranges[furthest].Name {
			hit(furthest, i)
		}
		if furthest < 0 || o.ranges[i].to > o.ranges[furthest].to {
			furthest = i
		}
	}
}

// see notes which overlapping segments the caller loads together: those of the levels
// that its rules give, and of the other components' defaults.
func (o *overlaps) see(s fleet.Surveyed) {
	if len(o.loads) == 0 || s.Err != nil {
		return
	}
	var loads []int
	decided := make(map[string]bool)
	for _, v := range s.Verdicts {
		if v.Err == nil && decides(s.Caller, v) {
			decided[v.Component] = true
			loads = append(loads, o.loads[v.Component+"@"+v.Winner.Level]...)
		}
	}
	for component, more := range o.defaults {
		if !decided[component] {
			loads = append(loads, more...)
		}
	}
	slices.Sort(loads)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sweep(slices.Compact(loads), func(a, b int) {
		pair := [2]int{a, b}
		if o.pairs[pair] == nil {
			o.pairs[pair] = new(crowd)
		}
		o.pairs[pair].add(s)
	})
}

// overlapping reports the overlaps, when all callers have been seen.
func (l *linter) overlapping() {
	o := l.overlaps
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

// ranges are the page ranges of the layer's segments.
func (l *linter) ranges(y layer) []segment.Segment {
	var ranges []segment.Segment
	parts := make(map[string]bool)
	for _, value := range y.Segments {
		for name := range strings.SplitSeq(strings.ToUpper(value), ":") {
			parts[name] = true
		}
	}
	for _, value := range y.Attrs["levelfsrange"] {
		r, err := segment.ParseSegment(value)
		switch {
		case err != nil:
			l.add(finding.Invalid, y.entry, fmt.Sprintf("levelfsRange: invalid value %q: %v", value, err),
				fmt.Sprintf("correct %q", "levelfsRange: "+value))
		case !parts[r.Name]:
			l.add(finding.RangeOfNothing, y.entry, fmt.Sprintf("%q is no range of a segment of layer %q", value, y.Name),
				fmt.Sprintf("correct %q, or add %q", "levelfsRange: "+value, "levelfsSegment: "+r.Name))
		default:
			ranges = append(ranges, r)
		}
	}
	slices.SortFunc(ranges, func(a, b segment.Segment) int { return cmp.Compare(a.Range.Begin, b.Range.Begin) })
	return ranges
}

// segment checks the ranges of one segment, or of several that are loaded as one. Where
// the range of one is not given nothing can be said.
func (l *linter) segment(y layer, value string, all []segment.Segment) {
	names := strings.Split(strings.ToUpper(value), ":")
	known := make(map[string]bool)
	var ranges []segment.Segment
	for _, r := range all {
		if slices.Contains(names, r.Name) {
			known[r.Name] = true
			ranges = append(ranges, r)
		}
	}
	if len(known) < len(names) {
		return
	}
	var bytes int64
	for i, r := range ranges {
		bytes += r.Range.Bytes()
		if i == 0 {
			continue
		}
		if last := ranges[i-1].Range.End; r.Range.Begin > last+1 {
			l.add(finding.NotAdjoining, y.entry, fmt.Sprintf("segment %q has no pages between %X and %X", value, last, r.Range.Begin),
				fmt.Sprintf("DEFSEG %s %s", r.Name, segment.Range{Begin: last + 1, End: last + 1 + r.Range.End - r.Range.Begin}))
		}
	}
	begin, pages := ranges[0].Range.Begin, bytes/segment.PageSize
	if bytes < y.Size {
		room := roundUp((y.Size + segment.PageSize - 1) / segment.PageSize)
		l.add(finding.RangeTooSmall, y.entry, fmt.Sprintf("segment %q has %d bytes, and layer %q %d", value, bytes, y.Name, y.Size),
			fmt.Sprintf("DEFSEG %s %s", names[0], segment.Range{Begin: begin, End: begin + room - 1}))
	}
	if begin%pagesPerUnit != 0 || pages%pagesPerUnit != 0 {
		from := roundUp(begin)
		l.add(finding.NotAligned, y.entry, fmt.Sprintf("segment %q begins at page %X and has %X pages, which are no multiples of %X", value, begin, pages, pagesPerUnit),
			fmt.Sprintf("DEFSEG %s %s", names[0], segment.Range{Begin: from, End: from + roundUp(pages) - 1}))
	}
}

// roundUp is the next number of pages that DAX takes.
func roundUp(pages int64) int64 { return (pages + pagesPerUnit - 1) / pagesPerUnit * pagesPerUnit }

// overlaps are the segments that share a megabyte with another one, and who loads both.
type overlaps struct {
	ranges   []placed            // by where they begin
	segments map[string][]string // layer -> the names of its segments
	near     [][2]int            // pairs of ranges that overlap
	loads    map[string][]int    // level -> those of its ranges that overlap with any, ascending
	defaults map[string][]int    // component -> those of its default

	mu    sync.Mutex
	pairs map[[2]int]*crowd // of ranges that a caller loads both of
}

// A placed range says in which megabytes a segment lies.
type placed struct {
	segment.Segment
	layer    string // the first that has it
	from, to int64  // megabytes; the last one is part of it
}
