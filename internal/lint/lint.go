package lint

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// Options are what the inventory itself does not say.
type Options struct {
	Tree string // where the shared tree is mounted
}

// Run returns all findings, critical ones first. progress, if not nil, is called with
// the number of callers asked so far.
func Run(ctx context.Context, f *fleet.Fleet, o Options, progress func(callers int)) ([]finding.Finding, error) {
	l := &linter{fleet: f, options: o}
	l.read()
	l.references()
	l.customizations()
	l.members()
	l.loops()
	l.names()
	l.stacks()
	l.contents()
	l.segments()
	l.places()
	l.rollouts()
	if err := l.rules(ctx, progress); err != nil {
		return nil, err
	}
	finding.Sort(l.findings)
	return slices.Compact(l.findings), nil
}

// A linter is the inventory in the shapes that the checks look at, and what they found.
// Of several entries with one name the first source's counts, as in a lookup. What could
// not be decoded is there with its entry only.
type linter struct {
	fleet    *fleet.Fleet
	options  Options
	findings []finding.Finding

	entries    []entry // all of them, in the order of the sources
	components map[string]component
	levels     map[string]level // by full name
	layers     map[string]layer
	profiles   map[string]entry // by folded name
	overlaps   *overlaps        // that the rules are to be asked about
}

// An entry knows its source.
type entry struct {
	ldapmap.Entry
	source string
}

type component struct {
	entry
	ldapmap.Component
}

type level struct {
	entry
	ldapmap.Level
}

type layer struct {
	entry
	ldapmap.Layer
}

// read sorts the entries, and finds those that cannot be decoded.
func (l *linter) read() {
	l.components, l.levels = make(map[string]component), make(map[string]level)
	l.layers, l.profiles = make(map[string]layer), make(map[string]entry)
	for _, s := range l.fleet.Sources() {
		for _, e := range s.Entries() {
			l.entries = append(l.entries, entry{e, s.Name()})
		}
	}
	for _, e := range l.entries {
		for _, name := range e.Unknown() {
			l.add(finding.UnknownName, e, fmt.Sprintf("%q is no attribute or object class of the schema, and does not count", name), fmt.Sprintf("correct %q", name))
		}
		switch {
		case ldapmap.IsComponent(e.Entry):
			c, err := e.Component()
			l.invalid(e, err)
			if err != nil {
				c = ldapmap.Component{}
			}
			keep(l.components, e.Attrs["cn"], component{e, c})
		case ldapmap.IsLevel(e.Entry):
			v, err := e.Level()
			l.invalid(e, err)
			if err != nil {
				v = ldapmap.Level{}
			}
			keep(l.levels, e.Attrs["cn"], level{e, v})
		case ldapmap.IsLayer(e.Entry):
			y, err := e.Layer()
			l.invalid(e, err)
			if err != nil {
				y = ldapmap.Layer{}
			}
			keep(l.layers, e.Attrs["cn"], layer{e, y})
		case ldapmap.IsRollout(e.Entry):
			_, err := e.Rollout()
			l.invalid(e, err)
		case ldapmap.IsProfile(e.Entry):
			for _, name := range e.Attrs["cn"] {
				keep(l.profiles, []string{strings.ToLower(name)}, e)
			}
			fallthrough
		default:
			l.caller(e)
		}
	}
}

// keep files the value under the names that are not taken yet.
func keep[T any](byName map[string]T, names []string, value T) {
	for _, name := range names {
		if _, taken := byName[name]; !taken {
			byName[name] = value
		}
	}
}

// caller checks what a caller or a profile says. Of hosts and users that say nothing not
// even the name is looked at: directories are full of other devices.
func (l *linter) caller(e entry) {
	_, bad := e.Assignments()
	_, badRefs := e.ProfileRefs()
	_, badLayers := e.Customizations()
	for _, err := range slices.Concat(bad, badRefs, badLayers) {
		l.invalid(e, err)
	}
	if speaks(e) || ldapmap.IsProfile(e.Entry) {
		l.invalid(e, e.CheckName())
	}
}

// speaks reports whether the entry has anything to say.
func speaks(e entry) bool {
	return len(e.Attrs["levelfsassignment"])+len(e.Attrs["levelfsmandatory"])+len(e.Attrs["levelfsprofileref"])+len(e.Attrs["levelfscustomize"]) > 0
}

func (l *linter) invalid(e entry, err error) {
	bad, ok := err.(*ldapmap.InvalidError)
	if !ok {
		return
	}
	text := fmt.Sprintf("%s: invalid value %q: want %s", bad.Attr, bad.Value, bad.Want)
	l.add(finding.Invalid, e, text, fmt.Sprintf("correct %q", bad.Attr+": "+bad.Value))
}

func (l *linter) add(code finding.Code, about entry, text, fix string) {
	l.findings = append(l.findings, finding.New(code, about.source, about.DN, text, fix))
}
