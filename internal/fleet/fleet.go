// Package fleet answers questions about every caller of an inventory at once: which
// level each of them runs and by which rule, and what an edit would change for whom.
//
// It reads the whole inventory into memory and then asks [ldapmap.Resolver] for one
// caller after the other, so that its answers are those that the map would give. What
// an edit would change is found by making it in memory and asking again.
//
// When not to use it: to find out the level of one caller. It reads everything.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

// A Fleet is an inventory in memory. It is never changed.
type Fleet struct {
	sources []*memsource.Source
	now     time.Time // at which validity windows are looked at
	callers []Caller
}

// A Caller is a host, or a user on whatever host.
type Caller struct {
	Host string `json:"host,omitempty"`
	User string `json:"user,omitempty"`
}

// String is the caller as it is written in commands: host:NAME or user:NAME.
func (c Caller) String() string {
	if c.User != "" {
		return "user:" + c.User
	}
	return "host:" + c.Host
}

// Load reads all of the sources' entries. progress, if not nil, is called with the
// number of entries read so far.
func Load(ctx context.Context, stores []ldapmap.Store, progress func(entries int)) (*Fleet, error) {
	return LoadMore(ctx, stores, nil, progress)
}

// LoadMore is Load, and reads also what the terms select: entries that decide nothing
// yet, such as a group that is to get its first assignment.
func LoadMore(ctx context.Context, stores []ldapmap.Store, more []ldapmap.Term, progress func(entries int)) (*Fleet, error) {
	terms, attrs := ldapmap.Everything()
	terms = append(terms, more...)
	var sources []*memsource.Source
	read := 0
	for _, s := range stores {
		entries, err := s.All(ctx, terms, attrs, func(n int) {
			if progress != nil {
				progress(read + n)
			}
		})
		if err != nil {
			return nil, err
		}
		read += len(entries)
		source := memsource.New(s.Name(), entries)
		if err := source.Index(); err != nil {
			return nil, &ldapmap.ConfigError{Source: s.Name(), Err: err}
		}
		sources = append(sources, source)
	}
	return newFleet(sources), nil
}

func newFleet(sources []*memsource.Source) *Fleet {
	f := &Fleet{sources: sources, now: time.Now()}
	f.callers = f.findCallers()
	return f
}

// Sources are the sources, in the order of the configuration.
func (f *Fleet) Sources() []*memsource.Source { return f.sources }

// Now is when the Fleet was loaded.
func (f *Fleet) Now() time.Time { return f.now }

// With returns the Fleet as it would be if the edit were made in one of its sources.
func (f *Fleet) With(source int, e ldapmap.Edit) (*Fleet, error) {
	changed, err := f.sources[source].With(e)
	if err != nil {
		return nil, err
	}
	sources := slices.Clone(f.sources)
	sources[source] = changed
	g := newFleet(sources)
	g.now = f.now // what differs is the edit, and not the time
	return g, nil
}

// Callers are the hosts and then the users of the inventory, each by name. A host that
// is known by a short and a full name is there once, by the full one.
func (f *Fleet) Callers() []Caller { return f.callers }

func (f *Fleet) findCallers() []Caller {
	hosts, users := make(map[string]string), make(map[string]string) // by folded name
	for _, s := range f.sources {
		for _, e := range s.Entries() {
			switch {
			case ldapmap.IsHost(e) && ldapmap.ValidHost(e.First("cn")):
				hosts[strings.ToLower(e.First("cn"))] = e.First("cn")
			case ldapmap.IsUser(e) && ldapmap.ValidUser(e.First("uid")):
				users[strings.ToLower(e.First("uid"))] = e.First("uid")
			}
		}
	}
	for name := range hosts {
		if short, _, full := strings.Cut(name, "."); full {
			delete(hosts, short)
		}
	}
	callers := make([]Caller, 0, len(hosts)+len(users))
	for _, name := range hosts {
		callers = append(callers, Caller{Host: name})
	}
	for _, name := range users {
		callers = append(callers, Caller{User: name})
	}
	slices.SortFunc(callers, compareCallers)
	return callers
}

// compareCallers puts hosts before users, each by name.
func compareCallers(a, b Caller) int {
	return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.Host, b.Host))
}

