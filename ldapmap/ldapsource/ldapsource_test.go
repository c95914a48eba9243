package ldapsource

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

const base = "dc=example,dc=org"

// emacs selects one component.
var emacs = []ldapmap.Term{{{{Attr: "cn", Value: "emacs"}}}}

// patience is the context's time in tests of servers that do not answer; soon is
// when a search that respects it has certainly ended, on a busy machine too.
const (
	patience = 200 * time.Millisecond
	soon     = 5 * time.Second
)

func TestFilter(t *testing.T) {
	t.Parallel()
	equal := func(value string) []ldapmap.Term { return []ldapmap.Term{{{{Attr: "cn", Value: value}}}} }
	for _, c := range []struct {
		name  string
		terms []ldapmap.Term
		want  string
	}{
		{"plain", equal("emacs"), "(|(&(|(cn=emacs))))"},
		{"asterisk", equal("*"), `(|(&(|(cn=\2a))))`},
		{"parentheses", equal("a)(cn=b"), `(|(&(|(cn=a\29\28cn=b))))`},
		{"backslash", equal(`\2a`), `(|(&(|(cn=\5c2a))))`},
		{"NUL", equal("a\x00"), `(|(&(|(cn=a\00))))`},
		{"beyond ASCII", equal("é"), `(|(&(|(cn=\c3\a9))))`},
		{"no UTF-8", equal("\xff"), `(|(&(|(cn=\ff))))`},
		{"empty", equal(""), "(|(&(|(cn=))))"},
		{"present", []ldapmap.Term{{{{Attr: "levelfsMountPoint", Op: ldapmap.Present, Value: "not used"}}}}, "(|(&(|(levelfsMountPoint=*))))"},
		{"prefix", []ldapmap.Term{{{{Attr: "cn", Op: ldapmap.Prefix, Value: "emacs@"}}}}, "(|(&(|(cn=emacs@*))))"},
		{"prefix with an asterisk", []ldapmap.Term{{{{Attr: "cn", Op: ldapmap.Prefix, Value: "e*"}}}}, `(|(&(|(cn=e\2a*))))`},
		{"structure", []ldapmap.Term{
			{{{Attr: "objectClass", Value: "device"}, {Attr: "objectClass", Value: "ipHost"}}, {{Attr: "cn", Value: "lnx01"}}},
			{{{Attr: "member", Value: "cn=lnx01,dc=test"}}},
		}, "(|(&(|(objectClass=device)(objectClass=ipHost))(|(cn=lnx01)))(&(|(member=cn=lnx01,dc=test))))"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := filter(c.terms)
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			if _, err := ldap.CompileFilter(got); err != nil {
				t.Errorf("%s is no filter: %v", got, err)
			}
		})
	}
}

