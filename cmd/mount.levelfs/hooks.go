package main

import (
	"context"
	"os/signal"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/utab"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// utabTime is how long others may keep libmount's table from being changed.
const utabTime = time.Second

// withHooks mounts the view by f, with the hooks of mounts before and after it. Where
// there are none that costs one system call.
func withHooks(ctx context.Context, c *config.Config, r *ldapmap.Resolution, plan *mounter.Plan, user string, report *reporter, f func(context.Context) error) error {
	dir, err := hook.Open(c.Root())
	if err != nil {
		return err
	}
	if dir == nil {
		return f(ctx)
	}
	mount := func(ctx context.Context) error {
		if err := f(ctx); err != nil {
			return err
		}
		noteHelper(ctx, dir, plan, report)
		return nil
	}
	hooks, err := dir.Set(hook.Mount)
	if err != nil {
		return err
	}
	if hooks.None() {
		return mount(ctx)
	}
	runner := hook.Runner{
		Set: hooks, Limits: hook.LimitsOf(hook.Mount, c.HookTime.Duration), Say: report.hook,
		Call: hook.Call{Component: r.Component.Name, Level: plan.Name, Target: plan.Target, User: user},
	}
	if p := plan.Private; p != nil && !p.Ephemeral {
		runner.Call.Private = p.Dir
		bases, err := mounter.Bases(p.Dir)
		if err != nil {
			report.warn(err.Error())
		}
		if n := len(bases); n > 0 {
			runner.Call.OldLevel = bases[n-1].Level
		}
	}
	// A signal ends the hook, and not before the hooks after it have had their turn.
	limited, stop := untilEnd(ctx)
	defer stop()
	err, after := runner.Around(limited, func() error { return mount(limited) })
	if after != nil {
		report.warn(after.Error()) // the view is there, or err says why not
	}
	return err
}

// untilEnd is untilSignal for what must not end between two hooks, of which the second starts
// again what the first has stopped: a terminal that hangs up ends the context, too, and from
// here on it ends nothing if nobody reads any more what is said.
func untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	hook.Deafen()
	return signal.NotifyContext(ctx, hook.Endings()...)
}

// noteHelper has umount(8) call umount.levelfs for the view, if there are hooks for it.
func noteHelper(ctx context.Context, dir *hook.Dir, plan *mounter.Plan, report *reporter) {
	hooks, err := dir.Set(hook.Umount)
	if err == nil && hooks.None() {
		return
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, utabTime)
		defer cancel()
		err = utab.System().Set(ctx, plan.Source, plan.Target, hook.UmountHelper)
	}
	if err != nil {
		report.warn("no hooks will run when it is unmounted: " + err.Error())
	}
}
