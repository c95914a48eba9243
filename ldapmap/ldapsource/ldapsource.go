// Package ldapsource is an inventory in an LDAP directory server.
//
// One Source makes at most one connection at a time: map programs live for
// milliseconds, and a connection that was kept would be one that the server
// closed in the meantime. Every wait ends at the context's deadline. go-ldap's
// own time limits do not reach a TLS handshake or a blocked write, so that
// the deadline is set on the network connection itself. What a server may
// deliver is bounded below the decoder, which bounds nothing.
//
// Referrals (RFC 4511, section 4.1.10) are not followed: they would let a server
// choose whom we trust.
package ldapsource

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

// sizeLimit is the most entries that one search may return. A lookup needs a
// few dozen; more means that something is wrong, and is an error.
const sizeLimit = 2000

// defaultTimeout is for a caller that sets no limit at all, and for each request of
// a [ldapmap.Store].
const defaultTimeout = 10 * time.Second

// Config says where the directory is and how to speak to it.
type Config struct {
	URIs     []string      // ldap://host[:port], ldaps://host[:port], ldapi:///socket or ldapi://%2Fsocket; tried in order
	SRV      string        // domain whose SRV records name more servers (RFC 2782), or ""
	Base     string        // DN below which hosts, groups and the inventory lie
	Timeout  time.Duration // for one request to one server, with the connection it takes; 0: its share of what the context leaves
	StartTLS bool          // on ldap://: RFC 4513 StartTLS before anything is sent
	CAFile   string        // PEM certificates to trust; empty: the system's
	TLSName  string        // name that certificates must be for; empty: that of the server
	Insecure bool          // allow ldap:// without TLS to other machines

	// Who we are: nobody, unless BindDN and PasswordFile are set for a simple bind, or
	// External for the identity of the TLS client certificate or of an ldapi:// peer.
	BindDN       string
	PasswordFile string
	External     bool
	CertFile     string // PEM client certificate and its key
	KeyFile      string

	Resolver *net.Resolver // asks for SRV records; nil: the system's
}

// Source is a directory server, or several that hold the same.
type Source struct {
	config  Config
	servers []*url.URL
	srv     []string    // services whose SRV records were not asked for yet
	server  int         // the one that is asked; those before it have failed
	conn    *connection // to it; nil: not yet

	position position // of the last Watch
}

// New checks the configuration. It does not connect.
func New(c Config) (*Source, error) {
	s := &Source{config: c}
	if err := s.check(); err != nil {
		return nil, s.wrong(err)
	}
	return s, nil
}

func (s *Source) check() error {
	c := &s.config
	if len(c.URIs) == 0 && c.SRV == "" {
		return errors.New("no uri")
	}
	if _, err := ldap.ParseDN(c.Base); err != nil || c.Base == "" {
		return fmt.Errorf("base %q is no distinguished name", c.Base)
	}
	for _, uri := range c.URIs {
		u, err := s.parse(uri)
		if err != nil {
			return fmt.Errorf("uri %q: %w", uri, err)
		}
		s.servers = append(s.servers, u)
	}
	if c.SRV != "" {
		if !ldapmap.PlainPath(c.SRV) || strings.ContainsAny(c.SRV, "/_+@~") || strings.HasPrefix(c.SRV, ".") || strings.HasSuffix(c.SRV, ".") {
			return fmt.Errorf("srv %q: must be a domain such as example.org", c.SRV)
		}
		s.srv = s.services()
	}
	if (c.CertFile == "") != (c.KeyFile == "") {
		return errors.New("a client certificate takes both cert and key")
	}
	return s.checkIdentity()
}

// services are those whose SRV records name servers that may be asked.
func (s *Source) services() []string {
	switch {
	case s.config.SRV == "":
		return nil
	case s.config.StartTLS || s.config.Insecure:
		return []string{"ldaps", "ldap"}
	}
	return []string{"ldaps"}
}

