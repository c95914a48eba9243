// Package attached attaches z/VM segments for levelfs and remembers which ones levelfs
// attached: those alone are levelfs's to detach when nothing uses them any more.
//
// What is remembered is a file for each device, the mark. It is written and removed
// only while the segments' lock files are held (dcss.Hold), so that it never tells of a
// device whose attaching has yet to begin. It is made before the device: a mark without
// a device does no harm, while a device without a mark would stay for ever. Once the
// device is there the mark has its instance: a later device of the same name, that
// somebody else attached, is not the one.
//
// When not to use it: to find out what is attached. That is dcss.Driver.List.
package attached

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/config"
)

// Segments are those of one machine. A program that attaches or detaches some has to
// begin with [dcss.Writer].
type Segments struct {
	*dcss.Driver
	marks string // directory
}

// New returns the segments of this machine.
func New(c *config.Config) *Segments {
	return &Segments{
		Driver: dcss.NewFromRoot(c.Root(), c.RunDir(), "/proc/self/exe"),
		marks:  filepath.Join(c.RunDir(), "segments"),
	}
}

// Open attaches the segments if they are not, for levelfs, and opens their device for
// reading. Nobody can detach it in between, and as long as the file is open.
func (s *Segments) Open(ctx context.Context, segments ...string) (*os.File, error) {
	h, err := s.Hold(ctx, segments...)
	if err != nil {
		return nil, err
	}
	defer h.Release()
	if _, err := s.attach(ctx, h); err != nil {
		return nil, err
	}
	f, _, err := h.Open()
	return f, err
}

// Attach attaches the segments if they are not. With collect the device is levelfs's
// to detach when nothing uses it, whoever attached it; otherwise it is not.
func (s *Segments) Attach(ctx context.Context, collect bool, segments ...string) (dcss.Device, error) {
	h, err := s.Hold(ctx, segments...)
	if err != nil {
		return dcss.Device{}, err
	}
	defer h.Release()
	if collect {
		device, err := s.attach(ctx, h)
		if err != nil {
			return device, err
		}
		return device, s.mark(device)
	}
	device, _, err := h.Attach(ctx)
	if err != nil {
		return device, err
	}
	return device, s.unmark(device.Name)
}

// attach attaches what is held, and marks it if it was not attached.
func (s *Segments) attach(ctx context.Context, h *dcss.Hold) (dcss.Device, error) {
	switch _, err := h.Inspect(); {
	case err == nil:
		device, _, err := h.Attach(ctx) // it is that device, or the error says which
		return device, err
	case !errors.Is(err, dcss.ErrNotAttached):
		return dcss.Device{}, err
	}
	if err := s.announce(h.Name()); err != nil {
		return dcss.Device{}, err
	}
	device, attached, err := h.Attach(ctx)
	var late *dcss.DeadlineError
	switch {
	case errors.As(err, &late) && late.Started:
		return device, err // the driver goes on, and the mark is for what comes of it
	case err != nil || !attached:
		return device, errors.Join(err, s.unmark(h.Name()))
	}
	return device, s.mark(device)
}

// Detach detaches the device of that name, whoever attached it. The driver refuses
// while it is in use: see [dcss.Driver.Detach].
func (s *Segments) Detach(ctx context.Context, name string) error {
	h, err := s.Hold(ctx, name)
	if err != nil {
		return err
	}
	defer h.Release()
	if err := h.Detach(ctx); err != nil {
		return err
	}
	return s.unmark(h.Name())
}

// Ours reports whether levelfs attached the device, and may detach it.
func (s *Segments) Ours(device dcss.Device) (bool, error) {
	text, err := os.ReadFile(s.path(device.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(text) == 0 {
		return true, nil // it was announced, and whoever did so was gone when it came
	}
	instance, err := s.Instance(device)
	return err == nil && string(text) == record(instance), err
}

// Marks are the names of the devices that there is a mark of, sorted.
func (s *Segments) Marks() ([]string, error) {
	entries, err := os.ReadDir(s.marks)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if name, err := dcss.ParseName(e.Name()); err == nil && name == e.Name() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// An Outcome is what became of a mark and its device.
type Outcome string

// The outcomes.
const (
	Kept     Outcome = "kept"     // in use
	Detached Outcome = "detached" // the device, and the mark is gone
	Stale    Outcome = "stale"    // only the mark is gone: its device is not there
)

// Collect detaches the device of a mark, unless the driver says that it is in use, and
// removes a mark whose device is not there. With dryRun nothing is changed, and whether
// the driver would refuse is not known. used may know better than the driver that the
// device is in use; nil: it is not asked.
func (s *Segments) Collect(ctx context.Context, name string, dryRun bool, used func(dcss.Device) (bool, error)) (Outcome, error) {
	h, err := s.Hold(ctx, name)
	if err != nil {
		return Kept, err
	}
	defer h.Release()
	var ours bool
	device, err := h.Inspect()
	switch {
	case errors.Is(err, dcss.ErrNotAttached), errors.Is(err, dcss.ErrNoDriver):
	case err != nil:
		return Kept, err
	case device.Name == h.Name(): // and not a device of others that the segment is on
		if ours, err = s.Ours(device); err != nil {
			return Kept, err
		}
	}
	if !ours {
		if dryRun {
			return Stale, nil
		}
		return Stale, s.unmark(h.Name())
	}
	if used != nil {
		if is, err := used(device); is || err != nil {
			return Kept, err
		}
	}
	if dryRun {
		return Detached, nil
	}
	err = h.Detach(ctx)
	var refused *dcss.Error
	switch {
	case errors.As(err, &refused) && refused.InUse():
		return Kept, nil
	case errors.As(err, &refused) && refused.Gone(): // by somebody without locks
		return Stale, s.unmark(h.Name())
	case err != nil:
		return Kept, err
	}
	return Detached, s.unmark(h.Name())
}

func (s *Segments) path(name string) string { return filepath.Join(s.marks, name) }

// announce makes the mark of a device that is about to be attached.
func (s *Segments) announce(name string) error {
	if err := os.MkdirAll(s.marks, 0o700); err != nil {
		return err
	}
	return os.WriteFile(s.path(name), nil, 0o600)
}

// mark makes the mark of a device that is attached.
func (s *Segments) mark(device dcss.Device) error {
	instance, err := s.Instance(device)
	if err == nil {
		err = s.announce(device.Name)
	}
	if err == nil {
		err = os.WriteFile(s.path(device.Name), []byte(record(instance)), 0o600)
	}
	return err
}

func record(instance uint64) string { return fmt.Sprintf("instance %d\n", instance) }

func (s *Segments) unmark(name string) error {
	err := os.Remove(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
