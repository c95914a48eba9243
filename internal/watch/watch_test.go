package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
)

// A fake is a source whose every Follow does what the next of its functions says; after
// them it waits for the end.
type fake struct {
	name    string
	follows []func(ctx context.Context, ready, changed func()) error
	at      []time.Duration // when it was asked
	start   time.Time
}

func (f *fake) Name() string { return f.name }

func (f *fake) Follow(ctx context.Context, ready, changed func()) error {
	n := len(f.at)
	f.at = append(f.at, time.Since(f.start))
	if n < len(f.follows) {
		return f.follows[n](ctx, ready, changed)
	}
	<-ctx.Done()
	return ctx.Err()
}

// watched runs a Watcher for a time, on a clock of the test's own, and returns when it
// refreshed.
func watched(t *testing.T, w *Watcher, limit time.Duration, refresh func(n int) error, sources ...*fake) (at []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	for _, f := range sources {
		f.start = start
		w.Sources = append(w.Sources, f)
	}
	w.Refresh = func(context.Context) error {
		at = append(at, time.Since(start))
		return refresh(len(at))
	}
	if w.Again == 0 {
		w.Again, w.Longest = time.Second, 4*time.Second
	}
	err = w.Run(ctx)
	return at, err
}

func fine(int) error { return nil }

// TestBurst: many changes are one refresh, after they have ended; and if they do not end,
// there is one all the same.
func TestBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		burst := &fake{name: "burst", follows: []func(context.Context, func(), func()) error{func(ctx context.Context, ready, changed func()) error {
			ready()
			time.Sleep(time.Minute)
			for range 100 {
				changed()
				time.Sleep(100 * time.Millisecond)
			}
			<-ctx.Done()
			return ctx.Err()
		}}}
		at, err := watched(t, &Watcher{Settle: 2 * time.Second}, time.Hour, fine, burst)
		// The first is for what was missed before.
		if want := []time.Duration{2 * time.Second, 60*time.Second + 9900*time.Millisecond + 2*time.Second}; err != nil || !slices.Equal(at, want) {
			t.Errorf("refreshed at %v, %v; want %v", at, err, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		restless := &fake{name: "restless", follows: []func(context.Context, func(), func()) error{func(ctx context.Context, _, changed func()) error {
			for ctx.Err() == nil {
				changed()
				time.Sleep(500 * time.Millisecond)
			}
			return ctx.Err()
		}}}
		at, err := watched(t, &Watcher{Settle: time.Second}, 100*time.Second, fine, restless)
		if err != nil || len(at) < 8 || len(at) > 11 {
			t.Errorf("%d refreshes of what changes all the time, %v", len(at), err)
		}
	})
}

// TestJitter: machines do not refresh all at once.
func TestJitter(t *testing.T) {
	var all []time.Duration
	for range 40 {
		synctest.Test(t, func(t *testing.T) {
			f := &fake{name: "f", follows: []func(context.Context, func(), func()) error{func(ctx context.Context, ready, _ func()) error {
				ready()
				<-ctx.Done()
				return ctx.Err()
			}}}
			at, err := watched(t, &Watcher{Settle: time.Second, Jitter: 10 * time.Second}, time.Minute, fine, f)
			if err != nil || len(at) != 1 || at[0] < time.Second || at[0] > 11*time.Second {
				t.Errorf("refreshed at %v, %v", at, err)
			}
			all = append(all, at...)
		})
	}
	// One of forty below half and one above: they are all on one side in one of 2^39 runs.
	if slices.Min(all) > 6*time.Second || slices.Max(all) < 6*time.Second {
		t.Errorf("all at about the same time: %v", all)
	}
}

// TestLost: a source that is lost is asked again, less and less often, and refreshes when
// it is back.
func TestLost(t *testing.T) {
	lost := func(context.Context, func(), func()) error { return errors.New("lost") }
	back := func(_ context.Context, ready, _ func()) error {
		ready()
		return errors.New("lost again")
	}
	synctest.Test(t, func(t *testing.T) {
		f := &fake{name: "f", follows: []func(context.Context, func(), func()) error{lost, lost, lost, lost, lost, back, lost}}
		warned, begun := 0, 0
		w := &Watcher{Settle: time.Millisecond, Warn: func(text string) {
			if !strings.Contains(text, "lost") {
				t.Error(text)
			}
			warned++
		}, Ready: func() { begun++ }}
		at, err := watched(t, w, 10*time.Minute, fine, f)
		if err != nil || len(at) != 1 || warned != 7 || begun != 1 || len(f.at) != 8 {
			t.Fatalf("refreshed at %v, %v; asked at %v; %d warnings, %d times ready", at, err, f.at, warned, begun)
		}
		for i, longest := range []time.Duration{1, 2, 4, 4, 4, 1, 2} {
			pause := f.at[i+1] - f.at[i]
			if pause < longest*time.Second/2 || pause > longest*time.Second*3/2 {
				t.Errorf("pause %d was %v", i, pause)
			}
		}
	})
	// One that asks for it is asked at once.
	synctest.Test(t, func(t *testing.T) {
		f := &fake{name: "f", follows: []func(context.Context, func(), func()) error{func(context.Context, func(), func()) error { return ErrAnew }}}
		if _, err := watched(t, &Watcher{Warn: func(text string) { t.Error(text) }}, time.Minute, fine, f); err != nil || len(f.at) != 2 || f.at[1] != 0 {
			t.Errorf("asked at %v, %v", f.at, err)
		}
	})
}

