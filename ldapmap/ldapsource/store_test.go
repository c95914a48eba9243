package ldapsource

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
)

// TestAssertion compares the control with its encoding by hand: SEQUENCE { controlType,
// criticality TRUE, controlValue } with an equalityMatch in the value (RFC 4528,
// section 3; RFC 4511, sections 4.1.11 and 4.5.1).
func TestAssertion(t *testing.T) {
	t.Parallel()
	const version = "20261124183158.123456Z#000000#000#000000"
	filter := append([]byte{0xa3, byte(2 + 8 + 2 + len(version))}, append([]byte{4, 8}, "entryCSN"...)...)
	filter = append(append(filter, 4, byte(len(version))), version...)
	value := append([]byte{4, byte(len(filter))}, filter...)
	body := append(append([]byte{4, 12}, "1.3.6.1.1.12"...), 1, 1, 0xff)
	body = append(body, value...)
	want := append([]byte{0x30, byte(len(body))}, body...)
	if got := (unchanged{version}).Encode().Bytes(); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
}

// store is a Store on a directory.
func store(t *testing.T, d *directory) *Source {
	t.Helper()
	return open(t, Config{URIs: []string{d.uri("ldap")}, BindDN: "cn=editor", PasswordFile: secret(t, "x")})
}

func edit() ldapmap.Edit {
	return ldapmap.Edit{DN: "cn=a," + base, Was: &ldapmap.Entry{Attrs: map[string][]string{"entrycsn": {"1"}}},
		Mods: []ldapmap.Mod{{Op: ldapmap.ModDelete, Attr: "description", Values: []string{"x"}}}}
}

