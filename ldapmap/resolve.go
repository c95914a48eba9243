package ldapmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Query is what a lookup asks.
type Query struct {
	Key  Key    `json:"key"`
	Host string `json:"host"`           // a host name, short or fully qualified; "": the user alone, on no host
	User string `json:"user,omitempty"` // a user on it, or "" if the host itself asks
	// Customized asks for a level by its name as the caller would run it, with the layers
	// that are added for the caller, and not as it was delivered.
	Customized bool `json:"customized,omitempty"`
}

// A Resolution is the answer to a Query: which level, why, and of what it is
// made.
type Resolution struct {
	Query     Query     `json:"query"`
	Component Component `json:"component"`
	Level     Level     `json:"level"`
	Layers    []Layer   `json:"layers"`          // the level's, topmost first
	Above     []Layer   `json:"above,omitempty"` // customisation layers above them, topmost first
	Trail     []Rule    `json:"trail"`           // every rule that was considered, most specific first
	// Additions are all that puts layers above the level, in their order.
	Additions []Addition `json:"additions,omitempty"`
}

// Key is the level's full name.
func (r *Resolution) Key() Key {
	_, level, _ := strings.Cut(r.Level.Name, "@")
	return Key{Component: r.Component.Name, Level: level}
}

// Rule is the rule that decided, if one did.
func (r *Resolution) Rule() (Rule, bool) {
	i := slices.IndexFunc(r.Trail, func(r Rule) bool { return r.Won })
	if i < 0 {
		return Rule{}, false
	}
	return r.Trail[i], true
}

// A Rule is one thing in the inventory that says, or could have said, which
// level a caller runs.
type Rule struct {
	Rank   string   `json:"rank"`            // see the Rank constants
	Source string   `json:"source"`          // the Source's name
	DN     string   `json:"dn,omitempty"`    // the entry that says it
	Via    []string `json:"via,omitempty"`   // profiles on the way, outermost first
	Level  string   `json:"level,omitempty"` // what it says; "" if it says nothing
	// Mandatory rules go before all others, and a later source's before an earlier
	// one's: a central inventory decides, whatever a local one says.
	Mandatory bool   `json:"mandatory,omitempty"`
	Won       bool   `json:"won"`
	Reason    string `json:"reason"` // why it won or lost

	source    int    // index of the Source
	component string // which the level is of
}

func (r Rule) origin() string {
	if len(r.Via) == 0 {
		return r.DN
	}
	return r.DN + " via profile " + strings.Join(r.Via, " -> ")
}

// OfUser reports whether the rule is about a user, and not about a host or everybody.
func (r Rule) OfUser() bool {
	return r.Rank != RankKey && rankOf(r.Rank) < rankOf(RankHost)
}

// Ranks of rules, most specific first. An entry's own assignment is more
// specific than that of a profile it refers to: a profile says what many run, the
// entry what this one does.
const (
	RankKey         = "key" // the key itself names the level
	RankUser        = "user"
	RankUserProfile = "user's profile"
	RankUserGroup   = "user's group"
	RankUserGrProf  = "user's group's profile"
	RankHost        = "host"
	RankHostProfile = "host's profile"
	RankHostGroup   = "host's group"
	RankHostGrProf  = "host's group's profile"
	RankSite        = "site" // has layers only; see [Addition]
	RankDefault     = "component's default"
)

// Reasons of rules that lost to one of their own rank.
const (
	ReasonSame      = "says the same"
	ReasonAmbiguous = "ambiguous"
)

func rankOf(name string) int {
	return slices.Index([]string{RankKey, RankUser, RankUserProfile, RankUserGroup, RankUserGrProf,
		RankHost, RankHostProfile, RankHostGroup, RankHostGrProf, RankSite, RankDefault}, name)
}

// A Resolver looks levels up in its sources. An earlier source goes before a
// later one at the same rank, so that a local source can override a central one.
type Resolver struct {
	Sources []Source
	Now     func() time.Time // for validity windows; nil: time.Now
}

