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
	var in string
	cmd := callerLevels(do, &cobra.Command{
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
	}, "before all that is not mandatory, whoever says it", "a profile that the caller is to run", func(c callerChange) (edit.Intention, error) {
		c.where.In = in
		switch {
		case (c.profile == "") == (len(c.args) == 0):
			return nil, &usageError{"levelfs assign takes COMPONENT=LEVEL or --profile NAME"}
		case c.caller.Kind == edit.Default && (c.mandatory || c.profile != "" || len(c.args) > 1):
			return nil, &usageError{"a default is one level of one component, and not mandatory"}
		case c.profile != "" && c.mandatory:
			return nil, &usageError{"--mandatory is about levels: a profile's own can be mandatory"}
		case c.profile != "":
			return edit.Include{Caller: c.caller, Profile: c.profile, Where: c.where}, nil
		}
		levels, err := parseLevels(c.args)
		return edit.Assign{Caller: c.caller, Levels: levels, Mandatory: c.mandatory, Where: c.where}, err
	})
	cmd.Flags().StringVar(&in, "in", "", "the DN below which to make the entry of a host that has none")
	return cmd
}

func newUnassign(do doer) *cobra.Command {
	return callerLevels(do, &cobra.Command{
		Use:   "unassign CALLER COMPONENT... | CALLER --profile NAME",
		Short: "Take a caller's own level of a component away, or a profile",
		Long: `Take away what a caller's entry assigns of a component, or with --profile, a profile.
The caller then runs what the next rule says; "levelfs plan" shows which.

` + callerHelp + `

` + sourceHelp + changeExitStatus,
		Example: `  levelfs unassign host:lnx01 emacs --dry-run
  levelfs unassign host:lnx01 emacs --local
  levelfs unassign group:testguests --profile new`,
	}, "the mandatory level instead of the other one", "a profile that the caller is not to run any more", func(c callerChange) (edit.Intention, error) {
		switch {
		case (c.profile == "") == (len(c.args) == 0):
			return nil, &usageError{"levelfs unassign takes COMPONENT or --profile NAME"}
		case c.caller.Kind == edit.Default && (c.mandatory || c.profile != ""):
			return nil, &usageError{"a default is a level, and not mandatory"}
		case c.profile != "" && c.mandatory:
			return nil, &usageError{"--mandatory is about levels"}
		case c.profile != "":
			return edit.Exclude{Caller: c.caller, Profile: c.profile, Where: c.where}, nil
		}
		components, err := parseComponents(c.args)
		return edit.Unassign{Caller: c.caller, Components: components, Mandatory: c.mandatory, Where: c.where}, err
	})
}

// A callerChange is what the command line of assign or unassign says.
type callerChange struct {
	caller    edit.Caller
	args      []string // behind the caller
	profile   string
	mandatory bool
	where     edit.Where
}

// callerLevels completes a verb about what a caller's own entry says: mandatory and profile
// are what the flags of these names mean to it, and intention reads the command line.
func callerLevels(do doer, cmd *cobra.Command, mandatory, profile string, intention func(callerChange) (edit.Intention, error)) *cobra.Command {
	var o changeOptions
	var c callerChange
	cmd.Args, cmd.ValidArgsFunction = cobra.MinimumNArgs(1), completeAssign
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		caller, err := edit.ParseCaller(args[0])
		if err != nil {
			return &usageError{err.Error()}
		}
		c.caller, c.args = caller, args[1:]
		wanted, err := intention(c)
		if err != nil {
			return err
		}
		return do(cmd, wanted, o)
	}
	cmd.Flags().BoolVar(&c.mandatory, "mandatory", false, mandatory)
	cmd.Flags().StringVar(&c.profile, "profile", "", profile)
	whereFlags(cmd, &c.where)
	o.flags(cmd)
	return cmd
}
