//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command mount.levelfs is the mount(8) helper of levelfs.
//
//	mount.levelfs SPEC DIR [-sfnv] [-o OPTIONS]
//
// SPEC is COMPONENT@LEVEL, or COMPONENT for the level that this host runs, or, with
// the option caller=USER, that user. The
// exit status is mount(8)'s: 0 only if the view is mounted at DIR.
//
// As umount.levelfs it is the helper of umount(8), which runs the hooks for unmounting:
//
//	umount.levelfs DIR [-flnrv]
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// Exit status of mount(8). 16 is never used: automount would retry.
const (
	exitOK          = 0
	exitUsage       = 1  // incorrect invocation or permissions
	exitSystem      = 2  // system error
	exitBug         = 4  // internal error
	exitInterrupted = 8  // interrupted by the user
	exitFailed      = 32 // mount failure
)

func main() {
	if exit, ok := dcss.Writer(os.Args); ok {
		os.Exit(exit)
	}
	if isUmount(os.Args) {
		os.Exit(runUmount(os.Args[1:], os.Stderr))
	}
	os.Exit(run(os.Args[1:], os.Stderr))
}

func run(args []string, stderr io.Writer) (status int) {
	report := reporter{program: "mount.levelfs", stderr: stderr}
	defer func() {
		if p := recover(); p != nil {
			report.error(fmt.Errorf("internal error: %v", p))
			status = exitBug
		}
	}()
	call, err := parseArgs(args)
	if err != nil {
		report.error(err)
		return exitUsage
	}
	report.spec = call.spec
	if err := mount(context.Background(), call, &report); err != nil {
		report.error(err)
		return exitStatus(err)
	}
	return exitOK
}

func exitStatus(err error) int {
	var usage *usageError
	switch {
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, errSystem):
		return exitSystem
	}
	return exitFailed
}

// errSystem marks what has nothing to do with this view.
var errSystem = errors.New("system error")

func mount(ctx context.Context, call *call, report *reporter) error {
	key, err := ldapmap.ParseKey(call.spec)
	if err != nil {
		return &usageError{err.Error()}
	}
	if os.Geteuid() != 0 {
		return &usageError{"only root can mount a view"}
	}
	target, err := filepath.EvalSymlinks(call.dir)
	if err == nil {
		target, err = filepath.Abs(target)
	}
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	c, err := config.Load()
	if err != nil {
		return fmt.Errorf("%w: %w", errSystem, err)
	}
	if len(call.above) > 0 && key.Level == "" {
		return &usageError{fmt.Sprintf("option above goes with a level: %q has its layers from the inventory", call.spec)}
	}
	resolution, warning, err := resolve(ctx, c, key, call.above, call.options.User)
	if warning != "" {
		report.warn(warning)
	}
	if err != nil {
		return err
	}
	plan, err := view.Plan(ctx, c, resolution, target, call.options)
	if err != nil {
		return err
	}
	if call.fake {
		return nil
	}
	applier := mounter.Applier{Long: untilSignal, Note: report.warn, Open: view.Opener(c)}
	if call.verbose {
		applier.Before = func(s mounter.Step) error {
			fmt.Fprintf(report.stderr, "mount.levelfs: %s\n", strings.Join(strings.Fields(fmt.Sprint(s.Op, " ", s.Path, " ", s.Target)), " "))
			return nil
		}
	}
	return withHooks(ctx, c, resolution, plan, call.options.User, report, func(ctx context.Context) error {
		return applier.Apply(ctx, plan)
	})
}

// untilSignal ends the context with SIGINT or SIGTERM. In all that takes less than
// seconds a signal just ends the process: nothing that is left undone stays.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
}
