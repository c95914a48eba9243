// Package inventory opens the sources that the configuration names.
package inventory

import (
	"errors"
	"fmt"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// An Inventory is a resolver over the configured sources.
type Inventory struct{ ldapmap.Resolver }

// Open makes the sources. Nothing is connected to before the first lookup.
func Open(c *config.Config) (*Inventory, error) {
	inv := new(Inventory)
	for _, s := range c.Sources {
		source, err := open(s)
		if err != nil {
			return nil, err
		}
		inv.Sources = append(inv.Sources, source)
	}
	return inv, nil
}

// Stores are the sources, to be read as a whole.
func (inv *Inventory) Stores() ([]ldapmap.Store, error) {
	var stores []ldapmap.Store
	for _, s := range inv.Sources {
		store, ok := s.(ldapmap.Store)
		if !ok {
			return nil, fmt.Errorf("inventory %s cannot be read as a whole", s.Name())
		}
		stores = append(stores, store)
	}
	return stores, nil
}

// Close ends all connections.
func (inv *Inventory) Close() error {
	var errs []error
	for _, s := range inv.Sources {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

// A Writer is as whom to write to a directory server, instead of as whom the
// configuration says. The zero value changes nothing.
type Writer struct {
	BindDN       string
	PasswordFile string // absolute path
}

func (w Writer) override(s *config.Source) {
	if w.BindDN != "" {
		s.BindDN, s.SASL = w.BindDN, ""
	}
	if w.PasswordFile != "" {
		s.PasswordFile = w.PasswordFile
	}
}

// OpenStores makes the sources as they are to be changed, in the order of the
// configuration: with the servers and the identities of their [source.write] tables.
// Nothing is connected to. The caller closes each.
//
// It is an error if one of them cannot be changed by levelfs.
func OpenStores(c *config.Config, w Writer) ([]ldapmap.Store, error) {
	var stores []ldapmap.Store
	for _, s := range c.Sources {
		s = s.Writing()
		if s.Type == "ldap" {
			w.override(&s)
		}
		source, err := open(s)
		if err != nil {
			return nil, err
		}
		store, ok := source.(ldapmap.Store)
		if !ok {
			return nil, fmt.Errorf("inventory %s: an %s source cannot be changed", source.Name(), s.Type)
		}
		stores = append(stores, store)
	}
	return stores, nil
}

// OpenReport makes the source that has this machine's own entry twice: as it is read, and
// as the machine itself writes to it. Nothing is connected to. The caller closes both.
func OpenReport(c *config.Config) (read, write ldapmap.Store, err error) {
	stores := make([]ldapmap.Store, 2)
	for i, s := range []config.Source{c.Sources[c.Report.In(c.Sources)], c.Reporting()} {
		source, err := open(s)
		if err != nil {
			return nil, nil, err
		}
		store, ok := source.(ldapmap.Store)
		if !ok {
			return nil, nil, fmt.Errorf("inventory %s: an %s source cannot be changed", source.Name(), s.Type)
		}
		stores[i] = store
	}
	return stores[0], stores[1], nil
}

func open(s config.Source) (ldapmap.Source, error) {
	if s.Type == "ldif" {
		return ldifsource.New(s.Path), nil
	}
	source, err := ldapsource.New(ldapsource.Config{
		URIs: s.URI, SRV: s.SRV, Base: s.Base, Timeout: s.Timeout.Duration,
		StartTLS: s.StartTLS, CAFile: s.CA, TLSName: s.TLSName, Insecure: s.Insecure,
		BindDN: s.BindDN, PasswordFile: s.PasswordFile, External: s.SASL == "external",
		CertFile: s.Cert, KeyFile: s.Key,
	})
	if err != nil {
		return nil, err // not the nil *Source, which is no nil Source
	}
	return source, nil
}