// Resolve answers the query. The Resolution is returned even with an error, as
// far as it got, so that a dry run can show the trail that led there.
func (r *Resolver) Resolve(ctx context.Context, q Query) (*Resolution, error) {
	res := &Resolution{Query: q}
	if len(r.Sources) == 0 {
		return res, errors.New("no inventory is configured")
	}
	if !ValidHost(q.Host) && (q.Host != "" || q.User == "") {
		return res, fmt.Errorf("invalid host name %q", q.Host)
	}
	if q.User != "" && !ValidUser(q.User) {
		return res, fmt.Errorf("invalid user name %q", q.User)
	}
	l := newLookup(q, r.Sources)
	// All levels of the component come with the first search, so that the second can
	// ask for their layers. Of a component that has hundreds only the one is asked
	// for, once it is known.
	err := l.first(ctx, true)
	var tooMany *TooManyError
	if errors.As(err, &tooMany) {
		clear(l.found)
		l.late = true
		err = l.first(ctx, false)
	}
	if err != nil {
		return res, err
	}
	if err := l.component(res); err != nil {
		return res, err
	}
	if err := l.second(ctx); err != nil {
		return res, err
	}
	if err := l.netgroups(ctx); err != nil {
		return res, err
	}
	if err := l.includes(ctx); err != nil {
		return res, err
	}
	if err := l.moreLayers(ctx); err != nil {
		return res, err
	}
	// What lies above a level does not depend on which one it is: who looks at what went
	// wrong sees both.
	trail, winner, err := l.decide(res.Component)
	res.Trail = trail
	if err := cmp.Or(err, l.above(res)); err != nil {
		return res, err
	}
	if l.late {
		if err := l.lateLevel(ctx, res.Component.Name+"@"+winner.Level); err != nil {
			return res, err
		}
	}
	if res.Level, err = l.level(res.Component.Name+"@"+winner.Level, winner.DN); err != nil {
		return res, err
	}
	now := time.Now
	if r.Now != nil {
		now = r.Now
	}
	if err := usable(res.Level, winner, now()); err != nil {
		return res, err
	}
	return res, l.delivered(res)
}

// usable refuses a level that is retired or outside its validity window, and one
// that is not released yet unless the caller asks for it: by its name, on the
// caller's own entry, or through a profile. A default or a group would give it to
// callers who did not.
func usable(l Level, by Rule, now time.Time) error {
	component, _, _ := strings.Cut(l.Name, "@")
	refuse := func(reason string) error {
		err := &UnusableError{Level: l.Name, Reason: reason}
		if l.Successor != "" {
			err.Successor = component + "@" + l.Successor
		}
		return err
	}
	switch {
	case l.State == "retired":
		return refuse("is retired")
	case !l.NotBefore.IsZero() && now.Before(l.NotBefore):
		return refuse("may not be run before " + l.NotBefore.Format(time.RFC3339))
	case !l.NotAfter.IsZero() && now.After(l.NotAfter):
		return refuse("may not be run after " + l.NotAfter.Format(time.RFC3339))
	case l.State != "released" && (by.Rank == RankDefault || by.Rank == RankHostGroup || by.Rank == RankUserGroup):
		return refuse(fmt.Sprintf("is in state %s, and only the %s names it", l.State, by.Rank))
	}
	return nil
}

// Components returns the components whose names start with the prefix, by name, in
// one search per source.
func (r *Resolver) Components(ctx context.Context, prefix string) ([]Component, error) {
	return r.components(ctx, Test{Attr: "cn", Op: Prefix, Value: prefix})
}

// Placed returns the components that have a mount point of their own, by name, in
// one search per source.
func (r *Resolver) Placed(ctx context.Context) ([]Component, error) {
	return r.components(ctx, Test{Attr: "levelfsMountPoint", Op: Present})
}

func (r *Resolver) components(ctx context.Context, which Test) ([]Component, error) {
	byName := make(map[string]Component)
	for _, s := range r.Sources {
		entries, err := s.Search(ctx, []Term{{class(classComponent), {which}}}, attributes())
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := e.First("cn")
			if key, err := ParseKey(name); err != nil || key.Level != "" {
				return nil, e.invalid("cn", name, "a component name")
			}
			if _, seen := byName[name]; seen {
				continue
			}
			if byName[name], err = decodeComponent(e, name); err != nil {
				return nil, err
			}
		}
	}
	components := make([]Component, 0, len(byName))
	for _, c := range byName {
		components = append(components, c)
	}
	slices.SortFunc(components, func(a, b Component) int { return cmp.Compare(a.Name, b.Name) })
	return components, nil
}

