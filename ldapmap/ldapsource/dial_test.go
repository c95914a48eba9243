package ldapsource

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
)

// peer is a server that answers each request by a function of its message ID and its
// operation.
func peer(t *testing.T, answer func(id int64, op *ber.Packet) []byte) *server {
	t.Helper()
	return loopbackServer(t, func(c net.Conn) {
		defer c.Close()
		testenv.AnswerLDAP(c, answer)
	})
}

// secret writes a file for its owner only.
func secret(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A directory is a peer that takes binds and finds nothing.
type directory struct {
	*server
	mu   sync.Mutex
	seen []string // what was asked, in order
}

// newDirectory answers a request whose operation has one of the tags with that, and
// others with success.
func newDirectory(t *testing.T, answers map[ber.Tag]*ber.Packet) *directory {
	d := new(directory)
	d.server = peer(t, func(id int64, op *ber.Packet) []byte {
		said := ldap.ApplicationMap[uint8(op.Tag)]
		if op.Tag == ldap.ApplicationBindRequest {
			said += " " + op.Children[1].Value.(string) + " " + op.Children[2].Data.String()
			if len(op.Children[2].Children) > 0 {
				said += op.Children[2].Children[0].Value.(string)
			}
		}
		d.mu.Lock()
		d.seen = append(d.seen, strings.TrimSpace(said))
		d.mu.Unlock()
		if a, ok := answers[op.Tag]; ok {
			return testenv.LDAPMessage(id, a)
		}
		tag := op.Tag + 1
		if op.Tag == ldap.ApplicationSearchRequest {
			tag = ldap.ApplicationSearchResultDone
		}
		return testenv.LDAPMessage(id, testenv.LDAPResult(tag, 0, ""))
	})
	return d
}

func (d *directory) asked() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.seen, ", ")
}

func TestBind(t *testing.T) {
	t.Parallel()
	const dn = "cn=reader,dc=example,dc=org"
	t.Run("simple", func(t *testing.T) {
		t.Parallel()
		for _, text := range []string{"pass word", "pass word\n"} {
			d := newDirectory(t, nil)
			s := open(t, Config{URIs: []string{d.uri("ldap")}, BindDN: dn, PasswordFile: secret(t, text)})
			if _, err := search(t, s, soon); err != nil {
				t.Error(err)
			}
			if got, want := d.asked(), "Bind Request "+dn+" pass word, Search Request"; got != want {
				t.Errorf("asked %q, want %q", got, want)
			}
		}
	})
	t.Run("external", func(t *testing.T) {
		t.Parallel()
		dir, err := os.MkdirTemp("", "ldapi")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		listen(t, "unix", filepath.Join(dir, "s"), func(c net.Conn) {
			defer c.Close()
			if request, err := ber.ReadPacket(c); err == nil && request.Children[1].Children[2].Children[0].Value == "EXTERNAL" {
				_, _ = c.Write(testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationBindResponse, 0, "")))
			}
			if _, err := ber.ReadPacket(c); err == nil {
				_, _ = c.Write(testenv.LDAPMessage(2, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, "")))
			}
		})
		s := open(t, Config{URIs: []string{"ldapi://" + filepath.Join(dir, "s")}, External: true})
		if _, err := search(t, s, soon); err != nil {
			t.Error(err)
		}
	})
	// No other server is asked, and no cache hides it.
	for _, c := range []struct {
		name string
		code int64
		says string
	}{
		{"wrong password", ldap.LDAPResultInvalidCredentials, `bind as "cn=reader,dc=example,dc=org": Invalid Credentials (49): nonono`},
		{"no simple binds", ldap.LDAPResultAuthMethodNotSupported, "(7)"},
		{"TLS wanted", ldap.LDAPResultConfidentialityRequired, "(13)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := newDirectory(t, map[ber.Tag]*ber.Packet{ldap.ApplicationBindRequest: testenv.LDAPResult(ldap.ApplicationBindResponse, c.code, "nonono")})
			next := newDirectory(t, nil)
			s := open(t, Config{URIs: []string{d.uri("ldap"), next.uri("ldap")}, BindDN: dn, PasswordFile: secret(t, "x")})
			_, err := search(t, s, soon)
			var wrong *ldapmap.ConfigError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.says) || next.connections() > 0 {
				t.Errorf("got %v, want a *ConfigError that says %q", err, c.says)
			}
		})
	}
}

