// Package memsource is an inventory in memory. It evaluates searches over entries
// that are all there already: those of LDIF files, and those of a whole directory
// that was read at once, to answer questions about every caller in it.
//
// Attributes compare as the schema says: without regard to case and, for member and
// uniqueMember, as distinguished names (RFC 4517). Attributes that the schema
// compares exactly are compared more loosely here; package ldapmap, which asks, does
// not rely on the difference.
package memsource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

// A Source holds entries. It is not changed after New and Index, so that several
// goroutines may search it.
type Source struct {
	name    string
	entries []ldapmap.Entry
	index   *index // nil: searches look at every entry
}

// New makes a Source of entries, in their order. Attribute names have to be in lower
// case.
func New(name string, entries []ldapmap.Entry) *Source {
	return &Source{name: name, entries: entries}
}

// Name implements [ldapmap.Source].
func (s *Source) Name() string { return s.name }

// Close implements [ldapmap.Source]. There is nothing to close.
func (s *Source) Close() error { return nil }

// Entries are all entries. They are the Source's own: not to be changed.
func (s *Source) Entries() []ldapmap.Entry { return s.entries }

// Entry returns the entry with the distinguished name. It needs the Index.
func (s *Source) Entry(dn string) (ldapmap.Entry, bool) {
	normal, err := NormalDN(dn)
	if err != nil {
		return ldapmap.Entry{}, false
	}
	i, ok := s.index.byDN[normal]
	if !ok {
		return ldapmap.Entry{}, false
	}
	return s.entries[i], true
}

// Search implements [ldapmap.Source].
func (s *Source) Search(_ context.Context, terms []ldapmap.Term, _ []string) ([]ldapmap.Entry, error) {
	var hits []ldapmap.Entry
	if s.index == nil {
		for _, e := range s.entries {
			passes := func(t ldapmap.Test) bool { return passes(e, t) }
			if slices.ContainsFunc(terms, func(t ldapmap.Term) bool { return holds(t, passes) }) {
				hits = append(hits, e)
			}
		}
		return hits, nil
	}
	var found []int
	for _, t := range terms {
		for _, i := range s.index.candidates(t, len(s.entries)) {
			if holds(t, func(t ldapmap.Test) bool { return s.index.passes(i, s.entries[i], t) }) {
				found = append(found, i)
			}
		}
	}
	slices.Sort(found)
	for _, i := range slices.Compact(found) {
		hits = append(hits, s.entries[i])
	}
	return hits, nil
}

// With returns an indexed Source in which the edit has been made; this one, which has
// to be indexed, stays as it is. Values to delete that are not there, values to add
// that are, and an entry that should be there and is not, or the other way round, are
// errors.
func (s *Source) With(e ldapmap.Edit) (*Source, error) {
	normal, err := NormalDN(e.DN)
	if err != nil {
		return nil, fmt.Errorf("dn %q: %w", e.DN, err)
	}
	i, exists := s.index.byDN[normal]
	entries := slices.Clone(s.entries)
	old := ldapmap.Entry{DN: e.DN}
	switch {
	case exists && e.Was == nil:
		return nil, fmt.Errorf("entry %q is there already", e.DN)
	case !exists && e.Was != nil:
		return nil, fmt.Errorf("entry %q is not there", e.DN)
	case exists && e.Remove:
		changed := New(s.name, slices.Delete(entries, i, i+1))
		return changed, changed.Index()
	case exists:
		old = entries[i]
	default:
		i = len(entries)
		entries = append(entries, ldapmap.Entry{})
	}
	if entries[i], err = Modify(old, e.Mods); err != nil {
		return nil, err
	}
	changed := New(s.name, entries)
	changed.index = s.index.with(entries, i, old, normal)
	return changed, nil
}