// A lookup is the state of one Resolve.
type lookup struct {
	query   Query
	sources []Source
	found   []found         // one per source
	asked   map[string]bool // profiles that were asked for, in lower case
	nested  map[string]bool // netgroups that were asked for, likewise
	late    bool            // levels are asked for when it is known which

	askedLayers map[string]bool
}

func newLookup(q Query, sources []Source) *lookup {
	return &lookup{query: q, sources: sources, found: make([]found, len(sources)),
		asked: make(map[string]bool), nested: make(map[string]bool), askedLayers: make(map[string]bool)}
}

// found is what one source answered.
type found struct {
	users, hosts                 []Entry
	components, levels, profiles []Entry
	userGroups, hostGroups       []Entry
	netgroups                    []Entry // with assignments, and what they hold
	layers                       []Entry
}

// speakers are the entries that speak for the caller, with the ranks of what they say
// themselves and through their profiles.
func (f found) speakers() []speakers {
	return []speakers{
		{f.users, RankUser, RankUserProfile},
		{f.userGroups, RankUserGroup, RankUserGrProf},
		{f.hosts, RankHost, RankHostProfile},
		{f.hostGroups, RankHostGroup, RankHostGrProf},
	}
}

type speakers struct {
	entries           []Entry
	direct, byProfile string
}

// search puts the terms to each source and hands what it answers to put, together
// with the place for that source's findings.
func (l *lookup) search(ctx context.Context, terms []Term, attrs []string, put func(*found, Entry) error) error {
	for i, s := range l.sources {
		entries, err := s.Search(ctx, terms, attrs)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := put(&l.found[i], e); err != nil {
				return err
			}
		}
	}
	return nil
}

// byName searches for the entries of a class that have one of the names.
func (l *lookup) byName(ctx context.Context, of string, names []string, put func(*found, Entry)) error {
	if len(names) == 0 {
		return nil
	}
	return l.search(ctx, []Term{{class(of), anyOf("cn", names...)}}, attributes(), func(f *found, e Entry) error {
		put(f, e)
		return nil
	})
}

// first asks each source for the host, the user, the groups that name the user, the
// netgroups that are callers, the component and its levels.
func (l *lookup) first(ctx context.Context, withLevels bool) error {
	key := l.query.Key
	levels := Test{Attr: "cn", Op: Prefix, Value: key.Component + "@"}
	if key.Level != "" {
		levels = Test{Attr: "cn", Value: key.String()}
	}
	var terms []Term
	if key.Component != "" { // of no component where it is about all of them: see Tree and Survey
		terms = append(terms, Term{class(classComponent), anyOf("cn", key.Component)})
	}
	if withLevels {
		terms = append(terms, Term{class(classLevel), {levels}})
	}
	if key.Level == "" || l.query.Customized {
		terms = append(terms, l.callerTerms()...)
	}
	return l.search(ctx, terms, attributes(), func(f *found, e Entry) error {
		switch {
		case e.Is(classComponent):
			f.components = append(f.components, e)
		case e.Is(classLevel):
			f.levels = append(f.levels, e)
		default:
			l.caller(f, e)
		}
		return nil
	})
}

// callerTerms select the entries that are the caller's, or may be.
func (l *lookup) callerTerms() []Term {
	terms := []Term{{class(classNetgroup), class(classCaller)}}
	if l.query.Host != "" {
		terms = append(terms, HostTerms(l.query.Host)...)
	}
	if l.query.User != "" {
		terms = append(terms,
			Term{anyOf("objectClass", userClasses()...), anyOf("uid", l.query.User)},
			Term{class(classCaller), anyOf("memberUid", l.query.User)})
	}
	return terms
}

// HostTerms select the entries that may be the host's: it is known by its short name or
// by its full one, whichever asks.
func HostTerms(host string) []Term {
	names := anyOf("cn", host)
	if short, _, full := strings.Cut(host, "."); full {
		names = anyOf("cn", host, short)
	} else {
		names = append(names, Test{Attr: "cn", Op: Prefix, Value: short + "."})
	}
	return []Term{{anyOf("objectClass", hostClasses()...), names}}
}

