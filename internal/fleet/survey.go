package fleet

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
)

// A Surveyed is a caller and what is decided for it.
type Surveyed struct {
	Caller Caller
	Index  int // the caller's place among those that are surveyed
	*ldapmap.Survey
	Err error // why the caller gets no level at all; see [ldapmap.Resolver.Survey]
}

// Survey calls see for each caller, with what is decided for it about every component
// that its entries speak of: for all components one question a caller, where [Fleet.Who]
// is one a caller and component. Besides Callers it asks for those who have no entry and
// whom groups name (memberUid, netgroups). see is called by several goroutines at once.
// progress, if not nil, is called with the number of callers asked so far.
func (f *Fleet) Survey(ctx context.Context, progress func(callers int), see func(Surveyed)) error {
	callers := append(slices.Clone(f.callers), f.named()...)
	r := f.resolver()
	return each(ctx, len(callers), progress, func(i int) {
		s := Surveyed{Caller: callers[i], Index: i}
		s.Survey, s.Err = r.Survey(ctx, callers[i].Host, callers[i].User)
		see(s)
	})
}

// Above are the names of the layers that lie above a caller's level of the component,
// whichever that is, topmost first, or why nothing can lie there. For a user these are the
// user's own and the site's: a host adds to them.
func (f *Fleet) Above(ctx context.Context, c Caller, component string) ([]string, error) {
	layers, err := f.resolver().Above(ctx, ldapmap.Query{Key: ldapmap.Key{Component: component}, Host: c.Host, User: c.User})
	var names []string
	for _, layer := range layers {
		names = append(names, layer.Name)
	}
	return names, err
}

// named are the callers that only groups name, and users on the hosts that netgroups
// name them with.
func (f *Fleet) named() []Caller {
	users := make(map[string]bool)
	hosts := make(map[string]bool) // by folded names; by the short ones of full names as well
	shorts := make(map[string]bool)
	know := func(host string) {
		name := strings.ToLower(host)
		short, _, _ := strings.Cut(name, ".")
		hosts[name], shorts[short] = true, true
	}
	for _, c := range f.callers {
		if c.User != "" {
			users[c.User] = true
		} else {
			know(c.Host)
		}
	}
	known := func(host string) bool {
		name := strings.ToLower(host)
		short, _, full := strings.Cut(name, ".")
		return hosts[name] || !full && shorts[short] || full && hosts[short]
	}
	var fresh []Caller
	for _, s := range f.sources {
		for _, e := range s.Entries() {
			for _, q := range ldapmap.Named(e) {
				c := Caller{Host: q.Host, User: q.User}
				switch {
				case c.User == "" && known(c.Host), c.Host == "" && users[c.User]:
				case c.User == "":
					know(c.Host)
					fresh = append(fresh, c)
				case c.Host == "":
					users[c.User] = true
					fresh = append(fresh, c)
				default:
					fresh = append(fresh, c)
				}
			}
		}
	}
	slices.SortFunc(fresh, compareCallers)
	return slices.Compact(fresh)
}

// resolver asks the Fleet's sources, at its time.
func (f *Fleet) resolver() *ldapmap.Resolver {
	r := &ldapmap.Resolver{Now: func() time.Time { return f.now }}
	for _, s := range f.sources {
		r.Sources = append(r.Sources, s)
	}
	return r
}
