package dcss

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// A Hold is some segments' lock files: until it is released no other program that
// takes them attaches or detaches the segments. What has to happen without anybody
// between is done under one Hold: a device that is attached and then opened is there
// when it is opened, and what is written down about it is true.
//
// The driver itself keeps a device that is open; the Hold is about the time before
// that. One that takes longer than the caller's patience stays until it is over: its
// locks are the writer's, too.
type Hold struct {
	driver *Driver
	names  []string
	locks  []*os.File
}

// Hold takes the lock files of the segments of one device. The error is a
// *[DeadlineError] if ctx, or a time limit of minutes, is over before that.
func (d *Driver) Hold(ctx context.Context, segments ...string) (*Hold, error) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	return d.hold(ctx, OpAdd, segments)
}

func (d *Driver) hold(ctx context.Context, op Op, segments []string) (*Hold, error) {
	names, err := ParseNames(segments...)
	if err != nil {
		return nil, err
	}
	locks, err := d.lock(ctx, op, names)
	if err != nil {
		return nil, err
	}
	return &Hold{driver: d, names: names, locks: locks}, nil
}

// Name is the name that the device of the segments has: that of the first.
func (h *Hold) Name() string { return h.names[0] }

// Release gives the segments free, unless the driver is still at work on them.
func (h *Hold) Release() { unlock(h.locks) }

// Attach is [Driver.Attach] of the segments. It tells besides whether it was this call
// that attached them; if not they were there already.
func (h *Hold) Attach(ctx context.Context) (device Device, attached bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	d := h.driver
	if device, err := d.find(h.names); err != nil || device.Name != "" {
		return device, false, err
	}
	list := join(h.names)
	err = d.do(ctx, OpAdd, filepath.Join(d.dir(), "add"), list, list, h.locks)
	if errors.Is(err, syscall.EEXIST) {
		// Somebody who does not know of our locks was faster.
		device, lookErr := d.find(h.names)
		if lookErr != nil || device.Name != "" {
			return device, false, lookErr
		}
	}
	if err != nil {
		return Device{}, false, err
	}
	device, err = d.find(h.names)
	if err == nil && device.Name == "" {
		err = fmt.Errorf("attach %q: the driver reported success, but there is no such device", list)
	}
	return device, err == nil, err
}

// Detach is [Driver.Detach] of the device that has the name of the first segment.
func (h *Hold) Detach(ctx context.Context) error { return h.change(ctx, OpRemove, "") }

// Open is [Driver.Open] of the device that the first segment is on.
func (h *Hold) Open() (*os.File, Device, error) { return h.driver.Open(h.names[0]) }

// Inspect is [Driver.Inspect] of the first segment.
func (h *Hold) Inspect() (Device, error) { return h.driver.Inspect(h.names[0]) }

// change does an operation on the device that has the name of the first segment.
func (h *Hold) change(ctx context.Context, op Op, text string) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	d, name := h.driver, h.names[0]
	file := filepath.Join(d.dir(), name, string(op))
	if op == OpRemove {
		file, text = filepath.Join(d.dir(), string(op)), name
	}
	return d.do(ctx, op, file, text, name, h.locks)
}
