package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/repair"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

type repairOptions struct {
	dryRun, yes, lint, asJSON bool
}

func newRepair(log *logrus.Logger) *cobra.Command {
	var o repairOptions
	cmd := &cobra.Command{
		Use:   "repair [CODE...]",
		Short: "Mend what levelfs check finds, as far as that takes no decision",
		Long: `Check this machine as "levelfs check" does, mend what can be mended, and check again.
With codes (LV201), only findings of these.

How far it goes is said for each code in docs/findings.md. What is safe is done at
once; what unmounts, ends or moves something only after a question on a terminal, or
with --yes; the rest is left to you, and said why. Private files are never changed or
deleted: a private layer that nobody owns is moved into a dated backup below
/var/lib/levelfs/backup. Nothing is unmounted that is in use. It can be interrupted at
any time, and run again.

EXIT STATUS
  0   nothing is left
  1   something is left, or failed; it is printed, and why
  64  the command line was wrong, or an unknown code`,
		Example: `  levelfs repair --dry-run
  levelfs repair LV201 LV250
  levelfs repair --yes`,
		ValidArgsFunction: completeCodes,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRepair(cmd, args, o, log)
		},
	}
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what would be done, and change nothing")
	cmd.Flags().BoolVar(&o.yes, "yes", false, "unmount, end and move things without asking")
	cmd.Flags().BoolVar(&o.lint, "lint", false, "look for faults in the whole inventory as well, of which it mends none")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

// completeCodes offers the codes of which findings can be mended.
func completeCodes(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	var codes []string
	for _, k := range finding.Kinds() {
		if code := string(k.Code); strings.HasPrefix(code, toComplete) && k.Code.Mending().Repair != finding.Manual && !slices.Contains(args, code) {
			codes = append(codes, code+"\t"+k.Title)
		}
	}
	return codes, cobra.ShellCompDirectiveNoFileComp
}

func runRepair(cmd *cobra.Command, args []string, o repairOptions, log *logrus.Logger) error {
	var codes []finding.Code
	for _, arg := range args {
		code := finding.Code(arg)
		if !slices.ContainsFunc(finding.Kinds(), func(k finding.Kind) bool { return k.Code == code }) {
			return &usageError{fmt.Sprintf("%q is no code of a finding: docs/findings.md has them", arg)}
		}
		codes = append(codes, code)
	}
	if os.Geteuid() != 0 && !o.dryRun {
		return fmt.Errorf("repair: %w", fs.ErrPermission)
	}
	c, err := config.Load()
	if err != nil {
		return err
	}
	unlock, err := check.Lock(c)
	if err != nil {
		return err
	}
	defer unlock()
	r := repair.Runner{
		Check: func(ctx context.Context) (*check.State, []finding.Finding, error) {
			return findings(ctx, cmd, c, o.lint)
		},
		Switch: func(ctx context.Context, v mounter.View, r *ldapmap.Resolution) error {
			// What it says besides goes where its warnings go: the output is the repair's.
			s, err := newSwitcher(ctx, cmd.ErrOrStderr(), componentOf(v), switchOptions{json: o.asJSON}, log)
			if err != nil {
				return err
			}
			defer s.Close()
			_, err = s.change(ctx, v, r)
			return err
		},
		Codes: codes, DryRun: o.dryRun, Confirm: confirm(cmd, o),
	}
	report, err := r.Run(cmd.Context())
	if o.asJSON {
		err = errors.Join(err, writeJSON(cmd.OutOrStdout(), report))
	} else {
		err = errors.Join(err, writeRepair(cmd.OutOrStdout(), report))
	}
	if err == nil && !report.Healthy() {
		return &checkError{status: exitFailed}
	}
	return err
}

// findings are those of one check.
func findings(ctx context.Context, cmd *cobra.Command, c *config.Config, lint bool) (*check.State, []finding.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, c.CheckTime.Duration)
	defer cancel()
	state, err := check.Gather(ctx, c, check.Options{Now: time.Now})
	if err != nil {
		return nil, nil, err
	}
	found := check.Judge(state)
	if lint {
		faults, err := lintInventory(ctx, cmd, c)
		if err != nil {
			state.Unchecked = append(state.Unchecked, check.Unchecked{What: "inventory as a whole", Why: err.Error()})
		}
		found = append(found, faults...)
	}
	finding.Sort(found)
	return state, found, nil
}

// confirm asks on a terminal; elsewhere the answer is what --yes says.
func confirm(cmd *cobra.Command, o repairOptions) func(repair.Step) bool {
	in := bufio.NewReader(cmd.InOrStdin())
	stdin, isFile := cmd.InOrStdin().(io.Writer)
	ask := !o.yes && !o.asJSON && isFile && isTerminal(stdin)
	return func(s repair.Step) bool {
		if !ask {
			return o.yes
		}
		out := cmd.ErrOrStderr()
		for _, f := range s.Findings {
			fmt.Fprintf(out, "%s %s %s: %s\n", f.Severity, f.Code, f.Object, f.Text)
		}
		fmt.Fprintf(out, "  %s\nDo that? [y/N] ", strings.Join(s.Does, "\n  "))
		answer, _ := in.ReadString('\n') // without one it is no
		return strings.EqualFold(strings.TrimSpace(answer), "y")
	}
}

func writeRepair(out io.Writer, r *repair.Report) error {
	var text strings.Builder
	for _, s := range r.Steps {
		if s.Outcome == repair.Refused {
			continue // it is left
		}
		var codes []string
		for _, f := range s.Findings {
			codes = append(codes, string(f.Code))
		}
		fmt.Fprintf(&text, "%s %s %s\n", s.Outcome, strings.Join(slices.Compact(codes), " "), s.Findings[0].Object)
		for _, line := range s.Does {
			fmt.Fprintf(&text, "  %s\n", line)
		}
		if s.Error != "" {
			fmt.Fprintf(&text, "  failed: %s\n", s.Error)
		}
	}
	for _, l := range r.Left {
		fmt.Fprintf(&text, "left %s %s %s: %s\n  fix: %s\n  why: %s\n", l.Severity, l.Code, l.Object, l.Text, l.Fix, l.Why)
	}
	for _, u := range r.Unchecked {
		fmt.Fprintf(&text, "unchecked %s: %s\n", u.What, u.Why)
	}
	_, err := io.WriteString(out, text.String())
	return err
}