// caller puts an entry that callerTerms selected where it belongs. What a server has
// sent unasked belongs nowhere.
func (l *lookup) caller(f *found, e Entry) {
	switch {
	case e.Is(classNetgroup):
		f.netgroups = append(f.netgroups, e)
	case IsHost(e) && l.isNamed(e):
		f.hosts = append(f.hosts, e)
	case IsUser(e) && hasValue(e, "uid", l.query.User):
		f.users = append(f.users, e)
	case l.query.User != "": // found by memberUid
		f.userGroups = append(f.userGroups, e)
	}
}

// The object classes by which entries that are there already are hosts and users:
// those of RFC 4519 and RFC 2307, of FreeIPA and of Active Directory.
func hostClasses() []string { return []string{"device", "ipHost", "ipaHost", "computer"} }
func userClasses() []string { return []string{"posixAccount", "inetOrgPerson"} }

// IsHost reports whether the entry is a host's.
func IsHost(e Entry) bool { return slices.ContainsFunc(hostClasses(), e.Is) }

// IsUser reports whether the entry is a user's. Some directories make machine accounts
// users as well: one that is a host is no user.
func IsUser(e Entry) bool { return slices.ContainsFunc(userClasses(), e.Is) && !IsHost(e) }

// IsComponent reports whether the entry is a component.
func IsComponent(e Entry) bool { return e.Is(classComponent) }

// isNamed reports whether the entry's cn is the host's name, short or full.
func (l *lookup) isNamed(e Entry) bool {
	return slices.ContainsFunc(e.Attrs["cn"], l.isHostName)
}

// isHostName reports whether the name is the host's: as it was asked for, or where
// one of the two has a domain and the other has none, the same without it.
func (l *lookup) isHostName(name string) bool { return SameHost(name, l.query.Host) }

// hasValue compares as cn and uid do: without regard to case.
func hasValue(e Entry, attr, value string) bool {
	return slices.ContainsFunc(e.Attrs[attr], func(v string) bool { return strings.EqualFold(v, value) })
}

// second asks each source for the groups that the host or the user is a member of,
// for the profiles that their entries refer to, and for the layers of the levels that
// the first search found.
func (l *lookup) second(ctx context.Context) error {
	var users, hosts []string // their DNs
	var gids []string         // primary groups of the users
	for _, f := range l.found {
		for _, e := range f.users {
			users = append(users, e.DN)
			gids = append(gids, e.Attrs["gidnumber"]...)
		}
		for _, e := range f.hosts {
			hosts = append(hosts, e.DN)
		}
	}
	var terms []Term
	if dns := slices.Concat(users, hosts); len(dns) > 0 {
		terms = append(terms, Term{class(classCaller), append(anyOf("member", dns...), anyOf("uniqueMember", dns...)...)})
	}
	if len(gids) > 0 {
		terms = append(terms, Term{class(classCaller), class(classPosixGroup), anyOf("gidNumber", gids...)})
	}
	if layers := l.newLayers(); len(layers) > 0 {
		terms = append(terms, Term{class(classLayer), anyOf("cn", layers...)})
	}
	if names := l.newProfiles(); len(names) > 0 {
		terms = append(terms, Term{class(classProfile), anyOf("cn", names...)})
	}
	if len(terms) == 0 {
		return nil
	}
	// Whose group it is has to be seen from its members only if both could be in
	// it: a group can have ten thousand.
	attrs := attributes()
	if both := len(users) > 0 && len(hosts) > 0; both {
		attrs = append(attrs, "member", "uniqueMember")
	}
	return l.search(ctx, terms, attrs, func(f *found, e Entry) error {
		switch {
		case e.Is(classLayer):
			f.layers = append(f.layers, e)
			return nil
		case e.Is(classProfile):
			f.profiles = append(f.profiles, e)
			return nil
		case e.Is(classPosixGroup) && slices.Contains(gids, e.First("gidnumber")):
			// Once, though it may also list the user as a member.
			if !slices.ContainsFunc(f.userGroups, func(g Entry) bool { return g.DN == e.DN }) {
				f.userGroups = append(f.userGroups, e)
			}
			return nil
		}
		ofHost := len(hosts) > 0 && (len(users) == 0 || hasMember(e, hosts))
		ofUser := len(users) > 0 && (len(hosts) == 0 || hasMember(e, users))
		if ofHost {
			f.hostGroups = append(f.hostGroups, e)
		}
		if ofUser {
			f.userGroups = append(f.userGroups, e)
		}
		if !ofHost && !ofUser {
			return e.invalid("member", "", "the DN of the host or the user, which the server found in it")
		}
		return nil
	})
}

