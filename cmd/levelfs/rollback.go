package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

func newRollback(log *logrus.Logger) *cobra.Command {
	var o switchOptions
	cmd := &cobra.Command{
		Use:   "rollback COMPONENT",
		Short: "Switch a mounted view to the level that it had before",
		Long: `Switch the mounted view of a component to the level that its private layer was
under before, on this machine: see "levelfs history". Rolled back once more, it has
the newer level again. What is assigned in the inventory stays, and a refresh or the
next mount goes by that.

If no inventory server answers, the definition of the level that this machine has
from its last use will do.

EXIT STATUS
  0   the view has the level now
  1   failed, and the old view stays; the reason is on standard error
  64  the command line was wrong`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRollback(cmd, args[0], o, log)
		},
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&o.user, "user", "", "whose view (default: the host's)")
	return cmd
}

func runRollback(cmd *cobra.Command, arg string, o switchOptions, log *logrus.Logger) error {
	component, err := parseComponent(arg)
	if err != nil {
		return err
	}
	s, err := newSwitcher(cmd.Context(), cmd.OutOrStdout(), component, o, log)
	if err != nil {
		return err
	}
	defer s.Close()
	views, err := s.of(component, o.user)
	if err != nil {
		return err
	}
	dir := privateOf(s.config, views, component, o.user)
	periods, err := mounter.History(dir)
	if err != nil {
		return err
	}
	bases, err := mounter.Bases(dir)
	if err != nil {
		return err
	}
	var above []string
	if len(bases) > 0 {
		above = bases[len(bases)-1].Above()
	}
	var reports []switchReport
	var errs []error
	for _, v := range views {
		key, err := before(periods, v)
		var r *ldapmap.Resolution
		if err == nil {
			r, err = s.known(cmd.Context(), key, o.user, above)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		report, err := s.change(cmd.Context(), v, r)
		reports, errs = append(reports, report), append(errs, err)
	}
	s.report(cmd.Context(), reports)
	return errors.Join(append(errs, s.write(reports))...)
}

// before is the level that the view's private layer was under last, before this one.
func before(periods []mounter.Period, v mounter.View) (ldapmap.Key, error) {
	for _, p := range slices.Backward(periods) {
		if p.Level != v.Name {
			return ldapmap.ParseKey(p.Level)
		}
	}
	return ldapmap.Key{}, fmt.Errorf("nothing says that %q had another level than %s on this machine", v.Target, v.Name)
}

func newHistory() *cobra.Command {
	var user string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "history COMPONENT",
		Short: "Show the levels that a component had on this machine",
		Long: `Show under which levels the private layer of a component was on this machine, each
with the time from which on, the oldest first and the present one last. Components
without a private layer that is kept have no history. Neither the inventory nor any
view is looked at.

EXIT STATUS
  0   done
  1   failed; the reason is on standard error
  64  the command line was wrong`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runHistory(cmd.OutOrStdout(), args[0], user, asJSON)
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "whose private layer (default: the host's)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func runHistory(out io.Writer, arg, user string, asJSON bool) error {
	component, err := parseComponent(arg)
	if err != nil {
		return err
	}
	if user != "" && !ldapmap.ValidUser(user) {
		return &usageError{fmt.Sprintf("%q is no user name", user)}
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	periods, err := mounter.History(privateOf(c, nil, component, user))
	if err != nil {
		return err
	}
	if asJSON {
		if periods == nil {
			periods = []mounter.Period{}
		}
		return writeJSON(out, periods)
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "SINCE\tLEVEL")
	for _, p := range periods {
		fmt.Fprintf(w, "%s\t%s\n", p.Since.Local().Format("2006-01-02 15:04:05"), p.Level)
	}
	return w.Flush()
}
