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

// completeComponents offers the inventory's components to the shell. Without an
// answer in a second it offers nothing.
func completeComponents(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c, err := config.Load()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	inv, err := inventory.Open(c)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer inv.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	components, err := inv.Components(ctx, toComplete)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, component := range components {
		names = append(names, component.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
