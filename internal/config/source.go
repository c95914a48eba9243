package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
)

// A Source is one [[source]] table.
type Source struct {
	Type     string   `toml:"type"`     // "ldif" or "ldap"
	Path     string   `toml:"path"`     // ldif: the directory
	URI      []string `toml:"uri"`      // ldap: servers, in the order to try them
	SRV      string   `toml:"srv"`      // ldap: domain whose SRV records name more servers
	Base     string   `toml:"base"`     // ldap: DN below which everything lies
	Timeout  Duration `toml:"timeout"`  // ldap: for one request to one server, such as "2s"
	StartTLS bool     `toml:"starttls"` // ldap: RFC 4513 StartTLS on ldap://
	CA       string   `toml:"ca"`       // ldap: PEM file of the authorities to trust
	TLSName  string   `toml:"tls-name"` // ldap: name that certificates must be for, instead of the server's
	Insecure bool     `toml:"insecure"` // ldap: allow ldap:// in the clear to other machines
	Identity
	// Write is where and as whom the inventory is changed, where that differs.
	Write Write `toml:"write"`
}

// An Identity is as whom a directory server is asked. The zero value is nobody.
type Identity struct {
	BindDN       string `toml:"bind-dn"`       // simple bind
	PasswordFile string `toml:"password-file"` // its password, for root only
	SASL         string `toml:"sasl"`          // "external": by client certificate or socket
	Cert         string `toml:"cert"`          // PEM client certificate
	Key          string `toml:"key"`           // its key, for root only
}

// A Write is a [source.write] table.
type Write struct {
	URI []string `toml:"uri"`
	SRV string   `toml:"srv"`
	Identity
}

// Writing is the source as it is to be changed: with the servers of [source.write] if
// it names any, and with its identity if it names one.
func (s Source) Writing() Source {
	if len(s.Write.URI) > 0 || s.Write.SRV != "" {
		s.URI, s.SRV = s.Write.URI, s.Write.SRV
	}
	if w := s.Write.Identity; w.BindDN != "" || w.SASL != "" {
		s.BindDN, s.PasswordFile, s.SASL = w.BindDN, w.PasswordFile, w.SASL
	}
	if w := s.Write.Identity; w.Cert != "" {
		s.Cert, s.Key = w.Cert, w.Key
	}
	s.Write = Write{}
	return s
}

// complete checks the source, and takes from ldap.conf what it leaves open.
func (s *Source) complete(c *Config) error {
	switch s.Type {
	case "ldif":
		if !filepath.IsAbs(s.Path) {
			return fmt.Errorf("path %q: must be an absolute path", s.Path)
		}
		if !reflect.DeepEqual(*s, Source{Type: s.Type, Path: s.Path}) {
			return errors.New("an ldif source has a path and nothing else")
		}
		return nil
	case "ldap":
	default:
		return fmt.Errorf("type %q: must be ldif or ldap", s.Type)
	}
	if s.Path != "" {
		return errors.New("an ldap source has no path")
	}
	if len(s.URI) == 0 && s.SRV == "" || s.Base == "" {
		if err := s.completeFrom(c.ldapConf()); err != nil {
			return err
		}
	}
	if s.CA != "" && !filepath.IsAbs(s.CA) {
		return fmt.Errorf("ca %q: must be an absolute path", s.CA)
	}
	if err := s.Identity.check(); err != nil {
		return err
	}
	if err := s.Write.Identity.check(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func (i Identity) check() error {
	if (i.BindDN == "") != (i.PasswordFile == "") {
		return errors.New("bind-dn and password-file go together")
	}
	if i.SASL != "" && i.SASL != "external" {
		return fmt.Errorf("sasl %q: must be external", i.SASL)
	}
	if i.SASL != "" && i.BindDN != "" {
		return errors.New("bind-dn and sasl exclude each other")
	}
	if (i.Cert == "") != (i.Key == "") {
		return errors.New("cert and key go together")
	}
	for _, f := range []struct{ key, path string }{{"password-file", i.PasswordFile}, {"cert", i.Cert}, {"key", i.Key}} {
		if f.path != "" && !filepath.IsAbs(f.path) {
			return fmt.Errorf("%s %q: must be an absolute path", f.key, f.path)
		}
	}
	return nil
}
