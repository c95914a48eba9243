package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/sharing"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

func newStatus(log *logrus.Logger) *cobra.Command {
	var asJSON, restart bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show every view on this machine",
		Long: `Show every mounted view: where, which level, which level is wanted now, of which
layers, how much lies in its private layer, and since when.

What is mounted is read from the kernel (/proc/self/mountinfo); no mounted file
system is touched, so that a dead one cannot hang it. What could not be found out
is shown as "?", and why is said on standard error.

With --needs-restart, show the processes that still use a level in a view that is not
mounted any more, since it was replaced or unmounted lazily: they see nothing newer
until they are started again. The level's name is shown only if it is proven.

EXIT STATUS
  0   done; with --needs-restart: there are none
  1   the mounts could not be read; with --needs-restart: there are some
  3   with --needs-restart: not every process could be looked at
  64  the command line was wrong`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if restart {
				return runNeedsRestart(cmd, asJSON)
			}
			return runStatus(cmd, asJSON, log)
		},
	}
	cmd.Flags().BoolVar(&restart, "needs-restart", false, "show the processes that still use levels which are not mounted any more")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// A viewStatus is one line of status.
type viewStatus struct {
	Target  string `json:"target"`
	Key     string `json:"key"`              // the component, or the level if it was asked for by name
	User    string `json:"user,omitempty"`   // whose view it is; empty: the host's
	Mounted string `json:"mounted"`          // level
	Wanted  string `json:"wanted,omitempty"` // level; empty if it is not known
	Differs bool   `json:"differs"`          // wanted is known, and another, or has other layers above it
	// Above are the layers above those of the level, topmost first, and WantedAbove those
	// that are wanted, each NAME@CONTENT.
	Above        []string `json:"above,omitempty"`
	WantedAbove  []string `json:"wantedAbove,omitempty"`
	Layers       []string `json:"layers"`        // topmost first
	XIP          string   `json:"xip,omitempty"` // of layers in shared memory: active, partial (…) or off (…)
	ReadOnly     bool     `json:"readOnly"`
	Private      string   `json:"private,omitempty"`      // the private layer's upper directory
	PrivateBytes int64    `json:"privateBytes,omitempty"` // -1 if it is not known
	sharing.Share
	Since time.Time `json:"since,omitzero"`
	Heal  string    `json:"heal,omitempty"` // what an interrupted switch has left
}

func runStatus(cmd *cobra.Command, asJSON bool, log *logrus.Logger) error {
	views, err := mounter.Views()
	if err != nil {
		return err
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	if why, since, down := (cache.Cache{Dir: c.CacheDir()}).Down(time.Duration(math.MaxInt64), c.Changed()); down {
		log.Warnf("no inventory server answered at %s, and mounts get the last known levels: %s", since.Format(time.RFC3339), why)
	}
	ctx, cancel := lookupContext(cmd.Context())
	defer cancel()
	wanted := wantedLevels(ctx, c, views, log)
	interrupted := make(map[int]string) // by mount
	for _, i := range mounter.Interruptions(c.RunDir(), views) {
		interrupted[i.View.ID] = i.String()
		log.Warnf("%v, as a change of level was interrupted: levelfs refresh heals it", i)
	}
	statuses := make([]viewStatus, 0, len(views))
	for _, v := range views {
		component, _, _ := strings.Cut(v.Name, "@")
		s := viewStatus{
			Target: v.Target, Key: component, User: view.UserOf(c, v), Mounted: v.Name, Layers: v.Layers,
			ReadOnly: v.ReadOnly, Private: v.Upper, Since: v.Since(c.RunDir()),
			Heal: interrupted[v.ID], Above: v.Above(),
		}
		if view.Pinned(v) {
			s.Key, s.Wanted = v.Name, v.Name
		} else if r := wanted[asker{s.User, component}]; r != nil {
			s.Wanted, s.WantedAbove = r.Level.Name, view.Above(r)
		}
		s.Differs = s.Wanted != "" && (s.Wanted != s.Mounted || !slices.Equal(s.Above, s.WantedAbove))
		if v.Upper != "" {
			if s.PrivateBytes, err = treeSize(ctx, v.Upper); err != nil {
				s.PrivateBytes = -1
				log.Warnf("private layer %q: %v", v.Upper, err)
			}
		}
		s.XIP = inPlace(ctx, v, log)
		statuses = append(statuses, s)
	}
	addShares(c, views, statuses)
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), statuses)
	}
	return writeStatus(cmd.OutOrStdout(), statuses)
}

