package ldapmap

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Kinds of layers: on whose part they are. A level is made of the vendor's; those of the
// other kinds are stacked above levels for some callers, and are called customisation
// layers.
const (
	KindVendor = "vendor"
	KindSite   = "site"
	KindGroup  = "group" // of hosts or of users
	KindHost   = "host"
	KindUser   = "user"
)

// Kinds are all kinds of layers, the lowest first.
func Kinds() []string { return []string{KindVendor, KindSite, KindGroup, KindHost, KindUser} }

const wantKind = "vendor, site, group, host or user"

// A Customization is one value that puts a layer above the levels of a component.
type Customization struct {
	Component string
	Order     int // among those of one rank; the lowest is topmost
	Layer     string
}

// String is the customization as it is written: COMPONENT=NN:LAYER.
func (c Customization) String() string {
	return fmt.Sprintf("%s=%02d:%s", c.Component, c.Order, c.Layer)
}

// ParseCustomization reads COMPONENT=NN:LAYER.
func ParseCustomization(s string) (Customization, bool) {
	component, rest, _ := strings.Cut(s, "=")
	num, layer, _ := strings.Cut(rest, ":")
	n, err := strconv.ParseUint(num, 10, 16)
	c := Customization{Component: component, Order: int(n), Layer: layer}
	return c, err == nil && validComponent(component) && ValidLayer(layer)
}

// Customizations are the layers that a caller, a profile or a component puts above levels,
// and an *InvalidError for each value that is none.
func (e Entry) Customizations() (all []Customization, invalid []error) {
	for _, v := range e.Attrs[strings.ToLower(attrCustomize)] {
		c, ok := ParseCustomization(v)
		if !ok {
			invalid = append(invalid, e.invalid(attrCustomize, v, wantCustomization))
			continue
		}
		all = append(all, c)
	}
	return all, invalid
}

const wantCustomization = "COMPONENT=NN:LAYER"

// customizations are those of one component, or of all if it is "": what is none is left
// out then, as it would stand in the way of all of them.
func (e Entry) customizations(component string) ([]Customization, error) {
	var found []Customization
	for _, v := range e.Attrs[strings.ToLower(attrCustomize)] {
		name, _, _ := strings.Cut(v, "=")
		if component != "" && name != component {
			continue
		}
		c, ok := ParseCustomization(v)
		if !ok && component != "" {
			return nil, e.invalid(attrCustomize, v, wantCustomization)
		}
		if ok {
			found = append(found, c)
		}
	}
	return found, nil
}

// An Addition is a Customization that bears on a caller: it puts a layer above the level
// that the caller runs, whichever that is.
type Addition struct {
	Rank   string   `json:"rank"`          // see the Rank constants; all site layers have RankSite
	Source string   `json:"source"`        // the Source's name
	DN     string   `json:"dn"`            // the entry that says it
	Via    []string `json:"via,omitempty"` // profiles on the way, outermost first
	Order  int      `json:"order"`
	Layer  string   `json:"layer"`
	Kind   string   `json:"kind,omitempty"` // of the layer; "" where it is not known
	Used   bool     `json:"used"`           // this is where the layer lies
	Reason string   `json:"reason"`         // why it is used or not

	source    int // index of the Source
	component string
}

func (a Addition) origin() string { return Rule{DN: a.DN, Via: a.Via}.origin() }

// Component is the component above whose levels it is.
func (a Addition) Component() string { return a.component }

// OfUser reports whether it is about a user, and not about a host or everybody.
func (a Addition) OfUser() bool { return rankOf(a.Rank) < rankOf(RankHost) }

// Reasons of additions.
const (
	ReasonAdded   = "adds to what the others say"
	ReasonReached = "the layer is there by a rule above"
)

// fits is the kind of layers that an entry of the rank may refer to, directly or through
// its profiles. Any profile may have site layers besides.
func fits(rank string) string {
	switch rank {
	case RankUser, RankUserProfile:
		return KindUser
	case RankHost, RankHostProfile:
		return KindHost
	case RankSite:
		return KindSite
	}
	return KindGroup
}

