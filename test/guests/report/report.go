// Package report is how a guest tells the test that started it what it found: lines
// on its console.
//
//	PASS attach/single
//	FAIL attach/joined: no such file or directory
//	VALUE memory/cached 4564
//	DONE 2
//
// The last line has the number of checks: a guest that ended early did not pass.
package report

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// A Reporter writes a report. It is not for concurrent use.
type Reporter struct {
	w      io.Writer
	checks int
	failed int
}

// New returns a reporter that writes to a console.
func New(w io.Writer) *Reporter { return &Reporter{w: w} }

// Check does the check and reports how it went. Names are like those of subtests,
// without blanks and colons.
func (r *Reporter) Check(name string, check func() error) {
	r.checks++
	if err := guarded(check); err != nil {
		r.failed++
		fmt.Fprintf(r.w, "FAIL %s: %s\n", name, oneLine(err.Error()))
		return
	}
	fmt.Fprintf(r.w, "PASS %s\n", name)
}

// guarded makes an error of a panic: one bad check must not hide the others.
func guarded(check func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return check()
}

// Value reports a measurement.
func (r *Reporter) Value(name string, value int64) {
	fmt.Fprintf(r.w, "VALUE %s %d\n", name, value)
}

// Done ends the report.
func (r *Reporter) Done() { fmt.Fprintf(r.w, "DONE %d\n", r.checks) }

// Failed is how many checks failed so far.
func (r *Reporter) Failed() int { return r.failed }

func oneLine(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "; ")
}

// A Result is a check's.
type Result struct {
	Name string
	Why  string // why it failed, or ""
}

// A Report is what a guest has reported.
type Report struct {
	Results []Result
	Values  map[string]int64
	Done    bool
}

// Add takes a line of the console, and tells whether it belongs to the report. An
// error is a report that cannot be right.
func (r *Report) Add(line string) (belongs bool, err error) {
	word, rest, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	switch word {
	case "PASS", "FAIL", "VALUE", "DONE":
	default:
		return false, nil
	}
	if r.Done {
		return true, fmt.Errorf("after the end of the report: %q", line)
	}
	switch word {
	case "PASS":
		r.Results = append(r.Results, Result{Name: rest})
	case "FAIL":
		name, why, _ := strings.Cut(rest, ": ")
		if why == "" {
			why = "for no reason given"
		}
		r.Results = append(r.Results, Result{name, why})
	case "VALUE":
		name, text, _ := strings.Cut(rest, " ")
		value, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return true, fmt.Errorf("report: %q: %w", line, err)
		}
		if r.Values == nil {
			r.Values = make(map[string]int64)
		}
		r.Values[name] = value
	case "DONE":
		r.Done = true
		if rest != strconv.Itoa(len(r.Results)) {
			return true, fmt.Errorf("the guest did %s checks, of which %d were reported", rest, len(r.Results))
		}
	}
	return true, nil
}
