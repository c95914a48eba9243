package edit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// maxLayers is how many layers overlayfs takes.
const maxLayers = 500

// Publish makes a level, and what it needs: layers that come with it, and the
// component if it is new.
type Publish struct {
	Key         ldapmap.Key
	Layers      []string        // names, topmost first
	NewLayers   []ldapmap.Entry // as "levelfs layer build" prints them
	State       string          // draft or test
	Packages    []string
	NotBefore   time.Time
	NotAfter    time.Time
	Description string
	// Create allows for a component that is not there yet.
	Create     bool
	MountPoint string // of a new component
	Private    string // of a new component
	Where
}

// Terms implements [Intention].
func (Publish) Terms() []ldapmap.Term { return nil }

// A NewComponentError is a component that is not there, and that nobody said was new.
type NewComponentError struct{ Name string }

func (e *NewComponentError) Error() string {
	return fmt.Sprintf("no component %q in the inventory", e.Name)
}

// A DigestError is a layer whose name another image has.
type DigestError struct {
	Layer, DN string
	Got, Want string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("layer %q is there with another image: %q has %s, not %s", e.Layer, e.DN, orDash(e.Want), orDash(e.Got))
}

// Steps implements [Intention]. A layer that is there with the same digest is used as
// it is; a level that is there is never changed.
func (p Publish) Steps(inv Inventory) ([]Step, error) {
	components := inv.called(ldapmap.IsComponent, p.Key.Component)
	if len(components) == 0 && !p.Create {
		return nil, &NewComponentError{Name: p.Key.Component}
	}
	source, err := inv.source(p.Where, fmt.Sprintf("component %q", p.Key.Component), components)
	if err != nil {
		return nil, err
	}
	// cn ignores case, and so do directory servers.
	for _, h := range inv.search(ldapmap.IsLevel) {
		if hasFold(h.entry.Attrs["cn"], p.Key.String()) {
			return nil, &ExistsError{Kind: "level", Name: p.Key.String(), DN: h.entry.DN}
		}
	}
	steps, layers, err := p.layers(inv, source)
	if err != nil {
		return nil, err
	}
	component, found, err := oneOf(components, source, p.Key.Component)
	if err != nil {
		return nil, err
	}
	below := component.entry.DN
	switch {
	case !found && !p.Create:
		return nil, &AbsentError{Kind: "component", Name: p.Key.Component, Source: inv.Sources()[source].Name()}
	case found && (p.MountPoint != "" || p.Private != ""):
		return nil, fmt.Errorf("component %q is there already: its mount point and private policy are not changed", p.Key.Component)
	case !found:
		step, err := p.component(inv, source)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
		below = step.DN
	}
	level, err := p.level(below, source, layers)
	if err != nil {
		return nil, err
	}
	return append(steps, level), nil
}

// layers are the steps that make the new layers, and the names of all.
func (p Publish) layers(inv Inventory, source int) ([]Step, []string, error) {
	names := slices.Clone(p.Layers)
	var steps []Step
	made := make(map[string]bool)
	for _, e := range p.NewLayers {
		l, err := newLayer(e)
		if err != nil {
			return nil, nil, err
		}
		if made[l.Name] {
			return nil, nil, fmt.Errorf("layer %q comes twice", l.Name)
		}
		made[l.Name] = true
		if !slices.Contains(names, l.Name) {
			names = append(names, l.Name)
		}
		if l.Kind != ldapmap.KindVendor {
			return nil, nil, p.misplaced(l)
		}
		step, add, err := inv.addLayer(e, l, source)
		if err != nil {
			return nil, nil, err
		}
		if add {
			steps = append(steps, step)
		}
	}
	for _, name := range names {
		hits := inv.called(ldapmap.IsLayer, name)
		switch {
		case made[name]:
		case len(hits) == 0:
			return nil, nil, &ldapmap.NotFoundError{What: "layer", Name: name}
		default:
			// One that cannot be decoded is refused when the level is asked for.
			if l, err := hits[0].entry.Layer(); err == nil && l.Kind != ldapmap.KindVendor {
				return nil, nil, p.misplaced(l)
			}
		}
	}
	if len(names) == 0 || len(names) > maxLayers {
		return nil, nil, fmt.Errorf("level %q would have %d layers: want 1 to %d", p.Key, len(names), maxLayers)
	}
	return steps, names, nil
}

