package ldapmap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// A TreeEntry is a component as one user has it.
type TreeEntry struct {
	Component  string
	Resolution *Resolution // without a trail; nil with an error
	Err        error       // why the user cannot have it, though something gives it to him
}

const (
	// treeChunk is how many entries one search asks for by name: fewer than a server
	// returns at once, and a filter that it takes.
	treeChunk = 100
	// maxBeginnings is how many searches look for components by how their names begin.
	maxBeginnings = 500
)

// Tree returns every component that the user has a level of on the host, by name, and
// whether a source has an entry of exactly that uid. It is Resolve for all components
// at once.
//
// The searches grow with the hundreds of components, not with the components: the
// caller's entries are fetched once, then the names of all components, then these and
// those that the caller's rules name, then the levels and then their layers.
func (r *Resolver) Tree(ctx context.Context, host, user string) (entries []TreeEntry, known bool, err error) {
	if len(r.Sources) == 0 {
		return nil, false, errors.New("no inventory is configured")
	}
	if !ValidHost(host) {
		return nil, false, fmt.Errorf("invalid host name %q", host)
	}
	if !ValidUser(user) {
		return nil, false, fmt.Errorf("invalid user name %q", user)
	}
	l := newLookup(Query{Host: host, User: user}, r.Sources)
	if err := l.gather(ctx); err != nil {
		return nil, false, err
	}
	for _, f := range l.found {
		known = known || slices.ContainsFunc(f.users, func(e Entry) bool { return slices.Contains(e.Attrs["uid"], user) })
	}
	t := &tree{lookup: l, about: make(map[string][]found), layers: make(map[string][]found)}
	names, err := t.fetchComponents(ctx)
	if err != nil {
		return nil, known, err
	}
	winners := make([]Rule, len(names))
	var levels []string
	entries = make([]TreeEntry, 0, len(names))
	for i, name := range names {
		if winners[i], err = t.decide(name); err == nil {
			levels = append(levels, name+"@"+winners[i].Level)
		}
		entries = append(entries, TreeEntry{Component: name, Err: err})
	}
	err = t.fetch(ctx, classLevel, levels, t.about, func(f *found, e Entry) { f.levels = append(f.levels, e) })
	if err != nil {
		return nil, known, err
	}
	now := time.Now()
	if r.Now != nil {
		now = r.Now()
	}
	for i, name := range names {
		e := &entries[i]
		if e.Err == nil {
			e.Resolution, e.Err = t.level(name, winners[i], now)
		}
	}
	if err := t.fetchLayers(ctx, entries); err != nil {
		return nil, known, err
	}
	return slices.DeleteFunc(entries, func(e TreeEntry) bool {
		var none *NoLevelError
		return errors.As(e.Err, &none)
	}), known, nil
}

// A tree is the state of one Tree: what was found of the caller, and, for each
// component and each layer, what was found of it in each source.
type tree struct {
	*lookup
	about, layers map[string][]found
}

// of is the lookup of one component.
func (t *tree) of(name string) *lookup {
	one := *t.lookup
	one.query.Key = Key{Component: name}
	one.askedLayers = make(map[string]bool)
	one.found = slices.Clone(t.found)
	for i, f := range t.about[name] {
		one.found[i].components, one.found[i].levels = f.components, f.levels
	}
	return &one
}

// fetch asks for entries by their names, and puts each to what was found of the thing
// that its name is, or begins with.
func (t *tree) fetch(ctx context.Context, of string, names []string, about map[string][]found, put func(*found, Entry)) error {
	for chunk := range slices.Chunk(names, treeChunk) {
		for i, s := range t.sources {
			entries, err := s.Search(ctx, []Term{{class(of), anyOf("cn", chunk...)}}, attributes())
			if err != nil {
				return err
			}
			for _, e := range entries {
				for _, cn := range e.Attrs["cn"] {
					name, _, _ := strings.Cut(cn, "@")
					if about[name] == nil {
						about[name] = make([]found, len(t.sources))
					}
					put(&about[name][i], e)
				}
			}
		}
	}
	return nil
}

