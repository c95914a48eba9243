package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/utab"
	"github.com/levelfs/levelfs/mounter"
)

// A hookReport says which hooks would run at an event.
type hookReport struct {
	Event   hook.Event     `json:"event"`
	Run     []string       `json:"run"` // paths, in their order
	Ignored []hook.Ignored `json:"ignored,omitempty"`
	Refused []hook.Ignored `json:"refused,omitempty"` // while there is one, what it is for is refused
	Unknown string         `json:"unknown,omitempty"` // who asks may not look
}

// reportHooks looks which hooks there are for the events. Nothing is reported where there
// are no hooks at all. The error is that of a mount or a change of level, which would be
// refused.
func reportHooks(c *config.Config, events ...hook.Event) ([]hookReport, error) {
	dir, err := hook.Open(c.Root())
	if dir == nil {
		return nil, err
	}
	var (
		reports []hookReport
		errs    []error
	)
	for _, e := range events {
		set, err := dir.Set(e)
		r := hookReport{Event: e, Run: append([]string{}, set.Hooks...), Ignored: set.Ignored}
		if errors.Is(err, fs.ErrPermission) {
			r.Unknown, err = err.Error(), nil
		}
		if errs = append(errs, err); e != hook.Umount {
			errs = append(errs, set.Err())
		}
		for _, refused := range set.Refused {
			r.Refused = append(r.Refused, hook.Ignored{Path: refused.Path, Why: refused.Why})
		}
		reports = append(reports, r)
	}
	return reports, errors.Join(errs...)
}

// says reports whether there is anything to write for people.
func (r hookReport) says() bool {
	return len(r.Run)+len(r.Ignored)+len(r.Refused) > 0 || r.Unknown != ""
}

func (r hookReport) write(out io.Writer) {
	for _, path := range r.Run {
		fmt.Fprintf(out, "  %s\t%s\n", r.Event, path)
	}
	for _, i := range r.Ignored {
		fmt.Fprintf(out, "  %s\t%s is not run: %s\n", r.Event, i.Path, i.Why)
	}
	for _, i := range r.Refused {
		fmt.Fprintf(out, "  %s\t%s is refused: %s\n", r.Event, i.Path, i.Why)
	}
	if r.Unknown != "" {
		fmt.Fprintf(out, "  %s\tnot known: %s\n", r.Event, r.Unknown)
	}
}

// withHooks changes the level by f, with the hooks of changes of level before and after
// it. The first error is that of f, or of the hooks before it; the second is that of hooks
// after it, which undoes nothing.
func (s *switcher) withHooks(ctx context.Context, plan *mounter.Plan, component, user string, f func() error) (err, after error) {
	dir, err := hook.Open(s.config.Root())
	if err != nil {
		return err, nil
	}
	if dir == nil {
		return f(), nil
	}
	set, err := dir.Set(hook.Switch)
	if err != nil {
		return err, nil
	}
	runner := hook.Runner{
		Set: set, Limits: hook.LimitsOf(hook.Switch, s.config.HookTime.Duration),
		Say:  func(name, line string) { fmt.Fprintf(s.stderr, "levelfs: hook %s: %s\n", name, line) },
		Call: hook.Call{Component: component, Level: plan.Name, OldLevel: plan.Replaces.Name, Target: plan.Target, User: user},
	}
	if p := plan.Private; p != nil && !p.Ephemeral {
		runner.Call.Private = p.Dir
	}
	return runner.Around(ctx, func() error {
		if err := f(); err != nil {
			return err
		}
		s.noteHelper(ctx, dir, plan)
		return nil
	})
}

// noteHelper has umount(8) call umount.levelfs for the new view, if there are hooks for
// that: the mount of another source is another one for libmount.
func (s *switcher) noteHelper(ctx context.Context, dir *hook.Dir, plan *mounter.Plan) {
	set, err := dir.Set(hook.Umount)
	if err == nil && set.None() {
		return
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		err = utab.System().Set(ctx, plan.Source, plan.Target, hook.UmountHelper)
	}
	if err != nil {
		s.log.Warnf("%s: no hooks will run when it is unmounted: %v", plan.Target, err)
	}
}
