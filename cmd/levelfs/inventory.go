package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
)

// lookupTime bounds everything that one verb asks of the inventory.
const lookupTime = 10 * time.Second

func lookupContext(parent context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(parent, lookupTime)
}

// A site is what most verbs work on.
type site struct {
	*inventory.Inventory
	config *config.Config
	host   string // whom the verb is about
}

// openSite loads the configuration and opens the inventory; an empty host stands
// for this machine.
func openSite(host string) (*site, error) {
	c, err := config.Load()
	if err != nil {
		return nil, err
	}
	if host == "" {
		if host, err = c.Hostname(); err != nil {
			return nil, err
		}
	}
	inv, err := inventory.Open(c)
	if err != nil {
		return nil, err
	}
	return &site{Inventory: inv, config: c, host: host}, nil
}

// completeComponents offers the inventory's components to the shell. Without an
// answer in a second it offers nothing.
func completeComponents(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := openSite("")
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	components, err := s.Components(ctx, toComplete)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, component := range components {
		names = append(names, component.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
