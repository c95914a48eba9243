package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/doctor"
)

func newDoctor() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Find out whether this machine is fit for levelfs",
		Long: `Look at what has to be installed, try what the kernel has to do, and ask what has to
answer: autofs, the master map, the mount helper, overlayfs, file systems, loop devices,
shared memory, inventories, certificates, rights, SELinux and AppArmor. Each line is ok,
a warning or an error; below it is what to do.

The kernel is tried in a mount namespace of its own, which nobody else sees. Nothing is
written.

EXIT STATUS
  0   no errors
  1   an error, or the configuration could not be read
  64  the command line was wrong`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runDoctor(cmd, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runDoctor(cmd *cobra.Command, asJSON bool) error {
	c, err := config.Load()
	if err != nil {
		return err
	}
	lines := doctor.Examine(cmd.Context(), c)
	if asJSON {
		if err := writeJSON(cmd.OutOrStdout(), lines); err != nil {
			return err
		}
	} else {
		for _, l := range lines {
			text := fmt.Sprintf("%-7s  %s: %s\n", l.State, l.Name, l.Text)
			if l.Remedy != "" {
				text += fmt.Sprintf("         fix: %s\n", l.Remedy)
			}
			if _, err := fmt.Fprint(cmd.OutOrStdout(), text); err != nil {
				return err
			}
		}
	}
	if doctor.Worst(lines) == doctor.Error {
		return &checkError{status: exitFailed}
	}
	return nil
}
