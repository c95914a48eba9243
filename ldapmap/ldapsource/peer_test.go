package ldapsource

import (
	"net"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// Parts of LDAP messages, for servers that tests write themselves.

func sequence(children ...*ber.Packet) *ber.Packet {
	return constructed(ber.ClassUniversal, ber.TagSequence, children...)
}

func constructed(class ber.Class, tag ber.Tag, children ...*ber.Packet) *ber.Packet {
	p := ber.Encode(class, ber.TypeConstructed, tag, nil, "")
	for _, c := range children {
		p.AppendChild(c)
	}
	return p
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func integer(n int64) *ber.Packet {
	return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, n, "")
}

// message is an LDAPMessage.
func message(id int64, op *ber.Packet, controls ...*ber.Packet) []byte {
	m := sequence(integer(id), op)
	if len(controls) > 0 {
		m.AppendChild(constructed(ber.ClassContext, 0, controls...))
	}
	return m.Bytes()
}

// outcome is an LDAPResult, in the response of that tag.
func outcome(tag ber.Tag, code int64, diagnostic string, more ...*ber.Packet) *ber.Packet {
	return constructed(ber.ClassApplication, tag, append([]*ber.Packet{
		ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""), octets(""), octets(diagnostic),
	}, more...)...)
}

// refersTo is the referral part of an LDAPResult.
func refersTo(uris ...string) *ber.Packet {
	p := constructed(ber.ClassContext, 3)
	for _, uri := range uris {
		p.AppendChild(octets(uri))
	}
	return p
}

// entry is a SearchResultEntry.
func entry(dn string, attrs map[string][]string) *ber.Packet {
	list := sequence()
	for name, values := range attrs {
		set := constructed(ber.ClassUniversal, ber.TagSet)
		for _, v := range values {
			set.AppendChild(octets(v))
		}
		list.AppendChild(sequence(octets(name), set))
	}
	return constructed(ber.ClassApplication, ldap.ApplicationSearchResultEntry, octets(dn), list)
}

// A peer answers each request by a function of its message ID and its operation; what
// that returns is sent as it is.
func peer(t *testing.T, answer func(id int64, op *ber.Packet, controls []*ber.Packet) []byte) *server {
	t.Helper()
	return loopbackServer(t, func(c net.Conn) {
		defer c.Close()
		for {
			request, err := ber.ReadPacket(c)
			if err != nil {
				return
			}
			var controls []*ber.Packet
			if len(request.Children) > 2 {
				controls = request.Children[2].Children
			}
			id, _ := request.Children[0].Value.(int64)
			if _, err := c.Write(answer(id, request.Children[1], controls)); err != nil {
				return
			}
		}
	})
}
