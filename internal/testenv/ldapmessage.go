package testenv

import (
	"context"
	"net"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
)

// Parts of LDAP messages (RFC 4511, section 4), for servers that tests write
// themselves: nothing in them is checked.

// BERSequence is a SEQUENCE.
func BERSequence(children ...*ber.Packet) *ber.Packet {
	return berConstructed(ber.ClassUniversal, ber.TagSequence, children...)
}

// BEROctets is an OCTET STRING.
func BEROctets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

// BERInteger is an INTEGER.
func BERInteger(n int64) *ber.Packet {
	return ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, n, "")
}

func berConstructed(class ber.Class, tag ber.Tag, children ...*ber.Packet) *ber.Packet {
	p := ber.Encode(class, ber.TypeConstructed, tag, nil, "")
	for _, c := range children {
		p.AppendChild(c)
	}
	return p
}

// LDAPMessage is an LDAPMessage, encoded.
func LDAPMessage(id int64, op *ber.Packet, controls ...*ber.Packet) []byte {
	m := BERSequence(BERInteger(id), op)
	if len(controls) > 0 {
		m.AppendChild(berConstructed(ber.ClassContext, 0, controls...))
	}
	return m.Bytes()
}

// LDAPResult is an LDAPResult in the response of that tag.
func LDAPResult(tag ber.Tag, code int64, diagnostic string, more ...*ber.Packet) *ber.Packet {
	return berConstructed(ber.ClassApplication, tag, append([]*ber.Packet{
		ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""), BEROctets(""), BEROctets(diagnostic),
	}, more...)...)
}

// LDAPReferral is the referral part of an LDAPResult.
func LDAPReferral(uris ...string) *ber.Packet {
	p := berConstructed(ber.ClassContext, 3)
	for _, uri := range uris {
		p.AppendChild(BEROctets(uri))
	}
	return p
}

// LDAPReference is a SearchResultReference.
func LDAPReference(uri string) *ber.Packet {
	return berConstructed(ber.ClassApplication, ldap.ApplicationSearchResultReference, BEROctets(uri))
}

// LDAPEntry is a SearchResultEntry.
func LDAPEntry(dn string, attrs map[string][]string) *ber.Packet {
	list := BERSequence()
	for name, values := range attrs {
		set := berConstructed(ber.ClassUniversal, ber.TagSet)
		for _, v := range values {
			set.AppendChild(BEROctets(v))
		}
		list.AppendChild(BERSequence(BEROctets(name), set))
	}
	return berConstructed(ber.ClassApplication, ldap.ApplicationSearchResultEntry, BEROctets(dn), list)
}

// Serve calls handle for each connection to a loopback address, which it returns,
// until the end of the test. Connections are closed when handle returns or the test
// ends, which also ends handle's context.
func Serve(t testing.TB, handle func(context.Context, net.Conn)) (addr string) {
	t.Helper()
	addr, stop, err := serveLoopback(context.Background(), handle)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return addr
}

// AnswerLDAP answers each request of a connection by what the function returns for its
// message ID and operation, as it is.
func AnswerLDAP(c net.Conn, answer func(id int64, op *ber.Packet) []byte) {
	for {
		request, err := ber.ReadPacket(c)
		if err != nil || len(request.Children) < 2 {
			return
		}
		id, _ := request.Children[0].Value.(int64)
		if _, err := c.Write(answer(id, request.Children[1])); err != nil {
			return
		}
	}
}
