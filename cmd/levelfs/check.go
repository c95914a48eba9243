package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/report"
	"github.com/levelfs/levelfs/ldapmap"
)

// A checkOptions is the command line of check.
type checkOptions struct {
	deep, lint, asJSON, nagios bool
	report                     bool
	prometheus                 string
	limit                      time.Duration
}

func newCheck(log *logrus.Logger) *cobra.Command {
	var o checkOptions
	cmd := &cobra.Command{
		Use:   "check [COMPONENT[@LEVEL]...]",
		Short: "Compare this machine with the inventory and the kernel",
		Long: `Compare what the inventory wants of this machine, what is on it, and what the kernel
has mounted. With components, only what is about them.

Each finding has a code, an object, a sentence and what to do. docs/findings.md
explains the codes. Nothing is printed if all is well, and nothing is written; only
--deep keeps in the cache how far it came, and --report tells the inventory.

--json, --nagios and --prometheus also say what private layers and layers take of the
disk, and what sharing saves: private layers are added up for at most two seconds, and
those that take longer have no size.

What is dead cannot hang a check: it is given up, and said to be unchecked. --deep
reads all bytes of the layer images, slowly (check-rate in levelfs.toml), and goes on
where it was interrupted; --time bounds it only if it is given.

EXIT STATUS
  0   healthy
  1   warnings
  2   a critical finding: an access fails or shows wrong content
  3   something could not be checked; what was found is printed all the same
  64  the command line was wrong`,
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCheck(cmd, o, args, log)
		},
	}
	cmd.Flags().BoolVar(&o.deep, "deep", false, "read all bytes of the layer images, and lint the inventory")
	cmd.Flags().BoolVar(&o.lint, "lint", false, "look for faults in the whole inventory as well")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVar(&o.nagios, "nagios", false, "print one line as a Nagios plugin does")
	cmd.Flags().StringVar(&o.prometheus, "prometheus", "", "write metrics to `file`, for node_exporter's textfile collector")
	cmd.Flags().BoolVar(&o.report, "report", false, "write into this host's entry what it runs, if [report] is enabled")
	cmd.Flags().DurationVar(&o.limit, "time", 0, "give up after that long (default: check-time in levelfs.toml, 60s)")
	return cmd
}

func runCheck(cmd *cobra.Command, o checkOptions, args []string, log *logrus.Logger) error {
	keys, err := checkKeys(args)
	if err == nil && o.limit < 0 {
		err = fmt.Errorf("--time %v: must be positive", o.limit)
	}
	if err == nil && o.asJSON && o.nagios {
		err = errors.New("--json and --nagios exclude each other")
	}
	if err == nil && o.report && len(keys) > 0 {
		err = errors.New("--report is about the whole machine: leave out the components")
	}
	if err == nil && o.prometheus != "" && len(keys) > 0 {
		err = errors.New("--prometheus is about the whole machine: leave out the components")
	}
	if err != nil {
		return &usageError{err.Error()}
	}
	report, err := checkMachine(cmd, o, keys, log)
	if err != nil {
		if o.nagios {
			report = &check.Report{Unchecked: []check.Unchecked{{What: "this machine", Why: err.Error()}}}
			_, err = io.WriteString(cmd.OutOrStdout(), report.Nagios())
		}
		return &checkError{status: exitUnchecked, err: err}
	}
	if o.prometheus != "" {
		if err := report.WritePrometheus(o.prometheus); err != nil {
			return &checkError{status: exitUnchecked, err: err}
		}
	}
	switch out := cmd.OutOrStdout(); {
	case o.asJSON:
		report.Findings = append([]finding.Finding{}, report.Findings...)
		report.Unchecked = append([]check.Unchecked{}, report.Unchecked...)
		report.Shares = append([]check.ViewShare{}, report.Shares...)
		err = writeJSON(out, report)
	case o.nagios:
		_, err = io.WriteString(out, report.Nagios())
	default:
		err = writeReport(out, report)
	}
	if err != nil {
		return &checkError{status: exitUnchecked, err: err}
	}
	if status := report.Status(); status != exitOK {
		return &checkError{status: status}
	}
	return nil
}

func checkKeys(args []string) ([]ldapmap.Key, error) {
	var keys []ldapmap.Key
	for _, arg := range args {
		key, err := ldapmap.ParseKey(arg)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// checkMachine makes the report. An error is that of a machine that cannot be checked at
// all.
func checkMachine(cmd *cobra.Command, o checkOptions, keys []ldapmap.Key, log *logrus.Logger) (*check.Report, error) {
	start := time.Now()
	c, err := config.Load()
	if err != nil {
		return nil, err
	}
	unlock, err := check.Lock(c)
	if err != nil {
		return nil, err
	}
	var state *check.State
	defer func() {
		// A look that was given up may keep this process from ending. It keeps the lock, so
		// that no others come to wait for the same.
		if state == nil || len(state.Unchecked) == 0 {
			unlock()
		}
	}()
	limit := c.CheckTime.Duration
	if o.limit != 0 {
		limit = o.limit
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), limit)
	defer cancel()
	state, err = check.Gather(ctx, c, check.Options{Keys: keys, Sizes: o.prometheus != "" || o.asJSON || o.nagios, All: o.deep, Now: time.Now})
	if err != nil {
		return nil, err
	}
	findings := check.Judge(state)
	long := ctx
	if o.deep && o.limit == 0 {
		long = cmd.Context()
	}
	unchecked := func(what string, err error) {
		state.Unchecked = append(state.Unchecked, check.Unchecked{What: what, Why: err.Error()})
	}
	if o.deep || o.lint {
		faults, err := lintInventory(long, cmd, c)
		if err != nil {
			unchecked("inventory as a whole", err)
		}
		findings = append(findings, faults...)
	}
	if o.deep {
		bar := progressbar.NewOptions64(-1, progressbar.OptionSetWriter(cmd.ErrOrStderr()), progressbar.OptionSetVisibility(isTerminal(cmd.ErrOrStderr())),
			progressbar.OptionShowBytes(true), progressbar.OptionClearOnFinish())
		wrong, err := check.Deep(long, c, state.Images, func(read, total int64) {
			bar.ChangeMax64(total)
			_ = bar.Set64(read) // only looks
		})
		_ = bar.Finish()
		if err != nil {
			unchecked("bytes of the layer images (the next --deep goes on there)", err)
		}
		findings = append(findings, wrong...)
	}
	finding.Sort(findings)
	if o.report && c.Report.Enable {
		warnReport(log, func() error {
			_, err := sendReports(cmd.Context(), c, report.Checked(state, findings), true, false)
			return err
		})
	}
	r := check.NewReport(state, findings)
	r.Seconds = time.Since(start).Seconds()
	return r, nil
}

func writeReport(out io.Writer, r *check.Report) error {
	if err := writeFindings(out, r.Findings); err != nil {
		return err
	}
	for _, u := range r.Unchecked {
		if _, err := fmt.Fprintf(out, "unchecked %s: %s\n", u.What, u.Why); err != nil {
			return err
		}
	}
	return nil
}
