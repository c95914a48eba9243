// Package ldapsource is an inventory in an LDAP directory server.
//
// One Source makes at most one connection, for one lookup: map programs live for
// milliseconds, and a connection that was kept would be one that the server
// closed in the meantime. Every wait ends at the context's deadline. go-ldap's
// own time limits do not reach a StartTLS handshake or a blocked write, so that
// the deadline is set on the network connection itself.
package ldapsource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

// sizeLimit is the most entries that one search may return. A lookup needs a
// few dozen; more means that something is wrong, and is an error.
const sizeLimit = 2000

// Config says where the directory is and how to speak to it.
type Config struct {
	URIs     []string      // ldap://host[:port], ldaps://host[:port], ldapi:///socket or ldapi://%2Fsocket; tried in order
	Base     string        // DN below which hosts, groups and the inventory lie
	Timeout  time.Duration // for one server, from dial to last answer; 0: the context's deadline alone
	StartTLS bool          // on ldap://: RFC 4513 StartTLS before anything is sent
	CAFile   string        // PEM certificates to trust; empty: the system's
	Insecure bool          // allow ldap:// without TLS to other machines
}

// Source asks a directory server, anonymously.
type Source struct {
	config  Config
	servers []*url.URL
	tls     *tls.Config // made at first need
	conn    *ldap.Conn
}

// New checks the configuration. It does not connect.
func New(c Config) (*Source, error) {
	s := &Source{config: c}
	fail := func(err error) (*Source, error) { return nil, &ldapmap.ConfigError{Source: s.Name(), Err: err} }
	if len(c.URIs) == 0 {
		return fail(errors.New("no uri"))
	}
	if _, err := ldap.ParseDN(c.Base); err != nil || c.Base == "" {
		return fail(fmt.Errorf("base %q is no distinguished name", c.Base))
	}
	for _, uri := range c.URIs {
		u, err := url.Parse(uri)
		if err != nil {
			// RFC-style ldapi://%2Frun%2Fslapd has a host that is a path: url.Parse
			// takes it on no release of Go, so that it is cut by hand.
			path, ok := strings.CutPrefix(uri, "ldapi://")
			if path, err = url.PathUnescape(path); !ok || err != nil {
				return fail(fmt.Errorf("uri %q: not understood", uri))
			}
			u = &url.URL{Scheme: "ldapi", Path: path}
		}
		switch u.Scheme {
		case "ldap":
			if !c.StartTLS && !c.Insecure && !loopback(u.Hostname()) {
				return fail(fmt.Errorf("uri %q: would send the inventory in the clear; use ldaps:// or starttls = true (or insecure = true, if you must)", uri))
			}
		case "ldaps", "ldapi":
		default:
			return fail(fmt.Errorf("uri %q: scheme must be ldap, ldaps or ldapi", uri))
		}
		s.servers = append(s.servers, u)
	}
	return s, nil
}

// Name is the list of servers.
func (s *Source) Name() string { return strings.Join(s.config.URIs, " ") }

