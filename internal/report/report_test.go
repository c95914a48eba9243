package report

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

var when = time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)

func TestForm(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]Report{
		"emacs@30.1-1 20270102030405Z ok":                           {Component: "emacs", Level: "emacs@30.1-1", State: OK},
		"emacs@30.1-1 20270102030405Z warning levelfs check: LV212": {Component: "emacs", Level: "emacs@30.1-1", State: Warning, Detail: "levelfs check: LV212"},
		"emacs@29 20270102030405Z failed emacs@30 it is not there":  {Component: "emacs", Level: "emacs@29", State: Failed, Wanted: "emacs@30", Detail: "it is not there"},
		"emacs 20270102030405Z failed emacs nothing assigns one":    {Component: "emacs", State: Failed, Wanted: "emacs", Detail: "nothing assigns one"},
		"emacs 20270102030405Z idle emacs@30":                       {Component: "emacs", State: Idle, Wanted: "emacs@30"},
	} {
		want.Since = when
		got, err := Parse(value)
		if err != nil || got != want || got.String() != value {
			t.Errorf("%q: %+v, %v; as a value %q", value, got, err, got)
		}
	}
	for _, value := range []string{
		"", "emacs", "emacs@30 20270102030405Z", "em/acs 20270102030405Z ok", "emacs@30 yesterday ok",
		"emacs@30 20270102030405Z fine", "emacs@30 20270102030405Z failed", "emacs@30 20270102030405Z failed vi@1 x",
		"emacs@30 20270102030405Z ok \x1b[2J", "emacs@30 20270102030405Z ok žluťoučký", "emacs@30 20270102030405Z ok a  b",
		"emacs@30 20270102030405Z ok " + strings.Repeat("x", maxDetail+1), strings.Repeat("x", maxValue+1),
	} {
		if got, err := Parse(value); err == nil {
			t.Errorf("%q is taken for %+v", value, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("emacs@29 20270102030405Z failed emacs@30 it is not there")
	f.Add("gcc 20270102030405Z idle gcc@14")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(r.String())
		if err != nil || again != r {
			t.Errorf("%q is %+v, and then %+v, %v", s, r, again, err)
		}
	})
}

