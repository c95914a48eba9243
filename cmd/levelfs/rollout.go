package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/rollout"
	"github.com/levelfs/levelfs/ldapmap"
)

// newRollout has the verbs of staged roll-outs.
func newRollout() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Give a level to one ring of hosts after the other",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newRolloutStart(), newRolloutPromote(), newRolloutPause(false), newRolloutPause(true), newRolloutAbort(),
		newRolloutStatus(), newRolloutList())
	return cmd
}

const rolloutHelp = `

What a roll-out is at is written in the inventory, in one entry below the component:
any host that may change the inventory can go on with it. A verb that was interrupted
is completed by the same verb, given once more.`

func newRolloutStart() *cobra.Command {
	var o changeOptions
	var wanted edit.Start
	cmd := &cobra.Command{
		Use:   "start COMPONENT LEVEL",
		Short: "Begin a roll-out: give a level to the first ring",
		Long: `Begin to give a level to one ring after the other. Rings are profiles, and who is in
them runs them: the first one is given the level now, the others by "levelfs rollout
promote". What each profile assigned before is kept, for "levelfs rollout abort".

The gate says what lets it go on: "check" is that every host of the rings so far reports
the level, and none a failure; a program is asked besides the failures. A level in
state test may be rolled out, but not to the last ring. There is one roll-out of a
component at a time.` + rolloutHelp + `

` + sourceHelp + changeExitStatus,
		Example: `  levelfs rollout start emacs 30.1-1 --rings canary,early,all --dry-run
  levelfs rollout start emacs 30.1-1 --rings canary,early,all --gate /usr/local/libexec/smoke`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeRolloutStart,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := ldapmap.ParseKey(args[0] + "@" + strings.TrimPrefix(args[1], args[0]+"@"))
			if err != nil {
				return &usageError{err.Error()}
			}
			for _, profile := range wanted.Profiles {
				if !ldapmap.ValidProfile(profile) {
					return &usageError{fmt.Sprintf("invalid profile name %q in --rings", profile)}
				}
			}
			if len(wanted.Profiles) == 0 {
				return &usageError{"levelfs rollout start takes --rings PROFILE,..."}
			}
			if !ldapmap.ValidGate(wanted.Gate) {
				return &usageError{fmt.Sprintf("invalid gate %q: want check, or the absolute path of a program", wanted.Gate)}
			}
			wanted.Key = key
			return doChangeIf(cmd, wanted, o, func(all *whole, out io.Writer) error { return previewRings(cmd, all, wanted, out) })
		},
	}
	cmd.Flags().StringSliceVar(&wanted.Profiles, "rings", nil, "the profiles, in the order in which they are given the level")
	cmd.Flags().StringVar(&wanted.Gate, "gate", ldapmap.GateCheck, "what lets it go on: check, or a program by its absolute path")
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

// previewRings says which hosts the rings of a new roll-out would have.
func previewRings(cmd *cobra.Command, all *whole, wanted edit.Start, out io.Writer) error {
	steps, err := wanted.Steps(all.Inventory)
	if err != nil || len(steps) == 0 {
		return err
	}
	then, err := all.With(steps[0])
	if err != nil {
		return err
	}
	f, err := then.Rollout(wanted.Key.Component)
	if err != nil {
		return err
	}
	s, err := rollout.Look(cmd.Context(), then, f, wanted.Where, nil)
	if err != nil {
		return err
	}
	for _, r := range s.Rings {
		fmt.Fprintf(out, "ring %s: %s\n", r.Profile, listed(r.Names(rollout.OnLevel, rollout.Pending, rollout.Silent, rollout.Failed, rollout.Later, rollout.Elsewhere)))
	}
	writeSeveral(out, s)
	return nil
}

// listed counts hosts and names the first of them.
func listed(names []string) string {
	const most = 8
	switch n := len(names); {
	case n == 0:
		return "no host"
	case n == 1:
		return "1 host, " + names[0]
	case n > most:
		return fmt.Sprintf("%d hosts, %s and %d more", n, strings.Join(names[:most], ", "), n-most)
	default:
		return fmt.Sprintf("%d hosts, %s", n, strings.Join(names, ", "))
	}
}