// TestSecrets: whoever can read or change the password file is as good as the reader.
func TestSecrets(t *testing.T) {
	t.Parallel()
	d := newDirectory(t, nil)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(secret(t, "x"), link); err != nil {
		t.Fatal(err)
	}
	mode := func(m fs.FileMode) string {
		path := secret(t, "x")
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		return path
	}
	type row struct{ name, path, says string }
	rows := []row{
		{"0600", secret(t, "x"), ""},
		{"0400", mode(0o400), ""},
		{"link to a good one", link, ""},
		{"0640", mode(0o640), "-rw-r-----"},
		{"0604", mode(0o604), "-rw----r--"},
		{"0620", mode(0o620), "-rw--w----"},
		{"0700", mode(0o700), "-rwx------"},
		{"directory", t.TempDir(), "drwx"},
		{"FIFO", fifo, "prw-------"},
		{"missing", "/nosuch/password", "/nosuch/password"},
		{"empty", secret(t, ""), "no password"},
		{"only a newline", secret(t, "\n"), "no password"},
		{"large", secret(t, strings.Repeat("x", maxSecret+1)), "larger than"},
	}
	if os.Geteuid() == 0 {
		foreign := secret(t, "x")
		if err := os.Chown(foreign, 12345, -1); err != nil {
			t.Fatal(err)
		}
		rows = append(rows, row{"of another", foreign, "owner 12345"})
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, Config{URIs: []string{d.uri("ldap")}, BindDN: "cn=reader", PasswordFile: c.path})
			_, err := search(t, s, soon)
			var wrong *ldapmap.ConfigError
			switch {
			case c.says == "" && err != nil:
				t.Error(err)
			case c.says != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), c.says)):
				t.Errorf("got %v, want a *ConfigError that says %q", err, c.says)
			}
		})
	}
	var loose *SecretError
	if _, err := readSecret(mode(0o644)); !errors.As(err, &loose) || loose.Mode.Perm() != 0o644 {
		t.Errorf("got %v", err)
	}
}

// TestReferrals: where else to ask is not for a server to say.
func TestReferrals(t *testing.T) {
	t.Parallel()
	elsewhere := loopbackServer(t, answers(ldap.LDAPResultSuccess))
	base := newDirectory(t, map[ber.Tag]*ber.Packet{
		ldap.ApplicationSearchRequest: testenv.LDAPResult(ldap.ApplicationSearchResultDone, 10, "", testenv.LDAPReferral(elsewhere.uri("ldap"), "ldap://a\nb")),
	})
	_, err := search(t, open(t, Config{URIs: []string{base.uri("ldap"), elsewhere.uri("ldap")}}), soon)
	var wrong *ldapmap.ConfigError
	var referral *ReferralError
	if !errors.As(err, &wrong) || !errors.As(err, &referral) || !strings.Contains(err.Error(), `"`+elsewhere.uri("ldap")+`", "ldap://a\nb"`) {
		t.Errorf("base: %v", err)
	}
	continued := peer(t, func(id int64, _ *ber.Packet) []byte {
		return append(testenv.LDAPMessage(id, testenv.LDAPReference(elsewhere.uri("ldap"))),
			append(testenv.LDAPMessage(id, testenv.LDAPEntry("cn=a", map[string][]string{"cn": {"a"}})), testenv.LDAPMessage(id, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""))...)...)
	})
	if got, err := search(t, open(t, Config{URIs: []string{continued.uri("ldap")}}), soon); err != nil || len(got) != 1 {
		t.Errorf("continuation: %v, %v; want the one entry", got, err)
	}
	if elsewhere.connections() > 0 {
		t.Error("a referral was followed")
	}
}

