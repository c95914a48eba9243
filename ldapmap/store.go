package ldapmap

import (
	"context"
	"fmt"
)

// A Store is a Source that can also be read as a whole and be changed: what people
// and their tools need, and mounts do not.
type Store interface {
	Source
	// All is Search for many answers: it returns every entry that any of the terms
	// selects, however many there are. progress, if not nil, is called now and then
	// with the number of entries read so far. There is no other limit than the
	// context's.
	All(ctx context.Context, terms []Term, attrs []string, progress func(entries int)) ([]Entry, error)
	// Apply makes one change of one entry, whole or not at all. It returns a
	// *ConflictError if the entry is not as it was when the edit was made for it.
	Apply(ctx context.Context, e Edit) error
	// Identity says as whom Apply writes, for the record: an authorization identity
	// of the directory (RFC 4513, section 5.2.1.8), or a user of this machine.
	Identity(ctx context.Context) (string, error)
}

// AttrVersion is the attribute by which an [Edit] recognises the entry that it was
// made for, where the source has it (OpenLDAP's change sequence number).
const AttrVersion = "entryCSN"

// An Edit is one change of one entry.
type Edit struct {
	DN string
	// Was is the entry that the edit was made for, as the Store returned it. Without
	// one the edit makes a new entry out of the values that its Mods add, and an entry
	// that is there by now is a conflict.
	Was  *Entry
	Mods []Mod
	// Remove takes the entry away; there are no Mods then. A server without the
	// assertion control cannot tell whether it has changed since.
	Remove bool
}

// A Mod adds or deletes values of one attribute of an entry (RFC 4511, section 4.6).
// Values to delete have to be there, so that one who overwrites what another has
// just written is told so; deleting no values at all deletes the attribute.
type Mod struct {
	Op     ModOp
	Attr   string
	Values []string
}

// ModOp is what a Mod does.
type ModOp string

// The kinds of Mod.
const (
	ModAdd    ModOp = "add"
	ModDelete ModOp = "delete"
)

// A ConflictError is an edit that came too late: somebody else has changed the entry.
type ConflictError struct {
	Source, DN string
	Err        error // what the source said
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("inventory %s: entry %q was changed by somebody else in the meantime: %v", e.Source, e.DN, e.Err)
}
func (e *ConflictError) Unwrap() error { return e.Err }

// Everything selects all entries that levels are decided by, and names the attributes
// that tools need of them: for [Store.All].
func Everything() ([]Term, []string) {
	classes := []string{classComponent, classLevel, classLayer, classProfile, classCaller, classNetgroup, classRollout}
	classes = append(append(classes, hostClasses()...), userClasses()...)
	attrs := append(attributes(), "member", "uniqueMember", "memberUid", "uidNumber", "owner",
		AttrVersion, AttrSerial, AttrHistory, "levelfsPackage", "levelfsArch", "levelfsRange",
		"levelfsRolloutLevel", "levelfsRing", "levelfsRingBefore", "levelfsRingAt", "levelfsGate", "levelfsRolloutState")
	return []Term{{anyOf("objectClass", classes...)}}, attrs
}

// Attributes that record changes; see package edit.
const (
	AttrSerial  = "levelfsSerial"
	AttrHistory = "levelfsHistory"
)

// What a caller's assignments are written in; see package edit.
const (
	ClassCaller    = classCaller
	AttrAssignment = attrAssignment
	AttrMandatory  = attrMandatory
	AttrProfileRef = attrProfileRef
	AttrCustomize  = attrCustomize
)