// A KindError is a layer in a place that is for layers of other kinds.
type KindError struct {
	Layer, Kind string
	By          string // the entry that refers to it, with the profiles on the way
	Want        string // the kind that it takes
}

func (e *KindError) Error() string {
	return fmt.Sprintf("layer %q is of kind %s, and %q, which refers to it, takes those of kind %s", e.Layer, e.Kind, e.By, e.Want)
}

// An OrderError is two layers with one number at the same rank of one source: nothing says
// which is above the other.
type OrderError struct {
	Component string
	A, B      Addition
}

func (e *OrderError) Error() string {
	return fmt.Sprintf("two layers above %q at rank %q with the number %02d: %q by %q and %q by %q",
		e.Component, e.A.Rank, e.A.Order, e.A.Layer, e.A.origin(), e.B.Layer, e.B.origin())
}

// stack orders what is added above the levels of a component and finds the layers, topmost
// first. find returns the layer of a name to which an entry refers, or an error.
//
// All of them add up, those of each rank above those of the ranks after it, at one rank
// those of an earlier source above a later one's, and then by their numbers. A layer that
// is reached in several ways is there once, as high as one of them says.
func stack(component string, additions []Addition, find func(name, by string) (Layer, error)) ([]Layer, []Addition, error) {
	inOrder := func(a, b Addition) int {
		return cmp.Or(a.place(b), cmp.Compare(a.DN, b.DN), slices.Compare(a.Via, b.Via), cmp.Compare(a.Layer, b.Layer))
	}
	// Entries come in any order, and what is wrong is said of the same one each time.
	additions = slices.SortedFunc(slices.Values(additions), inOrder)
	layers := make(map[string]Layer)
	for i := range additions {
		a := &additions[i]
		layer, err := find(a.Layer, a.origin())
		if err != nil {
			return nil, additions, err
		}
		layers[a.Layer], a.Kind = layer, layer.Kind
		if len(a.Via) > 0 && layer.Kind == KindSite {
			a.Rank = RankSite
		}
		if want := fits(a.Rank); want != layer.Kind {
			if len(a.Via) > 0 {
				want += " and " + KindSite
			}
			return nil, additions, &KindError{Layer: a.Layer, Kind: layer.Kind, By: a.origin(), Want: want}
		}
	}
	slices.SortFunc(additions, inOrder) // once more, as some are the site's
	var above []Layer
	seen := make(map[string]bool)
	for i := range additions {
		a := &additions[i]
		if i > 0 {
			if before := additions[i-1]; a.place(before) == 0 && a.Layer != before.Layer {
				return nil, additions, &OrderError{Component: component, A: before, B: *a}
			}
		}
		if a.Used, a.Reason = !seen[a.Layer], ReasonAdded; seen[a.Layer] {
			a.Reason = ReasonReached
			continue
		}
		seen[a.Layer] = true
		above = append(above, layers[a.Layer])
	}
	return above, additions, nil
}

// place is negative if the layer of a lies above that of b, 0 if nothing says which does.
func (a Addition) place(b Addition) int {
	return cmp.Or(cmp.Compare(rankOf(a.Rank), rankOf(b.Rank)), cmp.Compare(a.source, b.source), cmp.Compare(a.Order, b.Order))
}

// customized reports whether the caller's layers are part of the answer. A level that is
// asked for by its name is given as it was delivered.
func (q Query) customized() bool {
	return q.Key.Component != "" && (q.Key.Level == "" || q.Customized)
}

// additions are what the caller's entries, their groups and profiles, and the component's
// own say of the component, in no particular order; of all components if the lookup is
// about all of them.
func (l *lookup) additions() (all []Addition, err error) {
	component := l.query.Key.Component
	if !slices.ContainsFunc(l.found, found.customizes) {
		return nil, nil // as in most inventories
	}
	for i, f := range l.found {
		for _, who := range f.speakers() {
			for _, e := range who.entries {
				if all, err = l.added(all, i, e, component, who.direct, who.byProfile); err != nil {
					return all, err
				}
			}
		}
		for _, e := range f.components {
			if slices.Contains(e.Attrs["cn"], component) {
				if all, err = l.added(all, i, e, component, RankSite, RankSite); err != nil {
					return all, err
				}
			}
		}
	}
	return all, nil
}