func writeSeveral(out io.Writer, s *rollout.Status) {
	several := slices.Sorted(maps.Keys(s.Several))
	for _, host := range several[:min(len(several), mostCallers)] {
		fmt.Fprintf(out, "note: %s is in more than one ring: %s\n", host, strings.Join(s.Several[host], ", "))
	}
	if more := len(several) - mostCallers; more > 0 {
		fmt.Fprintf(out, "note: %d more hosts are in more than one ring\n", more)
	}
}

func newRolloutPromote() *cobra.Command {
	var o changeOptions
	var wanted edit.Promote
	var missing int
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "promote COMPONENT",
		Short: "Give the next ring the level, if the gate lets it",
		Long: `Ask the gate, and give the next ring the level. After the last ring, a promotion asks
the gate once more, for all rings, and says that the roll-out is done.

It is refused while a host of the rings so far reports a failure. With the gate "check"
every one of them has to report the level; --missing-ok goes on without some. A gate
that is a program is run without a shell, with the status (as "levelfs rollout status
--json" prints it) on standard input, and in the environment LEVELFS_COMPONENT,
LEVELFS_LEVEL, LEVELFS_RING and LEVELFS_NEXT, the profiles of the ring that it is at and
of the next one, or nothing. Exit status 0 lets it go on. Only a file that nobody but
root, or who runs this, can change is run. A dry run asks it, too.` + rolloutHelp + changeExitStatus,
		Example: `  levelfs rollout promote emacs --dry-run
  levelfs rollout promote emacs --missing-ok 2`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			if missing < 0 || limit <= 0 {
				return &usageError{"--missing-ok and --gate-time must be positive"}
			}
			var err error
			if wanted.Component, err = parseComponentOnly(args[0]); err != nil {
				return err
			}
			return doChangeIf(cmd, wanted, o, func(all *whole, out io.Writer) error {
				interrupted, err := wanted.Interrupted(all.Inventory)
				if err != nil {
					return err
				}
				if interrupted {
					_, err := fmt.Fprintln(out, "the last promotion was interrupted: this completes it")
					return err
				}
				return askGate(cmd, all, wanted, missing, limit)
			})
		},
	}
	cmd.Flags().IntVar(&missing, "missing-ok", 0, "go on even if that many hosts do not report the level")
	cmd.Flags().DurationVar(&limit, "gate-time", 5*time.Minute, "how long a gate that is a program may take")
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

// askGate is nil if the roll-out may go on.
func askGate(cmd *cobra.Command, all *whole, p edit.Promote, missing int, limit time.Duration) error {
	s, err := lookAtRollout(cmd, all, p.Component, p.Where)
	if err != nil {
		return err
	}
	if err := s.Pass(missing); err != nil {
		return err
	}
	if s.Gate == ldapmap.GateCheck {
		return nil
	}
	return s.Ask(cmd.Context(), limit, cmd.ErrOrStderr())
}

// lookAtRollout is the status of a component's roll-out.
func lookAtRollout(cmd *cobra.Command, all *whole, component string, w edit.Where) (*rollout.Status, error) {
	f, err := all.Rollout(component)
	if err != nil {
		return nil, err
	}
	reports, err := rollout.Read(cmd.Context(), all.stores, nil)
	if err != nil {
		return nil, err
	}
	return rollout.Look(cmd.Context(), all.Inventory, f, w, reports)
}

func parseComponentOnly(arg string) (string, error) {
	components, err := parseComponents([]string{arg})
	if err != nil {
		return "", err
	}
	return components[0], nil
}

