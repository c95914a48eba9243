package edit

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
)

// maxHistory is how many changes an entry remembers.
const maxHistory = 100

// recordTime is how a Record's time is written: generalizedTime.
const recordTime = "20060102150405Z"

// A Record is what an entry remembers of one change (levelfsHistory):
//
//	000007 20270102030405Z assign emacs=29.4-1 emacs=30.1-1 dn:uid=rob,ou=people,dc=example,dc=org
//
// It is kept in the entry, and not taken from a server's log of accesses, because that
// works on every server and in files, is replicated with what it speaks of, and can be
// read by who can read the entry.
type Record struct {
	Serial int       `json:"serial"`
	Time   time.Time `json:"time"`
	Verb   string    `json:"verb"`
	Old    string    `json:"old,omitempty"` // several values are joined by commas
	New    string    `json:"new,omitempty"`
	Who    string    `json:"who"`
}

// String is the value of levelfsHistory.
func (r Record) String() string {
	return fmt.Sprintf("%06d %s %s %s %s %s", r.Serial, r.Time.UTC().Format(recordTime), r.Verb, orDash(r.Old), orDash(r.New), plain(r.Who))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// plain makes one line of text by others that can be printed: a DN may hold anything.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return orDash(strings.TrimSpace(s))
}

// ParseRecord reads a value of levelfsHistory.
func ParseRecord(s string) (Record, error) {
	f := strings.SplitN(s, " ", 6)
	if len(f) != 6 {
		return Record{}, fmt.Errorf("%q is no record of a change", s)
	}
	serial, err := strconv.Atoi(f[0])
	if err != nil || serial < 1 {
		return Record{}, fmt.Errorf("%q is no record of a change: serial %q", s, f[0])
	}
	at, err := time.Parse(recordTime, f[1])
	if err != nil {
		return Record{}, fmt.Errorf("%q is no record of a change: time %q", s, f[1])
	}
	r := Record{Serial: serial, Time: at, Verb: f[2], Old: f[3], New: f[4], Who: plain(f[5])}
	for _, v := range []*string{&r.Old, &r.New} {
		if *v == "-" {
			*v = ""
		}
	}
	return r, nil
}

// A Step is one change of one entry.
type Step struct {
	Source int // index in the Fleet's sources
	DN     string
	Was    *ldapmap.Entry // nil: the entry is new
	Mods   []ldapmap.Mod
	Remove bool // the entry goes, and what it remembered with it
	// For the record; "" stands for nothing.
	Verb, Old, New string
	// Components are those of which somebody may run another level afterwards.
	Components []string
}

// Edit is the step as a source takes it, with its record in the same operation: the
// number of the entry's last change (levelfsSerial) is deleted and the next one added.
// Of two who make the same change number the second finds nothing to delete, on any
// server. The oldest records go where there would be more than 100.
func (s Step) Edit(who string, at time.Time) (ldapmap.Edit, Record, error) {
	e := ldapmap.Edit{DN: s.DN, Was: s.Was, Remove: s.Remove}
	r := Record{Time: at.UTC().Truncate(time.Second), Verb: s.Verb, Old: s.Old, New: s.New, Who: plain(who)}
	if s.Remove {
		return e, r, nil
	}
	var was ldapmap.Entry
	if s.Was != nil {
		was = *s.Was
	}
	last := was.First(strings.ToLower(ldapmap.AttrSerial))
	if last != "" {
		n, err := strconv.Atoi(last)
		if err != nil || n < 0 {
			return e, r, &ldapmap.InvalidError{DN: s.DN, Attr: ldapmap.AttrSerial, Value: last, Want: "the number of the last change"}
		}
		r.Serial = n
	}
	history := sorted(was.Attrs[strings.ToLower(ldapmap.AttrHistory)])
	if len(history) > 0 {
		// Somebody may have deleted the serial; no number is used twice.
		r.Serial = max(r.Serial, serialOf(history[len(history)-1]))
	}
	r.Serial++
	e.Mods = slices.Clone(s.Mods)
	if last != "" {
		e.Mods = append(e.Mods, ldapmap.Mod{Op: ldapmap.ModDelete, Attr: ldapmap.AttrSerial, Values: []string{last}})
	}
	e.Mods = append(e.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: ldapmap.AttrSerial, Values: []string{strconv.Itoa(r.Serial)}})
	if old := len(history) + 1 - maxHistory; old > 0 {
		e.Mods = append(e.Mods, ldapmap.Mod{Op: ldapmap.ModDelete, Attr: ldapmap.AttrHistory, Values: history[:old]})
	}
	e.Mods = append(e.Mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: ldapmap.AttrHistory, Values: []string{r.String()}})
	return e, r, nil
}

// sorted are the records, oldest first; what is no record counts as older than any.
func sorted(history []string) []string {
	return slices.SortedFunc(slices.Values(history), func(a, b string) int {
		return cmp.Or(cmp.Compare(serialOf(a), serialOf(b)), cmp.Compare(a, b))
	})
}

func serialOf(s string) int {
	r, err := ParseRecord(s)
	if err != nil {
		return 0
	}
	return r.Serial
}

// An Event is a Record and the entry that remembers it.
type Event struct {
	Record
	DN     string `json:"dn"`
	Source string `json:"source"`
}

// History returns what the inventory remembers of a component or of one of its levels,
// newest first: the changes of their own entries, and those of callers and profiles
// that were about them.
func History(f *fleet.Fleet, key ldapmap.Key) []Event {
	var events []Event
	for _, s := range f.Sources() {
		for _, e := range s.Entries() {
			for _, v := range e.Attrs[strings.ToLower(ldapmap.AttrHistory)] {
				r, err := ParseRecord(v)
				if err == nil && (isAbout(e, key) || r.mentions(key)) {
					events = append(events, Event{Record: r, DN: e.DN, Source: s.Name()})
				}
			}
		}
	}
	slices.SortStableFunc(events, func(a, b Event) int {
		return cmp.Or(b.Time.Compare(a.Time), cmp.Compare(a.DN, b.DN), cmp.Compare(b.Serial, a.Serial))
	})
	return events
}

// isAbout reports whether the entry is the component, or a level of it, or the level.
func isAbout(e ldapmap.Entry, key ldapmap.Key) bool {
	cn := e.First("cn")
	switch {
	case ldapmap.IsLevel(e) && key.Level != "":
		return cn == key.String()
	case ldapmap.IsLevel(e):
		return strings.HasPrefix(cn, key.Component+"@")
	}
	return ldapmap.IsComponent(e) && key.Level == "" && cn == key.Component
}

// mentions reports whether one of the values is an assignment of the component, or of
// the level.
func (r Record) mentions(key ldapmap.Key) bool {
	for v := range strings.SplitSeq(r.Old+","+r.New, ",") {
		component, level, ok := strings.Cut(v, "=")
		if ok && component == key.Component && (key.Level == "" || level == key.Level) {
			return true
		}
	}
	return false
}

// Records are the changes that the entry remembers, newest first.
func Records(e ldapmap.Entry) []Record {
	var records []Record
	for _, v := range e.Attrs[strings.ToLower(ldapmap.AttrHistory)] {
		if r, err := ParseRecord(v); err == nil {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return cmp.Compare(b.Serial, a.Serial) })
	return records
}
