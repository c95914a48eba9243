package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/hook"
	"github.com/levelfs/levelfs/internal/utab"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/mounter"
)

// umountName is the name under which this program is umount(8)'s helper.
const umountName = "umount.levelfs"

const umountUsage = "usage: umount.levelfs DIR [-flnrv]"

// runUmount unmounts a view as umount(2) does, with the hooks for it before and after.
// Nothing that goes wrong with them keeps the view from being unmounted: only the kernel
// does, if it is in use.
func runUmount(args []string, stderr io.Writer) (status int) {
	report := reporter{program: umountName, stderr: stderr}
	dir, flags, err := parseUmount(args)
	if err != nil {
		report.error(err)
		return exitUsage
	}
	if os.Geteuid() != 0 {
		report.error(errors.New("only root can unmount a view"))
		return exitUsage
	}
	report.spec = dir
	unmount := func() error {
		if err := unix.Unmount(dir, flags); err != nil {
			return &os.PathError{Op: "umount", Path: dir, Err: err}
		}
		ctx, cancel := context.WithTimeout(context.Background(), utabTime)
		defer cancel()
		if err := utab.System().Remove(ctx, dir); err != nil {
			report.warn(err.Error()) // which does no harm: it is of no other mount
		}
		return nil
	}
	if err := umountWithHooks(dir, &report, unmount); err != nil {
		report.error(err)
		return exitFailed
	}
	return exitOK
}

func umountWithHooks(dir string, report *reporter, unmount func() error) error {
	runner, err := umountRunner(dir, report)
	if err == nil && runner != nil {
		err = runner.Set.Err()
	}
	if err != nil || runner == nil {
		if err != nil {
			report.warn(err.Error() + ": it is unmounted without hooks")
		}
		return unmount()
	}
	limited, stop := untilEnd(context.Background())
	defer stop()
	if err := runner.Before(limited); err != nil {
		report.warn(err.Error() + ": it is unmounted all the same")
	}
	err = unmount()
	if err := runner.After(context.Background(), err == nil); err != nil {
		report.warn(err.Error())
	}
	return err
}

// umountRunner is for the view at the directory, or nil if there is none.
func umountRunner(dir string, report *reporter) (*hook.Runner, error) {
	c, err := config.Load()
	if err != nil {
		return nil, err
	}
	hooks, err := hook.Open(c.Root())
	if err != nil {
		return nil, err
	}
	set, err := hooks.Set(hook.Umount)
	if err != nil || set.None() {
		return nil, err
	}
	views, err := mounter.Views()
	if err != nil {
		return nil, err
	}
	var runner *hook.Runner
	for _, v := range views { // of two at one place, the last is the upper one
		if v.Target != dir {
			continue
		}
		component, _, _ := strings.Cut(v.Name, "@")
		runner = &hook.Runner{
			Set: set, Limits: hook.LimitsOf(hook.Umount, c.HookTime.Duration), Say: report.hook,
			Call: hook.Call{Component: component, Level: v.Name, Target: v.Target, User: view.UserOf(c, v)},
		}
		if strings.HasPrefix(v.Upper, c.PrivateDir()+"/") {
			runner.Call.Private = filepath.Dir(v.Upper)
		}
	}
	return runner, nil
}

// parseUmount reads what umount(8) passes to a helper (libmount's context_umount.c,
// exec_helper).
func parseUmount(args []string) (dir string, flags int, err error) {
	flags = unix.UMOUNT_NOFOLLOW
	for i := 0; i < len(args); i++ {
		letters, isOption := strings.CutPrefix(args[i], "-")
		if !isOption {
			if dir != "" {
				return "", 0, usagef("unexpected argument %q\n%s", args[i], umountUsage)
			}
			dir = args[i]
			continue
		}
		for _, letter := range letters {
			switch letter {
			case 'f':
				flags |= unix.MNT_FORCE
			case 'l':
				flags |= unix.MNT_DETACH
			case 'n', 'r', 'v': // there is no mtab; it is not remounted; there is nothing more to say
			case 't':
				i++ // the type, which is known
			default:
				return "", 0, usagef("unknown option -%c\n%s", letter, umountUsage)
			}
		}
	}
	if !filepath.IsAbs(dir) {
		return "", 0, usagef("%q: want an absolute path\n%s", dir, umountUsage)
	}
	return dir, flags, nil
}

// isUmount reports whether the program was called as umount(8)'s helper.
func isUmount(args []string) bool { return len(args) > 0 && filepath.Base(args[0]) == umountName }