// FuzzFilter checks that no value leaves its place in the filter: what a server
// reads back is one equality with the value as it was.
func FuzzFilter(f *testing.F) {
	for _, seed := range []string{"", "emacs", "*", "a)(cn=*", `\`, "\x00", "é", "\xff", "(&", " "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		packet, err := ldap.CompileFilter(filter([]ldapmap.Term{{{{Attr: "cn", Value: value}}}}))
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // or, and, or
			if len(packet.Children) != 1 {
				t.Fatalf("%q gives %d parts", value, len(packet.Children))
			}
			packet = packet.Children[0]
		}
		if packet.Tag != ldap.FilterEqualityMatch || len(packet.Children) != 2 || packet.Children[1].Data.String() != value {
			t.Fatalf("%q became something else", value)
		}
	})
}

func TestNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		config Config
		fail   string // in the error; "" if it is good
	}{
		{"ldaps", Config{URIs: []string{"ldaps://ldap.example.org"}, Base: base}, ""},
		{"ldaps with a port", Config{URIs: []string{"ldaps://[2001:db8::1]:1636"}, Base: base}, ""},
		{"loopback", Config{URIs: []string{"ldap://127.0.0.1", "ldap://[::1]:389", "ldap://localhost:1389", "ldap://127.0.0.53"}, Base: base}, ""},
		{"starttls", Config{URIs: []string{"ldap://ldap.example.org"}, Base: base, StartTLS: true}, ""},
		{"insecure", Config{URIs: []string{"ldap://ldap.example.org"}, Base: base, Insecure: true}, ""},
		{"scheme in upper case", Config{URIs: []string{"LDAPS://ldap.example.org"}, Base: base}, ""},
		{"ldapi", Config{URIs: []string{"ldapi:///run/slapd/ldapi", "ldapi://%2Frun%2Fslapd%2Fldapi", "ldapi:///", "ldapi://"}, Base: base}, ""},
		{"clear text", Config{URIs: []string{"ldap://ldap.example.org"}, Base: base}, "starttls"},
		{"clear text to an address", Config{URIs: []string{"ldap://192.0.2.1"}, Base: base}, "starttls"},
		{"clear text as the second", Config{URIs: []string{"ldaps://a.example.org", "ldap://b.example.org"}, Base: base}, "b.example.org"},
		{"no loopback", Config{URIs: []string{"ldap://localhost.example.org"}, Base: base}, "starttls"},
		{"no loopback behind a user", Config{URIs: []string{"ldap://localhost@ldap.example.org"}, Base: base}, "starttls"},
		{"no uri", Config{Base: base}, "no uri"},
		{"no base", Config{URIs: []string{"ldaps://a"}}, "base"},
		{"base that is none", Config{URIs: []string{"ldaps://a"}, Base: "example.org"}, `"example.org"`},
		{"no scheme", Config{URIs: []string{"ldap.example.org"}, Base: base}, "scheme"},
		{"empty uri", Config{URIs: []string{""}, Base: base}, "scheme"},
		{"another scheme", Config{URIs: []string{"http://ldap.example.org"}, Base: base}, "scheme"},
		{"port that is none", Config{URIs: []string{"ldaps://ldap.example.org:x"}, Base: base}, "not understood"},
		{"escape that is none", Config{URIs: []string{"ldapi://%zz"}, Base: base}, "not understood"},
		// Three slashes were meant; two make "run" a host name, and the socket is
		// looked for at /slapd/ldapi.
		{"ldapi with a host", Config{URIs: []string{"ldapi://run/slapd/ldapi"}, Base: base}, "ldapi://run/slapd/ldapi"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := New(c.config)
			if c.fail == "" {
				if err != nil {
					t.Fatal(err)
				}
				if s.Name() != strings.Join(c.config.URIs, " ") {
					t.Errorf("name %q", s.Name())
				}
				if err := s.Close(); err != nil {
					t.Errorf("close before any search: %v", err)
				}
				return
			}
			var wrong *ldapmap.ConfigError
			if !errors.As(err, &wrong) || !strings.Contains(err.Error(), c.fail) || s != nil {
				t.Errorf("got %v, want a *ConfigError that says %q", err, c.fail)
			}
		})
	}
}

// A server is a listener that serves each connection by a function, and lets go
// of all of them at the end of the test.
type server struct {
	net.Listener
	serve func(net.Conn)

	mu       sync.Mutex
	accepted int
	conns    []net.Conn
	done     sync.WaitGroup
}

func listen(t *testing.T, network, address string, serve func(net.Conn)) *server {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Listener: l, serve: serve}
	s.done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.accepted++
			s.conns = append(s.conns, c)
			s.mu.Unlock()
			s.done.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, c := range s.conns {
			c.Close()
		}
		s.mu.Unlock()
		s.done.Wait()
	})
	return s
}

func (s *server) uri(scheme string) string { return scheme + "://" + s.Addr().String() }

func (s *server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

func loopbackServer(t *testing.T, serve func(net.Conn)) *server {
	t.Helper()
	return listen(t, "tcp", "127.0.0.1:0", serve)
}

// silent takes everything and says nothing.
func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// closing closes what it accepts.
func closing(c net.Conn) { c.Close() }

// deaf closes after it has been asked.
func deaf(c net.Conn) {
	_, _ = c.Read(make([]byte, 1))
	c.Close()
}

// garbage answers with what is no LDAP.
func garbage(c net.Conn) {
	_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
	silent(c)
}

// answers is a server that finds nothing, whatever it is asked: an LDAPMessage of
// a SearchResultDone with resultCode (RFC 4511, section 4.5.2), for message 1, and
// for the next at the next request.
func answers(resultCode byte) func(net.Conn) {
	return func(c net.Conn) {
		request := make([]byte, 1<<16)
		for id := byte(1); ; id++ {
			if _, err := c.Read(request); err != nil {
				return
			}
			_, _ = c.Write([]byte{0x30, 0x0c, 0x02, 0x01, id, 0x65, 0x07, 0x0a, 0x01, resultCode, 0x04, 0x00, 0x04, 0x00})
		}
	}
}

// refusing is a URI at which nobody listens: the port belonged to a listener that
// is closed.
func refusing(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	return "ldap://" + l.Addr().String()
}

func open(t *testing.T, c Config) *Source {
	t.Helper()
	c.Base = base
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// search asks with so much time, and checks that the answer comes soon.
func search(t *testing.T, s *Source, limit time.Duration) ([]ldapmap.Entry, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	entries, err := s.Search(ctx, emacs, []string{"cn"})
	if took := time.Since(start); took > soon {
		t.Errorf("took %v", took)
	}
	return entries, err
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
	}{
		{"silent", silent},
		{"closing", closing},
		{"deaf", deaf},
		{"garbage", garbage},
		{"busy", answers(ldap.LDAPResultBusy)},
		{"unavailable", answers(ldap.LDAPResultUnavailable)},
	} {
		for _, scheme := range []string{"ldap", "ldap+StartTLS", "ldaps"} {
			t.Run(c.name+"/"+scheme, func(t *testing.T) {
				t.Parallel()
				scheme, _, startTLS := strings.Cut(scheme, "+")
				server := loopbackServer(t, c.serve)
				s := open(t, Config{URIs: []string{server.uri(scheme)}, StartTLS: startTLS})
				_, err := search(t, s, patience)
				var down *ldapmap.UnavailableError
				if !errors.As(err, &down) || down.Source != s.Name() || down.Err == nil {
					t.Errorf("got %T %v, want an *UnavailableError", err, err)
				}
				if server.connections() == 0 {
					t.Error("the server was not asked")
				}
			})
		}
	}
}

// TestOwnTimeout checks that a source's own limit holds where the context has more
// time, or none at all.
func TestOwnTimeout(t *testing.T) {
	t.Parallel()
	s := open(t, Config{URIs: []string{loopbackServer(t, silent).uri("ldap")}, Timeout: patience})
	var down *ldapmap.UnavailableError
	if _, err := search(t, s, time.Hour); !errors.As(err, &down) {
		t.Errorf("got %v", err)
	}
	start := time.Now()
	if _, err := s.Search(context.Background(), emacs, nil); !errors.As(err, &down) || time.Since(start) > soon {
		t.Errorf("without a deadline: %v after %v", err, time.Since(start))
	}
}

func TestRefusedConnection(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "ldapi")
	for _, uri := range []string{refusing(t), strings.Replace(refusing(t), "ldap:", "ldaps:", 1), "ldapi://" + missing} {
		s := open(t, Config{URIs: []string{uri}})
		_, err := search(t, s, soon)
		var down *ldapmap.UnavailableError
		if !errors.As(err, &down) || !strings.Contains(err.Error(), uri) {
			t.Errorf("%s: got %v, want an *UnavailableError", uri, err)
		}
	}
}

func TestTimeIsUp(t *testing.T) {
	t.Parallel()
	server := loopbackServer(t, silent)
	s := open(t, Config{URIs: []string{server.uri("ldap"), server.uri("ldap")}})
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	_, err := s.Search(ctx, emacs, nil)
	var down *ldapmap.UnavailableError
	if !errors.As(err, &down) || !errors.Is(err, context.DeadlineExceeded) || server.connections() != 0 {
		t.Errorf("got %v after %d connections", err, server.connections())
	}
}

// TestNextServer checks that a server that does not answer, in whichever way, is
// given up for the next one in time.
func TestNextServer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		uri  func(t *testing.T) string
	}{
		{"refusing", refusing},
		{"silent", func(t *testing.T) string { return loopbackServer(t, silent).uri("ldap") }},
		{"closing", func(t *testing.T) string { return loopbackServer(t, closing).uri("ldap") }},
		{"deaf", func(t *testing.T) string { return loopbackServer(t, deaf).uri("ldap") }},
		{"silent in its TLS handshake", func(t *testing.T) string { return loopbackServer(t, silent).uri("ldaps") }},
		{"busy", func(t *testing.T) string { return loopbackServer(t, answers(ldap.LDAPResultBusy)).uri("ldap") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			good := loopbackServer(t, answers(ldap.LDAPResultSuccess))
			s := open(t, Config{URIs: []string{c.uri(t), good.uri("ldap")}})
			// Twice: the second search of a lookup stays with the server that answered.
			for range 2 {
				if entries, err := search(t, s, 2*time.Second); err != nil || len(entries) > 0 {
					t.Errorf("got %v, %v", entries, err)
				}
			}
			if n := good.connections(); n != 1 {
				t.Errorf("%d connections to the server that answers", n)
			}
		})
	}
	s := open(t, Config{URIs: []string{refusing(t), refusing(t)}})
	_, err := search(t, s, soon)
	var down *ldapmap.UnavailableError
	if !errors.As(err, &down) || strings.Count(err.Error(), "refused") != 2 {
		t.Errorf("two that refuse: %v; want both reasons", err)
	}
}

// TestSecondSearch: a server that goes away between the two searches of a lookup
// is given up too.
func TestSecondSearch(t *testing.T) {
	t.Parallel()
	once := loopbackServer(t, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1<<16))
		_, _ = c.Write([]byte{0x30, 0x0c, 0x02, 0x01, 1, 0x65, 0x07, 0x0a, 0x01, 0, 0x04, 0x00, 0x04, 0x00})
		deaf(c)
	})
	good := loopbackServer(t, answers(ldap.LDAPResultSuccess))
	s := open(t, Config{URIs: []string{once.uri("ldap"), good.uri("ldap")}})
	for i := range 2 {
		if _, err := search(t, s, soon); err != nil {
			t.Errorf("search %d: %v", i+1, err)
		}
	}
	if once.connections() != 1 || good.connections() != 1 {
		t.Errorf("%d and %d connections", once.connections(), good.connections())
	}
}

// TestMisconfigured is answers that no other server and no later time would
// better: the cache must not hide them.
func TestMisconfigured(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		code byte
		says string
	}{
		{"no such base", ldap.LDAPResultNoSuchObject, base},
		{"too many entries", ldap.LDAPResultSizeLimitExceeded, "2000"},
		{"no access", ldap.LDAPResultInsufficientAccessRights, "Access Rights"},
		{"no anonymous access", ldap.LDAPResultInappropriateAuthentication, "Authentication"},
		{"TLS required", ldap.LDAPResultConfidentialityRequired, "Confidentiality"},
		{"bind required", ldap.LDAPResultStrongAuthRequired, "Strong"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			next := loopbackServer(t, answers(ldap.LDAPResultSuccess))
			s := open(t, Config{URIs: []string{loopbackServer(t, answers(c.code)).uri("ldap"), next.uri("ldap")}})
			_, err := search(t, s, soon)
			var wrong *ldapmap.ConfigError
			if !errors.As(err, &wrong) || wrong.Source != s.Name() || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want a *ConfigError that says %q", err, c.says)
			}
			if next.connections() != 0 {
				t.Error("the next server was asked")
			}
		})
	}
}

// TestEntries checks what becomes of a server's entry: attribute names come in the
// schema's spelling or in the request's, and are compared without case.
func TestEntries(t *testing.T) {
	t.Parallel()
	got := entries(&ldap.SearchResult{Entries: []*ldap.Entry{
		ldap.NewEntry("cn=Emacs,"+base, map[string][]string{"CN": {"Emacs"}, "levelfsDefault": {"29.4-1"}}),
	}})
	if len(got) != 1 || got[0].DN != "cn=Emacs,"+base || got[0].First("cn") != "Emacs" || got[0].First("levelfsdefault") != "29.4-1" {
		t.Errorf("got %+v", got)
	}
}

// TestSockets checks that every spelling of a socket's URI finds the socket.
func TestSockets(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "ldapi") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "l dapi")
	listen(t, "unix", socket, answers(ldap.LDAPResultSuccess))
	escaped := strings.NewReplacer("/", "%2F", " ", "%20").Replace(socket)
	for _, uri := range []string{
		"ldapi://" + strings.ReplaceAll(socket, " ", "%20"),
		"ldapi://" + escaped,
		"ldapi://" + strings.ReplaceAll(escaped, "%2F", "%2f"),
		"ldapi://" + escaped + "/", // a URL may have a path after its host: here an empty DN
	} {
		t.Run(uri, func(t *testing.T) {
			s := open(t, Config{URIs: []string{uri}})
			if _, err := search(t, s, soon); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCertificates checks the file of authorities before anything is trusted.
func TestCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		config Config
		says   string
	}{
		{"missing", Config{CAFile: filepath.Join(dir, "missing.pem")}, "missing.pem"},
		{"empty", Config{CAFile: empty}, "empty.pem"},
		{"missing, StartTLS", Config{CAFile: filepath.Join(dir, "missing.pem"), StartTLS: true}, "missing.pem"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := loopbackServer(t, silent)
			scheme := "ldaps"
			if c.config.StartTLS {
				scheme = "ldap"
			}
			c.config.URIs = []string{server.uri(scheme)}
			if _, err := search(t, open(t, c.config), soon); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	config, err := (&Source{}).tlsConfig("ldap.example.org")
	if err != nil || config.ServerName != "ldap.example.org" || config.MinVersion < tls.VersionTLS12 || config.InsecureSkipVerify {
		t.Errorf("got %+v, %v", config, err)
	}
}
