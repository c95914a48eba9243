package dcss

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waitLimit is how long an operation is waited for if the caller's context has no
// deadline, or a later one. CP needs seconds to load a large segment from spool.
const waitLimit = 5 * time.Minute

// A Driver is the dcssblk driver of one machine. It holds no state: any number of
// them, in any number of processes, may be used at once.
type Driver struct {
	root string
	run  string
	// write does one write to a file of the driver. It returns when the write is
	// over, with the driver's errno, or when ctx is done. The locks are held until
	// the write is over, even then.
	write func(ctx context.Context, file, text string, locks []*os.File) error
}

// New returns the driver of this machine. Lock files are made in the directory run,
// which every program that attaches segments has to agree on. Writer is the path
// of a program whose main function starts with [Writer], usually "/proc/self/exe".
func New(run, writer string) *Driver { return NewFromRoot("/", run, writer) }

// NewFromRoot is [New] with sys and dev below another directory than /, for tests.
func NewFromRoot(root, run, writer string) *Driver {
	return &Driver{root: root, run: run, write: process(writer).write}
}

func (d *Driver) dir() string { return filepath.Join(d.root, "sys/devices/dcssblk") }

// Attach makes one device of the named segments, which have to be contiguous, and
// returns it. If there is a device of exactly this list already, that is it. If one
// of them is on another device, the error is a *[HeldError]; other refusals of the
// driver are an *[Error], and a *[DeadlineError] says that ctx was done first.
//
// Who wants to use the device opens it before anybody can detach it: see [Hold.Open].
func (d *Driver) Attach(ctx context.Context, segments ...string) (Device, error) {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	h, err := d.hold(ctx, OpAdd, segments)
	if err != nil {
		return Device{}, err
	}
	defer h.Release()
	device, _, err := h.Attach(ctx)
	return device, err
}

// find returns the device of exactly these segments, a *HeldError if one of them is
// on another, or a zero Device.
func (d *Driver) find(names []string) (Device, error) {
	devices, err := d.List()
	if err != nil {
		return Device{}, err
	}
	for _, device := range devices {
		if slices.Equal(device.Segments, names) {
			return device, nil
		}
	}
	for _, device := range devices {
		for _, name := range names {
			if slices.Contains(device.Segments, name) {
				return Device{}, &HeldError{Segment: name, Wanted: names, Device: device}
			}
		}
	}
	return Device{}, nil
}

// Detach removes the device of that name, which is the name of its first segment.
// The driver refuses with EBUSY while the device is open or mounted, and with
// ENODEV if there is none; see [Error].
func (d *Driver) Detach(ctx context.Context, name string) error {
	return d.change(ctx, OpRemove, name, "")
}

// SetShared loads the segments of the device again, shared with the other guests or
// as this guest's own writable copy. The device must not be open. If CP refuses,
// the device is gone.
func (d *Driver) SetShared(ctx context.Context, name string, shared bool) error {
	if shared {
		return d.change(ctx, OpShared, name, "1")
	}
	return d.change(ctx, OpShared, name, "0")
}

// Save has CP save the content of the device's segments, for all guests that load
// them from then on. If the device is open that happens at the last close. The
// driver reports no failure of CP: look into the kernel's log, or load the segment
// in another guest.
func (d *Driver) Save(ctx context.Context, name string) error {
	return d.change(ctx, OpSave, name, "1")
}

// change does an operation on the device of that name.
func (d *Driver) change(ctx context.Context, op Op, segment, text string) error {
	ctx, cancel := context.WithTimeout(ctx, waitLimit)
	defer cancel()
	h, err := d.hold(ctx, op, []string{segment})
	if err != nil {
		return err
	}
	defer h.Release()
	return h.change(ctx, op, text)
}

// do writes to a file of the driver.
func (d *Driver) do(ctx context.Context, op Op, file, text, segment string, locks []*os.File) error {
	if _, err := os.Stat(d.dir()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return ErrNoDriver
		}
		return err
	}
	if err := ctx.Err(); err != nil {
		return &DeadlineError{Op: op, Segment: segment, Err: err}
	}
	err := d.write(ctx, file, text+"\n", locks)
	var errno syscall.Errno
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return &DeadlineError{Op: op, Segment: segment, Started: true, Err: err}
	case errors.Is(err, fs.ErrNotExist) && errors.Is(err, errOpen):
		return fmt.Errorf("%s %q: %w", op, segment, ErrNotAttached)
	case errors.As(err, &errno) && !errors.Is(err, errOpen):
		return &Error{Op: op, Segment: segment, Errno: errno}
	}
	return fmt.Errorf("%s %q: %w", op, segment, err)
}

// lock takes the lock files of the segments. They are taken in the order of names,
// so that two callers never wait for each other.
func (d *Driver) lock(ctx context.Context, op Op, names []string) ([]*os.File, error) {
	dir := filepath.Join(d.run, "dcss")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	var locks []*os.File
	for _, name := range slices.Sorted(slices.Values(names)) {
		f, err := lockFile(ctx, filepath.Join(dir, name+".lock"))
		if err != nil {
			unlock(locks)
			if ctx.Err() != nil {
				return nil, &DeadlineError{Op: op, Segment: join(names), Err: ctx.Err()}
			}
			return nil, err
		}
		locks = append(locks, f)
	}
	return locks, nil
}

// unlock closes the files. If a writer still has one of them the lock is its.
func unlock(locks []*os.File) {
	for _, f := range locks {
		f.Close()
	}
}

// lockFile opens the file, making it if need be, and takes flock(2) on it.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, &fs.PathError{Op: "flock", Path: path, Err: err}
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
