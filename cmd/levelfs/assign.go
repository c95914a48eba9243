package main

import (
	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
)

const callerHelp = `CALLER is host:NAME, user:NAME, group:NAME, profile:NAME, a bare NAME that only one of
them has, or "default": what callers run to whom nothing else assigns a level.`

const sourceHelp = `With more than one source, the change is made in the only one that has the entry;
--local means the first source, --central the last.`

func newAssign(do doer) *cobra.Command {
	var o changeOptions
	var where edit.Where
	var mandatory bool
	var profile string
	cmd := &cobra.Command{
		Use:   "assign CALLER COMPONENT=LEVEL... | CALLER --profile NAME",
		Short: "Give a caller a level of a component, or a profile",
		Long: `Give a caller a level of a component instead of the one that its entry assigns now,
or with --profile, all that a profile says.

` + callerHelp + `

The level has to exist. ` + sourceHelp + ` A host that
has no entry there gets one: in LDIF files by itself, elsewhere with --in.` + changeExitStatus,
		Example: `  levelfs assign lnx01 emacs=30.1-1 --dry-run
  levelfs assign group:testguests emacs=30.1-1
  levelfs assign default emacs=30.1-1
  levelfs assign host:lnx01 emacs=29.4-1 --local
  levelfs assign host:lnx02 --profile base`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeAssign,
		RunE: func(cmd *cobra.Command, args []string) error {
			caller, err := edit.ParseCaller(args[0])
			if err != nil {
				return &usageError{err.Error()}
			}
			switch {
			case (profile == "") == (len(args) == 1):
				return &usageError{"levelfs assign takes COMPONENT=LEVEL or --profile NAME"}
			case caller.Kind == edit.Default && (mandatory || profile != "" || len(args) > 2):
				return &usageError{"a default is one level of one component, and not mandatory"}
			case profile != "" && mandatory:
				return &usageError{"--mandatory is about levels: a profile's own can be mandatory"}
			case profile != "":
				return do(cmd, edit.Include{Caller: caller, Profile: profile, Where: where}, o)
			}
			levels, err := parseLevels(args[1:])
			if err != nil {
				return err
			}
			return do(cmd, edit.Assign{Caller: caller, Levels: levels, Mandatory: mandatory, Where: where}, o)
		},
	}
	cmd.Flags().BoolVar(&mandatory, "mandatory", false, "before all that is not mandatory, whoever says it")
	cmd.Flags().StringVar(&profile, "profile", "", "a profile that the caller is to run")
	cmd.Flags().StringVar(&where.In, "in", "", "the DN below which to make the entry of a host that has none")
	whereFlags(cmd, &where)
	o.flags(cmd)
	return cmd
}

func newUnassign(do doer) *cobra.Command {
	var o changeOptions
	var where edit.Where
	var mandatory bool
	var profile string
	cmd := &cobra.Command{
		Use:   "unassign CALLER COMPONENT... | CALLER --profile NAME",
		Short: "Take a caller's own level of a component away, or a profile",
		Long: `Take away what a caller's entry assigns of a component, or with --profile, a profile.
The caller then runs what the next rule says; "levelfs plan" shows which.

` + callerHelp + `

` + sourceHelp + changeExitStatus,
		Example: `  levelfs unassign host:lnx01 emacs --dry-run
  levelfs unassign host:lnx01 emacs --local
  levelfs unassign group:testguests --profile new`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: completeAssign,
		RunE: func(cmd *cobra.Command, args []string) error {
			caller, err := edit.ParseCaller(args[0])
			if err != nil {
				return &usageError{err.Error()}
			}
			switch {
			case (profile == "") == (len(args) == 1):
				return &usageError{"levelfs unassign takes COMPONENT or --profile NAME"}
			case caller.Kind == edit.Default && (mandatory || profile != ""):
				return &usageError{"a default is a level, and not mandatory"}
			case profile != "" && mandatory:
				return &usageError{"--mandatory is about levels"}
			case profile != "":
				return do(cmd, edit.Exclude{Caller: caller, Profile: profile, Where: where}, o)
			}
			components, err := parseComponents(args[1:])
			if err != nil {
				return err
			}
			return do(cmd, edit.Unassign{Caller: caller, Components: components, Mandatory: mandatory, Where: where}, o)
		},
	}
	cmd.Flags().BoolVar(&mandatory, "mandatory", false, "the mandatory level instead of the other one")
	cmd.Flags().StringVar(&profile, "profile", "", "a profile that the caller is not to run any more")
	whereFlags(cmd, &where)
	o.flags(cmd)
	return cmd
}
