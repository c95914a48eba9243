package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/ldapmap"
)

// newProfile has the verbs that change profiles.
func newProfile(do doer) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Show and change profiles: named sets of assignments",
		Args:  cobra.NoArgs,
		RunE:  needsVerb,
	}
	cmd.AddCommand(newProfileCreate(do), newProfileDelete(do),
		newProfileRef(do, "include", "Make a profile include another one", func(c edit.Caller, other string, w edit.Where) edit.Intention {
			return edit.Include{Caller: c, Profile: other, Where: w}
		}),
		newProfileRef(do, "exclude", "Undo include", func(c edit.Caller, other string, w edit.Where) edit.Intention {
			return edit.Exclude{Caller: c, Profile: other, Where: w}
		}),
		newProfileSet(do), newProfileUnset(do))
	return cmd
}

// profileNamed is the profile as a caller.
func profileNamed(name string) (edit.Caller, error) {
	if !ldapmap.ValidProfile(name) {
		return edit.Caller{}, &usageError{fmt.Sprintf("invalid profile name %q", name)}
	}
	return edit.Caller{Kind: edit.Profile, Name: name}, nil
}

func newProfileCreate(do doer) *cobra.Command {
	var o changeOptions
	wanted := edit.NewProfile{}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a profile that says nothing yet",
		Long: `Make a profile, beside the others of the source or below the DN that --in names. It
says nothing until "levelfs profile set".

` + sourceHelp + changeExitStatus,
		Example: `  levelfs profile create new --description "The next production release"
  levelfs profile create base --in ou=profiles,dc=example,dc=org`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := profileNamed(args[0]); err != nil {
				return err
			}
			wanted.Name = args[0]
			return do(cmd, wanted, o)
		},
	}
	cmd.Flags().StringVar(&wanted.Description, "description", "", "what it is for")
	cmd.Flags().StringVar(&wanted.In, "in", "", "the DN below which to make it")
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

func newProfileDelete(do doer) *cobra.Command {
	var o changeOptions
	wanted := edit.DeleteProfile{}
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Remove a profile that nothing includes",
		Long: `Remove a profile, with the history in it. It is refused while a caller or another
profile includes it.

` + sourceHelp + changeExitStatus,
		Example:           `  levelfs profile delete old`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := profileNamed(args[0]); err != nil {
				return err
			}
			wanted.Name = args[0]
			return do(cmd, wanted, o)
		},
	}
	whereFlags(cmd, &wanted.Where)
	o.flags(cmd)
	return cmd
}

func newProfileRef(do doer, verb, short string, intention func(edit.Caller, string, edit.Where) edit.Intention) *cobra.Command {
	var o changeOptions
	var where edit.Where
	cmd := &cobra.Command{
		Use:   verb + " NAME OTHER",
		Short: short,
		Long: `A profile that includes another says all that the other says, and those who run it
run both. Profiles that would include each other in a loop are refused.

` + sourceHelp + changeExitStatus,
		Example:           "  levelfs profile " + verb + " base editors",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			profile, err := profileNamed(args[0])
			if err != nil {
				return err
			}
			if _, err := profileNamed(args[1]); err != nil {
				return err
			}
			return do(cmd, intention(profile, args[1], where), o)
		},
	}
	whereFlags(cmd, &where)
	o.flags(cmd)
	return cmd
}

func newProfileSet(do doer) *cobra.Command {
	return profileLevels(do, &cobra.Command{
		Use:   "set NAME COMPONENT=LEVEL...",
		Short: "Assign levels to those who run a profile",
		Long: `Assign levels to those who run a profile: the same as "levelfs assign profile:NAME".

` + sourceHelp + changeExitStatus,
		Example: `  levelfs profile set base emacs=30.1-1 gcc=14.2`,
	}, "before all that is not mandatory, whoever says it", func(profile edit.Caller, args []string, mandatory bool, where edit.Where) (edit.Intention, error) {
		levels, err := parseLevels(args)
		return edit.Assign{Caller: profile, Levels: levels, Mandatory: mandatory, Where: where}, err
	})
}

func newProfileUnset(do doer) *cobra.Command {
	return profileLevels(do, &cobra.Command{
		Use:   "unset NAME COMPONENT...",
		Short: "Take a profile's levels away",
		Long: `Take a profile's levels of components away: the same as "levelfs unassign
profile:NAME".

` + sourceHelp + changeExitStatus,
		Example: `  levelfs profile unset base gcc`,
	}, "the mandatory levels instead of the others", func(profile edit.Caller, args []string, mandatory bool, where edit.Where) (edit.Intention, error) {
		components, err := parseComponents(args)
		return edit.Unassign{Caller: profile, Components: components, Mandatory: mandatory, Where: where}, err
	})
}

// profileLevels completes a verb about a profile's own levels: usage is what --mandatory
// means to it, and intention reads the arguments behind the profile.
func profileLevels(do doer, cmd *cobra.Command, usage string, intention func(profile edit.Caller, args []string, mandatory bool, where edit.Where) (edit.Intention, error)) *cobra.Command {
	var o changeOptions
	var where edit.Where
	var mandatory bool
	cmd.Args, cmd.ValidArgsFunction = cobra.MinimumNArgs(2), completeProfiles
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		profile, err := profileNamed(args[0])
		if err != nil {
			return err
		}
		wanted, err := intention(profile, args[1:], mandatory, where)
		if err != nil {
			return err
		}
		return do(cmd, wanted, o)
	}
	cmd.Flags().BoolVar(&mandatory, "mandatory", false, usage)
	whereFlags(cmd, &where)
	o.flags(cmd)
	return cmd
}

