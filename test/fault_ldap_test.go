package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
)

// A fault is a way in which a server fails.
type fault struct {
	name   string
	scheme string // ldap, ldaps or StartTLS
	serve  func(ctx context.Context, c net.Conn)
	says   string // part of the reason that is given
}

// faults are the ways in which a server can fail whose place should be taken by slapd,
// and whose certificates are from slapd's CA but for one.
func faults(t *testing.T, slapd, other *testenv.Slapd) []fault {
	t.Helper()
	silent := func(ctx context.Context, c net.Conn) { <-ctx.Done() }
	startTLS := func(then func(context.Context, net.Conn)) func(context.Context, net.Conn) {
		return func(ctx context.Context, c net.Conn) {
			if _, err := ber.ReadPacket(c); err != nil {
				return
			}
			if _, err := c.Write(testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationExtendedResponse, 0, ""))); err != nil {
				return
			}
			then(ctx, c)
		}
	}
	handshake := func(s *testenv.Slapd, template x509.Certificate) func(context.Context, net.Conn) {
		if len(template.DNSNames) == 0 {
			template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
		}
		cert, err := s.Certificate(&template)
		if err != nil {
			t.Fatal(err)
		}
		return func(ctx context.Context, c net.Conn) {
			// Were the certificate taken, the map would wait for an answer.
			if tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}).HandshakeContext(ctx) == nil {
				<-ctx.Done()
			}
		}
	}
	answer := func(m []byte) func(context.Context, net.Conn) {
		return func(ctx context.Context, c net.Conn) {
			testenv.AnswerLDAP(c, func(int64, *ber.Packet) []byte { return m })
		}
	}
	whole := testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""))
	list := []fault{
		{"refuses", "ldap", nil, "connection refused"},
		{"silent", "ldap", silent, "timeout"},
		{"silent after its handshake", "ldaps", handshake(slapd, x509.Certificate{}), "timeout"},
		{"closes at once", "ldap", func(context.Context, net.Conn) {}, "not available"},
		{"closes in its answer", "ldap", func(_ context.Context, c net.Conn) {
			if _, err := ber.ReadPacket(c); err == nil {
				_, _ = c.Write(whole[:len(whole)/2])
			}
		}, "EOF"},
		{"drips", "ldap", func(ctx context.Context, c net.Conn) {
			if _, err := ber.ReadPacket(c); err != nil {
				return
			}
			long := testenv.LDAPMessage(1, testenv.LDAPEntry(strings.Repeat("x", 1<<16), nil))
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				<-tick.C
				if _, err := c.Write(long[i : i+1]); err != nil {
					return
				}
			}
		}, "timeout"},
		{"busy", "ldap", answer(testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationSearchResultDone, ldap.LDAPResultBusy, "later"))), "Busy (51): later"},
		{"disconnects", "ldap", answer(testenv.LDAPMessage(0, testenv.LDAPResult(ldap.ApplicationExtendedResponse, ldap.LDAPResultUnavailable, ""))), "not available"},
		{"no LDAP", "ldap", func(_ context.Context, c net.Conn) { _, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, "no LDAP message"},
		{"stalls in its handshake", "ldaps", silent, "TLS handshake"},
		{"no TLS", "ldaps", func(_ context.Context, c net.Conn) { _, _ = c.Write(whole) }, "TLS handshake"},
		{"stalls in StartTLS", "StartTLS", silent, "StartTLS"},
		{"stalls after StartTLS", "StartTLS", startTLS(silent), "TLS handshake"},
		{"refuses StartTLS", "StartTLS", answer(testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationExtendedResponse, ldap.LDAPResultProtocolError, "no TLS here"))), "no TLS here"},
	}
	past := time.Now().Add(-time.Hour)
	for _, c := range []struct {
		name, says string
		handshake  func(context.Context, net.Conn)
	}{
		{"certificate of another CA", "certificate signed by unknown authority", handshake(other, x509.Certificate{})},
		{"certificate for another name", "certificate for 127.0.0.1", handshake(slapd, x509.Certificate{DNSNames: []string{"ldap.example.org"}})},
		{"expired certificate", "certificate has expired", handshake(slapd, x509.Certificate{NotBefore: past.Add(-time.Hour), NotAfter: past})},
	} {
		list = append(list, fault{c.name, "ldaps", c.handshake, c.says}, fault{c.name, "StartTLS", startTLS(c.handshake), c.says})
	}
	return list
}

// TestMapFaults: however a server fails, the lookup ends in time, another server
// answers if there is one, and the last known level is given if there is none.
//
// A bad certificate is such a failure: whoever can get in between could as well have
// cut the line, and neither is to take software away.
func TestMapFaults(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true}, busyInventory())
	other := startSlapd(t, testenv.SlapdOptions{TLS: true}, testenv.Inventory{})
	for _, f := range faults(t, slapd, other) {
		t.Run(f.name+" ("+f.scheme+")", func(t *testing.T) {
			t.Parallel()
			addr := "127.0.0.1:1" // tcpmux: nobody listens
			if f.serve != nil {
				addr = testenv.Serve(t, f.serve)
			}
			bad, good := "ldap://"+addr, slapd.URI
			more := fmt.Sprintf("timeout = \"500ms\"\nca = %q\n", slapd.CAFile)
			switch f.scheme {
			case "ldaps":
				bad, good = "ldaps://"+addr, slapd.LDAPS
			case "StartTLS":
				more += "starttls = true\n"
			}
			const limit = 4 * time.Second // two servers of half a second, and a busy machine
			run := func(m *testenv.Machine, uris ...string) testenv.Result {
				m.Configure("retry = \"1ns\"\n" + testenv.LDAPSource(slapd.Base, uris...) + more) // asked again at once
				r := m.RunMap("emacs")
				if r.Took > limit {
					t.Errorf("%v: it took %v", uris, r.Took)
				}
				return r
			}

			m := testenv.NewMachine(t, "lnx01")
			wantRefusal(t, run(m, bad), "not available", f.says, "not in the cache")
			wantAnswer(t, run(m, bad, good), emacsLine)
			r := run(m, bad)
			if r.Exit != 0 || r.Stdout != emacsLine+"\n" || strings.Count(r.Stderr, "\n") != 1 ||
				!strings.Contains(r.Stderr, "warning") || !strings.Contains(r.Stderr, f.says) || !strings.Contains(r.Stderr, "last known level") {
				t.Errorf("%v; want the last known level, and one warning that says %q", r, f.says)
			}
		})
	}
}
