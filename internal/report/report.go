package report

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
)

// A State says how it went with a component.
type State string

// The states. Waiting and Failed are about the level that is wanted, Idle about the next
// access.
const (
	OK       State = "ok"       // the level is mounted, and is the wanted one
	Warning  State = "warning"  // likewise, and levelfs check warns about it
	Critical State = "critical" // likewise, and levelfs check has a critical finding
	Waiting  State = "waiting"  // another level is mounted, and was not replaced yet
	Failed   State = "failed"   // the wanted level could not be had
	Idle     State = "idle"     // nothing is mounted, and the wanted level can be had
)

// Limits of what is written, and of what is believed.
const (
	maxDetail = 200 // bytes
	maxValue  = 512 // bytes of one value
	maxValues = 100 // components of one host
)

// timeForm is how the time is written: generalizedTime.
const timeForm = "20060102150405Z"

// A Report is what a host says of one component (one value of levelfsReport):
//
//	emacs@30.1-1 20270102030405Z ok
//	emacs@29.4-1 20270102030405Z failed emacs@30.1-1 layer "emacs-30": not on this machine
//	gcc 20270102030405Z idle gcc@14.2-1
type Report struct {
	Component string    `json:"component"`
	Level     string    `json:"level,omitempty"` // that is mounted, in full; "" for none
	Since     time.Time `json:"since"`           // when it was first so
	State     State     `json:"state"`
	// Wanted is the level that Waiting, Failed and Idle are about, in full; the component
	// alone where there is none to be had.
	Wanted string `json:"wanted,omitempty"`
	Detail string `json:"detail,omitempty"` // why it failed or waits, or codes of findings
}

// wants reports whether the state is about another level than the mounted one.
func (s State) wants() bool { return s == Waiting || s == Failed || s == Idle }

func (s State) valid() bool {
	return s == OK || s == Warning || s == Critical || s.wants()
}

// String is the value of levelfsReport.
func (r Report) String() string {
	parts := []string{cmp.Or(r.Level, r.Component), r.Since.UTC().Format(timeForm), string(r.State)}
	if r.State.wants() {
		parts = append(parts, cmp.Or(r.Wanted, r.Component))
	}
	if detail := plain(r.Detail); detail != "" {
		parts = append(parts, detail)
	}
	return strings.Join(parts, " ")
}

// plain is one line of printable ASCII, and not too much of it.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.Join(strings.Fields(s), " "))
	if len(s) > maxDetail {
		s = s[:maxDetail-3] + "..."
	}
	return s
}

// Parse reads a value of levelfsReport. A value that does not have the form, or is too
// long, is an error.
func Parse(s string) (Report, error) {
	wrong := func(what string) (Report, error) {
		if len(s) > 80 {
			s = s[:80] + "…"
		}
		return Report{}, fmt.Errorf("%q is no report of a host: %s", s, what)
	}
	if len(s) > maxValue {
		return wrong("too long")
	}
	f := strings.SplitN(s, " ", 4)
	if len(f) < 3 {
		return wrong("want COMPONENT@LEVEL TIME STATE")
	}
	key, err := ldapmap.ParseKey(f[0])
	if err != nil {
		return wrong("level")
	}
	r := Report{Component: key.Component, State: State(f[2])}
	if key.Level != "" {
		r.Level = key.String()
	}
	if r.Since, err = time.Parse(timeForm, f[1]); err != nil {
		return wrong("time")
	}
	if !r.State.valid() {
		return wrong("state")
	}
	rest := ""
	if len(f) == 4 {
		rest = f[3]
	}
	if r.State.wants() {
		r.Wanted, rest, _ = strings.Cut(rest, " ")
		if wanted, err := ldapmap.ParseKey(r.Wanted); err != nil || wanted.Component != r.Component {
			return wrong("wanted level")
		}
	}
	if r.Detail = rest; plain(rest) != rest {
		return wrong("detail")
	}
	return r, nil
}

// same reports whether the two say the same, whenever it was.
func (r Report) same(o Report) bool {
	o.Since = r.Since
	return r.String() == o.String()
}

// settles reports whether an older report stays although a newer one says something else,
// because it knows more of the same thing.
func (r Report) settles(newer Report, checked bool) bool {
	switch {
	case r.same(newer):
		return true
	case newer.State == Waiting: // it waits because it failed
		return r.State == Failed && r.Level == newer.Level && r.Wanted == newer.Wanted
	case newer.State == Idle: // it was mounted, and would be again
		return !r.State.wants() && r.Level == newer.Wanted
	case newer.State == OK && !checked: // only a check takes back what a check found
		return (r.State == Warning || r.State == Critical) && r.Level == newer.Level
	}
	return false
}

// Merge returns which values of levelfsReport to remove and which to add, where an entry
// has the old ones, and now is known. Components that are not spoken of keep theirs, but
// for the oldest where there would be too many. checked says that levelfs check has
// looked.
func Merge(old []string, now []Report, checked bool) (remove, add []string) {
	kept := make(map[string]Report)  // by component
	value := make(map[string]string) // as it is written
	for _, v := range slices.Sorted(slices.Values(old)) {
		r, err := Parse(v)
		if _, twice := kept[r.Component]; err != nil || twice {
			remove = append(remove, v)
			continue
		}
		kept[r.Component], value[r.Component] = r, v
	}
	fresh := make(map[string]bool)
	for _, r := range now {
		if was, ok := kept[r.Component]; ok && was.settles(r, checked) {
			continue
		}
		if v, ok := value[r.Component]; ok {
			remove = append(remove, v)
			delete(value, r.Component)
		}
		kept[r.Component], fresh[r.Component] = r, true
	}
	all := make([]Report, 0, len(kept))
	for _, r := range kept {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b Report) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.Component, b.Component))
	})
	for i, r := range all {
		v, written := value[r.Component]
		switch {
		case i >= maxValues && written:
			remove = append(remove, v)
		case i < maxValues && fresh[r.Component]:
			add = append(add, r.String())
		}
	}
	slices.Sort(remove)
	slices.Sort(add)
	return remove, add
}