// Modify returns the entry with the modifications made, as a directory server would
// make them (RFC 4511, section 4.6).
func Modify(e ldapmap.Entry, mods []ldapmap.Mod) (ldapmap.Entry, error) {
	attrs := maps.Clone(e.Attrs)
	if attrs == nil {
		attrs = make(map[string][]string)
	}
	for _, m := range mods {
		attr := strings.ToLower(m.Attr)
		values := slices.Clone(attrs[attr])
		switch m.Op {
		case ldapmap.ModAdd:
			for _, v := range m.Values {
				if slices.Contains(values, v) {
					return e, fmt.Errorf("entry %q: %s: the value %q is there already", e.DN, m.Attr, v)
				}
				values = append(values, v)
			}
		case ldapmap.ModDelete:
			if len(m.Values) == 0 && len(values) == 0 {
				return e, fmt.Errorf("entry %q: %s: there is none to delete", e.DN, m.Attr)
			}
			for _, v := range m.Values {
				at := slices.Index(values, v)
				if at < 0 {
					return e, fmt.Errorf("entry %q: %s: there is no value %q to delete", e.DN, m.Attr, v)
				}
				values = slices.Delete(values, at, at+1)
			}
			if len(m.Values) == 0 {
				values = nil
			}
		default:
			return e, fmt.Errorf("entry %q: %s: unknown modification %q", e.DN, m.Attr, m.Op)
		}
		if attrs[attr] = values; len(values) == 0 {
			delete(attrs, attr)
		}
	}
	return ldapmap.Entry{DN: e.DN, Attrs: attrs}, nil
}

// Index makes searches by name, class and member quick, for those who make many. One
// lookup is quicker without. Two entries with one DN, or one whose DN is none, are an
// error.
func (s *Source) Index() error {
	x := &index{byDN: make(map[string]int, len(s.entries)), values: make(map[string]map[string][]int)}
	for i, e := range s.entries {
		dn, err := NormalDN(e.DN)
		if err != nil {
			return fmt.Errorf("dn %q: %w", e.DN, err)
		}
		if _, dup := x.byDN[dn]; dup {
			return fmt.Errorf("two entries have the dn %q", e.DN)
		}
		x.byDN[dn] = i
	}
	for _, attr := range indexed() {
		x.values[attr] = indexValues(s.entries, attr)
	}
	x.names = slices.Sorted(maps.Keys(x.values["cn"]))
	s.index = x
	return nil
}

// indexValues says which entries have which values of an attribute.
func indexValues(entries []ldapmap.Entry, attr string) map[string][]int {
	values := make(map[string][]int)
	for i, e := range entries {
		for _, v := range e.Attrs[attr] {
			key := fold(attr, v)
			if key == "" {
				continue
			}
			if list := values[key]; len(list) == 0 || list[len(list)-1] != i {
				values[key] = append(list, i)
			}
		}
	}
	return values
}

// with is the index of the entries after entry i, which was another or is new at the
// end, has changed. What has not changed is shared: an edit touches one attribute or
// two, of which hardly one is indexed.
func (x *index) with(entries []ldapmap.Entry, i int, was ldapmap.Entry, normalDN string) *index {
	y := &index{byDN: x.byDN, values: maps.Clone(x.values), names: x.names}
	if _, known := y.byDN[normalDN]; !known {
		y.byDN = maps.Clone(x.byDN)
		y.byDN[normalDN] = i
	}
	for _, attr := range indexed() {
		if !slices.Equal(was.Attrs[attr], entries[i].Attrs[attr]) {
			y.values[attr] = indexValues(entries, attr)
		}
	}
	if !slices.Equal(was.Attrs["cn"], entries[i].Attrs["cn"]) {
		y.names = slices.Sorted(maps.Keys(y.values["cn"]))
	}
	return y
}

// indexed are the attributes that lookups ask for by value.
func indexed() []string {
	return []string{"objectclass", "cn", "uid", "member", "uniquemember", "memberuid", "gidnumber"}
}

