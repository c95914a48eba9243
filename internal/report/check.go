package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
)

// Checked are the reports that a look at the whole machine gives: of the components that
// are mounted for the host, or that its entries, groups and profiles speak of.
func Checked(s *check.State, findings []finding.Finding) []Report {
	var reports []Report
	for _, w := range s.Wants {
		if w.User != "" || w.Asker.Level != "" {
			continue
		}
		r := Report{Component: w.Component, Since: s.Now, State: OK, Wanted: w.Level}
		target := ""
		if i := slices.IndexFunc(s.Views, func(v check.View) bool { return v.Asker == w.Asker }); i >= 0 {
			r.Level, target = s.Views[i].Name, s.Views[i].Target
		}
		switch {
		case w.Err != nil:
			r.State, r.Detail = Failed, w.Err.Error()
		case w.Missing != nil:
			r.State, r.Detail = Failed, w.Missing.Error()
		case r.Level != w.Level && imageError(s, w.Level) != nil:
			r.State, r.Detail = Failed, imageError(s, w.Level).Error()
		case r.Level == "":
			r.State = Idle
		case r.Level != w.Level:
			r.State = Waiting
		default:
			r.judge(target, findings)
		}
		reports = append(reports, r)
	}
	return reports
}

// imageError is why an image that the level is made of is not the one of the inventory.
func imageError(s *check.State, level string) error {
	for _, i := range s.Images {
		if i.Level == level && i.Err != nil {
			return i.Err
		}
	}
	return nil
}

// judge puts in what a check found about the view or its component.
func (r *Report) judge(target string, findings []finding.Finding) {
	var codes []string
	for _, f := range findings {
		if f.Object != target && f.Object != r.Component && f.Object != r.Level {
			continue
		}
		if r.State != Critical {
			r.State = map[finding.Severity]State{finding.Warning: Warning, finding.Critical: Critical}[f.Severity]
		}
		if code := string(f.Code); !slices.Contains(codes, code) {
			codes = append(codes, code)
		}
	}
	if len(codes) > 0 {
		r.Detail = fmt.Sprintf("levelfs check: %s", strings.Join(codes, " "))
	}
}
