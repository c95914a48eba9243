package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/ldapmap"
)

const (
	// slow is how long an answer may take that somebody waits for at a first access.
	slow = time.Second
	// soon is how long before its end a certificate should be replaced.
	soon = 30 * 24 * time.Hour
	// connectTime bounds a connection that only asks for a certificate.
	connectTime = 3 * time.Second
)

// sources asks each inventory for this host, and looks at certificates.
func sources(ctx context.Context, c *config.Config) []Line {
	host, err := c.Hostname()
	if err != nil {
		return []Line{{"host name", Error, err.Error(), "set host in levelfs.toml"}}
	}
	inv, err := inventory.Open(c)
	if err != nil {
		return []Line{{"inventory", Error, err.Error(), "correct the [[source]] in levelfs.toml"}}
	}
	defer inv.Close()
	var lines []Line
	for i, s := range c.Sources {
		one := ldapmap.Resolver{Sources: inv.Sources[i : i+1]}
		start := time.Now()
		_, err := one.Survey(ctx, host, "")
		took := time.Since(start).Round(100 * time.Microsecond)
		name := "inventory " + inv.Sources[i].Name()
		switch {
		case err != nil:
			lines = append(lines, Line{name, Error, err.Error(), "see that it is there and answers: levelfs plan COMPONENT says more"})
		case took > slow:
			lines = append(lines, Line{name, Warning, fmt.Sprintf("answers in %v", took), "index the attributes that lookups ask for, or name a nearer server first"})
		default:
			lines = append(lines, Line{Name: name, State: OK, Text: fmt.Sprintf("answers in %v", took)})
		}
		if s.Cert != "" {
			lines = append(lines, clientCertificate(s.Cert))
		}
		for _, uri := range s.URI {
			if l, ok := serverCertificate(ctx, s, uri); ok {
				lines = append(lines, l)
			}
		}
	}
	return lines
}

// serverCertificate is how long the server's certificate holds; ok is false if it has
// none. Whether it is to be trusted was found out by the lookup.
func serverCertificate(ctx context.Context, s config.Source, uri string) (l Line, ok bool) {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "ldaps" && !s.StartTLS {
		return Line{}, false
	}
	name := "certificate of " + uri
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	// Not verified: an expired one is to be reported, and nothing is sent.
	state, err := handshake(ctx, u, &tls.Config{InsecureSkipVerify: true, ServerName: u.Hostname()})
	if err != nil {
		return Line{name, Error, err.Error(), "see that the server runs: openssl s_client -connect " + u.Host}, true
	}
	if len(state.PeerCertificates) == 0 {
		return Line{name, Error, "the server has none", "give the server one"}, true
	}
	return holds(name, state.PeerCertificates[0], time.Now()), true
}

func handshake(ctx context.Context, u *url.URL, c *tls.Config) (tls.ConnectionState, error) {
	if u.Scheme == "ldaps" {
		host := u.Host
		if u.Port() == "" {
			host = net.JoinHostPort(u.Hostname(), ldap.DefaultLdapsPort)
		}
		conn, err := (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", host)
		if err != nil {
			return tls.ConnectionState{}, err
		}
		defer conn.Close()
		return conn.(*tls.Conn).ConnectionState(), nil
	}
	conn, err := ldap.DialURL(u.String(), ldap.DialWithDialer(&net.Dialer{Timeout: connectTime}))
	if err != nil {
		return tls.ConnectionState{}, err
	}
	defer conn.Close()
	conn.SetTimeout(connectTime)
	if err := conn.StartTLS(c); err != nil {
		return tls.ConnectionState{}, err
	}
	state, _ := conn.TLSConnectionState()
	return state, nil
}

// clientCertificate is how long a certificate of this machine holds.
func clientCertificate(file string) Line {
	name := "certificate " + file
	cert, err := readCertificate(file)
	if err != nil {
		return Line{name, Error, err.Error(), "correct cert in levelfs.toml"}
	}
	return holds(name, cert, time.Now())
}

func readCertificate(file string) (*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM certificate in it")
	}
	return x509.ParseCertificate(block.Bytes)
}

func holds(name string, cert *x509.Certificate, now time.Time) Line {
	text := "holds until " + cert.NotAfter.UTC().Format(time.RFC3339)
	switch left := cert.NotAfter.Sub(now); {
	case left < 0 || now.Before(cert.NotBefore):
		return Line{name, Error, text + ", from " + cert.NotBefore.UTC().Format(time.RFC3339), "replace it, or set the clock"}
	case left < soon:
		return Line{name, Warning, text, "replace it"}
	}
	return Line{Name: name, State: OK, Text: text}
}