// An index says which entries have a value.
type index struct {
	byDN   map[string]int              // normalised DN -> entry
	values map[string]map[string][]int // attribute -> folded value -> entries, ascending
	names  []string                    // the folded values of cn, sorted
}

// candidates are entries among which those that the term selects are: what the most
// selective of its conditions leaves.
func (x *index) candidates(t ldapmap.Term, all int) []int {
	var best [][]int
	least := -1 // no condition is known
	for _, c := range t {
		lists, ok := x.condition(c)
		if !ok {
			continue
		}
		n := 0
		for _, list := range lists {
			n += len(list)
		}
		if least < 0 || n < least {
			best, least = lists, n
		}
	}
	switch {
	case least < 0:
		entries := make([]int, all)
		for i := range entries {
			entries[i] = i
		}
		return entries
	case len(best) == 1:
		return best[0]
	}
	return slices.Concat(best...)
}

// condition are lists of the entries for which one of the condition's tests passes, if
// the index can tell. They are not put together: there are classes that all entries have.
func (x *index) condition(c ldapmap.Condition) ([][]int, bool) {
	var lists [][]int
	for _, t := range c {
		attr := strings.ToLower(t.Attr)
		values, ok := x.values[attr]
		switch {
		case !ok:
			return nil, false
		case t.Op == ldapmap.Equal:
			lists = append(lists, values[fold(attr, t.Value)])
		case t.Op == ldapmap.Prefix && attr == "cn":
			prefix := fold(attr, t.Value)
			from, _ := slices.BinarySearch(x.names, prefix)
			for _, name := range x.names[from:] {
				if !strings.HasPrefix(name, prefix) {
					break
				}
				lists = append(lists, values[name])
			}
		default:
			return nil, false
		}
	}
	return lists, true
}

// passes is the function of that name for entry i. A group can have ten thousand
// members: the index knows without looking at each.
func (x *index) passes(i int, e ldapmap.Entry, t ldapmap.Test) bool {
	attr := strings.ToLower(t.Attr)
	values, ok := x.values[attr]
	if !ok || t.Op != ldapmap.Equal {
		return passes(e, t)
	}
	_, has := slices.BinarySearch(values[fold(attr, t.Value)], i)
	return has
}

// holds reports whether each of the term's conditions has a test that passes.
func holds(term ldapmap.Term, passes func(ldapmap.Test) bool) bool {
	for _, condition := range term {
		if !slices.ContainsFunc(condition, passes) {
			return false
		}
	}
	return true
}

// passes reports whether one of the entry's values is what the test asks for.

func passes(e ldapmap.Entry, t ldapmap.Test) bool {
	attr := strings.ToLower(t.Attr)
	values := e.Attrs[attr]
	switch t.Op {
	case ldapmap.Present:
		return len(values) > 0
	case ldapmap.Prefix:
		return slices.ContainsFunc(values, func(v string) bool {
			return len(v) >= len(t.Value) && strings.EqualFold(v[:len(t.Value)], t.Value)
		})
	}
	if !isDN(attr) {
		return slices.ContainsFunc(values, func(v string) bool { return strings.EqualFold(v, t.Value) })
	}
	want := fold(attr, t.Value)
	return want != "" && slices.ContainsFunc(values, func(v string) bool { return fold(attr, v) == want })
}

func isDN(attr string) bool { return attr == "member" || attr == "uniquemember" }

// fold brings the spellings of a value that the attribute takes for equal together. A
// member that is no distinguished name is equal to nothing: "".
func fold(attr, value string) string {
	if !isDN(attr) {
		return strings.ToLower(value)
	}
	dn, err := NormalDN(value)
	if err != nil {
		return ""
	}
	return dn
}

// NormalDN brings a distinguished name into one spelling: lower case, and no blanks
// but those that are part of a value.
func NormalDN(s string) (string, error) {
	dn, err := ldap.ParseDN(s)
	if err != nil {
		return "", err
	}
	return strings.ToLower(dn.String()), nil
}
