package report

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestRoundTrip reports, and reads what was reported.
func TestRoundTrip(t *testing.T) {
	var console strings.Builder
	r := New(&console)
	r.Check("good", func() error { return nil })
	r.Check("bad", func() error { return errors.New("first: line\nsecond line") })
	r.Check("worse", func() error { panic("oh") })
	r.Value("memory/cached", 4564)
	r.Done()
	if r.Failed() != 2 {
		t.Errorf("%d failed", r.Failed())
	}
	var got Report
	for line := range strings.Lines("booting\r\n" + console.String()) {
		if _, err := got.Add(line); err != nil {
			t.Fatal(err)
		}
	}
	want := []Result{{"good", ""}, {"bad", "first: line; second line"}, {"worse", "panic: oh"}}
	if !slices.Equal(got.Results, want) || !got.Done {
		t.Errorf("report %+v, want %+v", got, want)
	}
	if want := map[string]int64{"memory/cached": 4564}; !maps.Equal(got.Values, want) {
		t.Errorf("values %v, want %v", got.Values, want)
	}
}

func TestAddRefuses(t *testing.T) {
	for name, lines := range map[string][]string{
		"a check is missing":  {"PASS a", "DONE 2"},
		"a check too many":    {"PASS a", "PASS b", "DONE 1"},
		"no number":           {"PASS a", "DONE"},
		"something after end": {"DONE 0", "PASS a"},
		"no value":            {"VALUE a b"},
	} {
		var r Report
		var failed bool
		for _, line := range lines {
			belongs, err := r.Add(line)
			if !belongs {
				t.Errorf("%s: %q does not belong to the report", name, line)
			}
			failed = failed || err != nil
		}
		if !failed {
			t.Errorf("%s: no error", name)
		}
	}
	var r Report
	if _, err := r.Add("FAIL a"); err != nil || r.Results[0].Why == "" {
		t.Errorf("a failure without a reason: %+v, %v", r, err)
	}
	for _, line := range []string{"", "PASSED a", "[ 1.0] PASS a", "pass a"} {
		if belongs, err := r.Add(line); belongs || err != nil {
			t.Errorf("%q: %v, %v", line, belongs, err)
		}
	}
}
