package edit

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/ldapmap"
)

// An Intention is what somebody wants of an inventory.
type Intention interface {
	// Terms select the entries that it has to see and that decide nothing yet: for
	// fleet.LoadMore.
	Terms() []ldapmap.Term
	// Steps are the changes to make, in their order; none if it is so already.
	Steps(inv Inventory) ([]Step, error)
}

// Verbs of records.
const (
	VerbAssign            = "assign"
	VerbUnassign          = "unassign"
	VerbAssignMandatory   = "assign-mandatory"
	VerbUnassignMandatory = "unassign-mandatory"
	VerbInclude           = "include"
	VerbExclude           = "exclude"
	VerbCreate            = "create"
	VerbDelete            = "delete"
	VerbPublish           = "publish"
	VerbRelease           = "release"
	VerbRetire            = "retire"
	VerbCustomize         = "customize"
	VerbUncustomize       = "uncustomize"
)

// Assign gives a caller levels of components, instead of those that its entry assigns
// now.
type Assign struct {
	Caller    Caller
	Levels    []ldapmap.Key // with their levels
	Mandatory bool
	Where
}

// Terms implements [Intention].
func (a Assign) Terms() []ldapmap.Term { return a.Caller.terms() }

// Steps implements [Intention]. A level has to exist, and not to be retired; where it
// would reach callers who did not ask for it, it has to be released.
func (a Assign) Steps(inv Inventory) ([]Step, error) {
	var kind string
	var steps []Step
	if a.Caller.Kind == Default {
		kind = Default
		if a.Mandatory {
			return nil, errors.New("a component's default cannot be mandatory")
		}
		for _, key := range a.Levels {
			step, err := setDefault(inv, a.Where, key)
			if err != nil {
				return nil, err
			}
			steps = append(steps, step...)
		}
	} else {
		at, err := inv.locate(a.Caller, a.Where)
		if err != nil {
			return nil, err
		}
		kind = at.kind
		step, err := assign(at, a.Levels, nil, a.Mandatory)
		if err != nil {
			return nil, err
		}
		steps = step
	}
	for _, key := range a.Levels {
		level, err := inv.level(key)
		if err != nil {
			return nil, err
		}
		unasked := kind == Default || kind == Group
		switch {
		case level.State == "retired":
			return nil, unusable(level, "is retired")
		case unasked && level.State != "released":
			return nil, unusable(level, fmt.Sprintf("is in state %s: a %s would not give it to anybody", level.State, kind))
		}
	}
	return steps, nil
}

// Unassign takes a caller's own assignments of components away.
type Unassign struct {
	Caller     Caller
	Components []string
	Mandatory  bool
	Where
}

// Terms implements [Intention].
func (u Unassign) Terms() []ldapmap.Term { return u.Caller.terms() }

// Steps implements [Intention].
func (u Unassign) Steps(inv Inventory) ([]Step, error) {
	if u.Caller.Kind == Default {
		var steps []Step
		for _, component := range slices.Compact(slices.Sorted(slices.Values(u.Components))) {
			step, err := setDefault(inv, u.Where, ldapmap.Key{Component: component})
			if err != nil {
				return nil, err
			}
			steps = append(steps, step...)
		}
		return steps, nil
	}
	at, err := inv.locate(u.Caller, u.Where)
	if err != nil {
		return nil, err
	}
	if at.was == nil {
		return nil, nil
	}
	return assign(at, nil, u.Components, u.Mandatory)
}