func (s *Source) checkIdentity() error {
	c := &s.config
	if (c.BindDN == "") != (c.PasswordFile == "") {
		return errors.New("a simple bind takes both bind-dn and password-file")
	}
	if c.BindDN != "" {
		if c.External {
			return errors.New("bind-dn and sasl exclude each other")
		}
		if _, err := ldap.ParseDN(c.BindDN); err != nil {
			return fmt.Errorf("bind-dn %q is no distinguished name", c.BindDN)
		}
	}
	if !c.External {
		return nil
	}
	for i, u := range s.servers {
		if u.Scheme == "ldap" && !c.StartTLS {
			return fmt.Errorf("uri %q: SASL EXTERNAL takes the identity from TLS or from a socket: use ldaps://, starttls = true or ldapi://", c.URIs[i])
		}
		if u.Scheme != "ldapi" && c.CertFile == "" {
			return fmt.Errorf("uri %q: SASL EXTERNAL takes the identity from a client certificate: set cert and key", c.URIs[i])
		}
	}
	if c.SRV != "" && (c.CertFile == "" || c.Insecure && !c.StartTLS) {
		return errors.New("srv: SASL EXTERNAL takes cert and key, and TLS with every server")
	}
	return nil
}

func (s *Source) parse(uri string) (*url.URL, error) {
	u, err := url.Parse(uri)
	if err != nil {
		// RFC-style ldapi://%2Frun%2Fslapd has a host that is a path: url.Parse
		// takes it on no release of Go, so that it is cut by hand.
		path, ok := strings.CutPrefix(uri, "ldapi://")
		if path, err = url.PathUnescape(path); !ok || err != nil {
			return nil, errors.New("not understood")
		}
		u = &url.URL{Scheme: "ldapi", Path: path}
	}
	switch u.Scheme {
	case "ldap":
		if !s.config.StartTLS && !s.config.Insecure && !loopback(u.Hostname()) {
			what := "the inventory"
			if s.config.BindDN != "" {
				what = "the password"
			}
			return nil, fmt.Errorf("would send %s in the clear; use ldaps:// or starttls = true (or insecure = true, if you must)", what)
		}
	case "ldaps":
	case "ldapi":
		if u.Host != "" {
			return nil, errors.New("a socket is ldapi:///path or ldapi://%2Fpath")
		}
		u.Path = strings.TrimRight(u.Path, "/")
	default:
		return nil, errors.New("scheme must be ldap, ldaps or ldapi")
	}
	return u, nil
}

// Name is the list of servers; "srv:DOMAIN" stands for those that DNS names.
func (s *Source) Name() string {
	name := strings.Join(s.config.URIs, " ")
	if s.config.SRV != "" {
		name = strings.TrimSpace(name + " srv:" + s.config.SRV)
	}
	return name
}

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
	request := s.request(terms, attrs)
	request.SizeLimit, request.EnforceSizeLimit = sizeLimit, true
	var result *ldap.SearchResult
	err := s.each(ctx, s.config.Timeout, func(c *connection) (err error) {
		result, err = c.Search(request)
		return said(err)
	})
	if err != nil {
		return nil, err
	}
	return entries(result), nil
}

// request is a search below the base. Aliases are not followed, as is ldap.conf(5)'s
// default.
func (s *Source) request(terms []ldapmap.Term, attrs []string) *ldap.SearchRequest {
	return ldap.NewSearchRequest(s.config.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false, filter(terms), attrs, nil)
}

// each calls do with a connection to one server after the other until one answers,
// be it that the question is wrong. Each may take that long; 0: its share.
func (s *Source) each(ctx context.Context, patience time.Duration, do func(*connection) error) error {
	var failures []error
	for ctx.Err() == nil || len(failures) == 0 {
		if s.server == len(s.servers) {
			if len(s.srv) == 0 {
				break
			}
			if err := s.findServers(ctx, patience); err != nil {
				failures = append(failures, err)
			}
			continue
		}
		err := s.ask(ctx, patience, do)
		if err == nil {
			return nil
		}
		if final := s.final(err); final != nil {
			return final
		}
		failures = append(failures, err)
		s.hangUp()
		s.server++
	}
	s.server, s.servers, s.srv = 0, s.servers[:len(s.config.URIs)], s.services()
	return &ldapmap.UnavailableError{Source: s.Name(), Err: errors.Join(failures...)}
}

