package report

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/levelfs/levelfs/ldapmap"
)

// Attr is the attribute with the reports of a host.
const Attr = "levelfsReport"

// tries is how often a report is merged anew when another process of this host has
// written one in the meantime.
const tries = 3

// A Change is what was written, or would be.
type Change struct {
	DN     string   `json:"dn"`     // the host's entry
	Source string   `json:"source"` // where that is
	Remove []string `json:"remove"`
	Add    []string `json:"add"`

	was ldapmap.Entry
}

// None reports whether there is nothing to write.
func (c *Change) None() bool { return len(c.Remove)+len(c.Add) == 0 }

// A NoEntryError is a host that has no entry to write to.
type NoEntryError struct{ Host, Source string }

func (e *NoEntryError) Error() string {
	return fmt.Sprintf("inventory %s has no entry of host %q that is a levelfsCaller: it cannot report", e.Source, e.Host)
}

// A Sender writes reports of one host.
type Sender struct {
	Host  string
	Read  ldapmap.Store // finds the host's entry
	Write ldapmap.Store // the same inventory, as who the host is there
}

// Close ends the connections.
func (s *Sender) Close() error { return errors.Join(s.Read.Close(), s.Write.Close()) }

// Look returns what would be written.
func (s *Sender) Look(ctx context.Context, now []Report, checked bool) (*Change, error) {
	e, err := s.entry(ctx)
	if err != nil {
		return nil, err
	}
	c := &Change{DN: e.DN, Source: s.Read.Name(), was: e}
	c.Remove, c.Add = Merge(e.Attrs[strings.ToLower(Attr)], now, checked)
	return c, nil
}

// Send writes what has changed, in one operation, and returns it. On a server nothing of
// the entry counts but the reports themselves, as it is read without its version: somebody
// may change what the host is assigned at the same time.
func (s *Sender) Send(ctx context.Context, now []Report, checked bool) (*Change, error) {
	for try := 1; ; try++ {
		c, err := s.Look(ctx, now, checked)
		if err != nil || c.None() {
			return c, err
		}
		e := ldapmap.Edit{DN: c.DN, Was: &c.was}
		if len(c.Remove) > 0 {
			e.Mods = append(e.Mods, ldapmap.Mod{Op: ldapmap.ModDelete, Attr: Attr, Values: c.Remove})
		}
		if len(c.Add) > 0 {
			e.Mods = append(e.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: Attr, Values: c.Add})
		}
		err = s.Write.Apply(ctx, e)
		var late *ldapmap.ConflictError
		if !errors.As(err, &late) || try == tries {
			return c, err
		}
	}
}

// entry is the host's own: of several, the one with the name that the host has.
func (s *Sender) entry(ctx context.Context) (ldapmap.Entry, error) {
	entries, err := s.Read.All(ctx, ldapmap.HostTerms(s.Host), []string{"objectClass", "cn", Attr}, nil)
	if err != nil {
		return ldapmap.Entry{}, err
	}
	var found *ldapmap.Entry
	exact := false
	for i, e := range entries {
		if !ldapmap.IsHost(e) || !ldapmap.IsCaller(e) {
			continue
		}
		for _, name := range e.Attrs["cn"] {
			same := strings.EqualFold(name, s.Host)
			switch {
			case !ldapmap.SameHost(name, s.Host):
			case found == nil || same && !exact:
				found, exact = &entries[i], same
			case found.DN != e.DN && same == exact:
				return ldapmap.Entry{}, fmt.Errorf("inventory %s has two entries of host %q: %q and %q", s.Read.Name(), s.Host, found.DN, e.DN)
			}
		}
	}
	if found == nil {
		return ldapmap.Entry{}, &NoEntryError{Host: s.Host, Source: s.Read.Name()}
	}
	return *found, nil
}
