package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// Hold takes the lock of the private layer in dir, so that no view of it is mounted
// until the lock is closed. It is an *[InUseError] if one is: the kernel does not allow
// to change what an overlay uses. run is the directory for what does not outlive a boot.
func Hold(ctx context.Context, dir, run string) (*os.File, error) {
	p := &Private{Dir: dir}
	if _, err := os.Stat(p.upper()); err != nil {
		return nil, err
	}
	lock, err := lockFile(ctx, p.lock())
	if err != nil {
		return nil, err
	}
	if err := p.idle(lock, run); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Lock takes the lock of the private layer in dir whether it is used or not: for what
// lies beside its files.
func Lock(ctx context.Context, dir string) (*os.File, error) {
	return lockFile(ctx, (&Private{Dir: dir}).lock())
}

// WriteRecord replaces a file beside the private layer's files, so that after a crash it
// has the old content or the new. The caller has the lock.
func WriteRecord(path, text string) error { return writeDurably(path, text) }

// Inspect mounts one layer out of sight, checked as for a view, and calls f with its
// directory. f runs on a thread that sees the mount: it must not start goroutines that
// read from it. run and cache are as in a [Request].
func (a *Applier) Inspect(ctx context.Context, l Layer, run, cache string, f func(dir string) error) error {
	if l.Path == "" {
		return fmt.Errorf("layer %q: there is no image file of it: %w", l.Name, fs.ErrNotExist)
	}
	l.Devices = nil
	x := &execution{applier: a, images: make(map[int]*os.File), plan: &Plan{
		Name: l.Name, Layers: []Layer{l}, Stage: filepath.Join(run, "layers"), Run: run, Cache: cache,
	}}
	dir := x.plan.staged(l)
	mount := Step{Op: OpMount, Layer: 0, Path: l.File(), Target: dir}
	x.plan.Steps = []Step{{Op: OpCheck, Layer: 0, Path: l.File()}, {Op: OpStage, Layer: -1, Target: x.plan.Stage}, mount}
	if l.FSType == "dir" {
		mount.Op = OpBind
		x.plan.Steps = []Step{{Op: OpStage, Layer: -1, Target: x.plan.Stage}, mount}
	}
	x.then = func() error {
		if x.loops != nil {
			if err := x.loops.unlock(); err != nil {
				return err
			}
		}
		return f(dir)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked, as in Apply
		done <- x.run(ctx)
	}()
	return <-done
}
