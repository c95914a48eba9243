package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/ldapmap"
)

func newCustomize(do doer) *cobra.Command {
	var o changeOptions
	var where edit.Where
	var order int
	var remove bool
	cmd := &cobra.Command{
		Use:   "customize CALLER COMPONENT=LAYER",
		Short: "Put a layer above the levels of a component, for the site or a caller",
		Long: `Put a customisation layer above whichever level of a component a caller runs, below
what is written into the view; with --remove, take it away.

CALLER is "site", for everybody who runs the component, or host:NAME, user:NAME,
group:NAME, profile:NAME, or a bare NAME that only one of them has. The layer has to be
of the kind of the caller (levelfsKind): a site's, a group's, a host's or a user's. A
profile may have site layers, and those of the kind of the callers who refer to it.

Layers add up. Topmost are those of the user, then of the user's groups, the host, the
host's groups and the site, and below them the level's own. On one entry the lowest
number is topmost. A level that is asked for by its name, COMPONENT@LEVEL, is given as
it was delivered, without any.

` + sourceHelp + ` A host that
has no entry there gets one: in LDIF files by itself, elsewhere with --in.` + changeExitStatus,
		Example: `  levelfs customize site emacs=emacs-site-1 --dry-run
  levelfs customize group:testguests emacs=emacs-test-1 --order 10
  levelfs customize lnx01 emacs=emacs-lnx01-1 --local
  levelfs customize lnx01 emacs=emacs-lnx01-1 --remove`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeCustomize,
		RunE: func(cmd *cobra.Command, args []string) error {
			caller := edit.Caller{Kind: edit.Site}
			if args[0] != edit.Site {
				var err error
				if caller, err = edit.ParseCaller(args[0]); err != nil {
					return &usageError{err.Error()}
				}
			}
			component, layer, _ := strings.Cut(args[1], "=")
			key, err := ldapmap.ParseKey(component)
			ordered := cmd.Flags().Changed("order")
			switch {
			case caller.Kind == edit.Default:
				return &usageError{`layers for everybody are the site's: levelfs customize site COMPONENT=LAYER`}
			case err != nil || key.Level != "" || !ldapmap.ValidLayer(layer):
				return &usageError{fmt.Sprintf("invalid customisation %q: want COMPONENT=LAYER", args[1])}
			case remove && ordered:
				return &usageError{"--order is about a layer that is added"}
			case ordered && (order < 0 || order > 65535):
				return &usageError{fmt.Sprintf("--order %d: want 0 to 65535", order)}
			case remove:
				return do(cmd, edit.Uncustomize{Caller: caller, Component: component, Layer: layer, Where: where}, o)
			case !ordered:
				order = edit.KeepOrder
			}
			return do(cmd, edit.Customize{Caller: caller, Component: component, Layer: layer, Order: order, Where: where}, o)
		},
	}
	cmd.Flags().IntVar(&order, "order", 0, "the layer's number among those of the entry (default: below the others)")
	cmd.Flags().BoolVar(&remove, "remove", false, "take the layer away")
	cmd.Flags().StringVar(&where.In, "in", "", "the DN below which to make the entry of a host that has none")
	whereFlags(cmd, &where)
	o.flags(cmd)
	return cmd
}

// completeCustomize offers callers, and then components and layers.
func completeCustomize(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		callers, directive := completeAssign(cmd, args, toComplete)
		for i := range callers {
			if callers[i] == edit.Default {
				callers[i] = edit.Site
			}
		}
		return callers, directive
	}
	component, layer, ok := strings.Cut(toComplete, "=")
	if len(args) > 1 || !ok {
		names, directive := completeComponents(cmd, args[1:], toComplete)
		for i := range names {
			names[i] += "="
		}
		return names, directive | cobra.ShellCompDirectiveNoSpace
	}
	names, directive := named("levelfsLayer", layer)
	for i := range names {
		names[i] = component + "=" + names[i]
	}
	return names, directive
}