// lateLevel asks for one level, and then for its layers.
func (l *lookup) lateLevel(ctx context.Context, name string) error {
	err := l.byName(ctx, classLevel, []string{name}, func(f *found, e Entry) { f.levels = append(f.levels, e) })
	if err != nil {
		return err
	}
	return l.byName(ctx, classLayer, l.newLayers(), func(f *found, e Entry) { f.layers = append(f.layers, e) })
}

// maxNesting is how deep profiles may include each other, groups' profiles counted
// as one level: each level is one more search.
const maxNesting = 8

// includes asks for the profiles that groups and profiles refer to, a level of them
// at a time. Nothing in LDAP follows references of any depth in one search, and
// fetching every profile that has some does not scale: servers return 500 entries
// unless told otherwise.
func (l *lookup) includes(ctx context.Context) error {
	for depth := 0; ; depth++ {
		names := l.newProfiles()
		switch {
		case len(names) == 0:
			return nil
		case depth == maxNesting:
			return &NestingError{What: "profiles", Names: names}
		}
		err := l.byName(ctx, classProfile, names, func(f *found, e Entry) { f.profiles = append(f.profiles, e) })
		if err != nil {
			return err
		}
	}
}

// newProfiles returns the profiles that something found so far refers to and that
// were not asked for yet, and takes them as asked.
func (l *lookup) newProfiles() []string {
	var names []string
	for _, f := range l.found {
		for _, e := range slices.Concat(f.users, f.hosts, f.userGroups, f.hostGroups, f.profiles) {
			for _, name := range e.Attrs["levelfsprofileref"] {
				if id := strings.ToLower(name); !l.asked[id] {
					l.asked[id] = true
					names = append(names, name)
				}
			}
		}
	}
	return names
}

// hasMember reports whether one of the DNs is a member of the group.
func hasMember(group Entry, dns []string) bool {
	wanted := make([]string, len(dns))
	for i, dn := range dns {
		wanted[i] = plainDN(dn)
	}
	for _, attr := range []string{"member", "uniquemember"} {
		for _, member := range group.Attrs[attr] {
			if slices.Contains(wanted, plainDN(member)) {
				return true
			}
		}
	}
	return false
}

// plainDN brings the spellings in which a server returns one DN together: case,
// escapes, and blanks beside separators (RFC 4514, RFC 4517 section 4.2.15). It is
// for comparing only; separators become control characters, so that an escaped one
// is another.
func plainDN(dn string) string {
	const separators = "\x01\x02"
	var b strings.Builder
	for i := 0; i < len(dn); i++ {
		switch c := dn[i]; {
		case c == '\\' && i+1 < len(dn):
			if n, err := strconv.ParseUint(dn[i+1:min(i+3, len(dn))], 16, 8); err == nil && i+2 < len(dn) {
				b.WriteByte(byte(n))
				i += 2
			} else {
				b.WriteByte(dn[i+1])
				i++
			}
		case c == ',':
			b.WriteByte(separators[0])
		case c == '=':
			b.WriteByte(separators[1])
		default:
			b.WriteByte(c)
		}
	}
	parts := strings.Split(b.String(), separators[:1])
	for i, rdn := range parts {
		attr, value, _ := strings.Cut(rdn, separators[1:])
		parts[i] = strings.TrimSpace(attr) + separators[1:] + strings.TrimSpace(value)
	}
	return strings.ToLower(strings.Join(parts, separators[:1]))
}

// component decodes the component of the first source that has it.
func (l *lookup) component(res *Resolution) (err error) {
	name := l.query.Key.Component
	e, err := l.one("component", name, "", func(f found) []Entry { return f.components })
	if err != nil {
		return err
	}
	res.Component, err = decodeComponent(e, name)
	return err
}

