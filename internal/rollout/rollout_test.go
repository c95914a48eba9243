package rollout

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/report"
	"github.com/levelfs/levelfs/ldapmap"
)

func TestJudge(t *testing.T) {
	t.Parallel()
	const at = " 20270102030405Z "
	level := ldapmap.Key{Component: "emacs", Level: "2"}
	gets := fleet.Answer{Level: "emacs@2"}
	for name, c := range map[string]struct {
		answer fleet.Answer
		given  bool
		said   string
		want   HostState
	}{
		"has it":                      {gets, true, "emacs@2" + at + "ok", OnLevel},
		"has it, with a warning":      {gets, true, "emacs@2" + at + "warning x", OnLevel},
		"would get it":                {gets, true, "emacs" + at + "idle emacs@2", OnLevel},
		"has it, in a bad way":        {gets, true, "emacs@2" + at + "critical x", Failed},
		"cannot have it":              {gets, true, "emacs@1" + at + "failed emacs@2 x", Failed},
		"could not have another":      {gets, true, "emacs@1" + at + "failed emacs@3 x", Pending},
		"another is in a bad way":     {gets, true, "emacs@1" + at + "critical x", Pending},
		"has another":                 {gets, true, "emacs@1" + at + "ok", Pending},
		"waits":                       {gets, true, "emacs@1" + at + "waiting emacs@2 x", Pending},
		"would get another":           {gets, true, "emacs" + at + "idle emacs@1", Pending},
		"says nothing":                {gets, true, "", Silent},
		"not yet, whatever it says":   {gets, false, "emacs@1" + at + "failed emacs@2 x", Later},
		"is assigned another":         {fleet.Answer{Level: "emacs@3"}, true, "emacs@3" + at + "failed emacs@2 x", Elsewhere},
		"is assigned two":             {fleet.Answer{Err: errors.New("two")}, true, "emacs@2" + at + "ok", Elsewhere},
		"will be assigned another":    {fleet.Answer{Level: "emacs@3"}, false, "", Elsewhere},
		"has it although it does not": {fleet.Answer{Level: "emacs@1"}, true, "emacs@2" + at + "ok", Elsewhere},
	} {
		var said *report.Report
		if c.said != "" {
			r, err := report.Parse(c.said)
			if err != nil {
				t.Fatal(err)
			}
			said = &r
		}
		if got := judge("h", c.answer, level, c.given, said); got.State != c.want {
			t.Errorf("%s: %+v, want %s", name, got, c.want)
		}
	}
}

func TestPass(t *testing.T) {
	t.Parallel()
	ring := func(given bool, states ...HostState) Ring {
		r := Ring{Given: given}
		for i, s := range states {
			r.Hosts = append(r.Hosts, Host{Name: string(rune('a' + i)), State: s})
		}
		return r
	}
	for name, c := range map[string]struct {
		rings   []Ring
		gate    string
		missing int
		says    string // "": it passes
	}{
		"all":                      {[]Ring{ring(true, OnLevel, OnLevel), ring(false, Later)}, "check", 0, ""},
		"nobody":                   {[]Ring{ring(true), ring(false, Later)}, "check", 0, ""},
		"elsewhere":                {[]Ring{ring(true, Elsewhere, OnLevel)}, "check", 0, ""},
		"one missing":              {[]Ring{ring(true, OnLevel, Pending)}, "check", 0, "1 host that did not report it yet: b"},
		"two missing of two":       {[]Ring{ring(true, Silent, Pending)}, "check", 2, ""},
		"two missing of one":       {[]Ring{ring(true, Silent, Pending)}, "check", 1, "2 hosts"},
		"the same in two rings":    {[]Ring{ring(true, Silent), ring(true, Silent)}, "check", 1, ""},
		"a failure":                {[]Ring{ring(true, OnLevel, Failed), ring(true, OnLevel)}, "check", 9, "1 host with a failure: b"},
		"a program, missing":       {[]Ring{ring(true, Silent)}, "/gate", 0, ""},
		"a program, and a failure": {[]Ring{ring(true, Failed)}, "/gate", 0, "with a failure: a"},
	} {
		s := &Status{Level: "emacs@2", Gate: c.gate, Rings: c.rings}
		err := s.Pass(c.missing)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}

// TestReports: a host speaks for itself, by its full name or its short one, in the form
// that there is, and once about each component.
func TestReports(t *testing.T) {
	t.Parallel()
	r := make(Reports)
	r.add(ldapmap.Entry{Attrs: map[string][]string{"cn": {"LNX01"}, "levelfsreport": {
		"emacs@1 20270102030405Z ok", "emacs@2 20270102030405Z ok", "vi@1 20270102030405Z ok \x1b[2J", "rubbish",
	}}})
	if got := r.of("lnx01.example.org", "emacs"); got == nil || got.Level != "emacs@1" {
		t.Errorf("%+v", got)
	}
	for _, c := range [][2]string{{"lnx01", "vi"}, {"lnx02", "emacs"}, {"lnx01", "rubbish"}} {
		if got := r.of(c[0], c[1]); got != nil {
			t.Errorf("%s of %s: %+v", c[1], c[0], got)
		}
	}
}

func TestCheckProgram(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gate")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for mode, good := range map[os.FileMode]bool{0o755: true, 0o700: true, 0o775: false, 0o757: false, 0o644: false} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if err := checkProgram(path); (err == nil) != good {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := checkProgram(filepath.Dir(path)); err == nil {
		t.Error("a directory is run")
	}
}
