package watch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/levelfs/levelfs/ldapmap"
)

// Server is a source that tells of changes by itself.
type Server struct {
	ldapmap.Source
	Watcher ldapmap.Watcher // the same source
	Host    string
	// Users returns whose views are mounted: changes that are about others do not count.
	// It is asked each time that the server is, and now and then.
	Users func() ([]string, error)
	Probe time.Duration // see [ldapmap.Watch]

	own map[string]string // what entries of hosts say, by DN, to tell a report from a change
}

// Follow implements [Source].
func (s *Server) Follow(ctx context.Context, ready, changed func()) error {
	users, err := s.Users()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go s.lookAtUsers(ctx, users, cancel)
	s.own = make(map[string]string)
	terms, attrs := ldapmap.Deciding(s.Host, users)
	begun := false
	err = s.Watcher.Watch(ctx, ldapmap.Watch{
		Terms: terms, Attrs: attrs, Probe: s.Probe,
		Ready: func() { begun = true; ready() },
		Changed: func(e ldapmap.Entry, gone bool) {
			if s.matters(e, gone) && begun {
				changed()
			}
		},
	})
	if errors.Is(context.Cause(ctx), ErrAnew) {
		return ErrAnew
	}
	return err
}

// lookAtUsers ends the context when others have views than those.
func (s *Server) lookAtUsers(ctx context.Context, users []string, cancel context.CancelCauseFunc) {
	ticker := time.NewTicker(s.Probe)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if now, err := s.Users(); err == nil && !slices.Equal(now, users) {
				cancel(ErrAnew)
				return
			}
		}
	}
}

// matters reports whether something may be assigned otherwise by the change of the entry.
// What a host writes into its own entry, its report, is no reason to look again.
func (s *Server) matters(e ldapmap.Entry, gone bool) bool {
	if gone || !ldapmap.IsHost(e) {
		return true
	}
	var says strings.Builder
	for _, attr := range []string{"objectclass", "levelfsassignment", "levelfsmandatory", "levelfsprofileref", "levelfscustomize"} {
		fmt.Fprintf(&says, "%q", slices.Sorted(slices.Values(e.Attrs[attr])))
	}
	was, known := s.own[e.DN]
	s.own[e.DN] = says.String()
	return !known || was != says.String()
}

// Files is a directory of LDIF files.
type Files struct{ Dir string }

// Name implements [Source].
func (f Files) Name() string { return f.Dir }

// Follow implements [Source]. A directory on a network file system tells nothing of
// what other machines change.
func (f Files) Follow(ctx context.Context, ready, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Add(f.Dir); err != nil {
		return fmt.Errorf("watch %q: %w", f.Dir, err)
	}
	before, err := os.Stat(f.Dir)
	if err != nil {
		return err
	}
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-w.Events:
			switch {
			case !ok:
				return fmt.Errorf("watch %q: ended", f.Dir)
			case e.Op == fsnotify.Chmod:
			case e.Name == f.Dir: // it is removed or renamed
				return fmt.Errorf("watch %q: it is gone", f.Dir)
			case strings.HasSuffix(e.Name, ".ldif") && !strings.HasPrefix(filepath.Base(e.Name), "."):
				if now, err := os.Stat(f.Dir); err != nil || !os.SameFile(before, now) {
					return fmt.Errorf("watch %q: it is another directory", f.Dir)
				}
				changed()
			}
		case err, ok := <-w.Errors:
			if !ok {
				err = errors.New("ended")
			}
			return fmt.Errorf("watch %q: %w", f.Dir, err)
		}
	}
}