// Components are the names of all components, sorted.
func (f *Fleet) Components() []string {
	var names []string
	for _, s := range f.sources {
		for _, e := range s.Entries() {
			if ldapmap.IsComponent(e) {
				names = append(names, e.First("cn"))
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// An Answer is what a caller gets when it asks for a component.
type Answer struct {
	Caller    Caller
	Component string
	Level     string       // full name; "" if none
	Rule      ldapmap.Rule // that decided; also where the level that it names is refused
	Err       error        // why there is no level
	// Above are the names of the layers above the level, topmost first; for a user those
	// that the user's own entries put there.
	Above []string
}

// Ask says which level a caller runs of a component. For a user it is the level that
// the user's own rules give, on whatever host: own is false if they give none, and the
// user runs what the host runs.
func (f *Fleet) Ask(ctx context.Context, c Caller, component string) (a Answer, own bool) {
	res, err := f.resolver().Resolve(ctx, ldapmap.Query{Key: ldapmap.Key{Component: component}, Host: c.Host, User: c.User})
	a = Answer{Caller: c, Component: component, Err: err}
	if err == nil {
		a.Level = res.Level.Name
	}
	rule, decided := res.Rule()
	a.Rule = rule
	for _, layer := range res.Additions {
		if layer.Used && (c.User == "" || layer.OfUser()) {
			a.Above = append(a.Above, layer.Layer)
		}
	}
	if c.User == "" {
		return a, true
	}
	own = refuses(err, res.Additions)
	for _, r := range res.Trail {
		own = own || r.OfUser() && r.Level != "" && (!decided || r.Won)
	}
	return a, own
}

// refuses reports whether a layer that the user's own entries refer to is why there is no
// level.
func refuses(err error, additions []ldapmap.Addition) bool {
	var kind *ldapmap.KindError
	var order *ldapmap.OrderError
	var missing *ldapmap.NotFoundError
	var layer string
	switch {
	case errors.As(err, &kind):
		layer = kind.Layer
	case errors.As(err, &order):
		layer = order.A.Layer
	case errors.As(err, &missing) && missing.What == "layer":
		layer = missing.Name
	}
	return slices.ContainsFunc(additions, func(a ldapmap.Addition) bool { return a.OfUser() && a.Layer == layer })
}

// Who asks for every caller: hosts, and the users who have rules of their own.
// progress, if not nil, is called with the number of callers asked so far, by one
// goroutine at a time.
func (f *Fleet) Who(ctx context.Context, component string, progress func(callers int)) ([]Answer, error) {
	type result struct {
		answer Answer
		own    bool
	}
	results := make([]result, len(f.callers))
	err := each(ctx, len(f.callers), progress, func(i int) {
		results[i].answer, results[i].own = f.Ask(ctx, f.callers[i], component)
	})
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(results))
	for _, r := range results {
		if r.own {
			answers = append(answers, r.answer)
		}
	}
	return answers, nil
}

// A Trail is an Answer with all rules that were looked at for it.
type Trail struct {
	Answer
	Trail []ldapmap.Rule
}

// Trails asks for every host.
func (f *Fleet) Trails(ctx context.Context, component string) ([]Trail, error) {
	hosts := f.callers
	if i := slices.IndexFunc(hosts, func(c Caller) bool { return c.User != "" }); i >= 0 {
		hosts = hosts[:i] // users come after them
	}
	trails := make([]Trail, len(hosts))
	r := f.resolver()
	err := each(ctx, len(hosts), nil, func(i int) {
		res, err := r.Resolve(ctx, ldapmap.Query{Key: ldapmap.Key{Component: component}, Host: hosts[i].Host})
		t := Trail{Answer: Answer{Caller: hosts[i], Component: component, Err: err}, Trail: res.Trail}
		if err == nil {
			t.Level = res.Level.Name
		}
		t.Rule, _ = res.Rule()
		trails[i] = t
	})
	return trails, err
}

// each calls do for 0 to n-1, on all processors.
func each(ctx context.Context, n int, progress func(done int), do func(i int)) error {
	var next, done atomic.Int64
	var mu sync.Mutex // for progress
	var wait sync.WaitGroup
	const batch = 256
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for ctx.Err() == nil {
				from := int(next.Add(batch)) - batch
				if from >= n {
					return
				}
				to := min(from+batch, n)
				for i := from; i < to; i++ {
					do(i)
				}
				all := done.Add(int64(to - from))
				if progress != nil {
					mu.Lock()
					progress(int(all))
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	return ctx.Err()
}

// A Change is a caller who would get something else.
type Change struct {
	Before, After Answer
	// Own says which of the two the caller has rules of its own for: a user without
	// runs what the host runs.
	OwnBefore, OwnAfter bool
}

// Diff compares what every caller of either gets of the components. progress, if not
// nil, is called with the number of questions asked so far, of a total of callers times
// components.
func Diff(ctx context.Context, before, after *Fleet, components []string, progress func(done, total int)) ([]Change, error) {
	// A caller that only one of them has is asked for in both.
	callers := slices.Concat(before.callers, after.callers)
	slices.SortFunc(callers, compareCallers)
	callers = slices.Compact(callers)
	var changes []Change
	for n, component := range components {
		compared := make([]Change, len(callers))
		err := each(ctx, len(callers), func(done int) {
			if progress != nil {
				progress(n*len(callers)+done, len(components)*len(callers))
			}
		}, func(i int) {
			c := &compared[i]
			c.Before, c.OwnBefore = before.Ask(ctx, callers[i], component)
			c.After, c.OwnAfter = after.Ask(ctx, callers[i], component)
		})
		if err != nil {
			return nil, err
		}
		for _, c := range compared {
			if c.differs() {
				changes = append(changes, c)
			}
		}
	}
	return changes, nil
}

// Customized reports whether other layers would lie above the level.
func (c Change) Customized() bool { return !slices.Equal(c.Before.Above, c.After.Above) }

func (c Change) differs() bool {
	if c.Customized() {
		return true
	}
	if !c.OwnBefore && !c.OwnAfter {
		return false
	}
	return c.OwnBefore != c.OwnAfter || c.Before.Level != c.After.Level || fmt.Sprint(c.Before.Err) != fmt.Sprint(c.After.Err)
}
