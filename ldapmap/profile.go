package ldapmap

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"
)

// ResolveProfile returns what a caller would have who had nothing but the profile: each
// component that it, or a profile that it includes, assigns a level of, by name. It is an
// error if one of them cannot be had.
func (r *Resolver) ResolveProfile(ctx context.Context, name string) ([]*Resolution, error) {
	if len(r.Sources) == 0 {
		return nil, errors.New("no inventory is configured")
	}
	l := &lookup{found: make([]found, len(r.Sources)), sources: r.Sources, asked: make(map[string]bool), nested: make(map[string]bool)}
	// Nobody's entry, which refers to the profile. So the rules of callers hold here, too.
	l.found[0].hosts = []Entry{{Attrs: map[string][]string{strings.ToLower(attrProfileRef): {name}}}}
	if err := l.includes(ctx); err != nil {
		return nil, err
	}
	if _, ok := l.profile(name); !ok {
		return nil, &NotFoundError{What: "profile", Name: name}
	}
	t := &tree{lookup: l, about: make(map[string][]found), layers: make(map[string][]found)}
	names := make(map[string]bool)
	l.componentsOf(name, make(map[string]bool), names)
	components := slices.Sorted(maps.Keys(names))
	if err := t.fetch(ctx, classComponent, components, t.about, func(f *found, e Entry) { f.components = append(f.components, e) }); err != nil {
		return nil, err
	}
	winners := make([]Rule, len(components))
	var levels []string
	for i, component := range components {
		var err error
		if winners[i], err = t.decide(component); err != nil {
			return nil, err
		}
		levels = append(levels, component+"@"+winners[i].Level)
	}
	if err := t.fetch(ctx, classLevel, levels, t.about, func(f *found, e Entry) { f.levels = append(f.levels, e) }); err != nil {
		return nil, err
	}
	now := time.Now()
	if r.Now != nil {
		now = r.Now()
	}
	entries := make([]TreeEntry, len(components))
	for i, component := range components {
		resolution, err := t.level(component, winners[i], now)
		if err != nil {
			return nil, err
		}
		entries[i] = TreeEntry{Component: component, Resolution: resolution}
	}
	if err := t.fetchLayers(ctx, entries); err != nil {
		return nil, err
	}
	resolutions := make([]*Resolution, len(entries))
	for i, e := range entries {
		if e.Err != nil {
			return nil, e.Err
		}
		resolutions[i] = e.Resolution
	}
	return resolutions, nil
}

// componentsOf adds the components that the profile, and those that it includes, speak of.
// Whether what they say of them makes sense is seen when it is decided.
func (l *lookup) componentsOf(profile string, seen, names map[string]bool) {
	e, ok := l.profile(profile)
	if !ok || seen[strings.ToLower(profile)] {
		return
	}
	seen[strings.ToLower(profile)] = true
	for _, attr := range []string{attrMandatory, attrAssignment} {
		for _, v := range e.Attrs[strings.ToLower(attr)] {
			if name, _, _ := strings.Cut(v, "="); validComponent(name) {
				names[name] = true
			}
		}
	}
	for _, ref := range e.Attrs[strings.ToLower(attrProfileRef)] {
		l.componentsOf(ref, seen, names)
	}
}