// Close ends the connection.
func (s *Source) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// Search implements [ldapmap.Source].
func (s *Source) Search(ctx context.Context, terms []ldapmap.Term, attrs []string) ([]ldapmap.Entry, error) {
	if s.conn == nil {
		if err := s.connect(ctx); err != nil {
			return nil, err
		}
	}
	request := ldap.NewSearchRequest(s.config.Base, ldap.ScopeWholeSubtree, ldap.DerefAlways,
		sizeLimit, 0, false, filter(terms), attrs, nil)
	result, err := s.conn.Search(request)
	switch {
	case err == nil:
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return nil, s.misconfigured(fmt.Errorf("base %q does not exist", s.config.Base))
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded):
		return nil, s.misconfigured(fmt.Errorf("more than %d entries answer one lookup", sizeLimit))
	case ldap.IsErrorWithCode(err, ldap.LDAPResultInsufficientAccessRights),
		ldap.IsErrorWithCode(err, ldap.LDAPResultInappropriateAuthentication),
		ldap.IsErrorWithCode(err, ldap.LDAPResultConfidentialityRequired),
		ldap.IsErrorWithCode(err, ldap.LDAPResultStrongAuthRequired):
		return nil, s.misconfigured(err)
	default:
		return nil, s.unavailable(err)
	}
	entries := make([]ldapmap.Entry, 0, len(result.Entries))
	for _, r := range result.Entries {
		e := ldapmap.Entry{DN: r.DN, Attrs: make(map[string][]string, len(r.Attributes))}
		for _, a := range r.Attributes {
			e.Attrs[strings.ToLower(a.Name)] = a.Values
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// connect tries the servers in order until one answers or time is up.
func (s *Source) connect(ctx context.Context) error {
	var errs []error
	for _, u := range s.servers {
		conn, err := s.dial(ctx, u)
		if err == nil {
			s.conn = conn
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return s.unavailable(errors.Join(errs...))
}

func (s *Source) dial(ctx context.Context, u *url.URL) (*ldap.Conn, error) {
	deadline, bounded := ctx.Deadline()
	if own := time.Now().Add(s.config.Timeout); s.config.Timeout > 0 && (!bounded || own.Before(deadline)) {
		deadline, bounded = own, true
	}
	dialer := net.Dialer{}
	if bounded {
		dialer.Deadline = deadline
	}
	network, address := "tcp", u.Host
	switch u.Scheme {
	case "ldap":
		address = withPort(u, "389")
	case "ldaps":
		address = withPort(u, "636")
	case "ldapi":
		network, address = "unix", u.Path
		if address == "" || address == "/" {
			address = "/var/run/slapd/ldapi"
		}
	}
	nc, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if bounded {
		// Covers the TLS handshakes, every write and every answer.
		if err := nc.SetDeadline(deadline); err != nil {
			nc.Close()
			return nil, err
		}
	}
	if u.Scheme == "ldaps" {
		config, err := s.tlsConfig(u.Hostname())
		if err != nil {
			nc.Close()
			return nil, err
		}
		t := tls.Client(nc, config)
		if err := t.HandshakeContext(ctx); err != nil {
			nc.Close()
			return nil, fmt.Errorf("TLS handshake with %s: %w", address, err)
		}
		nc = t
	}
	conn := ldap.NewConn(nc, u.Scheme == "ldaps")
	conn.Start()
	if bounded {
		conn.SetTimeout(time.Until(deadline))
	}
	if u.Scheme == "ldap" && s.config.StartTLS {
		config, err := s.tlsConfig(u.Hostname())
		if err == nil {
			err = conn.StartTLS(config)
		}
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("StartTLS with %s: %w", address, err)
		}
	}
	return conn, nil
}

func (s *Source) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if s.config.CAFile != "" {
		pem, err := os.ReadFile(s.config.CAFile)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no PEM certificate", s.config.CAFile)
		}
	}
	return config, nil
}

func (s *Source) misconfigured(err error) error {
	return &ldapmap.ConfigError{Source: s.Name(), Err: err}
}

func (s *Source) unavailable(err error) error {
	return &ldapmap.UnavailableError{Source: s.Name(), Err: err}
}

func withPort(u *url.URL, port string) string {
	if p := u.Port(); p != "" {
		port = p
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// filter renders terms as an RFC 4515 filter. Every value is escaped.
func filter(terms []ldapmap.Term) string {
	var b strings.Builder
	b.WriteString("(|")
	for _, term := range terms {
		b.WriteString("(&")
		for _, condition := range term {
			b.WriteString("(|")
			for _, t := range condition {
				b.WriteString("(" + t.Attr + "=")
				switch t.Op {
				case ldapmap.Present:
					b.WriteString("*")
				case ldapmap.Prefix:
					b.WriteString(ldap.EscapeFilter(t.Value) + "*")
				default:
					b.WriteString(ldap.EscapeFilter(t.Value))
				}
				b.WriteString(")")
			}
			b.WriteString(")")
		}
		b.WriteString(")")
	}
	b.WriteString(")")
	return b.String()
}