// TestStartTLSInTheClear: what comes before TLS may be anybody's.
func TestStartTLSInTheClear(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		answer []byte
		says   string
	}{
		{"refused", testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationExtendedResponse, ldap.LDAPResultProtocolError, "no TLS")), "no TLS"},
		// Were it taken for the server's, the cache would not be asked.
		{"forged", testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationExtendedResponse, ldap.LDAPResultInvalidCredentials, "")), "Invalid Credentials"},
		{"injected", append(testenv.LDAPMessage(1, testenv.LDAPResult(ldap.ApplicationExtendedResponse, 0, "")),
			testenv.LDAPMessage(2, testenv.LDAPResult(ldap.ApplicationSearchResultDone, 0, ""))...), "in the clear"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := peer(t, func(int64, *ber.Packet) []byte { return c.answer })
			_, err := search(t, open(t, Config{URIs: []string{server.uri("ldap")}, StartTLS: true}), soon)
			var down *ldapmap.UnavailableError
			if !errors.As(err, &down) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an *UnavailableError that says %q", err, c.says)
			}
		})
	}
}

// dns is a resolver whose name server has these SRV records: service.domain -> host:port
// in their order of priority. It is also the address of all their hosts.
func dns(t *testing.T, records map[string][]dnsmessage.SRVResource) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<12)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Authoritative, m.RecursionAvailable, m.Additionals = true, true, true, nil
			q := m.Questions[0]
			m.RCode = dnsmessage.RCodeNameError
			for _, r := range records[strings.TrimSuffix(q.Name.String(), ".")] {
				m.RCode = dnsmessage.RCodeSuccess
				if q.Type == dnsmessage.TypeSRV {
					m.Answers = append(m.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: dnsmessage.ClassINET, TTL: 1}, Body: &r,
					})
				}
			}
			if out, err := m.Pack(); err == nil {
				_, _ = pc.WriteTo(out, from)
			}
		}
	}()
	t.Cleanup(func() {
		pc.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// target is an SRV record. "localhost." needs no name server.
func target(priority uint16, host string, port uint16) dnsmessage.SRVResource {
	return dnsmessage.SRVResource{Priority: priority, Weight: 1, Port: port, Target: dnsmessage.MustNewName(host)}
}

func port(l net.Listener) uint16 { return uint16(l.Addr().(*net.TCPAddr).Port) }

func TestSRV(t *testing.T) {
	t.Parallel()
	first, second := newDirectory(t, nil), newDirectory(t, nil)
	deaf := loopbackServer(t, deaf)
	for _, c := range []struct {
		name    string
		records map[string][]dnsmessage.SRVResource
		config  Config
		says    string     // "" for an answer
		asked   *directory // who gave it
	}{
		{"by priority", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.localhost": {target(20, "localhost.", port(second)), target(10, "localhost.", port(first))},
		}, Config{Insecure: true}, "", first},
		{"the next one", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.localhost": {target(20, "localhost.", port(second)), target(10, "localhost.", port(deaf))},
		}, Config{Insecure: true}, "", second},
		{"ldaps before ldap", map[string][]dnsmessage.SRVResource{
			"_ldaps._tcp.localhost": {target(10, "localhost.", port(deaf))},
			"_ldap._tcp.localhost":  {target(10, "localhost.", port(first))},
		}, Config{Insecure: true}, "", first},
		{"after the configured ones", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.localhost": {target(10, "localhost.", port(first))},
		}, Config{Insecure: true, URIs: []string{deaf.uri("ldap")}}, "", first},
		{"configured ones answer", nil, Config{Insecure: true, URIs: []string{second.uri("ldap")}}, "", second},
		{"no ldap in the clear", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.localhost": {target(10, "localhost.", port(first))},
		}, Config{}, "no such host", nil},
		{"StartTLS", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.localhost": {target(10, "localhost.", port(deaf))},
		}, Config{StartTLS: true}, "StartTLS with 127.0.0.1:", nil},
		{"none", nil, Config{Insecure: true}, "no such host", nil},
		{"decidedly none", map[string][]dnsmessage.SRVResource{"_ldaps._tcp.localhost": {target(0, ".", 0)}}, Config{}, "no server", nil},
		{"another domain's", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.example.org": {target(10, "localhost.", port(first))},
		}, Config{SRV: "example.org", Insecure: true}, `"localhost" is not in example.org`, nil},
		{"a domain that ends alike", map[string][]dnsmessage.SRVResource{
			"_ldaps._tcp.example.org": {target(10, "ldap.notexample.org.", 636)},
		}, Config{SRV: "example.org"}, `"ldap.notexample.org" is not in example.org`, nil},
		{"another domain's, by name", map[string][]dnsmessage.SRVResource{
			"_ldap._tcp.example.org": {target(10, "localhost.", port(first))},
		}, Config{SRV: "example.org", Insecure: true, TLSName: "ldap.example.org"}, "", first},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.config.SRV == "" {
				c.config.SRV = "localhost"
			}
			c.config.Resolver = dns(t, c.records)
			s := open(t, c.config)
			before := 0
			if c.asked != nil {
				before = c.asked.connections()
			}
			for range 2 { // the second stays with the server that answered, or asks DNS again
				_, err := search(t, s, soon)
				var down *ldapmap.UnavailableError
				if c.says == "" && err != nil {
					t.Error(err)
				}
				if c.says != "" && (!errors.As(err, &down) || !strings.Contains(err.Error(), c.says)) {
					t.Errorf("got %v, want an *UnavailableError that says %q", err, c.says)
				}
			}
			if c.asked != nil && c.asked.connections() == before {
				t.Error("another server was asked")
			}
		})
	}
}

