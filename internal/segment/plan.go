package segment

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A Layer is what the inventory says about a layer, as far as segments go.
type Layer struct {
	Name   string
	DN     string
	FSType string
	Image  string // the first of its locations, "" if it has none
	Size   int64  // bytes; 0 if the inventory does not say
	Levels []string
	// Devices are the names of the segments of each device that holds the layer,
	// usually of one (levelfsSegment); Segments are the pages of those of which they
	// are known (levelfsRange).
	Devices  [][]string
	Segments []Segment
}

// An Assignment says where a layer lies.
type Assignment struct {
	Layer    string    `json:"layer"`
	DN       string    `json:"dn"`
	Image    string    `json:"image,omitempty"`
	Size     int64     `json:"size"` // bytes of the image
	Levels   []string  `json:"levels"`
	Segments []Segment `json:"segments"` // of one device, contiguous and in the order of their addresses
	// New says that the inventory does not have it so, and Why, what it lacks.
	New bool   `json:"new"`
	Why string `json:"why,omitempty"`
}

// Device is what the driver is told to load, A or A:B, and what the inventory calls the
// device.
func (a Assignment) Device() string {
	names := make([]string, len(a.Segments))
	for i, s := range a.Segments {
		names[i] = s.Name
	}
	return strings.Join(names, ":")
}

// Range is all of the device's pages.
func (a Assignment) Range() Range {
	return Range{a.Segments[0].Range.Begin, a.Segments[len(a.Segments)-1].Range.End}
}

// Options are the choices of one [Plan].
type Options struct {
	// Range is where segments may lie. The zero Range stands for DefaultRange.
	Range Range
	// Together, if not nil, says of two layers whether one guest may use both; those of
	// which it does not may have the same addresses. nil: all get their own.
	Together func(a, b string) bool
}

// A FullError is a range that is too small.
type FullError struct {
	Range   Range
	Layers  []string // that found no place
	Missing int64    // bytes that they need
}

func (e *FullError) Error() string {
	return fmt.Sprintf("no place in the page range %s for %s: %d MiB are missing", e.Range, strings.Join(e.Layers, ", "), e.Missing>>20)
}

