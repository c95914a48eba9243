package ldapmap

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// A Survey is what is decided for one caller about every component that its entries
// speak of.
type Survey struct {
	Speakers []Speaker // the caller's own entries and its groups'
	Verdicts []Verdict // by component
	// Additions are what is added above levels of any component, in no particular order,
	// but for what the components' own entries add. Layers are not looked at.
	Additions []Addition
}

// A Speaker is an entry that speaks for a caller.
type Speaker struct{ Source, DN string }

// A Verdict is what is decided about one component.
type Verdict struct {
	Component string
	Trail     []Rule // the rules that name a level, most specific first
	Winner    Rule   // without Err
	Err       error  // an *AmbiguousError
}

// Survey is Resolve for every component that an entry of the caller, of its groups or
// of their profiles speaks of, up to the point where the level is known by name.
// Neither components nor levels are looked at: a component's default is not among the
// rules, and would be beaten by each of them. The Survey is returned even with an error,
// as far as it got.
func (r *Resolver) Survey(ctx context.Context, host, user string) (*Survey, error) {
	l := newLookup(Query{Host: host, User: user}, r.Sources)
	s := new(Survey)
	err := l.gather(ctx)
	for i, f := range l.found {
		for _, entries := range [][]Entry{f.users, f.userGroups, f.hosts, f.hostGroups} {
			for _, e := range entries {
				s.Speakers = append(s.Speakers, Speaker{Source: l.sources[i].Name(), DN: e.DN})
			}
		}
	}
	if err != nil {
		return s, err
	}
	rules, err := l.said()
	if err != nil {
		return s, err
	}
	rules = byComponent(rules)
	for len(rules) > 0 {
		n := slices.IndexFunc(rules, func(r Rule) bool { return r.component != rules[0].component })
		if n < 0 {
			n = len(rules)
		}
		v := Verdict{Component: rules[0].component}
		v.Trail, v.Winner, v.Err = judge(rules[:n:n], v.Component, l.query)
		s.Verdicts = append(s.Verdicts, v)
		rules = rules[n:]
	}
	s.Additions, err = l.additions()
	return s, err
}

// byComponent are the rules that name a level, those of each component in their order.
// Places are sorted and not rules, which are large, and hundreds for each of many callers.
func byComponent(rules []Rule) []Rule {
	var order []int
	for i, r := range rules {
		if r.Level != "" {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int) int {
		if c := cmp.Compare(rules[i].component, rules[j].component); c != 0 {
			return c
		}
		return cmp.Or(inOrder(rules[i], rules[j]), cmp.Compare(i, j))
	})
	sorted := make([]Rule, len(order))
	for to, from := range order {
		sorted[to] = rules[from]
	}
	return sorted
}

// gather asks for everything that speaks for the caller.
func (l *lookup) gather(ctx context.Context) error {
	if err := l.first(ctx, false); err != nil {
		return err
	}
	if err := l.second(ctx); err != nil {
		return err
	}
	if err := l.netgroups(ctx); err != nil {
		return err
	}
	return l.includes(ctx)
}

// Usable returns an *UnusableError if a caller for whom the rule decided does not get
// the level at that time.
func (l Level) Usable(by Rule, now time.Time) error { return usable(l, by, now) }
