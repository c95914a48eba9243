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

// defaultTimeout is for a caller that sets no limit at all.
const defaultTimeout = 10 * time.Second

// Config says where the directory is and how to speak to it.
type Config struct {
	URIs     []string      // ldap://host[:port], ldaps://host[:port], ldapi:///socket or ldapi://%2Fsocket; tried in order
	Base     string        // DN below which hosts, groups and the inventory lie
	Timeout  time.Duration // for one server, from dial to last answer; 0: its share of what the context leaves
	StartTLS bool          // on ldap://: RFC 4513 StartTLS before anything is sent
	CAFile   string        // PEM certificates to trust; empty: the system's
	Insecure bool          // allow ldap:// without TLS to other machines
}

// Source asks a directory server, anonymously.
type Source struct {
	config  Config
	servers []*url.URL
	server  int        // the one that is asked; those before it have failed
	conn    *ldap.Conn // to it; nil: not yet
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
		case "ldaps":
		case "ldapi":
			if u.Host != "" {
				return fail(fmt.Errorf("uri %q: a socket is ldapi:///path or ldapi://%%2Fpath", uri))
			}
			u.Path = strings.TrimRight(u.Path, "/")
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

// Search implements [ldapmap.Source]. A server that does not answer, at any point,
// is given up for the next one.
func (s *Source) Search(ctx context.Context, terms []ldapmap.Term, attrs []string) ([]ldapmap.Entry, error) {
	// Aliases are not followed, as is ldap.conf(5)'s default.
	request := ldap.NewSearchRequest(s.config.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases,
		sizeLimit, 0, false, filter(terms), attrs, nil)
	var failures []error
	for ; s.server < len(s.servers); s.server++ {
		result, err := s.ask(ctx, request)
		if err == nil {
			return entries(result), nil
		}
		if final := s.final(err); final != nil {
			return nil, final
		}
		failures = append(failures, err)
		if s.conn != nil {
			s.conn.Close()
			s.conn = nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	s.server = 0
	return nil, &ldapmap.UnavailableError{Source: s.Name(), Err: errors.Join(failures...)}
}

// ask puts the request to the current server.
func (s *Source) ask(ctx context.Context, request *ldap.SearchRequest) (*ldap.SearchResult, error) {
	if s.conn == nil {
		deadline, err := s.deadline(ctx)
		if err != nil {
			return nil, err
		}
		if s.conn, err = s.dial(ctx, s.servers[s.server], deadline); err != nil {
			return nil, err
		}
	}
	return s.conn.Search(request)
}

// deadline is until when the current server may take: its own time limit, or an
// equal share of what is left, so that one that hangs leaves time for the others.
func (s *Source) deadline(ctx context.Context) (time.Time, error) {
	now := time.Now()
	end, bounded := ctx.Deadline()
	if bounded {
		if !end.After(now) {
			return end, context.DeadlineExceeded
		}
		end = now.Add(end.Sub(now) / time.Duration(len(s.servers)-s.server))
	}
	if own := now.Add(s.config.Timeout); s.config.Timeout > 0 && (!bounded || own.Before(end)) {
		end = own
	} else if !bounded {
		end = now.Add(defaultTimeout)
	}
	return end, nil
}

// final is the error for an answer that no other server would better, or nil.
func (s *Source) final(err error) error {
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		err = fmt.Errorf("base %q does not exist", s.config.Base)
	case ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded):
		err = &ldapmap.TooManyError{Limit: sizeLimit}
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired):
	default:
		return nil
	}
	return &ldapmap.ConfigError{Source: s.Name(), Err: err}
}

func entries(result *ldap.SearchResult) []ldapmap.Entry {
	entries := make([]ldapmap.Entry, 0, len(result.Entries))
	for _, r := range result.Entries {
		e := ldapmap.Entry{DN: r.DN, Attrs: make(map[string][]string, len(r.Attributes))}
		for _, a := range r.Attributes {
			e.Attrs[strings.ToLower(a.Name)] = a.Values
		}
		entries = append(entries, e)
	}
	return entries
}

func (s *Source) dial(ctx context.Context, u *url.URL, deadline time.Time) (*ldap.Conn, error) {
	dialer := net.Dialer{Deadline: deadline}
	network, address := "tcp", u.Host
	switch u.Scheme {
	case "ldap":
		address = withPort(u, "389")
	case "ldaps":
		address = withPort(u, "636")
	case "ldapi":
		network, address = "unix", u.Path
		if address == "" {
			address = "/var/run/slapd/ldapi"
		}
	}
	nc, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	// Covers the TLS handshakes, every write and every answer.
	if err := nc.SetDeadline(deadline); err != nil {
		nc.Close()
		return nil, err
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
