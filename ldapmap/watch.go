package ldapmap

import (
	"context"
	"time"
)

// A Watcher is a Source that tells of changes as they are made.
type Watcher interface {
	// Watch tells of changes until the context ends, or until it cannot any more: then it
	// says why, with the same errors as Search. A source that cannot tell of changes at
	// all is a *[NoWatchError].
	Watch(ctx context.Context, w Watch) error
}

// A Watch says what is to be told.
type Watch struct {
	Terms []Term
	Attrs []string
	// Probe is for how long the source may be silent before it is asked whether it lives.
	Probe time.Duration
	// Ready is called when all is told from then on that is changed.
	Ready func()
	// Changed is called for each entry that has changed, is new, or is selected no more, and
	// before Ready for those that are selected, or that have changed since the last Watch.
	// It has the attributes, or, if it is gone, none.
	Changed func(e Entry, gone bool)
}

// A NoWatchError is a source that does not tell of changes.
type NoWatchError struct {
	Source string
	Err    error // what it said
}

func (e *NoWatchError) Error() string {
	return "inventory " + e.Source + " does not tell of changes: " + e.Err.Error()
}
func (e *NoWatchError) Unwrap() error { return e.Err }

// Deciding selects the entries by which it is decided which level of each component the
// host and these users on it run, and names the attributes that say so. Levels and layers
// are not among them: they do not change. Neither are other hosts, of which there may be
// ten thousand that each write into their entries.
//
// Of groups it selects all that have assignments: their members are not looked at, as a
// group may have ten thousand.
func Deciding(host string, users []string) (terms []Term, attrs []string) {
	groups := anyOf("objectClass", GroupClasses()...)
	terms = []Term{
		{class(classComponent)}, {class(classProfile)}, {class(classNetgroup)},
		{class(classCaller), groups},
	}
	terms = append(terms, HostTerms(host)...)
	if len(users) > 0 {
		terms = append(terms, Term{anyOf("objectClass", userClasses()...), anyOf("uid", users...)})
	}
	return terms, []string{"objectClass", attrAssignment, attrMandatory, attrProfileRef, attrCustomize}
}