// assign replaces what the entry assigns of the components of set and of unset.
func assign(at place, set []ldapmap.Key, unset []string, mandatory bool) ([]Step, error) {
	attr, verb := ldapmap.AttrAssignment, VerbAssign
	if mandatory {
		attr, verb = ldapmap.AttrMandatory, VerbAssignMandatory
	}
	if len(set) == 0 {
		verb = "un" + verb
	}
	step := at.step(verb)
	var remove, add []string
	concern := slices.Clone(unset)
	for _, key := range set {
		if slices.Contains(concern, key.Component) {
			return nil, fmt.Errorf("two levels of component %q", key.Component)
		}
		concern = append(concern, key.Component)
		add = append(add, key.Component+"="+key.Level)
	}
	if at.was != nil {
		for _, v := range at.was.Attrs[strings.ToLower(attr)] {
			component, _, _ := strings.Cut(v, "=")
			if !slices.Contains(concern, component) {
				continue
			}
			if i := slices.Index(add, v); i >= 0 {
				add = slices.Delete(add, i, i+1) // it is there
				continue
			}
			remove = append(remove, v)
		}
	}
	if len(remove)+len(add) == 0 {
		return nil, nil
	}
	step.Mods = append(step.Mods, replace(attr, remove, add)...)
	step.Old, step.New = strings.Join(remove, ","), strings.Join(add, ",")
	step.Components = append(step.Components, concern...)
	return []Step{step}, nil
}

// step begins a change of the entry: a new one is made, and one that assigns nothing
// yet is made a caller, upon which all that it says counts.
func (at place) step(verb string) Step {
	s := Step{Source: at.source, DN: at.dn, Was: at.was, Verb: verb}
	switch {
	case at.was == nil: // only hosts are made
		s.Mods = []ldapmap.Mod{
			{Op: ldapmap.ModAdd, Attr: "objectClass", Values: []string{"device", ldapmap.ClassCaller}},
			{Op: ldapmap.ModAdd, Attr: "cn", Values: []string{at.name}},
		}
	case at.kind != Profile && at.kind != Site && !ldapmap.IsCaller(*at.was):
		s.Mods = []ldapmap.Mod{{Op: ldapmap.ModAdd, Attr: "objectClass", Values: []string{ldapmap.ClassCaller}}}
		s.Components = assigned(*at.was)
	}
	return s
}

// assigned are the components that the entry itself assigns levels of, or puts layers
// above.
func assigned(e ldapmap.Entry) []string {
	var components []string
	for _, attr := range []string{ldapmap.AttrAssignment, ldapmap.AttrMandatory, ldapmap.AttrCustomize} {
		for _, v := range e.Attrs[strings.ToLower(attr)] {
			component, _, _ := strings.Cut(v, "=")
			components = append(components, component)
		}
	}
	return components
}

// replace are the Mods that replace some values of an attribute by others.
func replace(attr string, remove, add []string) []ldapmap.Mod {
	var mods []ldapmap.Mod
	if len(remove) > 0 {
		mods = append(mods, ldapmap.Mod{Op: ldapmap.ModDelete, Attr: attr, Values: remove})
	}
	if len(add) > 0 {
		mods = append(mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: attr, Values: add})
	}
	return mods
}

// setDefault changes a component's default; a key without a level takes it away.
func setDefault(inv Inventory, w Where, key ldapmap.Key) ([]Step, error) {
	h, err := inv.pick(w, "component", key.Component, inv.called(ldapmap.IsComponent, key.Component))
	if err != nil {
		return nil, err
	}
	const attr = "levelfsDefault"
	old := h.entry.Attrs[strings.ToLower(attr)]
	step := Step{Source: h.source, DN: h.entry.DN, Was: &h.entry, Verb: VerbUnassign, Components: []string{key.Component}}
	for _, level := range old {
		step.Old = strings.TrimPrefix(step.Old+","+key.Component+"="+level, ",")
	}
	var add []string
	if key.Level != "" {
		step.Verb, step.New, add = VerbAssign, key.Component+"="+key.Level, []string{key.Level}
	}
	if slices.Equal(old, add) {
		return nil, nil
	}
	step.Mods = replace(attr, old, add)
	return []Step{step}, nil
}

// level returns the level of that name from the first source that has it.
func (inv Inventory) level(key ldapmap.Key) (ldapmap.Level, error) {
	hits := inv.called(ldapmap.IsLevel, key.String())
	if len(hits) == 0 {
		return ldapmap.Level{}, &ldapmap.NotFoundError{What: "level", Name: key.String()}
	}
	return hits[0].entry.Level()
}

func unusable(l ldapmap.Level, reason string) error {
	err := &ldapmap.UnusableError{Level: l.Name, Reason: reason}
	if component, _, ok := strings.Cut(l.Name, "@"); ok && l.Successor != "" {
		err.Successor = component + "@" + l.Successor
	}
	return err
}

