package lint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// rules asks for every caller what is decided for it, and reports what is decided badly,
// and which rules never decide.
func (l *linter) rules(ctx context.Context, progress func(int)) error {
	s := &survey{
		linter: l, index: make(map[statement]int), speakers: make(map[ldapmap.Speaker]bool),
		used: make(map[use]*usage), ambiguous: make(map[[2]int]*ambiguity), nested: make(map[string]*crowd),
		stacks: make(map[string]*stack),
	}
	s.statements()
	see := func(c fleet.Surveyed) {
		s.see(c)
		s.seeOverlaps(ctx, c, s.seeStacks(c))
	}
	if err := l.fleet.Survey(ctx, progress, see); err != nil {
		return err
	}
	s.badStacks(ctx)
	s.ambiguities()
	s.tooDeep()
	s.inUse()
	s.unreached()
	l.overlapping()
	return nil
}

// A statement is one value that assigns a level, of whatever entry. Callers' rules come
// from statements: a profile's serves as many as refer to it.
type statement struct {
	source, dn string
	ldapmap.Assignment
}

// A use is a level that decides for somebody. Whether it is refused can depend on
// whether the callers have asked for it.
type use struct {
	component, level string
	rank             string
}

// A usage is who is given a level, and by which rule the first of them.
type usage struct {
	crowd
	rule ldapmap.Rule
}

// An ambiguity is who is given two levels.
type ambiguity struct {
	crowd
	err *ldapmap.AmbiguousError
}

// A crowd is callers of whom something holds, and the first of them for an example.
type crowd struct {
	n     int
	first fleet.Surveyed
}

// add adds the caller, and reports whether it is the first one now.
func (c *crowd) add(s fleet.Surveyed) bool {
	c.n++
	if c.n > 1 && c.first.Index < s.Index {
		return false
	}
	c.first = fleet.Surveyed{Caller: s.Caller, Index: s.Index}
	return true
}

// verb is the callers with a verb that they do.
func (c *crowd) verb(one, many string) string {
	if c.n == 1 {
		return fmt.Sprintf("%s %s", c.first.Caller, one)
	}
	return fmt.Sprintf("%d callers (%s and others) %s", c.n, c.first.Caller, many)
}

// A survey is what is seen of all callers.
type survey struct {
	*linter
	index map[statement]int // not changed while callers are asked
	all   []fate            // of each statement
	mu    sync.Mutex        // for all below, and for the fates

	speakers  map[ldapmap.Speaker]bool
	used      map[use]*usage
	ambiguous map[[2]int]*ambiguity // by the two statements
	nested    map[string]*crowd     // by the error
	stacks    map[string]*stack     // what is added above a component, by how it is written
}

// A fate is what became of a statement.
type fate struct {
	statement
	about   entry
	reached bool // it has decided for somebody, or would have but for another finding
	beaten  crowd
	by      ldapmap.Rule // that went before it for the first of them
	reason  string
}

// statements lists everything that is stated. The first one is none: it stands for those
// of profiles that are taken for another one of their name, which is a finding of its own.
func (s *survey) statements() {
	s.all = []fate{{reached: true}}
	for _, e := range s.entries {
		assignments, _ := e.Assignments()
		for _, a := range assignments {
			st := statement{e.source, e.DN, a}
			if _, twice := s.index[st]; !twice {
				s.index[st] = len(s.all)
				s.all = append(s.all, fate{statement: st, about: e})
			}
		}
	}
}

// of is the statement that the rule comes from: the entry's, or the last profile's on
// the way. 0: it is not known.
func (s *survey) of(component string, r ldapmap.Rule) int {
	st := statement{r.Source, r.DN, ldapmap.Assignment{Component: component, Level: r.Level, Mandatory: r.Mandatory}}
	if len(r.Via) > 0 {
		profile := s.profiles[strings.ToLower(r.Via[len(r.Via)-1])]
		st.source, st.dn = profile.source, profile.DN
	}
	return s.index[st]
}

// stated is the statement that the rule comes from, for a finding about it.
func (s *survey) stated(component string, r ldapmap.Rule) fate {
	if i := s.of(component, r); i > 0 {
		return s.all[i]
	}
	a := ldapmap.Assignment{Component: component, Level: r.Level, Mandatory: r.Mandatory}
	return fate{statement: statement{r.Source, r.DN, a}, about: entry{ldapmap.Entry{DN: r.DN}, r.Source}}
}

// decides reports whether the verdict is what the caller gets: a user whom no rule of
// his own speaks of gets what the host does.
func decides(c fleet.Caller, v ldapmap.Verdict) bool {
	return c.User == "" || v.Winner.OfUser()
}