// misplaced is why a level cannot be made of a customisation layer.
func (p Publish) misplaced(l ldapmap.Layer) error {
	return &ldapmap.KindError{Layer: l.Name, Kind: l.Kind, By: p.Key.String(), Want: ldapmap.KindVendor}
}

// sameLayer reports whether the layer is there, with the same image.
func sameLayer(inv Inventory, l ldapmap.Layer) (bool, error) {
	for _, h := range inv.search(ldapmap.IsLayer) {
		if !hasFold(h.entry.Attrs["cn"], l.Name) {
			continue
		}
		old, err := h.entry.Layer()
		if err != nil {
			return false, err
		}
		if old.Name != l.Name || old.Digest != l.Digest || old.FSType != l.FSType {
			return false, &DigestError{Layer: l.Name, DN: h.entry.DN, Got: l.Digest, Want: old.Digest}
		}
		if old.Kind != l.Kind {
			return false, fmt.Errorf("layer %q is there as one of kind %s, and not %s: %q", l.Name, old.Kind, l.Kind, h.entry.DN)
		}
		return true, nil
	}
	return false, nil
}

// users are the components with levels that refer to the layer.
func (inv Inventory) users(layer string) []string {
	var components []string
	for _, h := range inv.search(ldapmap.IsLevel) {
		for _, ref := range h.entry.Attrs["levelfslayerref"] {
			if _, name, _ := strings.Cut(ref, ":"); name == layer {
				component, _, _ := strings.Cut(h.entry.First("cn"), "@")
				components = append(components, component)
			}
		}
	}
	return components
}

// spelled are the attributes that a layer's entry may have, as the schema writes them.
func spelled() []string {
	return []string{"objectClass", "cn", "levelfsFSType", "levelfsDigest", "levelfsSize", "levelfsUUID", "levelfsArch",
		"levelfsSegment", "levelfsRange", "levelfsImage", "levelfsXIP", "levelfsManifest", "levelfsKind", "description"}
}

// component makes the component.
func (p Publish) component(inv Inventory, source int) (Step, error) {
	dn, err := inv.newEntry(p.Key.Component, source, p.In, "component", ldapmap.IsComponent)
	if err != nil {
		return Step{}, err
	}
	step := Step{Source: source, DN: dn, Verb: VerbCreate, New: p.Key.Component, Components: []string{p.Key.Component}}
	step.add("objectClass", "levelfsComponent")
	step.add("cn", p.Key.Component)
	step.add("levelfsMountPoint", p.MountPoint)
	step.add("levelfsPrivate", p.Private)
	_, err = step.entry().Component()
	return step, err
}

// level makes the level.
func (p Publish) level(component string, source int, layers []string) (Step, error) {
	dn, err := child("cn="+escape(p.Key.String()), component)
	if err != nil {
		return Step{}, err
	}
	if p.State != "draft" && p.State != "test" {
		return Step{}, fmt.Errorf("state %q: a new level is in state draft or test", p.State)
	}
	step := Step{Source: source, DN: dn, Verb: VerbPublish, New: p.State, Components: []string{p.Key.Component}}
	step.add("objectClass", "levelfsLevel")
	step.add("cn", p.Key.String())
	step.add("levelfsState", p.State)
	var refs []string
	for i, name := range layers {
		refs = append(refs, fmt.Sprintf("%d:%s", 10*(i+1), name))
	}
	step.add("levelfsLayerRef", refs...)
	step.add("levelfsPackage", p.Packages...)
	step.add("levelfsNotBefore", generalized(p.NotBefore))
	step.add("levelfsNotAfter", generalized(p.NotAfter))
	step.add("description", p.Description)
	_, err = step.entry().Level()
	return step, err
}

// add adds values that are not empty.
func (s *Step) add(attr string, values ...string) {
	values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
	if len(values) > 0 {
		s.Mods = append(s.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: attr, Values: values})
	}
}

// entry is the entry that the step makes.
func (s Step) entry() ldapmap.Entry {
	e := ldapmap.Entry{DN: s.DN, Attrs: make(map[string][]string)}
	for _, m := range s.Mods {
		e.Attrs[strings.ToLower(m.Attr)] = m.Values
	}
	return e
}

func generalized(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(recordTime)
}

// Release makes a level final: anybody may run it, its layers are sealed.
type Release struct {
	Key ldapmap.Key
	Where
}

