package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

func newWho() *cobra.Command {
	var summary, asJSON bool
	cmd := &cobra.Command{
		Use:   "who COMPONENT[@LEVEL]",
		Short: "Show which level every caller runs, and by which rule",
		Long: `Show for every host, and for every user with rules of their own, which level of a
component they run and which entry says so; with a level, only who runs that one.
A caller whom the inventory gives no usable level is shown with the reason.

The answers are those that the map would give, asked one by one of the whole
inventory.

EXIT STATUS
  0   done, whatever the answers
  1   there is no such component or level, or the inventory could not be read
  64  the command line was wrong`,
		Example: `  levelfs who emacs
  levelfs who emacs@29.4-1
  levelfs who emacs --summary`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			key, err := ldapmap.ParseKey(args[0])
			if err != nil {
				return &usageError{err.Error()}
			}
			all, err := loadWhole(cmd, nil, nil)
			if err != nil {
				return err
			}
			defer all.close()
			if err := all.check(key); err != nil {
				return err
			}
			answers, err := all.whoWithProgress(cmd, key.Component)
			if err != nil {
				return err
			}
			if key.Level != "" {
				answers = slices.DeleteFunc(answers, func(a fleet.Answer) bool { return a.Level != key.String() })
			}
			out := cmd.OutOrStdout()
			switch {
			case summary && asJSON:
				return writeJSON(out, summarize(answers))
			case summary:
				return writeSummary(out, summarize(answers))
			case asJSON:
				return writeJSON(out, whoLines(answers))
			}
			return writeWho(out, whoLines(answers))
		},
	}
	cmd.Flags().BoolVar(&summary, "summary", false, "count the callers instead of listing them")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// check refuses a key that the inventory does not have.
func (w *whole) check(key ldapmap.Key) error {
	if !slices.Contains(w.Components(), key.Component) {
		return &ldapmap.NotFoundError{What: "component", Name: key.Component}
	}
	named := func(i levelInfo) bool { return i.Name == key.String() }
	if key.Level != "" && !slices.ContainsFunc(w.levels(key.Component), named) {
		return &ldapmap.NotFoundError{What: "level", Name: key.String()}
	}
	return nil
}

func (w *whole) whoWithProgress(cmd *cobra.Command, component string) ([]fleet.Answer, error) {
	bar := newProgress(cmd, "asking for every caller")
	defer bar.end()
	of := bar.of()
	if of == nil {
		return w.Who(cmd.Context(), component, nil)
	}
	return w.Who(cmd.Context(), component, func(done int) { of(done, len(w.Callers())) })
}

// A whoLine is one caller's answer.
type whoLine struct {
	fleet.Caller
	Level string        `json:"level,omitempty"`
	Rule  *ldapmap.Rule `json:"rule,omitempty"` // that decided
	Error string        `json:"error,omitempty"`
}

func whoLines(answers []fleet.Answer) []whoLine {
	lines := make([]whoLine, 0, len(answers))
	for _, a := range answers {
		l := whoLine{Caller: a.Caller, Level: a.Level}
		if a.Rule.Rank != "" {
			l.Rule = &a.Rule
		}
		if a.Err != nil {
			l.Error = a.Err.Error()
		}
		lines = append(lines, l)
	}
	return lines
}

func writeWho(out io.Writer, lines []whoLine) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CALLER\tLEVEL\tRULE\tENTRY\tSOURCE")
	for _, l := range lines {
		if l.Error != "" {
			fmt.Fprintf(w, "%s\t-\terror: %s\n", l.Caller, l.Error)
			continue
		}
		rank := l.Rule.Rank
		if l.Rule.Mandatory {
			rank += ", mandatory"
		}
		entry := strings.Join(append([]string{orDash(l.Rule.DN)}, l.Rule.Via...), " -> ")
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", l.Caller, l.Level, rank, entry, l.Rule.Source)
	}
	return w.Flush()
}

// A whoCount is how many callers run a level by one kind of rule.
type whoCount struct {
	Level string `json:"level,omitempty"`
	Rule  string `json:"rule,omitempty"` // its rank
	Error string `json:"error,omitempty"`
	Hosts int    `json:"hosts"`
	Users int    `json:"users"`
}

// summarize counts, by level and then most callers first.
func summarize(answers []fleet.Answer) []whoCount {
	counts := []whoCount{}
	at := make(map[whoCount]int)
	for _, a := range answers {
		key := whoCount{Level: a.Level, Rule: a.Rule.Rank}
		if a.Err != nil {
			key.Error = edit.Why(a.Err)
		}
		i, ok := at[key]
		if !ok {
			i = len(counts)
			at[key] = i
			counts = append(counts, key)
		}
		if a.Caller.User != "" {
			counts[i].Users++
		} else {
			counts[i].Hosts++
		}
	}
	slices.SortStableFunc(counts, func(a, b whoCount) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), cmp.Compare(b.Hosts+b.Users, a.Hosts+a.Users))
	})
	return counts
}

func writeSummary(out io.Writer, counts []whoCount) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "LEVEL\tRULE\tHOSTS\tUSERS\tERROR")
	for _, c := range counts {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\n", orDash(c.Level), orDash(c.Rule), c.Hosts, c.Users, orDash(c.Error))
	}
	return w.Flush()
}
