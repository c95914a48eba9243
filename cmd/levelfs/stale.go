package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/private"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// What a change of level does about private files that would be stale under the level.
const (
	staleWarn = "warn"
	staleStop = "stop"
)

// staleNamed is how many files the report of a change of level names; levelfs diff names all.
const staleNamed = 20

// A staleReport compares the private files of a view with the level that it goes to.
type staleReport struct {
	Policy   string               `json:"policy"` // warn or stop
	Counts   map[diff.Verdict]int `json:"counts"` // of all private files
	Findings []*diff.Finding      `json:"findings,omitempty"`
	More     int                  `json:"more,omitempty"` // unsettled ones that Findings leaves out
	// Unknown is why the comparison could not be made, or not to its end.
	Unknown string `json:"unknown,omitempty"`
}

func (r *staleReport) settled() bool { return len(r.Findings) == 0 && r.Unknown == "" }

// compare tells what the private files will be under the plan's level, and says so at
// once for people. It returns nil where there are none, which takes one look at the upper
// directory. What cannot be compared is reported as unknown. The error is a *[staleError]
// if it is a reason not to go on.
func (s *switcher) compare(ctx context.Context, plan *mounter.Plan, r *ldapmap.Resolution, user string) (*staleReport, error) {
	if plan.Private == nil || plan.Private.Ephemeral {
		return nil, nil
	}
	empty, err := private.Empty(plan.Private.Dir)
	if empty {
		return nil, nil
	}
	report := &staleReport{Policy: s.stalePolicy(r.Component)}
	if err == nil {
		err = s.compareFiles(ctx, report, r, user)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		report.Unknown = err.Error()
	}
	refusal := &staleError{Component: r.Component.Name, User: user, From: plan.Replaces.Name, To: r.Level.Name, Target: plan.Target, Report: report}
	if !s.options.json && !report.settled() {
		if _, err := io.WriteString(s.out, refusal.text()); err != nil {
			return report, err
		}
	}
	if report.Policy == staleStop && !report.settled() {
		return report, refusal
	}
	return report, nil
}

// stalePolicy is what the command line says, else the component, else the machine.
func (s *switcher) stalePolicy(c ldapmap.Component) string {
	switch {
	case s.options.stale != "":
		return s.options.stale
	case c.OnStale != "":
		return c.OnStale
	}
	return s.config.OnStale
}

// compareFiles fills in the report.
func (s *switcher) compareFiles(ctx context.Context, report *staleReport, r *ldapmap.Resolution, user string) error {
	p, err := private.Open(s.config, r.Component.Name, user)
	if err != nil {
		return err
	}
	p.Learn(r.Layers)
	p.Learn(r.Above)
	learnBases(ctx, s.Inventory, p, s.log)
	found, err := p.Summary(ctx, private.Base(r), staleNamed, func(v diff.Verdict) bool { return !v.Settled() })
	report.Counts, report.Findings, report.More = found.Counts, found.Named, found.More
	return err
}

// A staleError is a change of level that was refused because private files would be stale
// under the level, or may be.
type staleError struct {
	Component, User, From, To, Target string
	Report                            *staleReport
}

func (e *staleError) Error() string {
	text := fmt.Sprintf("view %s at %q stays", e.From, e.Target)
	if n := len(e.Report.Findings); n > 0 {
		const named = 5
		var paths []string
		for _, f := range e.Report.Findings[:min(named, n)] {
			paths = append(paths, fmt.Sprintf("%q (%s)", f.Path, f.Verdict))
		}
		if more := n + e.Report.More - len(paths); more > 0 {
			paths = append(paths, fmt.Sprintf("and %d more", more))
		}
		text += fmt.Sprintf(": private files are not settled for %s: %s", e.To, strings.Join(paths, ", "))
	}
	if e.Report.Unknown != "" {
		text += fmt.Sprintf(": which private files would be stale under %s is not known: %s", e.To, e.Report.Unknown)
	}
	return text
}

// who is the command's rest, for the component and the user.
func (e *staleError) who() string {
	if e.User != "" {
		return e.Component + " --user " + e.User
	}
	return e.Component
}

func (e *staleError) diff() string { return fmt.Sprintf("levelfs diff %s --to %s", e.who(), e.To) }

// remedy is what to type, a line each.
func (e *staleError) remedy() string {
	lines := []string{"see what they are: " + e.diff()}
	if len(e.Report.Findings) > 0 {
		lines = append(lines,
			fmt.Sprintf("keep a private file as it is: levelfs adopt %s PATH --as mine --to %s", e.who(), e.To),
			fmt.Sprintf("or take it out of the way: umount %s && levelfs reset %s PATH", e.Target, e.who()))
	}
	return strings.Join(append(lines, "go on this once: --stale=warn"), "\n")
}

// text is the report for people.
func (e *staleError) text() string {
	var b strings.Builder
	unsettled, all := len(e.Report.Findings)+e.Report.More, 0
	for _, n := range e.Report.Counts {
		all += n
	}
	if unsettled > 0 {
		fmt.Fprintf(&b, "%s: %s -> %s: %d of %d private files are not settled:\n", e.Target, e.From, e.To, unsettled, all)
	}
	for _, f := range e.Report.Findings {
		fmt.Fprintf(&b, "  %-14s  %s%s\n", f.Verdict, plainPath(f.Path), explain(f))
	}
	if e.Report.More > 0 {
		fmt.Fprintf(&b, "  … and %d more: %s\n", e.Report.More, e.diff())
	}
	if e.Report.Unknown != "" {
		fmt.Fprintf(&b, "%s: %s -> %s: which private files would be stale is not known: %s\n", e.Target, e.From, e.To, e.Report.Unknown)
	}
	return b.String()
}
