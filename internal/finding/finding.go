// Package finding is what the checks of levelfs find: a fault or a risk, with a code
// that stays the same for ever, so that a script can look for it and a person can look
// it up (docs/findings.md).
//
// All codes are registered in one table, [Kinds], with what they mean and what to do.
// Codes of the inventory are LV1xx, those of a machine LV2xx. A code that was released
// is never given another meaning.
//
// When not to use it: for errors. A finding is the result of a check that worked.
package finding

import (
	"cmp"
	"slices"
)

// Severity says how bad a finding is.
type Severity string

// The severities. Critical: an access fails or shows wrong content, now or at the next
// mount. Warning: it does not, but somebody did not mean it so.
const (
	Warning  Severity = "warning"
	Critical Severity = "critical"
)

// A Code names a kind of finding.
type Code string

// A Finding is one fault.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Object   string   `json:"object"`           // what it is about: a DN or a key; on a machine, a path, a component or a process
	Text     string   `json:"text"`             // what is wrong with it, in one sentence
	Fix      string   `json:"fix"`              // the command or the edit that mends it
	Source   string   `json:"source,omitempty"` // the inventory's name
}

// A Kind is what findings of one code have in common.
type Kind struct {
	Code     Code
	Title    string
	Severity Severity
	Meaning  string // full sentences
	Remedy   string // likewise
}

// New makes a finding of a registered code.
func New(code Code, source, object, text, fix string) Finding {
	f := Finding{Code: code, Object: object, Text: text, Fix: fix, Source: source}
	if i := slices.IndexFunc(Kinds(), func(k Kind) bool { return k.Code == code }); i >= 0 {
		f.Severity = Kinds()[i].Severity
	}
	return f
}

// Sort puts critical findings first, and those of one severity by code, object and text.
func Sort(findings []Finding) {
	slices.SortFunc(findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), // "critical" is less than "warning"
			cmp.Compare(a.Code, b.Code), cmp.Compare(a.Object, b.Object), cmp.Compare(a.Text, b.Text))
	})
}

// Status is the exit status of a check with these findings: 0 if there are none, 1 if
// they are warnings, 2 if one is critical.
func Status(findings []Finding) int {
	status := 0
	for _, f := range findings {
		if f.Severity == Critical {
			return 2
		}
		status = 1
	}
	return status
}
