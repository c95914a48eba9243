package ldapmap

import (
	"context"
	"slices"
	"strings"
)

// netgroups finds out which of the netgroups with assignments speak for the caller
// (RFC 2307, nisNetgroup). Their triples have to be compared here: the schema of RFC
// 2307 has no matching rule for them, so that no server can search for one. The
// groups that a group includes are fetched by name, a level of them at a time.
func (l *lookup) netgroups(ctx context.Context) error {
	for depth := 0; ; depth++ {
		var names []string
		for _, f := range l.found {
			for _, e := range f.netgroups {
				for _, name := range e.Attrs["membernisnetgroup"] {
					if id := strings.ToLower(name); !l.nested[id] {
						l.nested[id] = true
						names = append(names, name)
					}
				}
			}
		}
		switch {
		case len(names) == 0:
			l.joinNetgroups()
			return nil
		case depth == maxNesting:
			return &NestingError{What: "netgroups", Names: names}
		}
		if err := l.byName(ctx, classNetgroup, names, l.addNetgroup); err != nil {
			return err
		}
	}
}

// addNetgroup adds a netgroup that is included, unless it is there for its own
// assignments.
func (l *lookup) addNetgroup(f *found, e Entry) {
	if !slices.ContainsFunc(f.netgroups, func(g Entry) bool { return g.DN == e.DN }) {
		f.netgroups = append(f.netgroups, e)
	}
}

// joinNetgroups makes the netgroups that the host or the user is in their groups.
func (l *lookup) joinNetgroups() {
	for i := range l.found {
		f := &l.found[i]
		for _, e := range f.netgroups {
			if !e.Is(classCaller) {
				continue
			}
			if l.inNetgroup(f, e, l.speaksForHost, make(map[string]bool)) {
				f.hostGroups = append(f.hostGroups, e)
			}
			if l.inNetgroup(f, e, l.speaksForUser, make(map[string]bool)) {
				f.userGroups = append(f.userGroups, e)
			}
		}
	}
}

// inNetgroup reports whether a triple of the group, or of one that it includes, is
// meant. A group that includes itself ends there.
func (l *lookup) inNetgroup(f *found, e Entry, meant func(host, user string) bool, seen map[string]bool) bool {
	if seen[e.DN] {
		return false
	}
	seen[e.DN] = true
	for _, triple := range e.Attrs["nisnetgrouptriple"] {
		if host, user, ok := parseTriple(triple); ok && meant(host, user) {
			return true
		}
	}
	for _, name := range e.Attrs["membernisnetgroup"] {
		for _, g := range f.netgroups {
			if hasValue(g, "cn", name) && l.inNetgroup(f, g, meant, seen) {
				return true
			}
		}
	}
	return false
}

// speaksForHost: the triple names the host, and no user. innetgr(3) takes an empty
// field for everybody; here (,rob,) means rob and not every host, or a netgroup of
// users would assign levels to the whole network.
func (l *lookup) speaksForHost(host, user string) bool {
	return named(host) && !named(user) && l.query.Host != "" && l.isHostName(host)
}

// speaksForUser: the triple names the user, and if it names a host, this one.
func (l *lookup) speaksForUser(host, user string) bool {
	return named(user) && user == l.query.User && (host == "" || named(host) && l.query.Host != "" && l.isHostName(host))
}

// named reports whether the field of a triple is a name: neither empty nor "-".
func named(field string) bool { return field != "" && field != "-" }

// parseTriple reads "(host,user,domain)" (netgroup(5)); the domain is NIS's, and not
// looked at.
func parseTriple(s string) (host, user string, ok bool) {
	inner, open := strings.CutPrefix(strings.TrimSpace(s), "(")
	inner, shut := strings.CutSuffix(inner, ")")
	fields := strings.Split(inner, ",")
	if !open || !shut || len(fields) != 3 {
		return "", "", false
	}
	return strings.TrimSpace(fields[0]), strings.TrimSpace(fields[1]), true
}
