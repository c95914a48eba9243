package ldapmap

import (
	"errors"
	"testing"
)

// TestTooManyLevels: a component with more levels than a source returns at once is
// resolved all the same.
func TestTooManyLevels(t *testing.T) {
	t.Parallel()
	tooMany := func(at int, says ...string) *fakeSource {
		s := source("s", component("emacs"), levels("emacs", "1", "2"), layer("base"), host(says...), profile("p", "emacs=2"))
		s.failAt, s.err = at, &ConfigError{Source: "s", Err: &TooManyError{Limit: 2}}
		return s
	}
	for _, says := range []string{"emacs=2", "p"} {
		s := tooMany(1, says)
		r, err := resolve(t, Query{}, s)
		if err != nil || r.Level.Name != "emacs@2" || len(r.Layers) != 1 {
			t.Errorf("%s: %v, layers %v, %v", says, r.Level.Name, r.Layers, err)
		}
		if s.searches != 5 {
			t.Errorf("%s: %d searches", says, s.searches)
		}
	}
	// A level that is not there is still named, with who refers to it.
	_, err := resolve(t, Query{}, tooMany(1, "emacs=3"))
	var missing *NotFoundError
	if !errors.As(err, &missing) || missing.Name != "emacs@3" || missing.By != hostDN {
		t.Errorf("got %v", err)
	}
	// Too many of something else is an error.
	_, err = resolve(t, Query{}, tooMany(2, "emacs=2"))
	var limit *TooManyError
	if !errors.As(err, &limit) {
		t.Errorf("got %v", err)
	}
}