// addShares adds what each view takes of the disk, as far as the definitions of its layers are
// in the cache.
func addShares(c *config.Config, views []mounter.View, statuses []viewStatus) {
	layers := make([][]sharing.Layer, len(views))
	active := make([]bool, len(views))
	store := cache.Cache{Dir: c.CacheDir()}
	for i, v := range views {
		level, _, _ := store.Level(v.Name) // nil if it is not there
		layers[i] = sharing.Layers(v, store.Layers(level, v.AboveNames()))
		active[i] = statuses[i].XIP == string(mounter.Active)
	}
	for i, share := range sharing.Shares(layers, active) {
		statuses[i].Share = share
	}
}

// inPlace is what the kernel says of a view that has layers in shared memory, "" if it
// has none. It gives up when the context ends, even if the file system does not answer.
func inPlace(ctx context.Context, v mounter.View, log *logrus.Logger) string {
	if !slices.ContainsFunc(v.Layers, mounter.InSharedMemory) {
		return ""
	}
	type result struct {
		proof mounter.Proof
		err   error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.proof, r.err = view.Prove(ctx, v.Target, v.Upper, view.Sample)
		done <- r
	}()
	select {
	case r := <-done:
		if r.err == nil {
			return r.proof.String()
		}
		log.Warnf("view %q: %v", v.Target, r.err)
	case <-ctx.Done():
		log.Warnf("view %q: %v", v.Target, ctx.Err())
	}
	return "?"
}

// An asker is a component and the user whose level of it is asked for, or the host's.
type asker struct{ user, component string }

// wantedLevels asks the inventory once for each caller's component that is mounted; nil is
// what it did not say.
func wantedLevels(ctx context.Context, c *config.Config, views []mounter.View, log *logrus.Logger) map[asker]*ldapmap.Resolution {
	wanted := make(map[asker]*ldapmap.Resolution)
	if len(views) == 0 {
		return wanted
	}
	host, err := c.Hostname()
	if err != nil {
		log.Warn(err)
		return wanted
	}
	inv, err := inventory.Open(c)
	if err != nil {
		log.Warn(err)
		return wanted
	}
	defer inv.Close()
	for _, v := range views {
		component, _, _ := strings.Cut(v.Name, "@")
		who := asker{view.UserOf(c, v), component}
		if _, asked := wanted[who]; asked || view.Pinned(v) {
			continue
		}
		r, err := inv.Resolve(ctx, ldapmap.Query{Key: ldapmap.Key{Component: component}, Host: host, User: who.user})
		if err != nil {
			log.Warn(err)
			wanted[who] = nil
			var down *ldapmap.UnavailableError
			if errors.As(err, &down) {
				return wanted // once is enough to wait
			}
			continue
		}
		wanted[who] = r
	}
	return wanted
}

// treeSize is the sum of the sizes of the regular files below dir, in bytes. It
// gives up when the context ends, even if the file system does not answer.
func treeSize(ctx context.Context, dir string) (int64, error) {
	type result struct {
		size int64
		err  error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err != nil || ctx.Err() != nil {
				return errors.Join(err, ctx.Err())
			}
			if !d.Type().IsRegular() {
				return nil
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed since
			}
			if err == nil {
				r.size += info.Size()
			}
			return err
		})
		done <- r
	}()
	select {
	case r := <-done:
		return r.size, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func writeStatus(out io.Writer, statuses []viewStatus) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "VIEW\tMOUNTED\tWANTED\tPRIVATE\tSINCE\tXIP\tSIZE\tLAYERS")
	for _, s := range statuses {
		wanted, private, since := "=", "-", "?"
		switch {
		case s.Wanted == "":
			wanted = "?"
		case s.Wanted == s.Mounted && s.Differs:
			wanted = "= with other layers"
		case s.Differs:
			wanted = s.Wanted
		}
		if s.Private != "" {
			if private = "?"; s.PrivateBytes >= 0 {
				private = byteCount(s.PrivateBytes)
			}
		}
		if !s.Since.IsZero() {
			since = s.Since.Local().Format("2006-01-02 15:04:05")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Target, s.Mounted, wanted, private, since, orDash(s.XIP), byteCount(s.LayerBytes), strings.Join(s.Layers, " "))
	}
	if err := w.Flush(); err != nil || len(statuses) == 0 {
		return err
	}
	var shares []sharing.Share
	for _, s := range statuses {
		shares = append(shares, s.Share)
	}
	total := sharing.Sum(shares)
	unsized := ""
	if total.UnsizedLayers > 0 {
		unsized = fmt.Sprintf("; without %d of unknown size", total.UnsizedLayers)
	}
	_, err := fmt.Fprintf(out, "layers: %s in all views, %s on the disk, %s saved by sharing; %s executed in place%s\n",
		byteCount(total.LayerBytes), byteCount(total.LayerBytes-total.SharedBytes), byteCount(total.SharedBytes), byteCount(total.InPlaceBytes), unsized)
	return err
}
