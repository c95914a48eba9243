package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

type planOptions struct {
	host, user, target string
	json               bool
	allHosts, all      bool
	changes            []string // with allHosts: to be looked at as if they were made
}

func newPlan() *cobra.Command {
	var o planOptions
	cmd := &cobra.Command{
		Use:   "plan KEY",
		Short: "Show what an access to KEY would mount, and why: the dry run",
		Long: `Show which level of a component a caller runs, every rule that was considered and
why it won or lost, the layers, and the exact steps of the mount as commands that
could be typed. Nothing is mounted or written. It needs no privilege beyond
reading the inventory.

KEY is COMPONENT, or COMPONENT@LEVEL for that level as it was delivered, read-only:
without the layers that the site, groups, the host and the user have above it.

With --all-hosts it is shown how many callers run which level of a component, and with
--if what another change would come to: how many would change from which level to
which, and who. The change is written as it would be typed; several are made one after
the other.

EXIT STATUS
  0   the view can be mounted
  1   it cannot, on this machine or at all; the reason is on standard error
  64  the command line was wrong`,
		Example: `  levelfs plan emacs
  levelfs plan emacs --host lnx02.example.org
  levelfs plan emacs@29.4-1 --json
  levelfs plan --all-hosts emacs --if "assign group:testguests emacs=30.1-1"
  levelfs plan --all-hosts emacs --if "level release emacs@30.1-1" --if "assign default emacs=30.1-1"`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case o.allHosts && (o.host != "" || o.user != "" || o.target != ""):
				return &usageError{"--all-hosts is about everybody: not with --host, --user or --target"}
			case o.allHosts:
				return runPlanFleet(cmd, args[0], o)
			case len(o.changes) > 0 || o.all:
				return &usageError{"--if and --all need --all-hosts"}
			}
			return runPlan(cmd, args[0], o)
		},
	}
	cmd.Flags().StringVar(&o.host, "host", "", "the host that asks (default: this one)")
	cmd.Flags().StringVar(&o.user, "user", "", "a user on it that asks (default: the host itself)")
	cmd.Flags().StringVar(&o.target, "target", "", "the mount point (default: where the maps put it)")
	cmd.Flags().BoolVar(&o.json, "json", false, "print JSON")
	cmd.Flags().BoolVar(&o.allHosts, "all-hosts", false, "for every caller instead of one")
	cmd.Flags().BoolVar(&o.all, "all", false, "with --if: name every caller who would change, and not only the first 20")
	cmd.Flags().StringArrayVar(&o.changes, "if", nil, "a change to look at as if it were made, such as \"assign lnx01 emacs=30.1-1\"")
	return cmd
}

// A planReport is what plan prints.
type planReport struct {
	Resolution *ldapmap.Resolution `json:"resolution"`
	Plan       *mounter.Plan       `json:"plan,omitempty"`
	Commands   []string            `json:"commands,omitempty"`
	Hooks      []hookReport        `json:"hooks,omitempty"` // of mounting and unmounting it
	Error      string              `json:"error,omitempty"`
}

func runPlan(cmd *cobra.Command, arg string, o planOptions) error {
	key, err := ldapmap.ParseKey(arg)
	if err != nil {
		return &usageError{err.Error()}
	}
	s, err := openSite(o.host)
	if err != nil {
		return err
	}
	defer s.Close()
	ctx, cancel := lookupContext(cmd.Context())
	defer cancel()

	var report planReport
	report.Resolution, err = s.Resolve(ctx, ldapmap.Query{Key: key, Host: s.host, User: o.user})
	if err == nil {
		if o.target == "" {
			o.target = defaultTarget(s.config, report.Resolution)
		}
		options := view.Options{ReadOnly: key.Level != "", User: o.user}
		report.Plan, err = view.Plan(ctx, s.config, report.Resolution, o.target, options)
	}
	if report.Plan != nil {
		report.Commands = report.Plan.Commands()
		var hooksErr error
		if report.Hooks, hooksErr = reportHooks(s.config, hook.Mount, hook.Umount); hooksErr != nil {
			err = errors.Join(err, hooksErr)
		}
	}
	if err != nil {
		report.Error = err.Error()
	}
	var writeErr error
	if o.json {
		writeErr = writeJSON(cmd.OutOrStdout(), report)
	} else {
		writeErr = report.write(cmd.OutOrStdout())
	}
	return errors.Join(err, writeErr)
}

