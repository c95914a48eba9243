package ldapsource

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
)

// conn is a connection that delivers what a reader does.
type conn struct {
	net.Conn
	io.Reader
}

func (c conn) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// nested is a message of that depth.
func nested(depth int) []byte {
	p := testenv.BEROctets("x")
	for range depth - 1 {
		p = testenv.BERSequence(p)
	}
	return p.Bytes()
}

func TestMessages(t *testing.T) {
	t.Parallel()
	done := testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, "")
	good := testenv.LDAPMessage(1, testenv.LDAPEntry("cn=a", map[string][]string{"cn": {"a", "b"}}), testenv.BERSequence(testenv.BEROctets("1.2.3")))
	tiny := &limit{value: 30, message: 100, elements: 10, totalBytes: 250, totalElements: 25}
	for _, c := range []struct {
		name  string
		bytes []byte
		limit *limit
		says  string // "" if all of it is handed on
	}{
		{"nothing", nil, lookupLimit(), ""},
		{"two messages", append(bytes.Clone(good), testenv.LDAPMessage(1, done)...), lookupLimit(), ""},
		{"length in four octets", append([]byte{0x30, 0x84, 0, 0, 0, 3}, 2, 1, 1), lookupLimit(), ""},
		{"as deep as may be", nested(maxDepth + 1), lookupLimit(), ""},
		{"too deep", nested(maxDepth + 3), lookupLimit(), "nested too deep"},
		{"cut short", good[:len(good)-1], lookupLimit(), "unexpected EOF"},
		{"HTTP", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), lookupLimit(), "no LDAP message"},
		{"2 GiB", []byte{0x30, 0x84, 0x80, 0, 0, 0, 2, 1, 1}, lookupLimit(), "a message of 2147483647 bytes"},
		{"2 GiB inside", []byte{0x30, 6, 4, 0x84, 0x80, 0, 0, 0}, lookupLimit(), "no LDAP message"},
		{"minus one", []byte{0x30, 0x88, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, lookupLimit(), "no LDAP message"},
		{"minus one inside", []byte{0x30, 6, 4, 0x84, 0xff, 0xff, 0xff, 0xff}, lookupLimit(), "no LDAP message"},
		{"indefinite length", []byte{0x30, 0x80, 2, 1, 1, 0, 0}, lookupLimit(), "no LDAP message"},
		{"indefinite length inside", []byte{0x30, 4, 0x30, 0x80, 0, 0}, lookupLimit(), "no LDAP message"},
		{"longer than what holds it", []byte{0x30, 3, 4, 2, 'x', 'y'}, lookupLimit(), "no LDAP message"},
		{"tag of several octets", []byte{0x30, 4, 0x1f, 0x81, 1, 0}, lookupLimit(), "no LDAP message"},
		{"no sequence", []byte{0x31, 0}, lookupLimit(), "no LDAP message"},
		{"long message", testenv.LDAPMessage(1, testenv.LDAPEntry(strings.Repeat("x", 100), nil)), tiny, "a message of 1"},
		{"long value", testenv.LDAPMessage(1, testenv.LDAPEntry(strings.Repeat("x", 31), nil)), tiny, "a value of 31 bytes"},
		{"many values", testenv.LDAPMessage(1, testenv.LDAPEntry("", map[string][]string{"a": make([]string, 20)})), tiny, "too many values"},
		{"many messages", bytes.Repeat(testenv.LDAPMessage(1, done), 20), &limit{value: 30, message: 100, elements: 10, totalBytes: 250}, "more than 250 bytes"},
		{"many values in all", bytes.Repeat(testenv.LDAPMessage(1, done), 6), tiny, "more than 25 values"},
		{"long controls", testenv.LDAPMessage(1, done, testenv.BERSequence(testenv.BEROctets("1.2.3"), testenv.BEROctets(strings.Repeat("x", maxControls)))), lookupLimit(), "controls of"},
		{"long intermediate response", testenv.LDAPMessage(1, intermediate(maxControls)), lookupLimit(), "controls of"},
		{"intermediate response", testenv.LDAPMessage(1, intermediate(maxControls-100)), lookupLimit(), ""},
		{"long entry", testenv.LDAPMessage(1, testenv.LDAPEntry(strings.Repeat("x", maxControls+1), nil)), lookupLimit(), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, in := range []io.Reader{bytes.NewReader(c.bytes), iotest.OneByteReader(bytes.NewReader(c.bytes))} {
				got, err := io.ReadAll(newMessages(conn{Reader: in}, c.limit))
				if c.says == "" && (err != nil || !bytes.Equal(got, c.bytes)) {
					t.Errorf("got %x, %v; want %x", got, err, c.bytes)
				}
				if c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
					t.Errorf("got %v, want %q", err, c.says)
				}
				if !bytes.HasPrefix(c.bytes, got) {
					t.Errorf("got %x of %x", got, c.bytes)
				}
			}
		})
	}
}