// Include makes a caller, or a profile, run what a profile says.
type Include struct {
	Caller  Caller
	Profile string
	Where
}

// Terms implements [Intention].
func (i Include) Terms() []ldapmap.Term { return i.Caller.terms() }

// Steps implements [Intention]. The profile has to exist, and must not include the one
// that is to include it.
func (i Include) Steps(inv Inventory) ([]Step, error) {
	at, err := inv.locate(i.Caller, i.Where)
	if err != nil {
		return nil, err
	}
	if len(inv.callers(Caller{Kind: Profile, Name: i.Profile})) == 0 {
		return nil, &ldapmap.NotFoundError{What: Profile, Name: i.Profile}
	}
	if at.kind == Profile {
		if way := inv.includes(i.Profile, at.was.First("cn"), nil); way != nil {
			return nil, &ldapmap.LoopError{Profiles: append([]string{at.was.First("cn")}, way...)}
		}
	}
	if at.was != nil && hasFold(at.was.Attrs[strings.ToLower(ldapmap.AttrProfileRef)], i.Profile) {
		return nil, nil
	}
	step := at.step(VerbInclude)
	step.New = i.Profile
	step.Mods = append(step.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: ldapmap.AttrProfileRef, Values: []string{i.Profile}})
	step.Components = append(step.Components, inv.said(i.Profile)...)
	return []Step{step}, nil
}

// Exclude undoes Include.
type Exclude struct {
	Caller  Caller
	Profile string
	Where
}

// Terms implements [Intention].
func (x Exclude) Terms() []ldapmap.Term { return x.Caller.terms() }

// Steps implements [Intention].
func (x Exclude) Steps(inv Inventory) ([]Step, error) {
	at, err := inv.locate(x.Caller, x.Where)
	if err != nil || at.was == nil {
		return nil, err
	}
	var old []string
	for _, v := range at.was.Attrs[strings.ToLower(ldapmap.AttrProfileRef)] {
		if strings.EqualFold(v, x.Profile) {
			old = append(old, v)
		}
	}
	if len(old) == 0 {
		return nil, nil
	}
	step := Step{Source: at.source, DN: at.dn, Was: at.was, Verb: VerbExclude, Old: strings.Join(old, ","),
		Mods: replace(ldapmap.AttrProfileRef, old, nil), Components: inv.said(x.Profile)}
	return []Step{step}, nil
}

func hasFold(values []string, v string) bool {
	return slices.ContainsFunc(values, func(w string) bool { return strings.EqualFold(v, w) })
}

// refs are the profiles that the profile of that name includes, in any source.
func (inv Inventory) refs(name string) []string {
	var refs []string
	for _, h := range inv.callers(Caller{Kind: Profile, Name: name}) {
		refs = append(refs, h.entry.Attrs[strings.ToLower(ldapmap.AttrProfileRef)]...)
	}
	return refs
}

// includes is the way from one profile to another that it includes, nil if it does not.
func (inv Inventory) includes(from, to string, seen []string) []string {
	if strings.EqualFold(from, to) {
		return []string{from}
	}
	if hasFold(seen, from) {
		return nil
	}
	for _, next := range inv.refs(from) {
		if way := inv.includes(next, to, append(slices.Clone(seen), from)); way != nil {
			return append([]string{from}, way...)
		}
	}
	return nil
}

// said are the components that the profile says something of, with those that it
// includes.
func (inv Inventory) said(profile string) []string {
	var components, seen []string
	for todo := []string{profile}; len(todo) > 0; todo = todo[1:] {
		if hasFold(seen, todo[0]) {
			continue
		}
		seen = append(seen, todo[0])
		for _, h := range inv.callers(Caller{Kind: Profile, Name: todo[0]}) {
			components = append(components, assigned(h.entry)...)
		}
		todo = append(todo, inv.refs(todo[0])...)
	}
	return components
}

// NewProfile makes a profile that says nothing yet.
type NewProfile struct {
	Name        string
	Description string
	Where
}

// Terms implements [Intention].
func (NewProfile) Terms() []ldapmap.Term { return nil }

