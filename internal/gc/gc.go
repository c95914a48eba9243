// Package gc removes what levelfs itself made on this machine and nothing uses any
// more. Nothing of it has to be removed for levelfs to work: segments that are attached
// take memory, the rest is small.
//
// It is a list of collectors, each for one kind of thing. What one of them cannot do
// does not stop the others. Private layers are none of its business; backups of them are
// only where it is configured for how long to keep them.
package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/private"
	"github.com/levelfs/levelfs/internal/usage"
	"github.com/levelfs/levelfs/mounter"
)

// An Action is what was done with a thing.
type Action string

// The actions.
const (
	Detached Action = "detached"
	Removed  Action = "removed"
	Kept     Action = "kept"
)

// An Item is one thing that was found.
type Item struct {
	Kind   string `json:"kind"` // the collector's
	Name   string `json:"name"`
	Action Action `json:"action"` // in a dry run, what would be done
	Reason string `json:"reason"`
}

// A collector collects one kind of thing. With dryRun it only says what it would do.
type collector struct {
	kind    string
	collect func(ctx context.Context, c *config.Config, dryRun bool) ([]Item, error)
}

func collectors() []collector {
	return []collector{
		{"segment", segments},
		{"view mark", viewMarks},
		{"cache entry", cacheEntries},
		{"list of files", lists},
		{"temporary file", temporaries},
		{"backup", backups},
	}
}

// Run has each collector collect, and returns what they did, also with an error.
func Run(ctx context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	items := []Item{}
	var errs []error
	for _, k := range collectors() {
		found, err := k.collect(ctx, c, dryRun)
		for _, item := range found {
			item.Kind = k.kind
			items = append(items, item)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", k.kind, err))
		}
	}
	return items, errors.Join(errs...)
}

// segmentWait bounds the wait for one segment.
const segmentWait = time.Minute

// segments detaches the segments that levelfs attached and no view uses, if the driver
// lets them go, and removes marks of devices that are not there.
func segments(ctx context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	s := attached.New(c)
	names, err := s.Marks()
	if err != nil {
		return nil, err
	}
	var items []Item
	var errs []error
	for _, name := range names {
		item, err := segment(ctx, c, s, name, dryRun)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		items = append(items, item)
	}
	return items, errors.Join(errs...)
}

// Segment is Run for one segment that levelfs attached.
func Segment(ctx context.Context, c *config.Config, name string) (Item, error) {
	return segment(ctx, c, attached.New(c), name, false)
}

func segment(ctx context.Context, c *config.Config, s *attached.Segments, name string, dryRun bool) (Item, error) {
	ctx, cancel := context.WithTimeout(ctx, segmentWait)
	defer cancel()
	item := Item{Name: name, Action: Kept, Reason: "in use, the driver says"}
	var process string
	if dryRun { // in place of the driver, who can only be asked by trying
		var err error
		if process, err = user(ctx, c, s, name); err != nil {
			return item, err
		}
	}
	outcome, err := s.Collect(ctx, name, dryRun, func(d dcss.Device) (bool, error) {
		views, err := mounter.Views()
		if err != nil {
			return true, err
		}
		for _, v := range views {
			if slices.ContainsFunc(v.Layers, func(l string) bool { return mounter.IsOf(l, mounter.Device{Kind: mounter.Segment, Name: d.Name}) }) {
				item.Reason = fmt.Sprintf("used by %s at %s", v.Name, v.Target)
				return true, nil
			}
		}
		if process != "" {
			item.Reason = process
		}
		return process != "", nil
	})
	switch outcome {
	case attached.Detached:
		item.Action, item.Reason = Detached, "attached by levelfs, and no view uses it"
	case attached.Stale:
		item.Action, item.Reason = Removed, "only a mark: levelfs has no such device attached"
	}
	return item, err
}

// user is a process that uses the segment, as a reason to keep it, or "".
func user(ctx context.Context, c *config.Config, s *attached.Segments, name string) (string, error) {
	d, err := s.Inspect(name)
	if err != nil {
		return "", nil // then there is no device to detach
	}
	uses, err := usage.Of(ctx, c.RunDir(), []usage.Device{{
		Device: mounter.Device{Kind: mounter.Segment, Name: d.Name}, Major: d.Major, Minor: d.Minor,
	}})
	var incomplete *usage.IncompleteError
	if err != nil && !errors.As(err, &incomplete) {
		return "", err
	}
	if len(uses[0].Processes) == 0 {
		return "", nil
	}
	p := uses[0].Processes[0]
	return fmt.Sprintf("used by process %d (%q), which %s", p.PID, p.Command, p.How), nil
}

// viewMarks removes the marks of views that are gone.
func viewMarks(_ context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	paths, err := mounter.RemoveMarks(c.RunDir(), dryRun)
	return removed(paths, "the view is gone"), err
}

// cacheEntries removes what is too old to be used, or more than the cache may hold, but for
// what mounted views are made of.
func cacheEntries(_ context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	views, err := mounter.Views()
	if err != nil {
		return nil, err
	}
	mounted := make(map[string]bool)
	for _, v := range views {
		mounted[v.Name] = true
	}
	paths, err := cache.Cache{Dir: c.CacheDir(), Limit: c.CacheSize.Bytes}.Collect(time.Now().Add(-c.Keep.Duration), mounted, dryRun)
	return removed(paths, "older than keep, or more than cache-size"), err
}

// lists removes the lists of files of layers that no private layer is or was over.
func lists(_ context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	paths, err := private.RemoveLists(c, time.Now().Add(-c.Keep.Duration), dryRun)
	return removed(paths, "older than keep, and of no private layer's"), err
}

// unfinished is the age from which a temporary file is nobody's: writers need moments.
const unfinished = time.Hour

// temporaries removes the files that writers left when they were killed, in the cache
// and in the run directory. It looks into no other file system.
func temporaries(_ context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	var paths []string
	var errs []error
	for _, dir := range []string{c.CacheDir(), c.RunDir()} {
		var top unix.Stat_t
		if err := unix.Lstat(dir, &top); err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, &fs.PathError{Op: "lstat", Path: dir, Err: err})
			}
			continue
		}
		errs = append(errs, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			var st unix.Stat_t
			if err := unix.Lstat(path, &st); err != nil {
				return nil // it was finished in the meantime
			}
			if d.IsDir() {
				if st.Dev != top.Dev {
					return fs.SkipDir
				}
				return nil
			}
			if !d.Type().IsRegular() || !strings.HasSuffix(path, ".new") || time.Since(time.Unix(st.Mtim.Unix())) < unfinished {
				return nil
			}
			if !dryRun {
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					return err
				}
			}
			paths = append(paths, path)
			return nil
		}))
	}
	return removed(paths, "its writer did not finish it"), errors.Join(errs...)
}

// backups removes what was taken out of private layers longer ago than it is to be kept.
func backups(_ context.Context, c *config.Config, dryRun bool) ([]Item, error) {
	if c.KeepBackups.Duration == 0 {
		return nil, nil
	}
	paths, err := private.RemoveBackups(c, time.Now().Add(-c.KeepBackups.Duration), dryRun)
	return removed(paths, "older than keep-backups"), err
}

func removed(paths []string, reason string) []Item {
	var items []Item
	for _, path := range paths {
		items = append(items, Item{Name: path, Action: Removed, Reason: reason})
	}
	return items
}
