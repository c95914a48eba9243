package edit

import (
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/ldapmap"
)

// Site stands for everybody who runs a component: its own entry. It has no name.
const Site = "site"

// KeepOrder asks for the number that a layer has, and for a new one, for a place below
// those of the entry.
const KeepOrder = -1

// Customize puts a layer above the levels of a component for a caller.
type Customize struct {
	Caller    Caller
	Component string
	Layer     string
	Order     int // among the layers of the entry, the lowest on top; or KeepOrder
	Where
}

// Numbers of layers for which none was asked: there is room above and below the first.
const (
	firstOrder = 50
	orderStep  = 10
)

// Terms implements [Intention].
func (c Customize) Terms() []ldapmap.Term { return c.Caller.terms() }

// Steps implements [Intention]. The layer has to exist, and to be of the kind that the
// entry takes; a profile takes every kind but the vendor's, as it depends on who refers to
// it.
func (c Customize) Steps(inv Inventory) ([]Step, error) {
	at, err := inv.customized(c.Caller, c.Component, c.Where)
	if err != nil {
		return nil, err
	}
	hits := inv.called(ldapmap.IsLayer, c.Layer)
	if len(hits) == 0 {
		return nil, &ldapmap.NotFoundError{What: "layer", Name: c.Layer}
	}
	layer, err := hits[0].entry.Layer()
	if err != nil {
		return nil, err
	}
	if want := at.takes(); !slices.Contains(want, layer.Kind) {
		return nil, &ldapmap.KindError{Layer: layer.Name, Kind: layer.Kind, By: at.dn, Want: strings.Join(want, " or ")}
	}
	wanted := ldapmap.Customization{Component: c.Component, Order: c.Order, Layer: c.Layer}
	lowest, remove := firstOrder-orderStep, []string(nil)
	for _, v := range at.customizations() {
		has, ok := ldapmap.ParseCustomization(v)
		switch {
		case !ok || has.Component != c.Component:
		case has.Layer == c.Layer && (c.Order == KeepOrder || c.Order == has.Order):
			return nil, nil
		case has.Layer == c.Layer:
			remove = append(remove, v)
		case has.Order == c.Order:
			return nil, fmt.Errorf("layer %q has the number %02d on %q: --order has to be another", has.Layer, has.Order, at.dn)
		default:
			lowest = max(lowest, has.Order)
		}
	}
	if wanted.Order == KeepOrder {
		wanted.Order = lowest + orderStep
	}
	return at.customize(VerbCustomize, c.Component, remove, []string{wanted.String()}), nil
}

// Uncustomize undoes Customize.
type Uncustomize struct {
	Caller    Caller
	Component string
	Layer     string
	Where
}

// Terms implements [Intention].
func (u Uncustomize) Terms() []ldapmap.Term { return u.Caller.terms() }

// Steps implements [Intention]. What is taken away need not exist as a layer.
func (u Uncustomize) Steps(inv Inventory) ([]Step, error) {
	at, err := inv.customized(u.Caller, u.Component, u.Where)
	if err != nil {
		return nil, err
	}
	var remove []string
	for _, v := range at.customizations() {
		if has, ok := ldapmap.ParseCustomization(v); ok && has.Component == u.Component && has.Layer == u.Layer {
			remove = append(remove, v)
		}
	}
	if len(remove) == 0 {
		return nil, nil
	}
	return at.customize(VerbUncustomize, u.Component, remove, nil), nil
}

// customized finds the entry on which a component is customised for the caller.
func (inv Inventory) customized(c Caller, component string, w Where) (place, error) {
	components := inv.called(ldapmap.IsComponent, component)
	if len(components) == 0 {
		return place{}, &ldapmap.NotFoundError{What: "component", Name: component}
	}
	if c.Kind != Site {
		return inv.locate(c, w)
	}
	h, err := inv.pick(w, "component", component, components)
	return place{source: h.source, dn: h.entry.DN, was: &h.entry, kind: Site}, err
}

// takes are the kinds of layers that may be above levels by the entry.
func (at place) takes() []string {
	switch at.kind {
	case Site:
		return []string{ldapmap.KindSite}
	case Host:
		return []string{ldapmap.KindHost}
	case User:
		return []string{ldapmap.KindUser}
	case Group:
		return []string{ldapmap.KindGroup}
	}
	return ldapmap.Kinds()[1:]
}

// customizations are the values that the entry has.
func (at place) customizations() []string {
	if at.was == nil {
		return nil
	}
	return at.was.Attrs[strings.ToLower(ldapmap.AttrCustomize)]
}

func (at place) customize(verb, component string, remove, add []string) []Step {
	step := at.step(verb)
	step.Mods = append(step.Mods, replace(ldapmap.AttrCustomize, remove, add)...)
	step.Old, step.New = strings.Join(remove, ","), strings.Join(add, ",")
	step.Components = append(step.Components, component)
	return []Step{step}
}

// PublishLayers adds layers without a level: those that go above the vendor's.
type PublishLayers struct {
	Layers []ldapmap.Entry // as "levelfs layer build" prints them
	Kind   string          // of those that do not say; "": the vendor's
	Where
}

// Terms implements [Intention].
func (PublishLayers) Terms() []ldapmap.Term { return nil }

// Steps implements [Intention]. A layer that is there with the same image and of the same
// kind is left as it is.
func (p PublishLayers) Steps(inv Inventory) ([]Step, error) {
	source, err := inv.source(p.Where, "a new layer", nil)
	if err != nil {
		return nil, err
	}
	var steps []Step
	for _, e := range p.Layers {
		if p.Kind != "" {
			if e, err = withKind(e, p.Kind); err != nil {
				return nil, err
			}
		}
		l, err := newLayer(e)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(steps, func(s Step) bool { return s.New == l.Name }) {
			return nil, fmt.Errorf("layer %q comes twice", l.Name)
		}
		step, made, err := inv.addLayer(e, l, source)
		if err != nil {
			return nil, err
		}
		if made {
			steps = append(steps, step)
		}
	}
	return steps, nil
}

// withKind is the entry of a layer as one of the kind.
func withKind(e ldapmap.Entry, kind string) (ldapmap.Entry, error) {
	const attr = "levelfskind"
	if old := e.First(attr); old != "" && !strings.EqualFold(old, kind) {
		return e, fmt.Errorf("layer %q is of kind %s, not %s", e.First("cn"), old, kind)
	}
	attrs := make(map[string][]string, len(e.Attrs)+1)
	for name, values := range e.Attrs {
		attrs[name] = values
	}
	attrs[attr] = []string{kind}
	return ldapmap.Entry{DN: e.DN, Attrs: attrs}, nil
}

// newLayer is the layer of an entry that is to be made.
func newLayer(e ldapmap.Entry) (ldapmap.Layer, error) {
	if !ldapmap.IsLayer(e) {
		return ldapmap.Layer{}, fmt.Errorf("entry %q is no layer", e.DN)
	}
	return e.Layer()
}

// addLayer is the step that makes a layer, unless it is there with the same image.
func (inv Inventory) addLayer(e ldapmap.Entry, l ldapmap.Layer, source int) (step Step, made bool, err error) {
	same, err := sameLayer(inv, l)
	if err != nil || same {
		return step, false, err
	}
	step = Step{Source: source, DN: e.DN, Verb: VerbPublish, New: l.Name, Components: inv.users(l.Name)}
	for _, attr := range spelled() {
		if values := e.Attrs[strings.ToLower(attr)]; len(values) > 0 {
			step.Mods = append(step.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: attr, Values: values})
		}
	}
	return step, true, nil
}
