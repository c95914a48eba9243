package dcss

import (
	"errors"
	"fmt"
	"syscall"
)

// ErrNoDriver is returned where there is no dcssblk driver: its module is not
// loaded, or this is no z/VM guest.
var ErrNoDriver = errors.New("the dcssblk driver is not loaded")

// ErrNotAttached is wrapped by the error of [Driver.Inspect] and [Driver.Open] for a
// segment that is on no device.
var ErrNotAttached = errors.New("segment is not attached")

// An Op is an operation of the driver, by the name of the sysfs file that it is
// written to.
type Op string

// The operations.
const (
	OpAdd    Op = "add"
	OpRemove Op = "remove"
	OpShared Op = "shared"
	OpSave   Op = "save"
)

// An Error is the driver's refusal of an operation.
type Error struct {
	Op      Op
	Segment string // as it was written: "A:B"
	Errno   syscall.Errno
}

func (e *Error) Error() string {
	text := fmt.Sprintf("dcssblk: %s %q: %v", e.Op, e.Segment, e.Errno)
	if meaning := e.Meaning(); meaning != "" {
		text += ": " + meaning
	}
	return text
}

func (e *Error) Unwrap() error { return e.Errno }

// Meaning says what the driver means by the error, or "" if the driver's source
// knows no such error for the operation.
func (e *Error) Meaning() string { return e.fact().Meaning }

// Look says where the cause can be seen, or "".
func (e *Error) Look() string { return e.fact().Look }

// InUse reports whether the driver refused because the device is open or mounted.
func (e *Error) InUse() bool {
	return e.Errno == syscall.EBUSY && (e.Op == OpRemove || e.Op == OpShared)
}

// Gone reports whether the driver was to remove a device that is not there.
func (e *Error) Gone() bool { return e.Op == OpRemove && e.Errno == syscall.ENODEV }

func (e *Error) fact() Fact {
	for _, f := range Facts() {
		if f.Op == e.Op && f.Errno == e.Errno {
			return f
		}
	}
	return Fact{}
}

// A Fact is what an error number means for an operation.
type Fact struct {
	Op      Op
	Errno   syscall.Errno
	Meaning string
	Look    string // file or command that shows the cause, or ""
}

// Facts returns what is known of the driver's errors, in the order of operations
// (dcssblk.c and arch/s390/mm/extmem.c, Linux 2.6 to 6.18).
func Facts() []Fact {
	const (
		kernelLog = "dmesg"
		storage   = "/proc/iomem"
		segments  = "vmcp query nss map"
	)
	return []Fact{
		{OpAdd, syscall.ENAMETOOLONG, "a name is empty or longer than 8 characters", ""},
		{OpAdd, syscall.EEXIST, "one of the segments is attached already", "/sys/devices/dcssblk/*/seglist"},
		{OpAdd, syscall.EINVAL, "the segments are not contiguous, or are of types that cannot share a device (only EW and EN can)", kernelLog},
		{OpAdd, syscall.ENOENT, "CP knows no segment of that name, or none that this guest may use", segments},
		{OpAdd, syscall.EIO, "CP could not load the segment", kernelLog},
		{OpAdd, syscall.EOPNOTSUPP, "the segment has more than six parts, gaps, or several parts not all of type EW or EN", segments},
		{OpAdd, syscall.EBUSY, "the segment overlaps the guest's memory or another loaded segment (each is counted in whole megabytes)", storage},
		{OpAdd, syscall.ENOSPC, "the segment overlaps the guest's memory", storage},
		{OpAdd, syscall.ERANGE, "the segment lies beyond the addresses that the kernel can map", segments},
		{OpAdd, syscall.EPERM, "the segment is loaded already in the other access mode", ""},
		{OpAdd, syscall.ENOSYS, "this is no guest of z/VM", "/proc/sysinfo"},
		{OpAdd, syscall.ENOMEM, "the kernel has no memory for the device", ""},
		{OpAdd, syscall.ENODEV, "the driver is being unloaded", ""},
		{OpRemove, syscall.ENAMETOOLONG, "the name is empty or longer than 8 characters", ""},
		{OpRemove, syscall.ENODEV, "no device has that name: a device is removed by the name of its first segment", "/sys/devices/dcssblk/*/seglist"},
		{OpRemove, syscall.EBUSY, "the device is open or mounted", "/proc/self/mountinfo"},
		{OpShared, syscall.EBUSY, "the device is open or mounted", "/proc/self/mountinfo"},
		{OpShared, syscall.EINVAL, "a segment of type SC cannot be loaded as exclusive-writable", segments},
		{OpShared, syscall.EAGAIN, "the segment is in use by another part of this kernel", kernelLog},
		{OpShared, syscall.EIO, "CP could not load the segment in the new mode, and the device is gone", kernelLog},
		{OpShared, syscall.ENOENT, "CP knows the segment no more, and the device is gone", segments},
		{OpSave, syscall.EINVAL, "the driver takes 0 and 1 only", ""},
	}
}

// A HeldError is a segment that is attached in another combination than was asked
// for. A segment is on one device only.
type HeldError struct {
	Segment string   // that was asked for
	Wanted  []string // all that were asked for
	Device  Device   // that holds it
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("attach %q: segment %q is attached already, in device %q (%s) made of %q",
		join(e.Wanted), e.Segment, e.Device.Name, e.Device.Node, join(e.Device.Segments))
}

// Unwrap is what the driver would have said.
func (e *HeldError) Unwrap() error { return syscall.EEXIST }

// A DeadlineError is an operation that was not over when the caller's context was.
type DeadlineError struct {
	Op      Op
	Segment string
	// Started tells whether the driver was asked. If it was it goes on: a later call
	// waits for that and finds the result. If not, another process was at work on
	// the segment.
	Started bool
	Err     error // of the context
}

func (e *DeadlineError) Error() string {
	if !e.Started {
		return fmt.Sprintf("dcssblk: %s %q: not begun, as another process is at work on the segment: %v", e.Op, e.Segment, e.Err)
	}
	return fmt.Sprintf("dcssblk: %s %q: the driver is still at work: %v", e.Op, e.Segment, e.Err)
}

func (e *DeadlineError) Unwrap() error { return e.Err }
