package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
)

// Identities of packaging/schema/access.ldif, which [Slapd.Restrict] makes, all with
// RootPW for a password. EditorDN is a member of the group of admins.
const (
	ReaderDN = "cn=levelfs-reader,ou=services," + BaseDN
	EditorDN = "cn=levelfs-editor,ou=services," + BaseDN
	AdminsDN = "cn=levelfs-admins,ou=groups," + BaseDN
)

// Restrict loads access.ldif, as its first lines say to do, and the identities that it
// is about. The tree must have its ou=groups already.
func (s *Slapd) Restrict() error {
	var entries ldifWriter
	entries.entry("ou=services,"+BaseDN, "objectClass: organizationalUnit", "ou: services")
	for _, dn := range []string{ReaderDN, EditorDN} {
		entries.entry(dn, "objectClass: organizationalRole", "objectClass: simpleSecurityObject", "userPassword: "+s.RootPW)
	}
	entries.entry(AdminsDN, "objectClass: groupOfNames", "member: "+EditorDN)
	if err := s.Add(entries.String()); err != nil {
		return err
	}
	return s.Load("access.ldif")
}

// Load makes the modifications of a file beside the schema in the server's
// configuration, as the first lines of such files say to do.
func (s *Slapd) Load(name string) error {
	text, err := os.ReadFile(filepath.Join(s.schemaDir, name))
	if err != nil {
		return fmt.Errorf("configure slapd: %w", err)
	}
	changes, err := ldif.Parse(string(text))
	if err != nil {
		return fmt.Errorf("configure slapd: %s: %w", name, err)
	}
	c, err := s.connectAsOwner()
	if err != nil {
		return fmt.Errorf("configure slapd: %w", err)
	}
	defer c.Close()
	for _, change := range changes.Entries {
		if change.Modify == nil {
			return fmt.Errorf("configure slapd: %s has a record that modifies nothing", name)
		}
		if err := c.Modify(change.Modify); err != nil {
			return fmt.Errorf("configure slapd: %q: %w", change.Modify.DN, err)
		}
	}
	return nil
}

// Configure replaces the values of an attribute in the server's configuration, below
// cn=config. Without values it removes the attribute.
func (s *Slapd) Configure(dn, attr string, values ...string) error {
	c, err := s.connectAsOwner()
	if err != nil {
		return fmt.Errorf("configure slapd: %w", err)
	}
	defer c.Close()
	m := ldap.NewModifyRequest(dn, nil)
	m.Replace(attr, values)
	if err := c.Modify(m); err != nil {
		return fmt.Errorf("configure slapd: %q: %s: %w", dn, attr, err)
	}
	return nil
}

// ConfigValues returns the values of an attribute in the server's configuration.
func (s *Slapd) ConfigValues(dn, attr string) ([]string, error) {
	c, err := s.connectAsOwner()
	if err != nil {
		return nil, fmt.Errorf("read the configuration of slapd: %w", err)
	}
	defer c.Close()
	r, err := c.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", []string{attr}, nil))
	if err != nil {
		return nil, fmt.Errorf("read the configuration of slapd: %q: %w", dn, err)
	}
	return r.Entries[0].GetEqualFoldAttributeValues(attr), nil
}

// connectAsOwner connects as the user who runs slapd, who may change its
// configuration.
func (s *Slapd) connectAsOwner() (*ldap.Conn, error) {
	c, err := s.connect(context.Background())
	if err != nil {
		return nil, err
	}
	if err := c.ExternalBind(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Passwd writes the password of all identities to a file that levelfs accepts.
func (s *Slapd) Passwd(dir string) (path string, err error) {
	path = filepath.Join(dir, "password-"+rand.Text())
	return path, os.WriteFile(path, []byte(s.RootPW+"\n"), 0o600)
}

// Values returns the values of an entry's attribute, operational ones included, as
// RootDN sees them. It is a search, which Searches counts.
func (s *Slapd) Values(dn, attr string) ([]string, error) {
	c, err := s.dial(context.Background())
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", dn, err)
	}
	defer c.Close()
	r, err := c.Search(ldap.NewSearchRequest(dn, ldap.ScopeBaseObject, ldap.NeverDerefAliases, 0, 0, false, "(objectClass=*)", []string{attr}, nil))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", dn, err)
	}
	return r.Entries[0].GetEqualFoldAttributeValues(attr), nil
}
