package ldapsource

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

// Source is also a place to write to, unless it asks as nobody.
var _ ldapmap.Store = (*Source)(nil)

// pageSize is how many entries All asks for at once (RFC 2696).
const pageSize = 1000

// assertion is the OID of the assertion control (RFC 4528).
const assertion = "1.3.6.1.1.12"

// All implements [ldapmap.Store], page by page. If a server fails on the way, the
// next one starts anew. Servers have limits of their own, which paging does not lift
// everywhere: reaching one is a *ConfigError.
func (s *Source) All(ctx context.Context, terms []ldapmap.Term, attrs []string, progress func(entries int)) ([]ldapmap.Entry, error) {
	var all []ldapmap.Entry
	err := s.each(ctx, s.patience(), func(c *connection) error {
		all = nil
		c.in.limit.Store(storeLimit())
		request := s.request(terms, attrs)
		paging := ldap.NewControlPaging(pageSize)
		request.Controls = []ldap.Control{paging}
		for {
			result, err := c.Search(request)
			if ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded) {
				return s.wrong(fmt.Errorf("the server stops after %d entries, though asked page by page: %w", len(all)+len(result.Entries), said(err)))
			}
			if err != nil {
				return said(err)
			}
			all = append(all, entries(result)...)
			if progress != nil {
				progress(len(all))
			}
			next, ok := ldap.FindControl(result.Controls, ldap.ControlTypePaging).(*ldap.ControlPaging)
			if !ok || len(next.Cookie) == 0 {
				return nil
			}
			paging.SetCookie(next.Cookie)
			if err := s.goOn(ctx, c); err != nil {
				return err
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// patience is how long a server may take for one request of a Store.
func (s *Source) patience() time.Duration {
	if s.config.Timeout > 0 {
		return s.config.Timeout
	}
	return defaultTimeout
}

// goOn gives a server that has just answered its time anew.
func (s *Source) goOn(ctx context.Context, c *connection) error {
	deadline, err := s.deadline(ctx, s.patience())
	if err != nil {
		return err
	}
	return c.in.SetDeadline(deadline)
}

// Apply implements [ldapmap.Store], by one add or modify request. Where the server
// has the assertion control and the entry its entryCSN, the entry must not have
// changed at all; otherwise the values to delete must be there.
//
// An *[ldapmap.UnavailableError] leaves open whether the change was made, if it was
// sent. It is never sent twice.
func (s *Source) Apply(ctx context.Context, e ldapmap.Edit) error {
	if err := s.somebody(); err != nil {
		return err
	}
	if e.Remove {
		return s.remove(ctx, e)
	}
	add, modify, err := requests(e)
	if err != nil {
		return fmt.Errorf("inventory %s: entry %q: %w", s.Name(), e.DN, err)
	}
	var answer error
	err = s.each(ctx, s.patience(), func(c *connection) error {
		if add != nil {
			answer = c.Add(add)
			return nil
		}
		if modify.Controls, err = s.guard(ctx, c, e); err != nil {
			return said(err)
		}
		answer = c.Modify(modify)
		return nil
	})
	if err != nil {
		return err
	}
	return s.applied(e, answer)
}

// remove takes an entry away.
func (s *Source) remove(ctx context.Context, e ldapmap.Edit) error {
	var answer error
	err := s.each(ctx, s.patience(), func(c *connection) error {
		controls, err := s.guard(ctx, c, e)
		if err != nil {
			return said(err)
		}
		answer = c.Del(ldap.NewDelRequest(e.DN, controls))
		return nil
	})
	if err != nil {
		return err
	}
	return s.applied(e, answer)
}

// guard are the controls that let an edit pass only on the entry that it was made for,
// where the server and the entry allow for that.
func (s *Source) guard(ctx context.Context, c *connection, e ldapmap.Edit) ([]ldap.Control, error) {
	version := e.Was.First(strings.ToLower(ldapmap.AttrVersion))
	if version == "" {
		return nil, nil
	}
	known, err := s.canAssert(ctx, c)
	if err != nil || !known {
		return nil, err
	}
	return []ldap.Control{unchanged{version}}, nil
}

// requests are what an edit asks of a server: an add or a modify request.
func requests(e ldapmap.Edit) (*ldap.AddRequest, *ldap.ModifyRequest, error) {
	if len(e.Mods) == 0 {
		return nil, nil, errors.New("nothing to change")
	}
	for _, m := range e.Mods {
		if m.Op == ldapmap.ModAdd && len(m.Values) == 0 {
			return nil, nil, fmt.Errorf("no values to add to %q", m.Attr)
		}
	}
	if e.Was == nil {
		add := ldap.NewAddRequest(e.DN, nil)
		for _, m := range e.Mods {
			if m.Op != ldapmap.ModAdd {
				return nil, nil, errors.New("a new entry has only values that are added")
			}
			add.Attribute(m.Attr, m.Values)
		}
		return add, nil, nil
	}
	modify := ldap.NewModifyRequest(e.DN, nil)
	for _, m := range e.Mods {
		switch m.Op {
		case ldapmap.ModAdd:
			modify.Add(m.Attr, m.Values)
		case ldapmap.ModDelete:
			modify.Delete(m.Attr, m.Values)
		default:
			return nil, nil, fmt.Errorf("no such kind of change: %q", m.Op)
		}
	}
	return nil, modify, nil
}

// canAssert asks the root DSE whether the server has the assertion control, once a
// connection.
func (s *Source) canAssert(ctx context.Context, c *connection) (bool, error) {
	if c.asserts == nil {
		request := ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 1, 0, false,
			"(objectClass=*)", []string{"supportedControl"}, nil)
		result, err := c.Search(request)
		if err != nil {
			return false, err
		}
		found := false
		for _, dse := range entries(result) {
			for _, oid := range dse.Attrs["supportedcontrol"] {
				found = found || oid == assertion
			}
		}
		c.asserts = &found
		if err := s.goOn(ctx, c); err != nil {
			return false, err
		}
	}
	return *c.asserts, nil
}

// unchanged is the assertion control, with the assertion that the entry still has
// that entryCSN. It is critical: a server that does not look must not write.
type unchanged struct{ version string }

func (unchanged) GetControlType() string { return assertion }

func (u unchanged) String() string { return assertion + " " + u.filter() }

func (u unchanged) filter() string {
	return "(" + ldapmap.AttrVersion + "=" + ldap.EscapeFilter(u.version) + ")"
}

// Encode renders the control (RFC 4511, section 4.1.11). Its value is an octet string
// that holds the filter's encoding.
func (u unchanged) Encode() *ber.Packet {
	control := ber.NewSequence("")
	control.AppendChild(ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, assertion, ""))
	control.AppendChild(ber.NewLDAPBoolean(ber.ClassUniversal, ber.TypePrimitive, ber.TagBoolean, true, ""))
	value := ber.Encode(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, nil, "")
	if filter, err := ldap.CompileFilter(u.filter()); err == nil { // always: the value is escaped
		value.Data.Write(filter.Bytes())
	}
	control.AppendChild(value)
	return control
}

// applied says what the server's answer to an edit means.
func (s *Source) applied(e ldapmap.Edit, answer error) error {
	var r *ldap.Error
	switch {
	case answer == nil:
		return nil
	case !errors.As(answer, &r) || r.ResultCode >= ldap.ErrorNetwork:
		return &ldapmap.UnavailableError{Source: s.Name(), Err: fmt.Errorf("no answer to a change of %q, which may have been made: %w", e.DN, said(answer))}
	}
	switch r.ResultCode {
	case ldap.LDAPResultNoSuchObject:
		if e.Was == nil {
			return fmt.Errorf("inventory %s: there is no entry to put %q below", s.Name(), e.DN)
		}
		fallthrough
	case ldap.LDAPResultAssertionFailed, ldap.LDAPResultNoSuchAttribute,
		ldap.LDAPResultAttributeOrValueExists, ldap.LDAPResultEntryAlreadyExists:
		return &ldapmap.ConflictError{Source: s.Name(), DN: e.DN, Err: said(answer)}
	case ldap.LDAPResultReferral:
		return s.wrong(referral(answer))
	case ldap.LDAPResultBusy, ldap.LDAPResultUnavailable:
		return &ldapmap.UnavailableError{Source: s.Name(), Err: said(answer)}
	}
	return fmt.Errorf("inventory %s: %q was not changed: %w", s.Name(), e.DN, said(answer))
}

// Identity implements [ldapmap.Store]: what the server answers to "Who am I?" (RFC
// 4532), or, where it does not know that request, the DN that we bind as.
func (s *Source) Identity(ctx context.Context) (string, error) {
	if err := s.somebody(); err != nil {
		return "", err
	}
	var who string
	err := s.each(ctx, s.patience(), func(c *connection) error {
		result, err := c.WhoAmI(nil)
		switch {
		case err == nil:
			who = result.AuthzID
		case s.config.BindDN != "" && ldap.IsErrorAnyOf(err, ldap.LDAPResultProtocolError, ldap.LDAPResultUnwillingToPerform,
			ldap.LDAPResultInsufficientAccessRights):
			who = "dn:" + s.config.BindDN
		default:
			return said(err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if who == "" || who == "dn:" { // both mean nobody (RFC 4513, section 5.2.1.8)
		return "", s.wrong(errors.New("the server takes us for anonymous"))
	}
	if printable(who) != who {
		return "", fmt.Errorf("inventory %s: an identity that is none: %s", s.Name(), printable(who))
	}
	return who, nil
}

// somebody refuses to write as nobody, which a server might allow.
func (s *Source) somebody() error {
	if s.config.BindDN == "" && !s.config.External {
		return s.wrong(errors.New("no identity to write as: set bind-dn and password-file, or sasl"))
	}
	return nil
}
