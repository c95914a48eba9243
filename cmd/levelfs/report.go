package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/report"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

func newReport() *cobra.Command {
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Write into this host's entry what it runs",
		Long: `Look at this machine as "levelfs check" does, and write into its own entry of the
inventory which level it runs of each component, and what is wrong with it
(levelfsReport). Roll-outs go on by these reports. Nothing is written where nothing
has changed.

Where [report] in levelfs.toml is enabled, switch, refresh, rollback, watch and
check --report do so by themselves. A report that cannot be written is a warning of
theirs, and changes nothing else.

EXIT STATUS
  0   written, or nothing to write
  1   failed; the reason is on standard error
  64  the command line was wrong`,
		Example: `  levelfs report --dry-run`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return reportNow(cmd, dryRun, asJSON)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would be written, and write nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// errNoReport is a report of a machine that is not set up for it.
var errNoReport = errors.New("[report] is not enabled in levelfs.toml")

func reportNow(cmd *cobra.Command, dryRun, asJSON bool) error {
	c, err := config.Load()
	if err != nil {
		return err
	}
	if !c.Report.Enable && !dryRun {
		return errNoReport
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), c.CheckTime.Duration)
	defer cancel()
	state, err := check.Gather(ctx, c, check.Options{Now: time.Now})
	if err != nil {
		return err
	}
	change, err := sendReports(cmd.Context(), c, report.Checked(state, check.Judge(state)), true, dryRun)
	if err != nil {
		return err
	}
	if asJSON {
		return writeJSON(cmd.OutOrStdout(), change)
	}
	return writeReportChange(cmd.OutOrStdout(), change, dryRun)
}

func writeReportChange(out io.Writer, c *report.Change, dryRun bool) error {
	if c.None() {
		_, err := fmt.Fprintln(out, "nothing to write: it is said already")
		return err
	}
	fmt.Fprintf(out, "report on %s in %s\n", c.DN, c.Source)
	for _, v := range c.Remove {
		fmt.Fprintf(out, "- %s\n", v)
	}
	for _, v := range c.Add {
		fmt.Fprintf(out, "+ %s\n", v)
	}
	if dryRun {
		fmt.Fprintln(out, "dry run: nothing was written")
	}
	return nil
}

// sendReports writes reports of this host, or with dryRun only looks.
func sendReports(ctx context.Context, c *config.Config, now []report.Report, checked, dryRun bool) (*report.Change, error) {
	host, err := c.Hostname()
	if err != nil {
		return nil, err
	}
	read, write, err := inventory.OpenReport(c)
	if err != nil {
		return nil, err
	}
	s := &report.Sender{Host: host, Read: read, Write: write}
	defer s.Close()
	ctx, cancel := lookupContext(ctx)
	defer cancel()
	if dryRun {
		return s.Look(ctx, now, checked)
	}
	return s.Send(ctx, now, checked)
}

// report writes what became of the host's views, if this machine reports. It never fails
// the verb that it reports on.
func (s *switcher) report(ctx context.Context, reports []switchReport) {
	if !s.config.Report.Enable || s.options.dryRun {
		return
	}
	warnReport(s.log, func() error {
		_, err := sendReports(ctx, s.config, switched(reports), false, false)
		return err
	})
}

func warnReport(log *logrus.Logger, send func() error) {
	if err := send(); err != nil {
		log.Warnf("report: %v", err)
	}
}

// switched are the reports of views that were changed, or were to be.
func switched(views []switchReport) []report.Report {
	var reports []report.Report
	for _, v := range views {
		if v.User != "" {
			continue
		}
		key, err := ldapmap.ParseKey(v.From)
		if err != nil {
			continue // a view of somebody else's
		}
		r := report.Report{Component: key.Component, Level: v.From, Since: time.Now(), State: report.OK, Wanted: v.To}
		if v.Changed {
			r.Level = v.To // also if a hook after it failed
		}
		var busy *mounter.BusyError
		var down *ldapmap.UnavailableError
		switch {
		case errors.As(v.err, &down):
			continue // nobody says what is wanted
		case errors.As(v.err, &busy):
			r.State, r.Detail = report.Waiting, v.err.Error()
		case v.err != nil:
			r.State, r.Detail = report.Failed, v.err.Error()
		}
		reports = append(reports, r)
	}
	return reports
}