// defaultTarget is where the maps would put the view.
func defaultTarget(c *config.Config, r *ldapmap.Resolution) string {
	switch {
	case r.Query.User != "":
		return filepath.Join(c.UsersTree(), r.Query.User, r.Query.Key.String())
	case r.Component.MountPoint != "" && r.Query.Key.Level == "":
		return r.Component.MountPoint
	}
	return filepath.Join(c.Tree, r.Query.Key.String())
}

func (r *planReport) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	q := r.Resolution.Query
	asker := "host " + q.Host
	if q.User != "" {
		asker = "user " + q.User + " on " + asker
	}
	fmt.Fprintf(w, "%s, asked by %s: ", q.Key, asker)
	if r.Resolution.Level.Name != "" {
		fmt.Fprintf(w, "%s (%s)\n", r.Resolution.Level.Name, r.Resolution.Level.State)
	} else {
		fmt.Fprintln(w, "no level")
	}
	if len(r.Resolution.Trail) > 0 {
		fmt.Fprintf(w, "\nRules, most specific first:\n")
		for _, rule := range r.Resolution.Trail {
			mark := "-"
			if rule.Won {
				mark = "*"
			}
			where := strings.Join(append([]string{orDash(rule.DN)}, rule.Via...), " -> ")
			fmt.Fprintf(w, "  %s %s\t%s\t%s\t%s\t%s\n", mark, rule.Rank, orDash(rule.Level), rule.Reason, where, rule.Source)
		}
	}
	if len(r.Resolution.Additions) > 0 {
		fmt.Fprintf(w, "\nLayers above the level, topmost first:\n")
		for _, a := range r.Resolution.Additions {
			mark := "-"
			if a.Used {
				mark = "*"
			}
			where := strings.Join(append([]string{a.DN}, a.Via...), " -> ")
			fmt.Fprintf(w, "  %s %s\t%02d:%s\t%s\t%s\t%s\n", mark, a.Rank, a.Order, a.Layer, orDash(a.Reason), where, a.Source)
		}
	}
	if r.Plan == nil {
		return w.Flush()
	}
	fmt.Fprintf(w, "\nLayers, topmost first:\n")
	for _, l := range r.Plan.Layers {
		size := "-"
		if l.Size > 0 {
			size = byteCount(l.Size)
		}
		from := l.Choice()
		switch {
		case l.Path != "" && len(l.Devices) > 0:
			from += ", else image file"
		case l.Why != "":
			from += " (" + l.Why + ")"
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, cmp.Or(l.Kind, ldapmap.KindVendor), l.FSType, size, orDash(l.File()), orDash(l.Digest), from)
	}
	private := "none: the view is read-only"
	if p := r.Plan.Private; p != nil && p.Ephemeral {
		private = "in memory, gone with the view"
	} else if p != nil {
		private = p.Dir
	}
	if r.Plan.Private != nil && r.Plan.Private.Owner != nil {
		o := r.Plan.Private.Owner
		private += fmt.Sprintf("\nOwner:         uid %d, gid %d, who has the view for himself", o.UID, o.GID)
		if r.Plan.IDMap != nil {
			private += ";\n               root's files in the layers are his, if the kernel can map them"
		}
	}
	fmt.Fprintf(w, "\nPrivate layer: %s\nMounted at:    %s\n\nSteps, as commands:\n", private, r.Plan.Target)
	for _, line := range r.Commands {
		fmt.Fprintf(w, "  %s\n", line)
	}
	if !slices.ContainsFunc(r.Hooks, hookReport.says) {
		return w.Flush()
	}
	fmt.Fprintf(w, "\nHooks, before and after:\n")
	for _, h := range r.Hooks {
		h.write(w)
	}
	return w.Flush()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func writeJSON(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

// byteCount is a size for people, in IEC units.
func byteCount(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %ciB", float64(n)/float64(div), "KMGTPE"[exp])
}
