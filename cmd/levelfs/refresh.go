package main

import (
	"context"
	"errors"
	"io"
	"slices"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

func newRefresh(log *logrus.Logger) *cobra.Command {
	var o switchOptions
	cmd := &cobra.Command{
		Use:   "refresh [COMPONENT...]",
		Short: "Give every mounted view the level that is assigned now",
		Long: `Switch every view whose assigned level is not the one that is mounted: the host's
views and those of users, of the components that are named or of all. See
"levelfs switch --help" for how. One that fails does not keep the others from it.

Before that, what switches have left that were interrupted is put right.

EXIT STATUS
  0   every view has its level
  1   some do not; the reasons are on standard error
  64  the command line was wrong`,
		ValidArgsFunction: completeComponents,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runRefresh(cmd, args, o, log)
		},
	}
	o.flags(cmd)
	return cmd
}

func runRefresh(cmd *cobra.Command, args []string, o switchOptions, log *logrus.Logger) error {
	_, err := refresh(cmd.Context(), cmd.OutOrStdout(), args, o, log)
	return err
}

// refresh gives views their levels, says which, and reports.
func refresh(ctx context.Context, out io.Writer, args []string, o switchOptions, log *logrus.Logger) ([]switchReport, error) {
	var components []string
	for _, arg := range args {
		component, err := parseComponent(arg)
		if err != nil {
			return nil, err
		}
		components = append(components, component)
	}
	s, err := newSwitcher(ctx, out, "", o, log)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	type answer struct {
		*ldapmap.Resolution
		err error
	}
	answers := make(map[asker]answer)
	var (
		reports []switchReport
		errs    []error
	)
	for _, v := range s.views {
		who := asker{view.UserOf(s.config, v), componentOf(v)}
		if view.Pinned(v) || len(components) > 0 && !slices.Contains(components, who.component) {
			continue
		}
		a, asked := answers[who]
		if !asked {
			a.Resolution, a.err = s.resolve(ctx, ldapmap.Key{Component: who.component}, who.user)
			answers[who] = a
			if a.err != nil {
				errs = append(errs, a.err)
			}
			var down *ldapmap.UnavailableError
			if errors.As(a.err, &down) {
				break // once is enough to wait
			}
		}
		if a.err != nil {
			reports = append(reports, switchReport{Target: v.Target, User: who.user, From: v.Name, Error: a.err.Error(), err: a.err})
			continue
		}
		report, err := s.change(ctx, v, a.Resolution)
		reports, errs = append(reports, report), append(errs, err)
	}
	for _, component := range components {
		if !slices.ContainsFunc(s.views, func(v mounter.View) bool { return componentOf(v) == component && !view.Pinned(v) }) {
			errs = append(errs, &notMountedError{component: component})
		}
	}
	s.report(ctx, reports)
	return reports, errors.Join(append(errs, s.write(reports))...)
}