// intermediate is a response whose value, which go-ldap decodes, has so many bytes.
func intermediate(bytes int) *ber.Packet {
	r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationIntermediateResponse, nil, "")
	r.AppendChild(testenv.BEROctets("1.3.6.1.4.1.4203.1.9.1.4"))
	r.AppendChild(testenv.BEROctets(strings.Repeat("x", bytes)))
	return r
}

// FuzzMessages checks that what is handed on, go-ldap's decoder takes whole: nothing
// that it would read past, or keep waiting for.
func FuzzMessages(f *testing.F) {
	done := testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, "")
	f.Add(testenv.LDAPMessage(1, done))
	f.Add(testenv.LDAPMessage(1, testenv.LDAPEntry("cn=a", map[string][]string{"cn": {"a"}}), testenv.BERSequence(testenv.BEROctets("1.2.3"))))
	f.Add(nested(20))
	f.Add([]byte{0x30, 0x84, 0x80, 0, 0, 0})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		m := newMessages(conn{Reader: bytes.NewReader(in)}, &limit{value: 1 << 12, message: 1 << 12, elements: 100})
		for {
			if err := m.next(); err != nil {
				return
			}
			rest := bytes.NewReader(m.message)
			if _, err := ber.ReadPacket(rest); err != nil && errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("%x: %v", m.message, err)
			} else if err == nil && rest.Len() > 0 {
				t.Fatalf("%x: %d bytes left", m.message, rest.Len())
			}
			m.unread = nil
		}
	})
}

// FuzzAnswer lets a server say anything to a search: it ends, and in one of the ways
// that are specified.
func FuzzAnswer(f *testing.F) {
	done := testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, "")
	f.Add(append(testenv.LDAPMessage(1, testenv.LDAPEntry("cn=a", map[string][]string{"cn": {"a"}})), testenv.LDAPMessage(1, done)...))
	f.Add(testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 10, "", testenv.LDAPReferral("ldap://x"))))
	f.Add(testenv.LDAPMessage(1, testenv.LDAPReference("ldap://x")))
	f.Add(testenv.LDAPMessage(1, done, testenv.BERSequence(testenv.BEROctets(ldap.ControlTypePaging), testenv.BEROctets(string(testenv.BERSequence(testenv.BERInteger(0), testenv.BEROctets("x")).Bytes())))))
	f.Add(testenv.LDAPMessage(0, testenv.LDAPResult(ldap.ApplicationExtendedResponse, 52, "")))
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		client, peer := net.Pipe()
		go func() {
			_, _ = peer.Read(make([]byte, 1<<12))
			_, _ = peer.Write(in)
			peer.Close()
		}()
		s, err := New(Config{URIs: []string{"ldapi:///nosuch"}, Base: base})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		messages := newMessages(client, lookupLimit())
		c := ldap.NewConn(messages, false)
		c.Start()
		s.conn = &connection{Conn: c, in: messages}
		got, err := s.Search(t.Context(), emacs, nil)
		var wrong *ldapmap.ConfigError
		var down *ldapmap.UnavailableError
		if err != nil && !errors.As(err, &wrong) && !errors.As(err, &down) {
			t.Errorf("got %T %v", err, err)
		}
		if err != nil && got != nil {
			t.Errorf("got %v and %v", got, err)
		}
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if strings.ContainsFunc(strings.TrimSuffix(line, "\n"), func(r rune) bool { return r < ' ' || r == 0x7f }) {
					t.Errorf("unprintable: %q", line)
				}
			}
		}
	})
}
