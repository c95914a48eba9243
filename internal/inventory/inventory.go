// Package inventory opens the sources that the configuration names.
package inventory

import (
	"errors"

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
		switch s.Type {
		case "ldif":
			inv.Sources = append(inv.Sources, ldifsource.New(s.Path))
		case "ldap":
			source, err := ldapsource.New(ldapsource.Config{
				URIs: s.URI, Base: s.Base, Timeout: s.Timeout.Duration,
				StartTLS: s.StartTLS, CAFile: s.CA, Insecure: s.Insecure,
			})
			if err != nil {
				return nil, err
			}
			inv.Sources = append(inv.Sources, source)
		}
	}
	return inv, nil
}

// Close ends all connections.
func (inv *Inventory) Close() error {
	var errs []error
	for _, s := range inv.Sources {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
