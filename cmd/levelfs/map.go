package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/google/renameio/v2"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/ldapmap"
)

func newMap(log *logrus.Logger) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "map",
		Short: "Write autofs maps from the inventory",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newMapDirect(log))
	return cmd
}

func newMapDirect(log *logrus.Logger) *cobra.Command {
	var output, host string
	cmd := &cobra.Command{
		Use:   "direct",
		Short: "Write the direct map of the components that have a mount point of their own",
		Long: `Write an autofs direct map with a line for each component that has a mount point of
its own (levelfsMountPoint) and of which this host runs a level. The level itself
is not in it: the mount helper asks for it at each mount, so that the map changes
only when components come and go. autofs cannot take direct maps from a program.

Name it in the master map, and run this from cron or after a change:

  /-  file:/etc/levelfs/auto.direct

  levelfs map direct -o /etc/levelfs/auto.direct && systemctl reload autofs

EXIT STATUS
  0   done
  1   failed; the file, if there is one, is as it was
  64  the command line was wrong`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := directMap(cmd, host, log)
			if err != nil {
				return err
			}
			if output == "" || output == "-" {
				_, err = cmd.OutOrStdout().Write(text)
				return err
			}
			return renameio.WriteFile(output, text, 0o644)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "write to this file, at once and whole (default: standard output)")
	cmd.Flags().StringVar(&host, "host", "", "the host that the map is for (default: this one)")
	return cmd
}

func directMap(cmd *cobra.Command, host string, log *logrus.Logger) ([]byte, error) {
	s, err := openSite(host)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if !ldapmap.ValidHost(s.host) { // it goes into the map
		return nil, fmt.Errorf("invalid host name %q", s.host)
	}
	ctx, cancel := lookupContext(cmd.Context())
	defer cancel()
	components, err := s.Placed(ctx)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "# Made by \"levelfs map direct\" for host %s. Changes will be lost.\n", s.host)
	at := make(map[string]string)
	for _, component := range components {
		if other, taken := at[component.MountPoint]; taken {
			return nil, fmt.Errorf("components %q and %q have the same mount point %q", other, component.Name, component.MountPoint)
		}
		at[component.MountPoint] = component.Name
		_, err := s.Resolve(ctx, ldapmap.Query{Key: ldapmap.Key{Component: component.Name}, Host: s.host})
		var none *ldapmap.NoLevelError
		var down *ldapmap.UnavailableError
		switch {
		case errors.As(err, &none):
			continue
		case errors.As(err, &down):
			return nil, err
		case err != nil:
			// One component's fault is shown when it is used, and now; it takes no
			// other component's line away.
			log.Warn(err)
		}
		writeDirectLine(&text, component)
	}
	return text.Bytes(), nil
}

// writeDirectLine writes one map line. Mount point and name are whitelisted, so
// that nothing in it needs quoting.
func writeDirectLine(w io.Writer, c ldapmap.Component) {
	access := "rw"
	if c.Private == ldapmap.None {
		access = "ro"
	}
	fmt.Fprintf(w, "%s -fstype=levelfs,%s :%s\n", c.MountPoint, access, c.Name)
}