// Steps implements [Intention]. Without a place for it, the profile is made beside the
// others of the source.
func (n NewProfile) Steps(inv Inventory) ([]Step, error) {
	if !ldapmap.ValidProfile(n.Name) {
		return nil, fmt.Errorf("profile name %q: want a letter or digit, then up to 63 of letters, digits and . _ + -", n.Name)
	}
	source, err := inv.source(n.Where, fmt.Sprintf("profile %q", n.Name), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range inv.callers(Caller{Kind: Profile, Name: n.Name}) {
		if h.source == source {
			return nil, &ExistsError{Kind: Profile, Name: n.Name, DN: h.entry.DN}
		}
	}
	dn, err := inv.newEntry(n.Name, source, n.In, Profile, ldapmap.IsProfile)
	if err != nil {
		return nil, err
	}
	step := Step{Source: source, DN: dn, Verb: VerbCreate, New: n.Name, Mods: []ldapmap.Mod{
		{Op: ldapmap.ModAdd, Attr: "objectClass", Values: []string{"levelfsProfile"}},
		{Op: ldapmap.ModAdd, Attr: "cn", Values: []string{n.Name}},
	}}
	if n.Description != "" {
		step.Mods = append(step.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: "description", Values: []string{n.Description}})
	}
	return []Step{step}, nil
}

// An ExistsError is an entry that is to be made and is there.
type ExistsError struct{ Kind, Name, DN string }

func (e *ExistsError) Error() string {
	return fmt.Sprintf("%s %q is there already: %q", e.Kind, e.Name, e.DN)
}

// A PlaceError is a new entry of which nobody knows where it goes.
type PlaceError struct{ Kind, Name, Source string }

func (e *PlaceError) Error() string {
	return fmt.Sprintf("inventory %s has no %s beside which to put %q", e.Source, e.Kind, e.Name)
}

// newEntry is the DN of an entry that is to be made below the DN that was named, or
// beside others of its kind.
func (inv Inventory) newEntry(name string, source int, in, kind string, is func(ldapmap.Entry) bool) (string, error) {
	if in == "" {
		all := inv.search(is)
		// Where the source has none itself, the others' tree is the same one.
		beside := slices.IndexFunc(all, func(h hit) bool { return h.source == source })
		if beside < 0 && inv.Files[source] && len(all) > 0 {
			beside = 0
		}
		if beside < 0 {
			return "", &PlaceError{Kind: kind, Name: name, Source: inv.Sources()[source].Name()}
		}
		in = parent(all[beside].entry.DN)
	}
	return child("cn="+escape(name), in)
}

// DeleteProfile removes a profile.
type DeleteProfile struct {
	Name string
	Where
}

// Terms implements [Intention].
func (DeleteProfile) Terms() []ldapmap.Term { return nil }

// A ReferredError is a profile that is still used.
type ReferredError struct {
	Profile string
	By      []string // callers
}

func (e *ReferredError) Error() string {
	const some = 5
	by := strings.Join(e.By[:min(some, len(e.By))], ", ")
	if len(e.By) > some {
		by += fmt.Sprintf(" and %d more", len(e.By)-some)
	}
	return fmt.Sprintf("profile %q is included by %s", e.Profile, by)
}

// Steps implements [Intention]. A profile that something refers to stays.
func (d DeleteProfile) Steps(inv Inventory) ([]Step, error) {
	h, err := inv.pick(d.Where, Profile, d.Name, inv.callers(Caller{Kind: Profile, Name: d.Name}))
	if err != nil {
		return nil, err
	}
	referred := &ReferredError{Profile: d.Name}
	for _, r := range inv.search(func(e ldapmap.Entry) bool {
		return hasFold(e.Attrs[strings.ToLower(ldapmap.AttrProfileRef)], d.Name)
	}) {
		c, ok := CallerOf(r.entry)
		name := c.String()
		if !ok {
			name = r.entry.DN
		}
		referred.By = append(referred.By, name)
	}
	if len(referred.By) > 0 {
		return nil, referred
	}
	return []Step{{Source: h.source, DN: h.entry.DN, Was: &h.entry, Remove: true, Verb: VerbDelete, Old: h.entry.First("cn"), Components: inv.said(d.Name)}}, nil
}