// TestSilentDNS: a name server that does not answer costs no more than a directory
// server that does not.
func TestSilentDNS(t *testing.T) {
	t.Parallel()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	silent := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
	s := open(t, Config{SRV: "example.org", StartTLS: true, Resolver: silent})
	_, err = search(t, s, patience)
	var down *ldapmap.UnavailableError
	if !errors.As(err, &down) || !strings.Contains(err.Error(), "timeout") || s.Name() != "srv:example.org" {
		t.Errorf("got %v", err)
	}
}

// TestIdentities: what contradicts itself is refused before anything is sent.
func TestIdentities(t *testing.T) {
	t.Parallel()
	ldaps, socket := []string{"ldaps://ldap.example.org"}, []string{"ldapi:///run/ldapi"}
	for _, c := range []struct {
		name   string
		config Config
		says   string
	}{
		{"simple bind", Config{URIs: ldaps, BindDN: "cn=a", PasswordFile: "/p"}, ""},
		{"external by socket", Config{URIs: socket, External: true}, ""},
		{"external by certificate", Config{URIs: ldaps, External: true, CertFile: "/c", KeyFile: "/k"}, ""},
		{"certificate alone", Config{URIs: ldaps, CertFile: "/c", KeyFile: "/k"}, ""},
		{"external by SRV", Config{SRV: "example.org", External: true, CertFile: "/c", KeyFile: "/k"}, ""},
		{"password in the clear", Config{URIs: []string{"ldap://ldap.example.org"}, BindDN: "cn=a", PasswordFile: "/p"}, "the password in the clear"},
		{"no password file", Config{URIs: ldaps, BindDN: "cn=a"}, "password-file"},
		{"no bind DN", Config{URIs: ldaps, PasswordFile: "/p"}, "bind-dn"},
		{"bind DN that is none", Config{URIs: ldaps, BindDN: "reader", PasswordFile: "/p"}, `"reader"`},
		{"both", Config{URIs: socket, External: true, BindDN: "cn=a", PasswordFile: "/p"}, "exclude"},
		{"no key", Config{URIs: ldaps, CertFile: "/c"}, "cert and key"},
		{"no cert", Config{URIs: ldaps, KeyFile: "/k"}, "cert and key"},
		{"external without a certificate", Config{URIs: ldaps, External: true}, "client certificate"},
		{"external in the clear", Config{URIs: []string{"ldap://localhost"}, External: true, CertFile: "/c", KeyFile: "/k"}, "identity from TLS"},
		{"external by SRV in the clear", Config{SRV: "example.org", Insecure: true, External: true, CertFile: "/c", KeyFile: "/k"}, "srv"},
		{"domain that is none", Config{SRV: "_ldap._tcp.example.org"}, "_ldap._tcp.example.org"},
		{"domain with a dot at its end", Config{SRV: "example.org."}, "example.org."},
		{"domain with a blank", Config{SRV: "example org"}, "example org"},
	} {
		c.config.Base = base
		_, err := New(c.config)
		var wrong *ldapmap.ConfigError
		if c.says == "" && err != nil || c.says != "" && (!errors.As(err, &wrong) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
	}
}