// see notes what is decided for a caller.
func (s *survey) see(c fleet.Surveyed) {
	// Looked up before the lock is taken, which all callers wait for.
	rules := make([][]int, len(c.Verdicts))
	for i, v := range c.Verdicts {
		for _, r := range v.Trail {
			rules[i] = append(rules[i], s.of(v.Component, r))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, speaker := range c.Speakers {
		s.speakers[speaker] = true
	}
	var deep *ldapmap.NestingError
	if errors.As(c.Err, &deep) {
		s.deep(deep, c)
	}
	for i, v := range c.Verdicts {
		s.verdict(c, v, rules[i])
	}
}

func (s *survey) deep(err *ldapmap.NestingError, c fleet.Surveyed) {
	if s.nested[err.Error()] == nil {
		s.nested[err.Error()] = new(crowd)
	}
	s.nested[err.Error()].add(c)
}

// verdict notes one verdict, whose rules come from the statements.
func (s *survey) verdict(c fleet.Surveyed, v ldapmap.Verdict, statements []int) {
	var ambiguous *ldapmap.AmbiguousError
	if errors.As(v.Err, &ambiguous) {
		pair := [2]int{s.of(v.Component, ambiguous.A), s.of(v.Component, ambiguous.B)}
		if s.ambiguous[pair] == nil {
			s.ambiguous[pair] = new(ambiguity)
		}
		if s.ambiguous[pair].add(c) {
			s.ambiguous[pair].err = ambiguous
		}
	} else if decides(c.Caller, v) {
		u := use{v.Component, v.Winner.Level, v.Winner.Rank}
		if s.used[u] == nil {
			s.used[u] = new(usage)
		}
		if s.used[u].add(c) {
			s.used[u].rule = v.Winner
		}
	}
	for i, r := range v.Trail {
		f := &s.all[statements[i]]
		switch {
		case f.reached:
		case r.Won || r.Reason == ldapmap.ReasonSame || r.Reason == ldapmap.ReasonAmbiguous:
			f.reached = true
		default:
			if f.beaten.add(c) {
				f.by, f.reason = v.Winner, r.Reason
				if v.Err != nil {
					f.by = ambiguous.A
				}
			}
		}
	}
}

func (s *survey) ambiguities() {
	for _, a := range s.ambiguous {
		b := s.stated(a.err.Component, a.err.B)
		s.add(finding.Ambiguous, b.about, fmt.Sprintf("%v; %s it", a.err, a.verb("does not get", "do not get")),
			fmt.Sprintf("delete %q, or assign %s=LEVEL on a more specific entry", b.Attr()+": "+b.String(), b.Component))
	}
}

func (s *survey) tooDeep() {
	for text, c := range s.nested {
		s.findings = append(s.findings, finding.New(finding.TooDeep, "", c.first.Caller.String(),
			fmt.Sprintf("%s; %s nothing", text, c.verb("gets", "get")), "refer to the inner ones directly"))
	}
}

// inUse reports levels that decide for somebody and are refused. A component's default
// is one whether there are callers without a rule or not: it is what a new one gets.
func (s *survey) inUse() {
	for _, c := range s.components {
		if c.Default != "" {
			s.used[use{c.Name, c.Default, ldapmap.RankDefault}] = &usage{rule: ldapmap.Rule{
				Rank: ldapmap.RankDefault, Source: c.source, DN: c.entry.DN, Level: c.Default}}
		}
	}
	for u, by := range s.used {
		v, ok := s.levels[u.component+"@"+u.level]
		if !ok || v.Name == "" {
			continue // that is a finding of its own
		}
		err := v.Usable(by.rule, s.fleet.Now())
		if err == nil {
			continue
		}
		code := finding.Unreleased
		switch {
		case v.State == "retired":
			code = finding.Retired
		case s.fleet.Now().Before(v.NotBefore):
			code = finding.NotYetValid
		case !v.NotAfter.IsZero() && s.fleet.Now().After(v.NotAfter):
			code = finding.Expired
		}
		where, value := by.rule.DN, "levelfsDefault: "+u.level
		who := "it is the component's default"
		if u.rank != ldapmap.RankDefault {
			st := s.stated(u.component, by.rule)
			where, value = st.dn, st.Attr()+": "+st.String()
			who = fmt.Sprintf("%s it by the %s", by.verb("is assigned", "are assigned"), u.rank)
		}
		fix := fmt.Sprintf("replace %q in %q", value, where)
		if v.Successor != "" {
			fix += fmt.Sprintf(" by %s of level %s", strings.SplitN(value, ":", 2)[0], v.Successor)
		}
		s.add(code, v.entry, fmt.Sprintf("%v; %s", err, who), fix)
	}
}

// unreached reports what is stated in vain.
func (s *survey) unreached() {
	referred := make(map[string]bool)
	for _, e := range s.entries {
		refs, _ := e.ProfileRefs()
		for _, ref := range refs {
			if !ldapmap.IsProfile(e.Entry) || !slices.ContainsFunc(e.Attrs["cn"], func(cn string) bool { return strings.EqualFold(cn, ref) }) {
				referred[strings.ToLower(ref)] = true
			}
		}
	}
	for _, e := range s.entries {
		switch {
		case ldapmap.IsProfile(e.Entry):
			if !slices.ContainsFunc(e.Attrs["cn"], func(cn string) bool { return referred[strings.ToLower(cn)] }) {
				s.add(finding.UnusedProfile, e, fmt.Sprintf("nobody refers to profile %q", e.First("cn")),
					fmt.Sprintf("add %q to a caller, or delete the profile", "levelfsProfileRef: "+e.First("cn")))
			}
		case !ldapmap.IsCaller(e.Entry), ldapmap.IsHost(e.Entry), ldapmap.IsUser(e.Entry), !speaks(e):
		case !s.speakers[ldapmap.Speaker{Source: e.source, DN: e.DN}]:
			s.add(finding.SpeaksForNobody, e, "no host or user of the inventory is in the group, which has assignments or profiles",
				"add members, or delete its assignments and profiles")
		}
	}
	for i := range s.all {
		f := &s.all[i]
		if f.reached || f.beaten.n == 0 {
			continue
		}
		by := s.stated(f.Component, f.by)
		s.add(finding.NeverDecides, f.about, fmt.Sprintf("%q decides for nobody: for %s %s: %q of %q in %s", f.Attr()+": "+f.String(),
			f.beaten.first.Caller, f.reason, by.Attr()+": "+by.String(), by.dn, by.source),
			fmt.Sprintf("delete %q", f.Attr()+": "+f.String()))
	}
}
