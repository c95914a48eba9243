package edit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// A Preview is what intentions would come to.
type Preview struct {
	Steps   []Step
	Changes []fleet.Change // callers who would get something else
	Before  Inventory
	After   Inventory
}

// Look finds out what the intentions would change for whom, each upon those before it.
// Only components that they touch are asked for. progress, if not nil, is called with
// the number of questions asked so far, and the total.
func Look(ctx context.Context, inv Inventory, intentions []Intention, progress func(done, total int)) (*Preview, error) {
	p := &Preview{Before: inv, After: inv}
	for _, i := range intentions {
		steps, err := i.Steps(p.After)
		if err != nil {
			return nil, err
		}
		for _, s := range steps {
			if p.After, err = p.After.With(s); err != nil {
				return nil, err
			}
		}
		p.Steps = append(p.Steps, steps...)
	}
	var components []string
	for _, s := range p.Steps {
		components = append(components, s.Components...)
	}
	slices.Sort(components)
	components = slices.DeleteFunc(slices.Compact(components), func(c string) bool {
		key, err := ldapmap.ParseKey(c)
		return err != nil || key.Level != "" // nobody can ask for it
	})
	var err error
	if p.Changes, err = fleet.Diff(ctx, inv.Fleet, p.After.Fleet, components, progress); err != nil {
		return nil, err
	}
	// Who had no level and has none is not concerned, though it is for another reason.
	p.Changes = slices.DeleteFunc(p.Changes, func(c fleet.Change) bool {
		return c.Before.Err != nil && c.After.Err != nil && c.OwnBefore == c.OwnAfter && (c.OwnBefore || !c.Customized())
	})
	return p, nil
}

// Lost are the callers who have a level now and would have none. A user without rules
// is not among them: such a user runs what the host runs.
func (p *Preview) Lost() []fleet.Change {
	var lost []fleet.Change
	for _, c := range p.Changes {
		if c.Before.Err == nil && c.After.Err != nil && c.OwnAfter {
			lost = append(lost, c)
		}
	}
	return lost
}

// A Count is how many callers would go the same way.
type Count struct {
	Component string `json:"component"`
	Old       string `json:"old,omitempty"` // level, or "" for none
	New       string `json:"new,omitempty"`
	Why       string `json:"why,omitempty"` // no new level
	// A user without rules of the own runs what the host runs: before, or afterwards.
	OldHosts bool `json:"oldIsHosts,omitempty"`
	NewHosts bool `json:"newIsHosts,omitempty"`
	// Layers above the level, joined by commas, where they are others afterwards.
	OldAbove string `json:"oldAbove,omitempty"`
	NewAbove string `json:"newAbove,omitempty"`
	Hosts    int    `json:"hosts"`
	Users    int    `json:"users"`
}

// Counts sums the changes up, most callers first among those of a component.
func (p *Preview) Counts() []Count {
	var counts []Count
	at := make(map[Count]int)
	for _, c := range p.Changes {
		key := Count{Component: c.After.Component, Old: c.Before.Level, New: c.After.Level, OldHosts: !c.OwnBefore, NewHosts: !c.OwnAfter}
		if key.OldHosts {
			key.Old = ""
		}
		if key.NewHosts {
			key.New = ""
		} else if c.After.Err != nil {
			key.Why = Why(c.After.Err)
		}
		if c.Customized() && key.Why == "" {
			key.OldAbove, key.NewAbove = strings.Join(c.Before.Above, ","), strings.Join(c.After.Above, ",")
		}
		i, ok := at[key]
		if !ok {
			i = len(counts)
			at[key] = i
			counts = append(counts, key)
		}
		if c.After.Caller.User != "" {
			counts[i].Users++
		} else {
			counts[i].Hosts++
		}
	}
	slices.SortStableFunc(counts, func(a, b Count) int {
		if a.Component != b.Component {
			return strings.Compare(a.Component, b.Component)
		}
		return b.Hosts + b.Users - a.Hosts - a.Users
	})
	return counts
}

// Why is the reason why a caller has no level, without the caller's name where it
// would be there: so that many can be told in one line.
func Why(err error) string {
	var none *ldapmap.NoLevelError
	if errors.As(err, &none) {
		return "nothing assigns one"
	}
	return err.Error()
}

// String is the count as a sentence.
func (c Count) String() string {
	who := number(c.Hosts, "host")
	switch {
	case c.Hosts == 0:
		who = number(c.Users, "user")
	case c.Users > 0:
		who += " and " + number(c.Users, "user")
	}
	one := c.Hosts+c.Users == 1
	change, get := "change", "get"
	if one {
		change, get = "changes", "gets"
	}
	from := c.Old
	if c.OldHosts {
		from = "the host's level of " + c.Component
	}
	var above string
	if c.OldAbove != c.NewAbove {
		above = fmt.Sprintf(", with %s above it instead of %s", orNothing(c.NewAbove), orNothing(c.OldAbove))
	}
	if above != "" && c.Old == c.New && c.OldHosts == c.NewHosts {
		keep := "keep"
		if one {
			keep = "keeps"
		}
		return fmt.Sprintf("%s %s %s%s", who, keep, from, above)
	}
	switch {
	case c.Why != "" && from == "":
		return fmt.Sprintf("%s would still be without a level of %s: %s", who, c.Component, c.Why)
	case c.Why != "":
		return fmt.Sprintf("%s would be left without a level of %s, now %s: %s", who, c.Component, from, c.Why)
	case c.NewHosts && from == "":
		return fmt.Sprintf("%s %s the host's level of %s%s", who, get, c.Component, above)
	case c.NewHosts:
		return fmt.Sprintf("%s %s from %s to the host's level%s", who, change, from, above)
	case from == "":
		return fmt.Sprintf("%s %s %s, without a level of it now%s", who, get, c.New, above)
	}
	return fmt.Sprintf("%s %s from %s to %s%s", who, change, from, c.New, above)
}

// orNothing is a list of names, or the word for none.
func orNothing(names string) string {
	if names == "" {
		return "nothing"
	}
	return strings.ReplaceAll(names, ",", ", ")
}

func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
