package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/finding"
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
	o := newOverlaps()
	l.overlaps = o
	segments := make(map[string][]string) // layer -> the names of its segments
	holder := make(map[string]layer)      // of a segment, the first
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
				if !slices.Contains(segments[y.Name], name) {
					segments[y.Name] = append(segments[y.Name], name)
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
	l.loaders(segments)
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