func (l *lookup) level(name, by string) (Level, error) {
	e, err := l.one("level", name, by, func(f found) []Entry { return f.levels })
	if err != nil {
		return Level{}, err
	}
	return decodeLevel(e, name)
}

func (l *lookup) layer(name, by string) (Layer, error) {
	e, err := l.one("layer", name, by, func(f found) []Entry { return f.layers })
	if err != nil {
		return Layer{}, err
	}
	return decodeLayer(e, name)
}

// one returns the entry of that name from the first source that has it. Names
// are compared exactly: LDAP's cn ignores case, file names and keys do not. Two
// entries of one name in one source are an error: nothing says which is meant.
func (l *lookup) one(what, name, by string, of func(found) []Entry) (Entry, error) {
	for _, f := range l.found {
		var hits []Entry
		for _, e := range of(f) {
			if slices.Contains(e.Attrs["cn"], name) {
				hits = append(hits, e)
			}
		}
		switch len(hits) {
		case 0:
		case 1:
			return hits[0], nil
		default:
			return Entry{}, hits[0].invalid("cn", name, fmt.Sprintf("one %s of this name, but %q has it too", what, hits[1].DN))
		}
	}
	return Entry{}, &NotFoundError{What: what, Name: name, By: by}
}

// decide collects every rule that speaks of the component, orders them, and
// says which one wins and why the others do not.
func (l *lookup) decide(c Component) (trail []Rule, winner Rule, err error) {
	if l.query.Key.Level != "" {
		rule := Rule{Rank: RankKey, Level: l.query.Key.Level, Won: true, Reason: "the key names the level"}
		return []Rule{rule}, rule, nil
	}
	if trail, err = l.said(); err != nil {
		return trail, Rule{}, err
	}
	for i, f := range l.found {
		name := l.sources[i].Name()
		if len(f.users) == 0 && l.query.User != "" {
			trail = append(trail, Rule{Rank: RankUser, Source: name, source: i,
				Reason: fmt.Sprintf("no entry for user %q", l.query.User)})
		}
		if len(f.hosts) == 0 && l.query.Host != "" {
			trail = append(trail, Rule{Rank: RankHost, Source: name, source: i,
				Reason: fmt.Sprintf("no entry for host %q", l.query.Host)})
		}
		for _, e := range f.components {
			if slices.Contains(e.Attrs["cn"], c.Name) {
				trail = append(trail, Rule{Rank: RankDefault, Source: name, DN: e.DN, source: i,
					Level: e.First("levelfsdefault")})
			}
		}
	}
	slices.SortStableFunc(trail, inOrder)
	return judge(trail, c.Name, l.query)
}

// said are the rules of the caller's own entries and of its groups', in no particular
// order.
func (l *lookup) said() (rules []Rule, err error) {
	for i, f := range l.found {
		for _, who := range f.speakers() {
			if rules, err = l.rules(rules, i, who.entries, who.direct, who.byProfile); err != nil {
				return rules, err
			}
		}
	}
	return rules, nil
}

// inOrder is negative if a goes before b, and tells any two rules apart.
func inOrder(a, b Rule) int {
	return cmp.Or(a.compare(b), cmp.Compare(a.DN, b.DN), cmp.Compare(a.Level, b.Level))
}

// compare is negative if a goes before b.
func (a Rule) compare(b Rule) int {
	rank := cmp.Compare(rankOf(a.Rank), rankOf(b.Rank))
	switch {
	case a.Mandatory && !b.Mandatory:
		return -1
	case b.Mandatory && !a.Mandatory:
		return 1
	case a.Mandatory:
		return cmp.Or(rank, cmp.Compare(b.source, a.source))
	}
	return cmp.Or(rank, cmp.Compare(a.source, b.source))
}