func newRolloutPause(resume bool) *cobra.Command {
	var o changeOptions
	use, short, long := "pause COMPONENT", "Keep a roll-out from being promoted",
		"Keep a roll-out from being promoted, until \"levelfs rollout resume\". What its rings\nwere given they keep."
	if resume {
		use, short, long = "resume COMPONENT", "Let a roll-out go on that was paused", "Let a roll-out be promoted again that was paused."
	}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long + changeExitStatus,
		Example:           "  levelfs rollout " + strings.Replace(use, "COMPONENT", "emacs", 1),
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			component, err := parseComponentOnly(args[0])
			if err != nil {
				return err
			}
			return doChange(cmd, edit.Pause{Component: component, Resume: resume}, o)
		},
	}
	o.flags(cmd)
	return cmd
}

func newRolloutAbort() *cobra.Command {
	var o changeOptions
	var wanted edit.Abort
	cmd := &cobra.Command{
		Use:   "abort COMPONENT",
		Short: "End a roll-out, and give its rings their former levels",
		Long: `End a roll-out. The profiles of its rings assign again what they did before it, the
last one first. One that somebody has changed in the meantime stays as it is, and is
named. Hosts go back at their next refresh, as they came.` + rolloutHelp + changeExitStatus,
		Example:           `  levelfs rollout abort emacs --dry-run`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if wanted.Component, err = parseComponentOnly(args[0]); err != nil {
				return err
			}
			err = doChangeIf(cmd, wanted, o, func(all *whole, out io.Writer) error {
				others, err := wanted.Others(all.Inventory)
				for _, other := range others {
					fmt.Fprintf(out, "note: %v; it stays as it is\n", other)
				}
				return err
			})
			if err != nil || o.dryRun {
				return err
			}
			return settleAbort(cmd, wanted, o)
		},
	}
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

// settleAbort writes down that all rings were restored, in the entry that the abort has
// just changed.
func settleAbort(cmd *cobra.Command, a edit.Abort, o changeOptions) error {
	all, err := loadWhole(cmd, nil, &o.writer)
	if err != nil {
		return err
	}
	defer all.close()
	steps, err := a.Settled(all.Inventory)
	if err != nil {
		return err
	}
	return apply(cmd.Context(), io.Discard, all.stores, steps, &changeReport{Changes: make([]changeLine, len(steps))})
}

