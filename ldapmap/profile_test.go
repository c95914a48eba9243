package ldapmap

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// profileLevels is ResolveProfile in short: "emacs@1 vi@2".
func profileLevels(t *testing.T, name string, sources ...*fakeSource) (string, error) {
	t.Helper()
	r := Resolver{Now: func() time.Time { return time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC) }}
	for _, s := range sources {
		r.Sources = append(r.Sources, s)
	}
	resolutions, err := r.ResolveProfile(context.Background(), name)
	var names []string
	for _, res := range resolutions {
		if len(res.Layers) == 0 || res.Component.Name != res.Key().Component {
			t.Errorf("%+v", res)
		}
		names = append(names, res.Level.Name)
	}
	return strings.Join(names, " "), err
}

func TestResolveProfile(t *testing.T) {
	t.Parallel()
	inventory := []string{
		component("emacs", "levelfsDefault: 1"), levels("emacs", "1", "2"), component("vi", "levelfsDefault: 1"), levels("vi", "1", "2"),
		component("gcc"), strings.Replace(levels("gcc", "12"), "levelfsLayerRef", "levelfsState: test\nlevelfsLayerRef", 1), levels("gcc", "13"),
		component("old"), strings.Replace(levels("old", "1"), "levelfsLayerRef", "levelfsState: retired\nlevelfsLayerRef", 1), layer("base"),
		// Whoever else there is does not matter.
		host("emacs=1", "next"), caller("cn=all,ou=groups", "groupOfNames", "vi=1", "member: "+hostDN),
		profile("next", "emacs=2", "base"), profile("base", "gcc=12"), profile("empty"), profile("EMPTY-2", "empty", "nowhere"),
		profile("forced", "emacs=1", "levelfsMandatory: emacs=2"), profile("two", "emacs=1", "emacs=2"), profile("differs", "gcc=13", "base"),
		profile("loop", "vi=2", "pool"), profile("pool", "loop"), profile("retired", "old=1"), profile("missing", "vi=9"), profile("bad", "vi="),
	}
	for name, want := range map[string]string{
		"next": "emacs@2 gcc@12", "NEXT": "emacs@2 gcc@12", "base": "gcc@12", "empty": "", "empty-2": "", "forced": "emacs@2",
	} {
		if got, err := profileLevels(t, name, source("central", inventory...)); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	var (
		notFound  *NotFoundError
		ambiguous *AmbiguousError
		loop      *LoopError
		unusable  *UnusableError
		invalid   *InvalidError
	)
	for name, want := range map[string]any{
		"nosuch": &notFound, "two": &ambiguous, "differs": &ambiguous, "loop": &loop, "retired": &unusable, "missing": &notFound, "bad": &invalid,
	} {
		if got, err := profileLevels(t, name, source("central", inventory...)); got != "" || !errors.As(err, want) {
			t.Errorf("%s: %q, %v; want a %T", name, got, err, want)
		}
	}
	// The first source that has it says what it is, and its levels may be in another.
	local := source("local", profile("next", "vi=2"))
	if got, err := profileLevels(t, "next", local, source("central", inventory...)); err != nil || got != "vi@2" {
		t.Errorf("a local profile: %q, %v", got, err)
	}
}