// customizes reports whether an entry adds anything above levels.
func (f found) customizes() bool {
	for _, entries := range [][]Entry{f.users, f.hosts, f.userGroups, f.hostGroups, f.profiles, f.components} {
		for _, e := range entries {
			if len(e.Attrs[strings.ToLower(attrCustomize)]) > 0 {
				return true
			}
		}
	}
	return false
}

// added appends what one entry adds, directly and through its profiles.
func (l *lookup) added(all []Addition, source int, e Entry, component, direct, byProfile string) ([]Addition, error) {
	add := func(via []string, rank string, from Entry) error {
		customizations, err := from.customizations(component)
		for _, c := range customizations {
			all = append(all, Addition{Rank: rank, Source: l.sources[source].Name(), DN: e.DN, Via: via,
				Order: c.Order, Layer: c.Layer, source: source, component: c.Component})
		}
		return err
	}
	if err := add(nil, direct, e); err != nil {
		return all, err
	}
	err := l.walkProfiles(e, nil, make(map[string]bool), func(via []string, profile Entry) error {
		return add(via, byProfile, profile)
	})
	return all, err
}

// above finds the layers that lie above the level, and why they do.
func (l *lookup) above(res *Resolution) error {
	if !l.query.customized() {
		return nil
	}
	additions, err := l.additions()
	if err != nil {
		return err
	}
	res.Above, res.Additions, err = stack(res.Component.Name, additions, l.layer)
	return err
}

// Above is Resolve for what lies above the levels of the component of the query's key: the
// layers, topmost first, or why nothing can lie there. Which level it is does not matter, nor
// whether there is one.
func (r *Resolver) Above(ctx context.Context, q Query) ([]Layer, error) {
	l := newLookup(q, r.Sources)
	if err := l.gather(ctx); err != nil {
		return nil, err
	}
	if err := l.moreLayers(ctx); err != nil {
		return nil, err
	}
	res := &Resolution{Component: Component{Name: q.Key.Component}}
	err := l.above(res)
	return res.Above, err
}

// delivered finds the layers of the level itself, all of which are the vendor's.
func (l *lookup) delivered(res *Resolution) error {
	for _, name := range res.Level.Layers {
		layer, err := l.layer(name, res.Level.DN)
		if err != nil {
			return err
		}
		if layer.Kind != KindVendor {
			return &KindError{Layer: name, Kind: layer.Kind, By: res.Level.DN, Want: KindVendor}
		}
		res.Layers = append(res.Layers, layer)
	}
	return res.Level.checkSeal(res.Layers)
}

// newLayers returns the layers that something found so far refers to and that were not
// asked for yet, and takes them as asked: those of levels, and those that go above them.
func (l *lookup) newLayers() []string {
	var names []string
	add := func(name string) {
		if !l.askedLayers[name] && ValidLayer(name) {
			l.askedLayers[name] = true
			names = append(names, name)
		}
	}
	for _, f := range l.found {
		for _, e := range f.levels {
			for _, ref := range e.Attrs["levelfslayerref"] {
				if _, name, ok := strings.Cut(ref, ":"); ok {
					add(name)
				}
			}
		}
		if !l.query.customized() {
			continue
		}
		for _, e := range slices.Concat(f.users, f.hosts, f.userGroups, f.hostGroups, f.profiles, f.components) {
			customizations, _ := e.customizations(l.query.Key.Component) // what is wrong with it is said later
			for _, c := range customizations {
				add(c.Layer)
			}
		}
	}
	return names
}

// moreLayers asks for the layers that only groups and profiles refer to: they are not
// known before the second search.
func (l *lookup) moreLayers(ctx context.Context) error {
	return l.byName(ctx, classLayer, l.newLayers(), func(f *found, e Entry) { f.layers = append(f.layers, e) })
}