// findServers asks DNS for the servers of the next service.
func (s *Source) findServers(ctx context.Context, patience time.Duration) error {
	deadline, err := s.deadline(ctx, patience)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	service := s.srv[0]
	s.srv = s.srv[1:]
	servers, err := s.lookUp(ctx, service)
	s.servers = append(s.servers, servers...)
	return err
}

// ask calls do with a connection to the current server.
func (s *Source) ask(ctx context.Context, patience time.Duration, do func(*connection) error) error {
	deadline, err := s.deadline(ctx, patience)
	if err != nil {
		return err
	}
	if s.conn != nil && s.conn.IsClosing() {
		s.hangUp() // the server did, between two requests
	}
	if s.conn == nil {
		if s.conn, err = s.dial(ctx, s.servers[s.server], deadline); err != nil {
			return err
		}
	}
	if err := s.conn.in.SetDeadline(deadline); err != nil {
		return err
	}
	defer interrupt(ctx, s.conn.in)()
	err = do(s.conn)
	// go-ldap says why a connection ended only to a request that was sent by then.
	if why := s.conn.in.ended.Load(); why != nil && ldap.IsErrorWithCode(err, ldap.ErrorNetwork) && !errors.Is(err, ldap.ErrSizeLimitExceeded) {
		return said(fmt.Errorf("read the answer: %w", *why))
	}
	return err
}

func (s *Source) hangUp() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// deadline is until when the current server may take: its own time limit, or an
// equal share of what is left, so that one that hangs leaves time for the others.
func (s *Source) deadline(ctx context.Context, patience time.Duration) (time.Time, error) {
	now := time.Now()
	end, bounded := ctx.Deadline()
	if bounded {
		if !end.After(now) {
			return end, context.DeadlineExceeded
		}
		// DNS and the servers that it names count as one each.
		end = now.Add(end.Sub(now) / time.Duration(len(s.servers)-s.server+2*len(s.srv)))
	}
	if own := now.Add(patience); patience > 0 && (!bounded || own.Before(end)) {
		end = own
	} else if !bounded {
		end = now.Add(defaultTimeout)
	}
	return end, nil
}

// final is the error for an answer that no other server would better, or nil.
func (s *Source) final(err error) error {
	var wrong *ldapmap.ConfigError
	var unable *ldapmap.NoWatchError
	switch {
	case errors.As(err, &wrong), errors.As(err, &unable):
		return err
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		err = fmt.Errorf("base %q does not exist", s.config.Base)
		if who := s.config.BindDN; who != "" {
			err = fmt.Errorf("%w, or %q may not see it", err, who)
		}
	case errors.Is(err, ldap.ErrSizeLimitExceeded): // go-ldap's own: the server goes on
		s.hangUp()
		err = &ldapmap.TooManyError{Limit: sizeLimit}
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultAdminLimitExceeded):
		// The latter is what 389 Directory Server says that would have to read too many.
		err = &ldapmap.TooManyError{Limit: sizeLimit}
	case ldap.IsErrorWithCode(err, ldap.LDAPResultReferral):
		err = referral(err)
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultAuthMethodNotSupported,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultInappropriateAuthentication,
		ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultStrongAuthRequired):
	default:
		return nil
	}
	return s.wrong(err)
}

func entries(result *ldap.SearchResult) []ldapmap.Entry {
	entries := make([]ldapmap.Entry, 0, len(result.Entries))
	for _, r := range result.Entries {
		e := ldapmap.Entry{DN: r.DN, Attrs: make(map[string][]string, len(r.Attributes))}
		for _, a := range r.Attributes {
			name := strings.ToLower(a.Name)
			e.Attrs[name] = append(e.Attrs[name], a.Values...) // once, unless the server is wrong
		}
		entries = append(entries, e)
	}
	return entries
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
