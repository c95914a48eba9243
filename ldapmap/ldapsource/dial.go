package ldapsource

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

// maxTargets is how many servers of one SRV answer are tried.
const maxTargets = 16

// maxSecret is the size of the largest password or key file, in bytes.
const maxSecret = 64 << 10

// A connection is bound and ready for requests.
type connection struct {
	*ldap.Conn
	in      *messages
	asserts *bool // the server knows the assertion control; nil: not asked yet
}

// dial connects and binds. A mistake in our own files is a *ConfigError, and found
// before anything is sent: no other server would better it.
func (s *Source) dial(ctx context.Context, u *url.URL, deadline time.Time) (*connection, error) {
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
	var config *tls.Config // nil: in the clear
	var password string
	var err error
	if u.Scheme == "ldaps" || u.Scheme == "ldap" && s.config.StartTLS {
		if config, err = s.tlsConfig(u.Hostname()); err != nil {
			return nil, s.wrong(err)
		}
	}
	if s.config.BindDN != "" {
		if password, err = readPassword(s.config.PasswordFile); err != nil {
			return nil, s.wrong(err)
		}
	}
	nc, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn, err := s.open(ctx, nc, u.Scheme, config, password, deadline)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return conn, nil
}

// open makes a connection that is secure, if it is to be, and bound.
func (s *Source) open(ctx context.Context, nc net.Conn, scheme string, config *tls.Config, password string, deadline time.Time) (*connection, error) {
	// Covers the TLS handshake and the bind: every write and every answer.
	if err := nc.SetDeadline(deadline); err != nil {
		return nil, err
	}
	defer interrupt(ctx, nc)()
	if config != nil {
		peer := nc.RemoteAddr()
		if scheme == "ldap" {
			if err := startTLS(nc); err != nil {
				return nil, fmt.Errorf("StartTLS with %s: %w", peer, err)
			}
		}
		t := tls.Client(nc, config)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS handshake with %s: %w", peer, said(err))
		}
		nc = t
	}
	in := newMessages(nc, lookupLimit())
	conn := ldap.NewConn(in, config != nil)
	conn.Start()
	if err := s.bind(conn, password); err != nil {
		conn.Close()
		return nil, err
	}
	return &connection{Conn: conn, in: in}, nil
}

func (s *Source) bind(conn *ldap.Conn, password string) error {
	switch {
	case s.config.External:
		if err := conn.ExternalBind(); err != nil {
			return fmt.Errorf("bind by SASL EXTERNAL: %w", said(err))
		}
	case s.config.BindDN != "":
		if err := conn.Bind(s.config.BindDN, password); err != nil {
			return fmt.Errorf("bind as %q: %w", s.config.BindDN, said(err))
		}
	}
	return nil
}

// interrupt makes a connection's waits end when the context does. The function that
// it returns ends that.
func interrupt(ctx context.Context, nc net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
}

// startTLS asks for TLS (RFC 4511, section 4.14). go-ldap's StartTLS is not used: it
// would put TLS below what checks the messages, and hides why a handshake failed.
//
// Until TLS is there anybody may have sent the answer. So what it says is never taken
// for the server's word on our configuration, and what follows it unasked is refused.
func startTLS(nc net.Conn) error {
	const id = 1
	request := ber.NewSequence("")
	request.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id, ""))
	extended := ber.Encode(ber.ClassApplication, ber.TypeConstructed, ldap.ApplicationExtendedRequest, nil, "")
	extended.AppendChild(ber.NewString(ber.ClassContext, ber.TypePrimitive, 0, "1.3.6.1.4.1.1466.20037", ""))
	request.AppendChild(extended)
	if _, err := nc.Write(request.Bytes()); err != nil {
		return err
	}
	in := newMessages(nc, lookupLimit())
	answer, err := ber.ReadPacket(in)
	if err != nil {
		return err
	}
	if err := ldap.GetLDAPError(answer); err != nil {
		return errors.New(said(err).Error())
	}
	if in.in.Buffered() > 0 {
		return errors.New("more than an answer came in the clear")
	}
	return nil
}

func (s *Source) tlsConfig(host string) (*tls.Config, error) {
	config := &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	if s.config.TLSName != "" {
		config.ServerName = s.config.TLSName
	}
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
	if s.config.CertFile != "" {
		cert, err := os.ReadFile(s.config.CertFile)
		if err != nil {
			return nil, err
		}
		key, err := readSecret(s.config.KeyFile)
		if err != nil {
			return nil, err
		}
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("%s, %s: %w", s.config.CertFile, s.config.KeyFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// A SecretError is a file with a password or a key that others than its owner can
// get at.
type SecretError struct {
	Path string
	Mode fs.FileMode
	UID  uint32 // its owner
}

func (e *SecretError) Error() string {
	return fmt.Sprintf("%q: mode %v, owner %d: a secret must be a regular file of root's, or of who runs this, with mode 0600 at most",
		e.Path, e.Mode, e.UID)
}

// readPassword reads the password of a simple bind.
func readPassword(path string) (string, error) {
	text, err := readSecret(path)
	if err != nil {
		return "", err
	}
	password := strings.TrimSuffix(string(text), "\n")
	if password == "" {
		// RFC 4513, section 5.1.2: the server would take it for an anonymous bind.
		return "", fmt.Errorf("%q: no password in it", path)
	}
	return password, nil
}

func readSecret(path string) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	if mode := info.Mode(); !mode.IsRegular() || mode&^0o600 != 0 || owner != 0 && int(owner) != os.Geteuid() {
		return nil, &SecretError{Path: path, Mode: mode, UID: owner}
	}
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(text) > maxSecret {
		err = fmt.Errorf("%q: larger than %d bytes", path, maxSecret)
	}
	return text, err
}

// lookUp asks DNS for servers (RFC 2782). They come by priority and, among the same,
// in random order by weight.
//
// Whoever can forge an answer of DNS can have a good certificate for a name of their
// own. So targets have to lie in the domain that was asked for, unless tls-name says
// which name the certificate must be for.
func (s *Source) lookUp(ctx context.Context, service string) ([]*url.URL, error) {
	resolver := s.config.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	name := fmt.Sprintf("_%s._tcp.%s", service, s.config.SRV)
	_, targets, err := resolver.LookupSRV(ctx, service, "tcp", s.config.SRV+".")
	if len(targets) == 0 && err != nil {
		return nil, said(err)
	}
	var servers []*url.URL
	var strange string
	for _, t := range targets[:min(len(targets), maxTargets)] {
		target := strings.TrimSuffix(t.Target, ".")
		if target == "" {
			continue // "the service is decidedly not available at this domain"
		}
		if s.config.TLSName == "" && !within(target, s.config.SRV) {
			strange = target
			continue
		}
		servers = append(servers, &url.URL{Scheme: service, Host: net.JoinHostPort(target, strconv.Itoa(int(t.Port)))})
	}
	if len(servers) == 0 && strange != "" {
		return nil, fmt.Errorf("SRV %s: %q is not in %s", name, strange, s.config.SRV)
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("SRV %s: no server", name)
	}
	return servers, nil
}

// within reports whether a host is in a domain.
func within(host, domain string) bool {
	host, domain = strings.ToLower(host), strings.ToLower(domain)
	return host == domain || strings.HasSuffix(host, "."+domain)
}

// wrong is an error for what only a change of the configuration betters.
func (s *Source) wrong(err error) error {
	return &ldapmap.ConfigError{Source: s.Name(), Err: err}
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
