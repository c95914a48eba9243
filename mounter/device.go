package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// XIP says what is wanted of execution in place: mapping a layer's files from the
// memory that holds them, instead of copying them into this machine's.
type XIP string

// The wishes.
const (
	XIPAuto    XIP = "auto"    // where it can be had; otherwise the image file is used, and it is said why
	XIPRequire XIP = "require" // or the view is not mounted
	XIPOff     XIP = "off"     // the image file is used
)

// A Device is shared memory in which a layer's image may lie.
type Device struct {
	Kind DeviceKind `json:"kind"`
	Name string     `json:"name"` // segments as "EMACS294" or "A:B", or the pmem device "pmem0p1"
}

// DeviceKind says what a Device is.
type DeviceKind string

// The kinds of shared memory.
const (
	Segment DeviceKind = "segment" // of z/VM, a DCSS
	Pmem    DeviceKind = "pmem"    // persistent memory, as virtio-pmem gives to guests
)

func (d Device) String() string { return string(d.Kind) + " " + d.Name }

// InSharedMemory reports whether the mount of a layer, as a [View] names it, is of
// shared memory.
func InSharedMemory(layer string) bool {
	_, content, _ := strings.Cut(layer, "@")
	_, device, _ := strings.Cut(content, "+")
	return strings.HasPrefix(device, string(Segment)+".") || strings.HasPrefix(device, string(Pmem)+".")
}

// IsOf reports whether the mount of a layer, as a [View] names it, is of the device of
// shared memory, by the name of its first segment. Names that differ in national
// characters only are taken for one, as the mount has none of them.
func IsOf(layer string, d Device) bool {
	_, content, _ := strings.Cut(layer, "@")
	_, device, _ := strings.Cut(content, "+")
	return device == string(d.Kind)+"."+plainName(d.Name)
}

// openDevice finds the first of the layer's devices that there is and that holds the
// layer. Without one the image file has to do, if there is one and the wish allows it.
func (x *execution) openDevice(ctx context.Context, i int) error {
	l := &x.plan.Layers[i]
	var failures []error
	for n, d := range l.Devices {
		f, err := x.tryDevice(ctx, d, *l)
		if err == nil {
			l.chosen = &l.Devices[n]
			x.images[i] = f
			for _, err := range failures {
				x.note(fmt.Sprintf("layer %q: %v; using %s", l.Name, err, d))
			}
			return nil
		}
		failures = append(failures, fmt.Errorf("%s: %w", d, err))
		if ctx.Err() != nil {
			return errors.Join(failures...)
		}
	}
	err := errors.Join(failures...)
	if l.XIP == XIPRequire || l.Path == "" {
		return fmt.Errorf("layer %q: %w", l.Name, err)
	}
	for _, err := range failures {
		x.note(fmt.Sprintf("layer %q: %v; using the image file", l.Name, err))
	}
	return nil
}

func (x *execution) tryDevice(ctx context.Context, d Device, l Layer) (*os.File, error) {
	if x.applier.Open == nil {
		return nil, errors.New("not used here")
	}
	f, err := x.applier.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := x.applier.checkDevice(ctx, f, l, x.plan.Cache); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// mountDevice mounts a layer from shared memory, mapped in place if the file system
// and the driver agree to it, and looks whether they do.
func (x *execution) mountDevice(ctx context.Context, i int, target string) error {
	l := x.plan.Layers[i]
	device := x.images[i]
	options := layerOptions(l.FSType)
	err := mountLayer(device.Name(), target, l.FSType, append(options, daxOption(l.FSType)...))
	if errors.Is(err, unix.EINVAL) && len(daxOption(l.FSType)) > 0 {
		// ext4 refuses to mount where it cannot have DAX; erofs goes on without it.
		x.note(fmt.Sprintf("layer %q: %s: no DAX, by the kernel: the device has none, or is not aligned to 2 MiB", l.Name, l.chosen))
		err = mountLayer(device.Name(), target, l.FSType, options)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.chosen, err)
	}
	proof, err := Prove(ctx, target, proofSample)
	if err != nil {
		return fmt.Errorf("%s: looking for DAX: %w", l.chosen, err)
	}
	proof.explain(l.FSType, device)
	if proof.State() != Active {
		if l.XIP == XIPRequire {
			return fmt.Errorf("layer %q: %s: execution in place is required, but it is %s", l.Name, l.chosen, proof)
		}
		x.note(fmt.Sprintf("layer %q: %s: execution in place is %s", l.Name, l.chosen, proof))
	}
	return nil
}

// daxOption asks for DAX, by its name from Linux 5.8 on: "dax" alone is the same, and
// older. squashfs has none.
func daxOption(fstype string) []string {
	if fstype == "erofs" || fstype == "ext4" {
		return []string{"dax"}
	}
	return nil
}

func mountLayer(source, target, fstype string, options []string) error {
	if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return mount.Mount(source, target, fstype, strings.Join(options, ","))
}

// deviceStamp says which content was checked: that of a device that is there since
// the boot of that ID. Segments and images of other guests are exchanged by attaching
// them anew, which makes a new device; the inode of its directory in sysfs is new then
// (kernfs gives numbers out in turn).
func deviceStamp(f *os.File, size int64) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	number := strconv.Itoa(int(unix.Major(uint64(st.Rdev)))) + ":" + strconv.Itoa(int(unix.Minor(uint64(st.Rdev))))
	var sys unix.Stat_t
	if err := unix.Stat("/sys/dev/block/"+number, &sys); err != nil {
		return nil, fmt.Errorf("device %s in sysfs: %w", number, err)
	}
	return fmt.Appendf(nil, "boot %s device %s sysfs %d size %d\n", bootID(), number, sys.Ino, size), nil
}
