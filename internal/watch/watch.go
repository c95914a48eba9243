package watch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// A Source tells of changes until the context ends or it is lost.
type Source interface {
	Name() string
	// Follow calls ready when it tells of all changes from then on, and changed for each.
	Follow(ctx context.Context, ready, changed func()) error
}

// A Watcher calls Refresh when something has changed.
type Watcher struct {
	Sources []Source
	// Refresh does what there is to do. If it fails, it is called again after a while,
	// changes or not.
	Refresh func(ctx context.Context) error
	// Settle is for how long nothing may change before Refresh is called, but not for
	// longer than ten times that. Jitter is the most that is waited besides, at random.
	Settle, Jitter time.Duration
	// Again is after how long a Refresh that failed is called again, and a source is asked
	// that was lost: each time twice as long, up to Longest.
	Again, Longest time.Duration
	// Once ends Run after the first Refresh that a change has caused, and leaves out the one
	// at the beginning.
	Once bool
	// Ready, if not nil, is called when each source was asked once, whether it tells or not.
	Ready func()
	// Note and Warn, if not nil, are told what happens, in a sentence.
	Note, Warn func(text string)
}

// A news is what a source has to say.
type news struct {
	source  Source
	ready   bool  // it tells from now on
	changed bool  // something has changed
	lost    error // it does not tell any more, and why
}

// Run returns when the context ends, which is no error, or with Once. No source is used
// any more then.
func (w *Watcher) Run(ctx context.Context) error {
	var following sync.WaitGroup
	defer following.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	told := make(chan news)
	for _, s := range w.Sources {
		following.Go(func() { w.follow(ctx, s, told) })
	}
	asked := make(map[Source]bool)
	var (
		due   = time.NewTimer(0) // when Refresh is called
		first time.Time          // of the changes that wait for it
		again = w.Again
	)
	if !due.Stop() {
		<-due.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case n := <-told:
			w.tell(n)
			if !asked[n.source] {
				asked[n.source] = true
				if len(asked) == len(w.Sources) && w.Ready != nil {
					w.Ready()
				}
			}
			if n.changed || n.ready && !w.Once {
				if first.IsZero() {
					first = time.Now()
				}
				due.Reset(w.wait(first))
			}
		case <-due.C:
			first = time.Time{}
			err := w.Refresh(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case w.Once:
				return err
			case err == nil:
				again = w.Again
			default:
				say(w.Warn, "%v; it is tried again in %v, or when something changes", err, again)
				due.Reset(again)
				again = min(2*again, w.Longest)
			}
		}
	}
}

// wait is how long to wait after a change, of those that wait since first.
func (w *Watcher) wait(first time.Time) time.Duration {
	settle := min(w.Settle, max(0, time.Until(first.Add(10*w.Settle))))
	return settle + spread(w.Jitter)
}

// spread is a random time up to d.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// follow asks a source again and again.
func (w *Watcher) follow(ctx context.Context, s Source, told chan<- news) {
	say := func(n news) {
		n.source = s
		select {
		case told <- n:
		case <-ctx.Done():
		}
	}
	pause := w.Again
	for ctx.Err() == nil {
		err := s.Follow(ctx, func() {
			pause = w.Again
			say(news{ready: true})
		}, func() { say(news{changed: true}) })
		if errors.Is(err, ErrAnew) {
			continue
		}
		say(news{lost: err})
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + spread(pause)):
		}
		pause = min(2*pause, w.Longest)
	}
}

// ErrAnew is what a Source returns that is to be asked anew at once.
var ErrAnew = errors.New("another question is to be asked")

func (w *Watcher) tell(n news) {
	switch {
	case n.ready:
		say(w.Note, "%s tells of changes", n.source.Name())
	case n.lost != nil:
		say(w.Warn, "%v; it is tried again", n.lost)
	}
}

func say(to func(string), format string, args ...any) {
	if to != nil {
		to(fmt.Sprintf(format, args...))
	}
}