// Terms implements [Intention].
func (Release) Terms() []ldapmap.Term { return nil }

// A StateError is a level in a state in which the verb makes no sense.
type StateError struct{ Level, State, Verb string }

func (e *StateError) Error() string {
	return fmt.Sprintf("level %q is %s: it cannot be %sd", e.Level, e.State, e.Verb)
}

// Steps implements [Intention]. The level has to be one that could be mounted: all of
// its layers are there, and each has an image.
func (r Release) Steps(inv Inventory) ([]Step, error) {
	h, err := inv.pick(r.Where, "level", r.Key.String(), inv.called(ldapmap.IsLevel, r.Key.String()))
	if err != nil {
		return nil, err
	}
	level, err := h.entry.Level()
	if err != nil {
		return nil, err
	}
	if level.State == "released" && level.Seal != "" {
		return nil, nil
	}
	if level.State == "retired" {
		return nil, &StateError{Level: level.Name, State: level.State, Verb: VerbRelease}
	}
	res, err := resolve(inv.Fleet, r.Key, level.NotBefore)
	if err != nil {
		return nil, err
	}
	if len(res.Layers) > maxLayers {
		return nil, fmt.Errorf("level %q has %d layers, of which overlayfs takes %d", level.Name, len(res.Layers), maxLayers)
	}
	for _, l := range res.Layers {
		if len(l.Images)+len(l.Segments) == 0 {
			return nil, fmt.Errorf("layer %q has no image: %w", l.Name, &ldapmap.InvalidError{DN: l.DN, Attr: "levelfsImage", Want: "where the image is"})
		}
	}
	step := stateStep(h, VerbRelease, level.State, "released")
	step.Mods = append(step.Mods, replace("levelfsSeal", h.entry.Attrs["levelfsseal"], []string{ldapmap.Seal(level.Name, res.Layers)})...)
	return []Step{step}, nil
}

// resolve asks for a level by its name, as it can be run from a time on.
func resolve(f *fleet.Fleet, key ldapmap.Key, from time.Time) (*ldapmap.Resolution, error) {
	now := f.Now()
	if from.After(now) {
		now = from
	}
	r := ldapmap.Resolver{Now: func() time.Time { return now }}
	for _, s := range f.Sources() {
		r.Sources = append(r.Sources, s)
	}
	// No host takes part in the answer; the sources are in memory, nothing waits.
	return r.Resolve(context.Background(), ldapmap.Query{Key: key, Host: "localhost"})
}

// stateStep changes the state of a level.
func stateStep(h hit, verb, from, to string) Step {
	component, _, _ := strings.Cut(h.entry.First("cn"), "@")
	step := Step{Source: h.source, DN: h.entry.DN, Was: &h.entry, Verb: verb, Old: from, New: to, Components: []string{component}}
	if from != to || len(h.entry.Attrs["levelfsstate"]) == 0 {
		step.Mods = replace("levelfsState", h.entry.Attrs["levelfsstate"], []string{to})
	}
	return step
}

// Retire takes a level out of use.
type Retire struct {
	Key       ldapmap.Key
	Successor string // level to run instead, named without its component; or ""
	Where
}

// Terms implements [Intention].
func (Retire) Terms() []ldapmap.Term { return nil }

// Steps implements [Intention].
func (r Retire) Steps(inv Inventory) ([]Step, error) {
	h, err := inv.pick(r.Where, "level", r.Key.String(), inv.called(ldapmap.IsLevel, r.Key.String()))
	if err != nil {
		return nil, err
	}
	level, err := h.entry.Level()
	if err != nil {
		return nil, err
	}
	var successor []string
	if r.Successor != "" {
		successor = []string{r.Successor}
		next, err := inv.level(ldapmap.Key{Component: r.Key.Component, Level: r.Successor})
		switch {
		case err != nil:
			return nil, err
		case next.Name == level.Name:
			return nil, fmt.Errorf("level %q cannot succeed itself", level.Name)
		case next.State == "retired":
			return nil, unusable(next, "is retired")
		}
	}
	step := stateStep(h, VerbRetire, level.State, "retired")
	old := h.entry.Attrs["levelfssuccessor"]
	if r.Successor != "" && !slices.Equal(old, successor) {
		step.Mods = append(step.Mods, replace("levelfsSuccessor", old, successor)...)
	}
	if len(step.Mods) == 0 {
		return nil, nil
	}
	return []Step{step}, nil
}