// TestWithoutAssertion: a server that has no assertion control is not sent one; it
// asks for nothing more at the second edit.
func TestWithoutAssertion(t *testing.T) {
	t.Parallel()
	d := newDirectory(t, nil)
	s := store(t, d)
	for range 2 {
		if err := s.Apply(t.Context(), edit()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := d.asked(), "Bind Request cn=editor x, Search Request, Modify Request, Modify Request"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

func TestOutcomes(t *testing.T) {
	t.Parallel()
	var late *ldapmap.ConflictError
	var wrong *ldapmap.ConfigError
	var down *ldapmap.UnavailableError
	for _, c := range []struct {
		code int64
		as   any // nil: neither
	}{
		{ldap.LDAPResultAssertionFailed, &late}, {ldap.LDAPResultNoSuchAttribute, &late}, {ldap.LDAPResultAttributeOrValueExists, &late},
		{ldap.LDAPResultEntryAlreadyExists, &late}, {ldap.LDAPResultNoSuchObject, &late},
		{ldap.LDAPResultReferral, &wrong}, {ldap.LDAPResultBusy, &down}, {ldap.LDAPResultUnavailable, &down},
		{ldap.LDAPResultInsufficientAccessRights, nil}, {ldap.LDAPResultObjectClassViolation, nil}, {ldap.LDAPResultUnwillingToPerform, nil},
		{ldap.LDAPResultSizeLimitExceeded, nil},
	} {
		d := newDirectory(t, map[ber.Tag]*ber.Packet{
			ldap.ApplicationModifyRequest: testenv.LDAPResult(ldap.ApplicationModifyResponse, c.code, "so\nit is"),
		})
		err := store(t, d).Apply(t.Context(), edit())
		if err == nil {
			t.Errorf("%d: no error", c.code)
			continue
		}
		for _, kind := range []any{&late, &wrong, &down} {
			if got := errors.As(err, kind); got != (kind == c.as) {
				t.Errorf("%d: %T %v", c.code, err, err)
			}
		}
		if c.code != ldap.LDAPResultReferral && !strings.Contains(err.Error(), `"so\nit is"`) {
			t.Errorf("%d: %q", c.code, err)
		}
	}
}

// TestUnanswered: a change is not sent twice, and it is said that it may be made.
func TestUnanswered(t *testing.T) {
	t.Parallel()
	server := loopbackServer(t, func(c net.Conn) {
		defer c.Close()
		for {
			request, err := ber.ReadPacket(c)
			if err != nil {
				return
			}
			id, op := request.Children[0].Value.(int64), request.Children[1]
			answer := testenv.LDAPResult(op.Tag+1, 0, "")
			switch op.Tag {
			case ldap.ApplicationSearchRequest:
				answer = testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, "")
			case ldap.ApplicationModifyRequest:
				return
			}
			if _, err := c.Write(testenv.LDAPMessage(id, answer)); err != nil {
				return
			}
		}
	})
	s := open(t, Config{URIs: []string{server.uri("ldap"), server.uri("ldap")}, BindDN: "cn=editor", PasswordFile: secret(t, "x")})
	err := s.Apply(t.Context(), edit())
	var down *ldapmap.UnavailableError
	if !errors.As(err, &down) || !strings.Contains(err.Error(), "may have been made") || server.connections() != 1 {
		t.Errorf("got %v after %d connections", err, server.connections())
	}
}

func TestIdentity(t *testing.T) {
	t.Parallel()
	who := func(code int64, value string) *ber.Packet {
		v := ber.NewString(ber.ClassContext, ber.TypePrimitive, 11, value, "") // responseValue
		return testenv.LDAPResult(ldap.ApplicationExtendedResponse, code, "", v)
	}
	for _, c := range []struct {
		name   string
		answer *ber.Packet
		want   string // "": an error
	}{
		{"DN", who(0, "dn:cn=editor,dc=x"), "dn:cn=editor,dc=x"},
		{"user", who(0, "u:editor"), "u:editor"},
		{"unknown request", testenv.LDAPResult(ldap.ApplicationExtendedResponse, ldap.LDAPResultProtocolError, ""), "dn:cn=editor"},
		{"anonymous", who(0, ""), ""},
		{"anonymous, spelled out", who(0, "dn:"), ""},
		{"unprintable", who(0, "dn:cn=a\nb"), ""},
		{"busy", testenv.LDAPResult(ldap.ApplicationExtendedResponse, ldap.LDAPResultBusy, ""), ""},
	} {
		got, err := store(t, newDirectory(t, map[ber.Tag]*ber.Packet{ldap.ApplicationExtendedRequest: c.answer})).Identity(t.Context())
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

// TestEditsThatAreNone are refused before anything is sent.
func TestEditsThatAreNone(t *testing.T) {
	t.Parallel()
	d := newDirectory(t, nil)
	was := &ldapmap.Entry{}
	for _, e := range []ldapmap.Edit{
		{DN: base, Was: was},
		{DN: base, Was: was, Mods: []ldapmap.Mod{{Op: "replace", Attr: "cn", Values: []string{"a"}}}},
		{DN: base, Mods: []ldapmap.Mod{{Op: ldapmap.ModDelete, Attr: "cn"}}},
		{DN: base, Mods: []ldapmap.Mod{{Op: ldapmap.ModAdd, Attr: "cn"}}},
		{DN: base},
		{DN: base, Was: was, Mods: []ldapmap.Mod{{Op: ldapmap.ModAdd, Attr: "cn"}}},
	} {
		if err := store(t, d).Apply(t.Context(), e); err == nil || d.connections() > 0 {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

// TestPages: a server that fails on the way is left for the next, which starts anew; one
// that knows no pages gives everything at once.
func TestPages(t *testing.T) {
	t.Parallel()
	page := func(id int64, dn, cookie string) []byte {
		control := testenv.BERSequence(testenv.BEROctets(ldap.ControlTypePaging),
			testenv.BEROctets(string(testenv.BERSequence(testenv.BERInteger(0), testenv.BEROctets(cookie)).Bytes())))
		return append(testenv.LDAPMessage(id, testenv.LDAPEntry(dn, nil)), testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""), control)...)
	}
	failing := loopbackServer(t, func(c net.Conn) {
		defer c.Close()
		if _, err := ber.ReadPacket(c); err == nil {
			_, _ = c.Write(page(1, "cn=twice", "more"))
			_, _ = ber.ReadPacket(c)
		}
	})
	paging := peer(t, func(id int64, _ *ber.Packet) []byte {
		return page(id, []string{"", "cn=a", "cn=b", "cn=c"}[id], []string{"", "1", "2", ""}[id])
	})
	plain := peer(t, func(id int64, _ *ber.Packet) []byte {
		return append(testenv.LDAPMessage(id, testenv.LDAPEntry("cn=a", nil)), testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""))...)
	})
	for _, c := range []struct {
		servers []*server
		want    string
	}{
		{[]*server{paging}, "cn=a cn=b cn=c"}, {[]*server{failing, paging}, "cn=a cn=b cn=c"}, {[]*server{plain}, "cn=a"},
	} {
		var uris, got []string
		for _, s := range c.servers {
			uris = append(uris, s.uri("ldap"))
		}
		entries, err := open(t, Config{URIs: uris}).All(t.Context(), emacs, nil, nil)
		if err != nil {
			t.Error(err)
		}
		for _, e := range entries {
			got = append(got, e.DN)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("got %q, want %s", got, c.want)
		}
	}
	// Of one that is alone the part is not taken for the whole.
	var down *ldapmap.UnavailableError
	if got, err := open(t, Config{URIs: []string{failing.uri("ldap")}}).All(t.Context(), emacs, nil, nil); !errors.As(err, &down) || got != nil {
		t.Errorf("got %v, %v", got, err)
	}
}