// fetchComponents fetches the components that the caller could have a level of, and
// returns their names in order.
func (t *tree) fetchComponents(ctx context.Context) ([]string, error) {
	names := make(map[string]bool)
	searches := 0
	if err := t.allNames(ctx, "", names, &searches); err != nil {
		return nil, err
	}
	for _, f := range t.found {
		for _, e := range slices.Concat(f.users, f.hosts, f.userGroups, f.hostGroups, f.profiles) {
			for _, attr := range []string{attrMandatory, attrAssignment} {
				for _, v := range e.Attrs[strings.ToLower(attr)] {
					name, _, _ := strings.Cut(v, "=")
					names[name] = true
				}
			}
		}
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool { return !validComponent(name) })
	sorted := slices.Sorted(maps.Keys(names))
	return sorted, t.fetch(ctx, classComponent, sorted, t.about, func(f *found, e Entry) { f.components = append(f.components, e) })
}

// allNames collects the names of the components that begin as given. Where they are
// more than a source returns at once it asks for each next letter. It does not ask for
// those with a default only, which would take an index of its own.
func (t *tree) allNames(ctx context.Context, beginning string, names map[string]bool, searches *int) error {
	ask := func(op Op, name string) error {
		term := Term{class(classComponent)}
		if name != "" {
			term = append(term, Condition{{Attr: "cn", Op: op, Value: name}})
		}
		*searches++
		return t.search(ctx, []Term{term}, []string{"objectClass", "cn"}, func(_ *found, e Entry) error {
			for _, cn := range e.Attrs["cn"] {
				names[cn] = true
			}
			return nil
		})
	}
	err := ask(Prefix, beginning)
	var tooMany *TooManyError
	if !errors.As(err, &tooMany) || *searches >= maxBeginnings || len(beginning) >= maxName {
		return err
	}
	letters := "abcdefghijklmnopqrstuvwxyz0123456789"
	if beginning != "" {
		letters += "._+-"
		if err := ask(Equal, beginning); err != nil {
			return err
		}
	}
	for _, letter := range letters {
		if err := t.allNames(ctx, beginning+string(letter), names, searches); err != nil {
			return err
		}
	}
	return nil
}

// decide says by which rule the caller has a level of the component.
func (t *tree) decide(name string) (Rule, error) {
	l := t.of(name)
	var r Resolution
	if err := l.component(&r); err != nil {
		return Rule{}, err
	}
	_, winner, err := l.decide(r.Component)
	return winner, err
}

// level is the level that the rule names, if it is there and may be run.
func (t *tree) level(name string, by Rule, now time.Time) (*Resolution, error) {
	l := t.of(name)
	r := &Resolution{Query: l.query}
	if err := l.component(r); err != nil {
		return nil, err
	}
	var err error
	if r.Level, err = l.level(name+"@"+by.Level, by.DN); err != nil {
		return nil, err
	}
	return r, usable(r.Level, by, now)
}

// fetchLayers fetches the layers of all levels, and adds them to the entries.
func (t *tree) fetchLayers(ctx context.Context, entries []TreeEntry) error {
	names := make(map[string]bool)
	for _, e := range entries {
		if e.Err == nil {
			for _, name := range t.of(e.Component).newLayers() {
				names[name] = true
			}
		}
	}
	err := t.fetch(ctx, classLayer, slices.Sorted(maps.Keys(names)), t.layers, func(f *found, e Entry) { f.layers = append(f.layers, e) })
	if err != nil {
		return err
	}
	for i := range entries {
		e := &entries[i]
		if e.Err == nil {
			e.Err = t.addLayers(e.Resolution)
		}
		if e.Err != nil {
			e.Resolution = nil
		}
	}
	return nil
}

func (t *tree) addLayers(r *Resolution) error {
	l := t.of(r.Component.Name)
	for _, name := range l.newLayers() {
		for i, f := range t.layers[name] {
			l.found[i].layers = append(l.found[i].layers, f.layers...)
		}
	}
	if err := l.above(r); err != nil {
		return err
	}
	r.Additions = nil // nor is there a trail
	return l.delivered(r)
}
