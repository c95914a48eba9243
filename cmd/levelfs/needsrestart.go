package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/usage"
)

// runNeedsRestart shows who still uses old levels. The status is that of needs-restarting:
// 1 is yes.
func runNeedsRestart(cmd *cobra.Command, asJSON bool) error {
	c, err := config.Load()
	if err != nil {
		return &checkError{status: exitUnchecked, err: err}
	}
	ctx, cancel := lookupContext(cmd.Context())
	defer cancel()
	found, incomplete := usage.Outdated(ctx, c.RunDir())
	if asJSON {
		err = writeJSON(cmd.OutOrStdout(), append([]usage.Old{}, found...))
	} else {
		err = writeOld(cmd, found)
	}
	switch {
	case incomplete != nil:
		return &checkError{status: exitUnchecked, err: incomplete}
	case err != nil:
		return &checkError{status: exitUnchecked, err: err}
	case len(found) > 0:
		return &checkError{status: exitFailed}
	}
	return nil
}

func writeOld(cmd *cobra.Command, found []usage.Old) error {
	if len(found) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "PID\tUSER\tUNIT\tCOMMAND\tUSES\tNOW\tHOW")
	for _, p := range found {
		level := p.Level
		if level == "" {
			level = "?"
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s %s\n", p.PID, p.User, orDash(plainPath(p.Unit)), plainPath(p.Command), level, orDash(p.Now), p.How, plainPath(p.Path))
	}
	return w.Flush()
}
