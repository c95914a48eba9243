package ldapmap

import (
	"fmt"
	"strings"
)

// A NotFoundError is a thing that the inventory refers to, or was asked for,
// and does not have.
type NotFoundError struct {
	What string // "component", "level", "layer"
	Name string
	By   string // who refers to it: a DN, or "" when it was asked for by name
}

func (e *NotFoundError) Error() string {
	if e.By == "" {
		return fmt.Sprintf("no %s %q in the inventory", e.What, e.Name)
	}
	return fmt.Sprintf("no %s %q in the inventory (%q refers to it)", e.What, e.Name, e.By)
}

// A NoLevelError is a caller for whom nothing decides a component's level.
type NoLevelError struct{ Component, Host, User string }

func (e *NoLevelError) Error() string {
	who := fmt.Sprintf("host %q", e.Host)
	switch {
	case e.Host == "":
		who = fmt.Sprintf("user %q", e.User)
	case e.User != "":
		who = fmt.Sprintf("user %q on host %q", e.User, e.Host)
	}
	return fmt.Sprintf("no level of %q is assigned to %s, and the component has no default", e.Component, who)
}

// A SealError is a released level that does not have the layers that it was released
// with. A level name means the same content for ever: it is not run.
type SealError struct{ Level, DN string }

func (e *SealError) Error() string {
	return fmt.Sprintf("released level %q was changed: its layers are not those of its levelfsSeal (%q)", e.Level, e.DN)
}

// An AmbiguousError is two different answers at the same rank of one source.
type AmbiguousError struct {
	Component string
	A, B      Rule
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("two levels of %q at rank %q: %q by %q and %q by %q",
		e.Component, e.A.Rank, e.A.Level, e.A.origin(), e.B.Level, e.B.origin())
}

// A LoopError is a profile that includes itself, by way of others or directly.
type LoopError struct{ Profiles []string }

func (e *LoopError) Error() string {
	return fmt.Sprintf("profiles include each other in a loop: %s", strings.Join(e.Profiles, " -> "))
}

// A NestingError is profiles or netgroups that include each other deeper than a lookup
// follows them.
type NestingError struct {
	What  string   // "profiles", "netgroups"
	Names []string // those that were not asked for
}

func (e *NestingError) Error() string {
	return fmt.Sprintf("%s include each other more than %d deep: %q", e.What, maxNesting, e.Names)
}

// An InvalidError is an attribute value that does not pass its whitelist.
type InvalidError struct {
	DN, Attr, Value string
	Want            string
}

func (e *InvalidError) Error() string {
	return fmt.Sprintf("entry %q: %s: invalid value %.200q: want %s", e.DN, e.Attr, e.Value, e.Want)
}

// A ConfigError is a source that is set up wrongly: asking again will not help.
type ConfigError struct {
	Source string
	Err    error
}

func (e *ConfigError) Error() string { return fmt.Sprintf("inventory %s: %v", e.Source, e.Err) }
func (e *ConfigError) Unwrap() error { return e.Err }

// A TooManyError is a search with more answers than the source gives. It comes
// wrapped in a *ConfigError.
type TooManyError struct{ Limit int } // ours; the server's may be lower

func (e *TooManyError) Error() string {
	return fmt.Sprintf("too many entries answer one search: more than %d, or than the server returns", e.Limit)
}

// An UnavailableError is a source that cannot be asked now.
type UnavailableError struct {
	Source string
	Err    error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("inventory %s is not available: %v", e.Source, e.Err)
}
func (e *UnavailableError) Unwrap() error { return e.Err }

// An UnusableError is a level that must not be run, or not by this way of asking.
type UnusableError struct {
	Level     string // full name
	Reason    string
	Successor string // full name of the level to run instead, or ""
}

func (e *UnusableError) Error() string {
	if e.Successor == "" {
		return fmt.Sprintf("level %q %s", e.Level, e.Reason)
	}
	return fmt.Sprintf("level %q %s; its successor is %q", e.Level, e.Reason, e.Successor)
}
