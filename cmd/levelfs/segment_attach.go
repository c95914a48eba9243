package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/config"
)

func newSegmentAttach() *cobra.Command {
	var gc bool
	cmd := &cobra.Command{
		Use:   "attach NAME[:NAME...]",
		Short: "Attach segments as one device",
		Long: `Load segments and make one block device of them, unless there is that device already.
Print its path. Mounting a view does so by itself; this is for trying and for loading
what will be needed.

A device that was attached so stays until it is detached. With --gc it is as if the
mount of a view had attached it: "levelfs gc" detaches it once nothing uses it.

EXIT STATUS
  0   the device is there
  1   failed; the reason is on standard error
  64  the command line was wrong`,
		Example: `  levelfs segment attach EMACS294
  levelfs segment attach 'JDK21A:JDK21B'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSegments(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := parseSegments(args[0])
			if err != nil {
				return err
			}
			c, err := config.Load()
			if err != nil {
				return err
			}
			device, err := attached.New(c).Attach(cmd.Context(), gc, names...)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), device.Path())
			return err
		},
	}
	cmd.Flags().BoolVar(&gc, "gc", false, `let "levelfs gc" detach it when nothing uses it`)
	return cmd
}

// parseSegments parses A or A:B of the command line.
func parseSegments(device string) ([]string, error) {
	names, err := dcss.ParseNames(strings.Split(device, ":")...)
	if err != nil {
		return nil, &usageError{err.Error()}
	}
	return names, nil
}

func newSegmentDetach() *cobra.Command {
	return &cobra.Command{
		Use:   "detach NAME",
		Short: "Detach a device that nothing uses",
		Long: `Detach the device whose first segment is NAME, whoever attached it, and unload its
segments from this guest. The driver refuses while it is in use; then it is said by
whom.

EXIT STATUS
  0   it is detached
  1   failed; the reason is on standard error
  64  the command line was wrong`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeSegments(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := parseSegments(args[0])
			if err != nil {
				return err
			}
			if len(names) > 1 {
				return &usageError{fmt.Sprintf("a device is detached by the name of its first segment: %s", names[0])}
			}
			c, err := config.Load()
			if err != nil {
				return err
			}
			return detach(cmd, c, names[0])
		},
	}
}

// detach detaches a device. If the driver says that it is in use, the error says by
// whom.
func detach(cmd *cobra.Command, c *config.Config, name string) error {
	segments := attached.New(c)
	device, err := inspect(segments, name)
	if err != nil {
		return err
	}
	err = segments.Detach(cmd.Context(), device.Name)
	var refused *dcss.Error
	if errors.As(err, &refused) && refused.InUse() {
		inUse := &inUseError{Segment: device.Name, Err: err}
		uses, err := usersOf(cmd.Context(), c, device)
		if uses != nil {
			inUse.Use = uses[0]
		}
		return errors.Join(inUse, err)
	}
	return err
}