// Plan gives each of the layers a place, sorted by name. Places that the inventory has
// are kept where they keep the rules (see the package's documentation). The others are
// the rest of the inventory's layers: nothing new gets their names and pages, whether or
// not anybody is known to use them, nor the old pages of a layer that cannot stay.
//
// The error joins those of all layers: of what the inventory does not say, and an
// *[FullError].
func Plan(layers, others []Layer, o Options) ([]Assignment, error) {
	if o.Range == (Range{}) {
		o.Range = DefaultRange()
	}
	p := &planner{Options: o, names: make(map[string]string)}
	layers = slices.Clone(layers)
	slices.SortFunc(layers, func(a, b Layer) int { return cmp.Compare(a.Name, b.Name) })
	var errs []error
	for _, l := range layers {
		if l.Size <= 0 {
			errs = append(errs, fmt.Errorf("layer %q (%s) has no levelfsSize", l.Name, l.DN))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, l := range others {
		p.take(l)
	}
	var fresh []Layer
	for _, l := range layers {
		a := Assignment{Layer: l.Name, DN: l.DN, Image: l.Image, Size: l.Size, Levels: l.Levels}
		if a.Segments, a.Why = p.keep(l); a.Why != "" {
			a.New = true
			fresh = append(fresh, l)
		}
		p.plan = append(p.plan, a)
	}
	for _, l := range fresh { // after all that stay, which have the older right to their names
		p.take(l)
	}
	if p.Together != nil {
		// First fit leaves fewer gaps if the large ones come first.
		slices.SortStableFunc(fresh, func(a, b Layer) int { return cmp.Compare(b.Size, a.Size) })
	}
	full := &FullError{Range: o.Range}
	for _, l := range fresh {
		if !p.place(l) {
			full.Layers = append(full.Layers, l.Name)
			full.Missing += roundUp(l.Size, Unit)
		}
	}
	if full.Layers != nil {
		return nil, full
	}
	return p.plan, nil
}

type planner struct {
	Options
	names map[string]string // segment -> layer that has the name
	taken []taken           // by layers that are not planned, and what is left behind
	plan  []Assignment      // by layer
}

// taken is a range that nothing new gets.
type taken struct {
	layer string
	Range
}

// take makes the layer's names and pages unavailable to others.
func (p *planner) take(l Layer) {
	for _, names := range l.Devices {
		for _, name := range names {
			p.name(name, l.Name)
		}
	}
	for _, s := range l.Segments {
		p.name(s.Name, l.Name)
		p.taken = append(p.taken, taken{l.Name, s.Range})
	}
}

func (p *planner) name(name, layer string) {
	if p.names[name] == "" {
		p.names[name] = layer
	}
}

// together reports whether one guest may use both layers.
func (p *planner) together(a, b string) bool { return p.Together == nil || p.Together(a, b) }

// keep returns the segments that the inventory has for the layer, or why they cannot
// stay.
func (p *planner) keep(l Layer) ([]Segment, string) {
	why := "no segment yet"
	for _, names := range l.Devices {
		segments, reason := l.device(names)
		if n := Parts(l.Size); reason != "" && len(names) != n {
			reason = fmt.Sprintf("it needs %d, and the inventory names %d: %s", n, len(names), strings.Join(names, ":"))
		}
		if reason == "" {
			reason = p.refuse(l, segments)
		}
		if reason == "" {
			l.Segments = slices.DeleteFunc(slices.Clone(l.Segments), func(s Segment) bool { return slices.Contains(segments, s) })
			p.take(l) // what it has besides
			return segments, ""
		}
		why = reason
	}
	return nil, why
}

// device finds the pages of the segments, in the order of their addresses.
func (l Layer) device(names []string) ([]Segment, string) {
	var segments []Segment
	for _, name := range names {
		i := slices.IndexFunc(l.Segments, func(s Segment) bool { return s.Name == name })
		if i < 0 {
			return nil, "no pages of " + name + " yet"
		}
		segments = append(segments, l.Segments[i])
	}
	slices.SortFunc(segments, func(a, b Segment) int { return cmp.Compare(a.Range.Begin, b.Range.Begin) })
	return segments, ""
}

// refuse says why a device cannot stay, "" if it can.
func (p *planner) refuse(l Layer, segments []Segment) string {
	whole := Assignment{Segments: segments}.Range()
	if whole.Begin%unitPages != 0 || (whole.End+1)%unitPages != 0 {
		return whole.String() + " does not begin and end at 2 MiB"
	}
	if whole.Begin < p.Range.Begin || whole.End > p.Range.End {
		return whole.String() + " lies outside of " + p.Range.String()
	}
	if whole.Bytes() < l.Size {
		return whole.String() + " is smaller than the image"
	}
	next := whole.Begin
	for _, s := range segments {
		switch {
		case p.names[s.Name] != "":
			return fmt.Sprintf("%s is also a segment of layer %s", s.Name, p.names[s.Name])
		case s.Range.Begin != next:
			return s.Name + " is not contiguous to the one before it"
		case s.Range.Bytes() > 2047<<20:
			return s.Name + " has more than 2047 MiB"
		}
		next = s.Range.End + 1
	}
	for _, t := range p.taken {
		if p.together(t.layer, l.Name) && t.Collides(whole) {
			return fmt.Sprintf("%s overlaps layer %s", whole, t.layer)
		}
	}
	for _, a := range p.plan {
		if a.Segments != nil && p.together(a.Layer, l.Name) && a.Range().Collides(whole) {
			return fmt.Sprintf("%s overlaps layer %s", whole, a.Layer)
		}
	}
	return ""
}

// place gives the layer the lowest pages that nobody has who may be there with it.
func (p *planner) place(l Layer) bool {
	var busy []Range
	for _, t := range p.taken {
		busy = append(busy, t.Range)
	}
	for _, a := range p.plan {
		if a.Segments != nil && p.together(a.Layer, l.Name) {
			busy = append(busy, a.Range())
		}
	}
	slices.SortFunc(busy, func(a, b Range) int { return cmp.Compare(a.Begin, b.Begin) })
	pages := roundUp(l.Size, Unit) / PageSize
	begin := roundUp(p.Range.Begin, unitPages)
	for _, r := range busy {
		if r.Collides(Range{begin, begin + pages - 1}) {
			begin = roundUp(r.End+1, unitPages) // a whole number of megabytes
		}
	}
	if begin+pages-1 > p.Range.End {
		return false
	}
	i, _ := slices.BinarySearchFunc(p.plan, l.Name, func(a Assignment, name string) int { return cmp.Compare(a.Layer, name) })
	a := &p.plan[i]
	for n, name := range p.namesFor(l, Parts(l.Size)) {
		from := begin + int64(n)*maxPages
		a.Segments = append(a.Segments, Segment{name, Range{from, min(from+maxPages, begin+pages) - 1}})
	}
	return true
}

// namesFor returns names for the segments of a layer: those that somebody chose for it
// if there are no pages to them yet, or made of the layer's name.
func (p *planner) namesFor(l Layer, n int) []string {
	for _, names := range l.Devices {
		mine := func(name string) bool {
			return p.names[name] == l.Name && !slices.ContainsFunc(l.Segments, func(s Segment) bool { return s.Name == name })
		}
		if len(names) == n && !slices.ContainsFunc(names, func(name string) bool { return !mine(name) }) {
			return names
		}
	}
	// A segment is never defined anew under the name of an old one: CP would keep both,
	// and who loaded which would be hard to tell.
	names := make([]string, n)
	base := baseName(l.Name)
	for i := range names {
		names[i] = p.freeName(base, i, n)
		p.names[names[i]] = l.Name
	}
	return names
}

// freeName returns a name that nobody has for part i of n: the base, its parts
// distinguished by a letter, and if that is taken, with a number in its place.
func (p *planner) freeName(base string, i, n int) string {
	suffix := ""
	if n > 1 {
		suffix = string(letters[i%len(letters)])
	}
	for count := 0; ; count++ {
		s := suffix
		if count > 0 {
			s = number(count) + suffix
		}
		name := base[:min(len(base), 8-len(s))] + s
		if p.names[name] == "" && !reserved(name) {
			return name
		}
	}
}

// number writes a number in letters and digits, briefly.
func number(n int) string {
	return strings.ToUpper(strconv.FormatInt(int64(n), 36))
}

// reserved reports whether CP commands about segments take the name for a keyword.
func reserved(name string) bool {
	return slices.Contains([]string{"ALL", "ASSOCIAT", "FILES", "MAP", "NAME", "NSS", "USERS"}, name)
}

// baseName makes a segment's name of a layer's: EMACS294 of emacs-29.4. Of a longer one
// the version is kept, which is what differs, and the rest gives way: OPE17091 of
// openjdk-17.0.9-1. The first character is a letter: CP takes a number for a spool file.
func baseName(layer string) string {
	word, version, _ := strings.Cut(layer, "-")
	// What follows a hyphen belongs to the name until there is a digit: gcc-libs-13.
	for version != "" && (version[0] < '0' || version[0] > '9') {
		part, rest, _ := strings.Cut(version, "-")
		word, version = word+part, rest
	}
	word, version = plain(word), plain(version)
	if word == "" || !strings.Contains(letters, word[:1]) {
		word = "L" + word
	}
	version = version[:min(len(version), 5)]
	return word[:min(len(word), 8-len(version))] + version
}

// plain drops what cannot be in a segment's name.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if !strings.ContainsRune(alphanumeric, c) {
			return -1
		}
		return c
	}, strings.ToUpper(s))
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
