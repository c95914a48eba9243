package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/gc"
)

func newGC() *cobra.Command {
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove what levelfs made and nothing uses",
		Long: `Remove from this machine what levelfs itself made and nothing uses any more:

  segments         that a mount attached and no view uses, if the driver lets them go
  view marks       of views that are gone
  cache entries    older than "keep", or more than "cache-size", in levelfs.toml
  lists of files   older than "keep", of layers that no private layer is or was over
  temporary files  of writers that were killed, older than an hour
  backups          older than "keep-backups" in levelfs.toml; without it, none

Loop devices are not among them: they go with their last user.

What others attached stays, and private layers are never touched. That a segment is in
use is no failure. Each thing that was found is printed.

EXIT STATUS
  0   done
  1   something could not be removed; the reason is on standard error
  64  the command line was wrong`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load()
			if err != nil {
				return err
			}
			items, err := gc.Run(cmd.Context(), c, dryRun)
			if asJSON {
				return errors.Join(err, writeJSON(cmd.OutOrStdout(), gcReport{DryRun: dryRun, Items: items}))
			}
			return errors.Join(err, writeItems(cmd.OutOrStdout(), items, dryRun))
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A gcReport is what gc prints.
type gcReport struct {
	DryRun bool      `json:"dryRun"`
	Items  []gc.Item `json:"items"`
}

func writeItems(out io.Writer, items []gc.Item, dryRun bool) error {
	for _, i := range items {
		action := string(i.Action)
		if dryRun && i.Action != gc.Kept {
			action = "would be " + action
		}
		if _, err := fmt.Fprintf(out, "%s %s: %s (%s)\n", i.Kind, i.Name, action, i.Reason); err != nil {
			return err
		}
	}
	return nil
}