// TestWritten: what is written can be read, whatever the reason was.
func TestWritten(t *testing.T) {
	t.Parallel()
	for _, detail := range []string{"", "a\nb\tc", "\x00\x1b[31m", strings.Repeat("é ", 500), "  x  "} {
		r := Report{Component: "emacs", Level: "emacs@29", Since: when, State: Failed, Wanted: "emacs@30", Detail: detail}
		if _, err := Parse(r.String()); err != nil {
			t.Errorf("%q: %v", detail, err)
		}
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	const at = " 20270102030405Z "
	later := when.Add(time.Hour)
	ok := Report{Component: "emacs", Level: "emacs@30", Since: later, State: OK}
	waiting := Report{Component: "emacs", Level: "emacs@29", Since: later, State: Waiting, Wanted: "emacs@30"}
	idle := Report{Component: "emacs", Since: later, State: Idle, Wanted: "emacs@30"}
	for name, c := range map[string]struct {
		old     []string
		now     Report
		checked bool
		remove  int // how many of the old ones go
		added   bool
	}{
		"first":                        {nil, ok, false, 0, true},
		"the same":                     {[]string{"emacs@30" + at + "ok"}, ok, false, 0, false},
		"another level":                {[]string{"emacs@29" + at + "ok"}, ok, false, 1, true},
		"another component":            {[]string{"gcc@14" + at + "ok"}, ok, false, 0, true},
		"no report":                    {[]string{"rubbish"}, ok, false, 1, true},
		"two":                          {[]string{"emacs@28" + at + "ok", "emacs@29" + at + "ok"}, ok, false, 2, true},
		"it waits because it failed":   {[]string{"emacs@29" + at + "failed emacs@30 why"}, waiting, true, 0, false},
		"it waits for another":         {[]string{"emacs@29" + at + "failed emacs@31 why"}, waiting, true, 1, true},
		"unmounted again":              {[]string{"emacs@30" + at + "ok"}, idle, true, 0, false},
		"unmounted, and another":       {[]string{"emacs@29" + at + "ok"}, idle, true, 1, true},
		"could not be had, now can":    {[]string{"emacs@29" + at + "failed emacs@30 why"}, idle, true, 1, true},
		"a check's, not taken back":    {[]string{"emacs@30" + at + "warning levelfs check: LV212"}, ok, false, 0, false},
		"a check's, taken back":        {[]string{"emacs@30" + at + "warning levelfs check: LV212"}, ok, true, 1, true},
		"a check's, of another level":  {[]string{"emacs@29" + at + "warning levelfs check: LV212"}, ok, false, 1, true},
		"failed, and the level is had": {[]string{"emacs@29" + at + "failed emacs@30 why"}, ok, false, 1, true},
	} {
		remove, add := Merge(c.old, []Report{c.now}, c.checked)
		if len(remove) != c.remove || (len(add) == 1) != c.added || c.added && add[0] != c.now.String() {
			t.Errorf("%s: remove %q, add %q", name, remove, add)
		}
	}
}

// TestMergeBound: the oldest go where there would be too many.
func TestMergeBound(t *testing.T) {
	t.Parallel()
	var old []string
	for n := range maxValues {
		old = append(old, Report{Component: fmt.Sprintf("c%d", n), Since: when.Add(time.Duration(n) * time.Minute), State: Idle, Wanted: fmt.Sprintf("c%d@1", n)}.String())
	}
	remove, add := Merge(old, []Report{{Component: "emacs", Level: "emacs@30", Since: when.Add(24 * time.Hour), State: OK}}, false)
	if len(add) != 1 || !slices.Equal(remove, old[:1]) {
		t.Errorf("remove %q, add %q", remove, add)
	}
}

func TestChecked(t *testing.T) {
	t.Parallel()
	who := func(c string) check.Asker { return check.Asker{Component: c} }
	view := func(name string) check.View {
		component, _, _ := strings.Cut(name, "@")
		return check.View{View: mounter.View{Name: name, Target: "/sw/" + component}, Asker: who(component)}
	}
	s := &check.State{
		Now:   when,
		Views: []check.View{view("good@1"), view("bad@1"), view("old@1"), view("torn@1"), view("lost@1")},
		Wants: []check.Want{
			{Asker: who("good"), Level: "good@1"}, {Asker: who("bad"), Level: "bad@1"}, {Asker: who("old"), Level: "old@2"},
			{Asker: who("torn"), Level: "torn@2"}, {Asker: who("lost"), Err: &ldapmap.NoLevelError{Component: "lost"}},
			{Asker: who("idle"), Level: "idle@1"}, {Asker: who("away"), Level: "away@1", Missing: errors.New("not here")},
			{Asker: check.Asker{User: "rob", Component: "good"}, Level: "good@2"},
		},
		Images: []check.Image{{Level: "torn@2", Err: errors.New("torn")}},
	}
	findings := []finding.Finding{finding.New(finding.NoXIP, "", "/sw/bad", "x", "x"), finding.New(finding.UnsafeOptions, "", "bad", "x", "x"), finding.New(finding.NoXIP, "", "/sw/badly", "x", "x")}
	got := make(map[string]string)
	for _, r := range Checked(s, findings) {
		got[r.Component] = r.String()
		if _, err := Parse(r.String()); err != nil {
			t.Error(err)
		}
	}
	const at = " 20270102030405Z "
	for component, want := range map[string]string{
		"good": "good@1" + at + "ok",
		"bad":  "bad@1" + at + "critical levelfs check: LV212 LV204",
		"old":  "old@1" + at + "waiting old@2",
		"torn": "torn@1" + at + "failed torn@2 torn",
		"lost": "lost@1" + at + "failed lost ",
		"idle": "idle" + at + "idle idle@1",
		"away": "away" + at + "failed away@1 not here",
	} {
		if !strings.HasPrefix(got[component], want) || component != "lost" && got[component] != want {
			t.Errorf("%q, want %q", got[component], want)
		}
	}
	if len(got) != 7 {
		t.Errorf("%d reports: %q", len(got), got)
	}
}
