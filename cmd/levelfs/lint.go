package main

import (
	"context"
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/lint"
)

func newLint() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "lint",
		Short: "Look for faults in the inventory, for all callers at once",
		Long: `Read the whole inventory and look for what is wrong with it: references to nothing,
values that no lookup accepts, rules that contradict each other or never decide,
levels that are assigned and refused, layers and segments that cannot be loaded.
Nothing is written, and this machine's mounts and images are not looked at.

Each finding has a code, an object, a sentence and the edit that mends it.
docs/findings.md explains the codes. Without findings nothing is printed.

EXIT STATUS
  0   no findings
  1   warnings
  2   a critical finding: an access fails or shows wrong content
  3   the inventory could not be read; the reason is on standard error
  64  the command line was wrong`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLint(cmd, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runLint(cmd *cobra.Command, asJSON bool) error {
	c, err := config.Load()
	if err != nil {
		return &checkError{status: exitUnchecked, err: err}
	}
	findings, err := lintInventory(cmd.Context(), cmd, c)
	if err == nil && asJSON {
		err = writeJSON(cmd.OutOrStdout(), append([]finding.Finding{}, findings...))
	} else if err == nil {
		err = writeFindings(cmd.OutOrStdout(), findings)
	}
	if err != nil {
		return &checkError{status: exitUnchecked, err: err}
	}
	if status := finding.Status(findings); status != exitOK {
		return &checkError{status: status}
	}
	return nil
}

// lintInventory reads the whole inventory, with progress on the command's terminal.
func lintInventory(ctx context.Context, cmd *cobra.Command, c *config.Config) ([]finding.Finding, error) {
	inv, err := inventory.Open(c)
	if err != nil {
		return nil, err
	}
	defer inv.Close()
	stores, err := inv.Stores()
	if err != nil {
		return nil, err
	}
	bar := progressbar.NewOptions(-1, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetVisibility(isTerminal(cmd.ErrOrStderr())),
		progressbar.OptionShowCount(), progressbar.OptionClearOnFinish())
	defer bar.Finish()
	count := func(what string) func(int) {
		return func(n int) {
			bar.Describe(what)
			_ = bar.Set(n) // only looks
		}
	}
	f, err := fleet.Load(ctx, stores, count("entries read"))
	if err != nil {
		return nil, err
	}
	return lint.Run(ctx, f, lint.Options{Tree: c.Tree}, count("callers asked"))
}

func writeFindings(out io.Writer, findings []finding.Finding) error {
	for _, f := range findings {
		var in string // findings on a machine are in no inventory
		if f.Source != "" {
			in = "  in:  " + f.Source + "\n"
		}
		if _, err := fmt.Fprintf(out, "%s %s %s: %s\n%s  fix: %s\n", f.Severity, f.Code, f.Object, f.Text, in, f.Fix); err != nil {
			return err
		}
	}
	return nil
}