// judge marks the first rule of the ordered trail that names a level as the
// winner, and gives every other one its reason.
func judge(trail []Rule, component string, q Query) ([]Rule, Rule, error) {
	first := slices.IndexFunc(trail, func(r Rule) bool { return r.Level != "" })
	if first >= 0 {
		trail[first].Won, trail[first].Reason = true, "the most specific rule that names a level"
	}
	var rival *Rule
	for i := range trail {
		r := &trail[i]
		switch {
		case r.Reason != "":
		case r.Level == "":
			r.Reason = "says nothing of " + component
		case r.Mandatory != trail[first].Mandatory:
			r.Reason = "a mandatory rule answered"
		case r.Rank != trail[first].Rank:
			r.Reason = "a more specific rule answered"
		case r.source != trail[first].source && r.Mandatory:
			r.Reason = "a later source's mandatory rule answered at this rank"
		case r.source != trail[first].source:
			r.Reason = "an earlier source answered at this rank"
		case r.Level == trail[first].Level:
			r.Reason = ReasonSame
		default:
			r.Reason = ReasonAmbiguous
			if rival == nil {
				rival = r
			}
		}
	}
	switch {
	case first < 0:
		return trail, Rule{}, &NoLevelError{Component: component, Host: q.Host, User: q.User}
	case rival != nil:
		trail[first].Won, trail[first].Reason = false, rival.Reason
		return trail, Rule{}, &AmbiguousError{Component: component, A: trail[first], B: *rival}
	}
	return trail, trail[first], nil
}

// rules appends what the entries say of the component, directly and through their
// profiles; an entry that says nothing gives one rule without a level.
func (l *lookup) rules(rules []Rule, source int, entries []Entry, direct, byProfile string) ([]Rule, error) {
	for _, e := range entries {
		rule := Rule{Source: l.sources[source].Name(), DN: e.DN, source: source}
		own, err := l.assignments(e)
		if err != nil {
			return rules, err
		}
		if len(own) == 0 {
			own = []Assignment{{}}
		}
		for _, a := range own {
			r := rule
			r.Rank, r.component, r.Level, r.Mandatory = direct, a.Component, a.Level, a.Mandatory
			rules = append(rules, r)
		}
		err = l.walkProfiles(e, nil, make(map[string]bool), func(via []string, profile Entry) error {
			assignments, err := l.assignments(profile)
			for _, a := range assignments {
				r := rule
				r.Rank, r.component, r.Level, r.Mandatory, r.Via = byProfile, a.Component, a.Level, a.Mandatory, via
				rules = append(rules, r)
			}
			return err
		})
		if err != nil {
			return rules, err
		}
	}
	return rules, nil
}

// walkProfiles calls visit for each of the profiles that e refers to, and for those that
// they include. A profile that is reached by two ways speaks once.
func (l *lookup) walkProfiles(e Entry, via []string, seen map[string]bool, visit func(via []string, profile Entry) error) error {
	for _, name := range e.Attrs["levelfsprofileref"] {
		if !validProfile(name) {
			return e.invalid(attrProfileRef, name, "the name of a profile")
		}
		chain := append(slices.Clone(via), name)
		if slices.ContainsFunc(via, func(v string) bool { return strings.EqualFold(v, name) }) {
			return &LoopError{Profiles: chain}
		}
		if seen[strings.ToLower(name)] {
			continue
		}
		seen[strings.ToLower(name)] = true
		profile, ok := l.profile(name)
		if !ok {
			continue // a reference to nothing
		}
		if err := visit(chain, profile); err != nil {
			return err
		}
		if err := l.walkProfiles(profile, chain, seen, visit); err != nil {
			return err
		}
	}
	return nil
}

// profile returns the profile of that name from the first source that has it.
func (l *lookup) profile(name string) (Entry, bool) {
	for _, f := range l.found {
		for _, p := range f.profiles {
			if hasValue(p, "cn", name) {
				return p, true
			}
		}
	}
	return Entry{}, false
}

// assignments returns what the entry assigns to the component, or, where the lookup is
// about all components, everything that it assigns: what is no assignment is left out
// then, as it would stand in the way of all of them.
func (l *lookup) assignments(e Entry) ([]Assignment, error) {
	if l.query.Key.Component == "" {
		found, _ := e.Assignments()
		return found, nil
	}
	var found []Assignment
	for _, attr := range []string{attrMandatory, attrAssignment} {
		for _, v := range e.Attrs[strings.ToLower(attr)] {
			component, level, _ := strings.Cut(v, "=")
			if component != l.query.Key.Component {
				continue
			}
			if !validLevel(level) {
				return nil, e.invalid(attr, v, "COMPONENT=LEVEL")
			}
			found = append(found, Assignment{Component: component, Level: level, Mandatory: attr == attrMandatory})
		}
	}
	return found, nil
}
