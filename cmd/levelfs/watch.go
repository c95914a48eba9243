package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/internal/watch"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// How long watch waits before it tries again what failed: first, and at most.
const (
	watchAgain   = time.Second
	watchLongest = 10 * time.Minute
)

func newWatch(log *logrus.Logger) *cobra.Command {
	var o switchOptions
	var once bool
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Refresh as soon as the inventory changes",
		Long: `Learn of changes of the inventory as they are made, and do what "levelfs refresh" does:
from directory servers that have content synchronisation (RFC 4533), and from LDIF files.
It is for a service (levelfs-watch.service), and runs until it is told to end. Without
it, a timer or the next mount does the same later.

After a change it waits until nothing changes for a second, and then for a random time of
up to ten, so that thousands of machines do not ask at once ([watch] in levelfs.toml). A
view that could not be changed, for instance because a file in it is open for writing, is
tried again after a second, and then less and less often. A server that is gone, or
silent, is asked again likewise; when it is back, it refreshes.

--once waits for one change, refreshes, and ends. With --dry-run it shows what would be
done.

EXIT STATUS
  0   it was told to end; or with --once, every view has its level
  1   it could not be begun; or with --once, some views do not have their levels
  64  the command line was wrong`,
		Example: `  levelfs watch --once --dry-run`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runWatch(cmd, o, once, log)
		},
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "say which views would be changed, and change none")
	cmd.Flags().BoolVar(&once, "once", false, "wait for one change, refresh, and end")
	return cmd
}

func runWatch(cmd *cobra.Command, o switchOptions, once bool, log *logrus.Logger) error {
	s, err := openSite("")
	if err != nil {
		return err
	}
	defer s.Close()
	sources, err := watched(s)
	if err != nil {
		return err
	}
	w := watch.Watcher{
		Sources: sources,
		Refresh: func(ctx context.Context) error {
			reports, err := refresh(ctx, io.Discard, nil, o, log)
			return errors.Join(err, writeRefreshed(cmd.OutOrStdout(), reports))
		},
		Settle: s.config.Watch.Settle.Duration, Jitter: s.config.Watch.Jitter.Duration,
		Again: watchAgain, Longest: watchLongest, Once: once,
		Note: func(text string) { log.Info(text) }, Warn: func(text string) { log.Warn(text) },
		Ready: func() { tellSystemd(log, daemon.SdNotifyReady) },
	}
	defer tellSystemd(log, daemon.SdNotifyStopping)
	return w.Run(cmd.Context())
}

// tellSystemd does nothing outside of a unit of Type=notify.
func tellSystemd(log *logrus.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warnf("tell systemd %q: %v", state, err)
	}
}

// watched are the sources of the configuration, to be watched.
func watched(s *site) ([]watch.Source, error) {
	var sources []watch.Source
	for i, source := range s.Sources {
		if s.config.Sources[i].Type == "ldif" {
			sources = append(sources, watch.Files{Dir: s.config.Sources[i].Path})
			continue
		}
		watcher, ok := source.(ldapmap.Watcher)
		if !ok {
			return nil, fmt.Errorf("inventory %s does not tell of changes", source.Name())
		}
		sources = append(sources, &watch.Server{Source: source, Watcher: watcher, Host: s.host, Probe: s.config.Watch.Probe.Duration,
			Users: func() ([]string, error) { return usersWithViews(s.config) }})
	}
	return sources, nil
}

// usersWithViews are the users who have views mounted, sorted.
func usersWithViews(c *config.Config) ([]string, error) {
	views, err := mounter.Views()
	if err != nil {
		return nil, err
	}
	var users []string
	for _, v := range views {
		if user := view.UserOf(c, v); user != "" {
			users = append(users, user)
		}
	}
	slices.Sort(users)
	return slices.Compact(users), nil
}

// writeRefreshed says what a refresh has changed, or would, and nothing of what is as it
// was.
func writeRefreshed(out io.Writer, reports []switchReport) error {
	var text strings.Builder
	for _, r := range reports {
		switch {
		case r.Changed:
			fmt.Fprintf(&text, "%s: %s, was %s\n", r.Target, r.To, r.From)
		case r.Plan != nil:
			fmt.Fprintf(&text, "%s: would be %s, is %s\n", r.Target, r.To, r.From)
		}
	}
	_, err := io.WriteString(out, text.String())
	return err
}