// TestFailed: a refresh that fails is tried again, less and less often.
func TestFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{name: "f", follows: []func(context.Context, func(), func()) error{func(ctx context.Context, ready, _ func()) error {
			ready()
			<-ctx.Done()
			return ctx.Err()
		}}}
		at, err := watched(t, &Watcher{}, time.Hour, func(n int) error {
			if n < 6 {
				return fmt.Errorf("failed %d", n)
			}
			return nil
		}, f)
		want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 11 * time.Second, 15 * time.Second}
		if err != nil || !slices.Equal(at, want) {
			t.Errorf("refreshed at %v, %v; want %v", at, err, want)
		}
	})
}

// TestOnce ends after one change, not after the beginning.
func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{name: "f", follows: []func(context.Context, func(), func()) error{func(ctx context.Context, ready, changed func()) error {
			ready()
			time.Sleep(time.Minute)
			changed()
			<-ctx.Done()
			return ctx.Err()
		}}}
		failed := errors.New("failed")
		at, err := watched(t, &Watcher{Once: true, Settle: time.Second}, time.Hour, func(int) error { return failed }, f)
		if !errors.Is(err, failed) || !slices.Equal(at, []time.Duration{61 * time.Second}) {
			t.Errorf("refreshed at %v, %v", at, err)
		}
	})
}

// A told is a ldapmap.Watcher that tells of entries.
type told []ldapmap.Entry

func (w told) Watch(_ context.Context, watch ldapmap.Watch) error {
	for i, e := range w {
		if i == 2 { // two are what there is to begin with
			watch.Ready()
		}
		watch.Changed(e, len(e.Attrs) == 0)
	}
	return errors.New("the end")
}

// TestMatters: what a host reports of itself is no change, and all else is.
func TestMatters(t *testing.T) {
	t.Parallel()
	host := func(attrs ...string) ldapmap.Entry {
		e := ldapmap.Entry{DN: "cn=lnx01", Attrs: map[string][]string{"objectclass": {"device", "levelfsCaller"}}}
		for _, a := range attrs {
			name, value, _ := strings.Cut(a, "=")
			e.Attrs[name] = append(e.Attrs[name], value)
		}
		return e
	}
	profile := ldapmap.Entry{DN: "cn=base", Attrs: map[string][]string{"objectclass": {"levelfsProfile"}}}
	for name, c := range map[string]struct {
		e    ldapmap.Entry
		want int
	}{
		"report":             {host("levelfsassignment=emacs=1", "levelfsassignment=vi=1", "levelfsreport=x"), 0},
		"the same, reversed": {host("levelfsassignment=vi=1", "levelfsassignment=emacs=1"), 0},
		"assignment":         {host("levelfsassignment=emacs=2", "levelfsassignment=vi=1"), 1},
		"mandatory":          {host("levelfsassignment=emacs=1", "levelfsassignment=vi=1", "levelfsmandatory=emacs=1"), 1},
		"customisation":      {host("levelfsassignment=emacs=1", "levelfsassignment=vi=1", "levelfscustomize=emacs=00:x"), 1},
		"profile of its own": {host("levelfsassignment=emacs=1", "levelfsassignment=vi=1", "levelfsprofileref=x"), 1},
		"another host":       {ldapmap.Entry{DN: "cn=lnx01.x", Attrs: host().Attrs}, 1},
		"the profile":        {profile, 1},
		"gone":               {ldapmap.Entry{DN: "cn=lnx01"}, 1},
	} {
		n := 0
		s := &Server{Watcher: told{host("levelfsassignment=emacs=1", "levelfsassignment=vi=1"), profile, c.e}, Probe: time.Hour, Host: "lnx01",
			Users: func() ([]string, error) { return nil, nil }}
		if err := s.Follow(t.Context(), func() {}, func() { n++ }); err == nil || n != c.want {
			t.Errorf("%s: %d changes, %v; want %d", name, n, err, c.want)
		}
	}
}

// A patient is a ldapmap.Watcher that tells nothing.
type patient struct{ asked []ldapmap.Watch }

func (p *patient) Watch(ctx context.Context, w ldapmap.Watch) error {
	p.asked = append(p.asked, w)
	<-ctx.Done()
	return ctx.Err()
}

// TestUsers: a server is asked anew when others have views mounted.
func TestUsers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := new(patient)
		start := time.Now()
		s := &Server{Watcher: p, Probe: time.Minute, Host: "lnx01", Users: func() ([]string, error) {
			if time.Since(start) > 10*time.Minute {
				return []string{"rob"}, nil
			}
			return nil, nil
		}}
		if err := s.Follow(t.Context(), func() {}, func() {}); !errors.Is(err, ErrAnew) || time.Since(start) != 11*time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := s.Follow(ctx, func() {}, func() {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if a, b := fmt.Sprint(p.asked[0].Terms), fmt.Sprint(p.asked[1].Terms); strings.Contains(a, "rob") || !strings.Contains(b, "rob") {
			t.Errorf("asked for %s, and then for %s", a, b)
		}
	})
}

// TestFiles: a change of a file counts, however it is made, and of nothing else; and the
// directory may go.
func TestFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "inventory.d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	ready, changed, ended := make(chan struct{}), make(chan struct{}, 100), make(chan error, 1)
	go func() {
		ended <- Files{Dir: dir}.Follow(ctx, func() { close(ready) }, func() { changed <- struct{}{} })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	do := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatalf("%s is not told", what)
		}
	}
	path := filepath.Join(dir, "a.ldif")
	do("a new file", os.WriteFile(path, []byte("x"), 0o600))
	do("a new text", os.WriteFile(path, []byte("y"), 0o600))
	other := filepath.Join(dir, ".tmp")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	do("a file that is renamed to it", os.Rename(other, path))
	do("a removed file", os.Remove(path))
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("without the directory: %v", err)
	}
	if err := (Files{Dir: dir}).Follow(ctx, nil, nil); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("no directory: %v", err)
	}
}
