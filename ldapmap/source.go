package ldapmap

import (
	"context"
	"strings"
)

// A Source is one place where an inventory is kept.
type Source interface {
	// Name says which source this is, for trails and errors: a URI or a path.
	Name() string
	// Search returns every entry that any of the terms selects, in no
	// particular order, with at least the attributes named. It returns by the
	// context's deadline. An inventory without such entries gives none and no
	// error; one that cannot be asked gives an *UnavailableError; one that is set
	// up wrongly (a base DN that does not exist, a file that is no LDIF) a
	// *ConfigError, and one that would have to answer with too many entries a
	// *ConfigError that wraps a *TooManyError.
	Search(ctx context.Context, terms []Term, attrs []string) ([]Entry, error)
	// Close releases connections. The Source is not used afterwards.
	Close() error
}

// An Entry is one inventory entry. Attribute names are in lower case, because
// LDAP compares them without case and servers answer in the schema's spelling
// (RFC 4512, section 2.5).
type Entry struct {
	DN    string
	Attrs map[string][]string
}

// First returns the attribute's first value, or "".
func (e Entry) First(attr string) string {
	if v := e.Attrs[attr]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// Is reports whether the entry has the object class.
func (e Entry) Is(class string) bool {
	for _, c := range e.Attrs["objectclass"] {
		if strings.EqualFold(c, class) {
			return true
		}
	}
	return false
}

// A Term selects the entries for which each of its conditions holds.
type Term []Condition

// A Condition holds if one of its tests does.
type Condition []Test

// A Test compares one attribute. Values are raw: a Source escapes them.
type Test struct {
	Attr  string
	Op    Op
	Value string // not used by Present
}

// Op is how a Test compares. The attribute's schema decides whether case counts.
type Op int

// The comparisons that a Source has to know.
const (
	Equal   Op = iota // (attr=value)
	Prefix            // (attr=value*)
	Present           // (attr=*)
)

// anyOf is the condition that the attribute equals one of the values.
func anyOf(attr string, values ...string) Condition {
	var c Condition
	for _, v := range values {
		c = append(c, Test{Attr: attr, Value: v})
	}
	return c
}

// class is the condition that the entry has the object class.
func class(name string) Condition { return anyOf("objectClass", name) }

// attributes are what a lookup needs to see of an entry.
func attributes() []string {
	return []string{
		"objectClass", "cn", "uid", "description", "gidNumber", "nisNetgroupTriple", "memberNisNetgroup",
		"levelfsDefault", "levelfsMountPoint", "levelfsPrivate", "levelfsXIP", "levelfsOnStale",
		"levelfsLayerRef", "levelfsState", "levelfsNotBefore", "levelfsNotAfter", "levelfsSuccessor", "levelfsSeal",
		"levelfsDigest", "levelfsSize", "levelfsFSType", "levelfsUUID", "levelfsSegment", "levelfsImage", "levelfsManifest",
		attrAssignment, attrMandatory, attrProfileRef, attrCustomize, "levelfsKind",
	}
}