func newRolloutStatus() *cobra.Command {
	var asJSON bool
	var where edit.Where
	cmd := &cobra.Command{
		Use:   "status [COMPONENT]",
		Short: "Show how roll-outs go, ring by ring",
		Long: `Show of a component's roll-out, or of all that are not over, how many hosts each ring
has, how many of them report the level, another one, nothing, or a failure, and of how
many something else decides. Hosts with a failure are named, with what they report.

EXIT STATUS
  0   done, whatever the hosts report
  1   there is no such roll-out, or the inventory could not be read
  64  the command line was wrong`,
		Example: `  levelfs rollout status emacs
  levelfs rollout status --json`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			component := ""
			if len(args) > 0 {
				var err error
				if component, err = parseComponentOnly(args[0]); err != nil {
					return err
				}
			}
			return runRolloutStatus(cmd, component, where, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	whereFlags(cmd, &where)
	return cmd
}

func runRolloutStatus(cmd *cobra.Command, component string, where edit.Where, asJSON bool) error {
	all, err := loadWhole(cmd, nil, nil)
	if err != nil {
		return err
	}
	defer all.close()
	found, invalid := all.Rollouts(component)
	if component != "" {
		f, err := all.Rollout(component)
		if err != nil {
			return err
		}
		found = []edit.Found{f}
	}
	reports, err := rollout.Read(cmd.Context(), all.stores, nil)
	if err != nil {
		return err
	}
	statuses := []*rollout.Status{}
	for _, f := range found {
		if component == "" && (f.State == ldapmap.RolloutDone || f.State == ldapmap.RolloutAborted) {
			continue
		}
		s, err := rollout.Look(cmd.Context(), all.Inventory, f, where, reports)
		if err != nil {
			return err
		}
		statuses = append(statuses, s)
	}
	if asJSON {
		err = writeJSON(cmd.OutOrStdout(), statuses)
	} else {
		err = writeRollouts(cmd.OutOrStdout(), statuses)
	}
	return errors.Join(append(invalid, err)...)
}

// writeRollouts is the status for people.
func writeRollouts(out io.Writer, statuses []*rollout.Status) error {
	var text bytes.Buffer
	for i, s := range statuses {
		if i > 0 {
			fmt.Fprintln(&text)
		}
		fmt.Fprintf(&text, "%s %s, gate %s\n", s.Level, s.State, s.Gate)
		w := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
		fmt.Fprintln(w, "RING\tGIVEN\tHOSTS\tON LEVEL\tPENDING\tSILENT\tFAILED\tELSEWHERE")
		for _, r := range s.Rings {
			given := "no"
			if r.Given {
				given = "yes"
			}
			fmt.Fprintf(w, "%s\t%s\t%d", r.Profile, given, len(r.Hosts))
			for _, state := range []rollout.HostState{rollout.OnLevel, rollout.Pending, rollout.Silent, rollout.Failed, rollout.Elsewhere} {
				fmt.Fprintf(w, "\t%d", len(r.Names(state)))
			}
			fmt.Fprintln(w)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		writeHosts(&text, s)
		writeSeveral(&text, s)
		for _, p := range s.Problems {
			fmt.Fprintf(&text, "problem: %s\n", p)
		}
	}
	_, err := out.Write(text.Bytes())
	return err
}

// writeHosts names the hosts that a roll-out waits for, failures first.
func writeHosts(out io.Writer, s *rollout.Status) {
	named := 0
	for _, state := range []rollout.HostState{rollout.Failed, rollout.Pending, rollout.Silent, rollout.Elsewhere} {
		for _, r := range s.Rings {
			for _, h := range r.Hosts {
				if h.State != state || !r.Given {
					continue
				}
				if named++; named > mostCallers && state != rollout.Failed {
					continue
				}
				fmt.Fprintf(out, "%s: %s in %s", h.State, h.Name, r.Profile)
				if h.Why != "" {
					fmt.Fprintf(out, ": %s", h.Why)
				}
				if h.Report != nil && h.State != rollout.Elsewhere {
					fmt.Fprintf(out, " (since %s)", h.Report.Since.Local().Format("2006-01-02 15:04:05"))
				}
				fmt.Fprintln(out)
			}
		}
	}
	if named > mostCallers {
		fmt.Fprintln(out, "and more: levelfs rollout status --json names all")
	}
}

func newRolloutList() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the roll-outs, also those that are over",
		Long: `List the roll-outs: which level, what has become of it, and at which ring it is.

EXIT STATUS
  0   done
  1   the inventory could not be read, or a roll-out in it
  64  the command line was wrong`,
		Example: `  levelfs rollout list`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := loadWhole(cmd, nil, nil)
			if err != nil {
				return err
			}
			defer all.close()
			found, invalid := all.Rollouts("")
			rollouts := []ldapmap.Rollout{}
			for _, f := range found {
				rollouts = append(rollouts, f.Rollout)
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), rollouts)
			} else {
				w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
				fmt.Fprintln(w, "LEVEL\tSTATE\tAT\tRINGS\tGATE")
				for _, r := range rollouts {
					var rings []string
					for _, ring := range r.Rings {
						rings = append(rings, ring.Profile)
					}
					at := "-"
					if r.At >= 0 {
						at = rings[r.At]
					}
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Level, r.State, at, strings.Join(rings, ","), r.Gate)
				}
				err = w.Flush()
			}
			return errors.Join(append(invalid, err)...)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// completeRolloutStart offers a component, and then its levels.
func completeRolloutStart(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return completeComponents(cmd, args, toComplete)
	}
	names, directive := named("levelfsLevel", args[0]+"@"+toComplete)
	for i := range names {
		names[i] = strings.TrimPrefix(names[i], args[0]+"@")
	}
	return names, directive
}