// addProfileReads adds the verbs that only look.
func addProfileReads(cmd *cobra.Command) {
	var asJSON bool
	list := &cobra.Command{
		Use:   "list",
		Short: "List the profiles",
		Long: `List the profiles: what each says, which others it includes, and how many entries
include it.

EXIT STATUS
  0   done
  1   the inventory could not be read
  64  the command line was wrong`,
		Example: `  levelfs profile list`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			profiles, err := findProfiles(cmd, "")
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), profiles)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(w, "PROFILE\tASSIGNS\tMANDATORY\tINCLUDES\tINCLUDED BY\tSOURCE")
			for _, p := range profiles {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", p.Name, spaced(p.Assigns), spaced(p.Mandatory), spaced(p.Includes), len(p.IncludedBy), p.Source)
			}
			return w.Flush()
		},
	}
	list.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	var showJSON bool
	show := &cobra.Command{
		Use:   "show NAME",
		Short: "Show a profile",
		Long: `Show all about a profile: what it says, which others it includes, who includes it,
and its last changes.

EXIT STATUS
  0   done
  1   there is no such profile, or the inventory could not be read
  64  the command line was wrong`,
		Example:           `  levelfs profile show base`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeProfiles,
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := profileNamed(args[0]); err != nil {
				return err
			}
			profiles, err := findProfiles(cmd, args[0])
			switch {
			case err != nil:
				return err
			case len(profiles) == 0:
				return &ldapmap.NotFoundError{What: edit.Profile, Name: args[0]}
			case showJSON:
				return writeJSON(cmd.OutOrStdout(), profiles)
			}
			for _, p := range profiles {
				if err := p.write(cmd.OutOrStdout()); err != nil {
					return err
				}
			}
			return nil
		},
	}
	show.Flags().BoolVar(&showJSON, "json", false, "print JSON")
	cmd.AddCommand(list, show)
}

// A profileInfo is what there is to know of a profile in one source.
type profileInfo struct {
	Name        string        `json:"name"`
	DN          string        `json:"dn"`
	Source      string        `json:"source"`
	Description string        `json:"description,omitempty"`
	Assigns     []string      `json:"assigns,omitempty"`
	Mandatory   []string      `json:"mandatory,omitempty"`
	Includes    []string      `json:"includes,omitempty"`
	IncludedBy  []string      `json:"includedBy,omitempty"`
	History     []edit.Record `json:"history,omitempty"` // newest first
}

// findProfiles returns the profiles of that name, or all.
func findProfiles(cmd *cobra.Command, name string) ([]profileInfo, error) {
	all, err := loadWhole(cmd, nil, nil)
	if err != nil {
		return nil, err
	}
	defer all.close()
	profiles := []profileInfo{}
	by := make(map[string][]string) // folded name -> who includes it
	for _, s := range all.Sources() {
		for _, e := range s.Entries() {
			for _, ref := range e.Attrs["levelfsprofileref"] {
				who := e.DN
				if c, ok := edit.CallerOf(e); ok {
					who = c.String()
				}
				by[strings.ToLower(ref)] = append(by[strings.ToLower(ref)], who)
			}
			cn := e.First("cn")
			if !ldapmap.IsProfile(e) || name != "" && !strings.EqualFold(cn, name) {
				continue
			}
			profiles = append(profiles, profileInfo{
				Name: cn, DN: e.DN, Source: s.Name(), Description: e.First("description"),
				Assigns:   slices.Sorted(slices.Values(e.Attrs["levelfsassignment"])),
				Mandatory: slices.Sorted(slices.Values(e.Attrs["levelfsmandatory"])),
				Includes:  slices.Sorted(slices.Values(e.Attrs["levelfsprofileref"])),
				History:   edit.Records(e),
			})
		}
	}
	for i := range profiles {
		profiles[i].IncludedBy = slices.Sorted(slices.Values(by[strings.ToLower(profiles[i].Name)]))
	}
	slices.SortStableFunc(profiles, func(a, b profileInfo) int { return strings.Compare(a.Name, b.Name) })
	return profiles, nil
}

func (p *profileInfo) write(out io.Writer) error {
	fmt.Fprintf(out, "profile %s\n", p.Name)
	writeField(out, "description", p.Description)
	writeField(out, "entry", p.DN)
	writeField(out, "source", p.Source)
	writeField(out, "assigns", p.Assigns...)
	writeField(out, "mandatory", p.Mandatory...)
	writeField(out, "includes", p.Includes...)
	by := p.IncludedBy
	if more := len(by) - mostCallers; more > 0 {
		by = append(slices.Clone(by[:mostCallers]), fmt.Sprintf("and %d more", more))
	}
	writeField(out, "included by", by...)
	var records [][]string
	for _, r := range p.History[:min(fewRecords, len(p.History))] {
		records = append(records, recordCells(r))
	}
	return writeTable(out, "changed", records)
}

func spaced(values []string) string { return orDash(strings.Join(values, " ")) }
