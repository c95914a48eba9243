package pmem

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Align is what the size of a pmem device, so the size of an image on the host, has
// to be a multiple of: the kernel makes no device of another one.
const Align = 2 << 20

// CheckSize returns a *[SizeError] if no pmem device can be made of an image of that
// many bytes.
func CheckSize(size int64) error {
	if size <= 0 || size%Align != 0 {
		return &SizeError{size}
	}
	return nil
}

// A SizeError is the size of an image that no pmem device can be made of.
type SizeError struct{ Size int64 }

func (e *SizeError) Error() string {
	return fmt.Sprintf("size of %d bytes is no multiple of %d, which a pmem device has to be", e.Size, Align)
}

// ErrNotFound is wrapped by the error of [Devices.Find] if the file system is on no
// pmem device.
var ErrNotFound = errors.New("no pmem device has the file system")

// A DuplicateError is a file system that is on more than one device.
type DuplicateError struct {
	UUID  string
	Nodes []string
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("file system %q is on several pmem devices: %s", e.UUID, strings.Join(e.Nodes, ", "))
}

// A Device is a pmem device or a partition of one.
type Device struct {
	Node     string // name of the device, "pmem0" or "pmem0p1": good until the next boot
	Disk     string // the device that a partition is of, otherwise as Node
	Major    uint32
	Minor    uint32
	Start    int64 // of a partition on its device, in bytes
	Size     int64 // in bytes
	ReadOnly bool
	DAX      bool // the driver can map it into memory
	FSType   string
	UUID     string
}

// Path is where devtmpfs has the device.
func (d Device) Path() string { return "/dev/" + d.Node }

// A Probe tells the type and the UUID of the file system on a device, and has an
// error if there is none that it knows.
type Probe func(r io.ReaderAt) (fstype, uuid string, err error)

// Devices are the pmem devices of one machine. It holds no state.
type Devices struct {
	root  string
	probe Probe
}

// New returns the devices of this machine.
func New(probe Probe) *Devices { return NewFromRoot("/", probe) }

// NewFromRoot is [New] with sys and dev below another directory than /, for tests.
func NewFromRoot(root string, probe Probe) *Devices { return &Devices{root: root, probe: probe} }

// isDisk reports whether it is the name of a device with DAX; pmem0.1 is of the second
// namespace of a region. Package regexp would cost the mount helper start-up time.
func isDisk(name string) bool {
	numbers, ok := strings.CutPrefix(name, "pmem")
	region, namespace, two := strings.Cut(numbers, ".")
	return ok && isNumber(region) && (!two || isNumber(namespace))
}

func isNumber(s string) bool {
	return len(s) >= 1 && len(s) <= 6 && strings.Trim(s, "0123456789") == ""
}

// List returns the devices and their partitions, with the file systems on them; type
// and UUID are empty where there is none that can be read. A device that cannot be opened is an
// error.
func (d *Devices) List() ([]Device, error) {
	block := filepath.Join(d.root, "sys/block")
	disks, err := os.ReadDir(block)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, disk := range disks {
		if !isDisk(disk.Name()) {
			continue
		}
		found, err := d.disk(filepath.Join(block, disk.Name()))
		if err != nil {
			// As if it had been removed before we looked.
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
				continue
			}
			return nil, err
		}
		devices = append(devices, found...)
	}
	return devices, nil
}

// Find is [Find] among all devices as they are now.
func (d *Devices) Find(uuid string) (Device, error) {
	devices, err := d.List()
	if err != nil {
		return Device{}, err
	}
	return Find(devices, uuid)
}

// Find returns the device with the file system of that UUID, in lower-case canonical
// form. The error wraps [ErrNotFound], or is a *[DuplicateError].
func Find(devices []Device, uuid string) (Device, error) {
	var found []Device
	var nodes []string
	for _, device := range devices {
		// A squashfs has no UUID, and is not found by having none.
		if uuid != "" && device.UUID == uuid {
			found = append(found, device)
			nodes = append(nodes, device.Node)
		}
	}
	switch len(found) {
	case 0:
		return Device{}, fmt.Errorf("%q: %w", uuid, ErrNotFound)
	case 1:
		return found[0], nil
	}
	return Device{}, &DuplicateError{UUID: uuid, Nodes: nodes}
}

// disk reads a device and its partitions.
func (d *Devices) disk(dir string) ([]Device, error) {
	name := filepath.Base(dir)
	disk, err := d.read(dir)
	if err != nil {
		return nil, err
	}
	dax, err := readNumber(filepath.Join(dir, "queue/dax"))
	if err != nil {
		return nil, err
	}
	devices := []Device{disk}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		number, is := strings.CutPrefix(e.Name(), name+"p")
		if !is || number == "" || strings.Trim(number, "0123456789") != "" {
			continue
		}
		part, err := d.read(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		start, err := readNumber(filepath.Join(dir, e.Name(), "start"))
		if err != nil {
			return nil, err
		}
		part.Start = start * sector
		devices = append(devices, part)
	}
	for i := range devices {
		devices[i].Disk = name
		devices[i].DAX = dax == 1
	}
	return devices, nil
}

// sector is the unit of sizes in sysfs, whatever a device's block size is.
const sector = 512

// read reads what devices and partitions have both.
func (d *Devices) read(dir string) (Device, error) {
	device := Device{Node: filepath.Base(dir)}
	number, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return Device{}, err
	}
	if device.Major, device.Minor, err = parseDev(string(number)); err != nil {
		return Device{}, fmt.Errorf("%q: %w", filepath.Join(dir, "dev"), err)
	}
	size, err := readNumber(filepath.Join(dir, "size"))
	if err != nil {
		return Device{}, err
	}
	device.Size = size * sector
	readOnly, err := readNumber(filepath.Join(dir, "ro"))
	if err != nil {
		return Device{}, err
	}
	device.ReadOnly = readOnly == 1
	f, err := os.Open(filepath.Join(d.root, device.Path()))
	if err != nil {
		return Device{}, err
	}
	defer f.Close()
	// No file system is none of our errors: a partition table, say.
	if fstype, uuid, err := d.probe(f); err == nil {
		device.FSType, device.UUID = fstype, uuid
	}
	return device, nil
}

// SetReadOnly has the kernel refuse writes to the open device, and mounts for
// writing (BLKROSET, ioctl_list(2)). It needs CAP_SYS_ADMIN.
func SetReadOnly(device *os.File) error {
	if err := unix.IoctlSetPointerInt(int(device.Fd()), unix.BLKROSET, 1); err != nil {
		return fmt.Errorf("set %q read-only: %w", device.Name(), err)
	}
	return nil
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	n, err := parseNumber(string(text))
	if err != nil {
		return 0, fmt.Errorf("%q: %w", file, err)
	}
	return n, nil
}

// parseNumber parses a number that is not negative and, as one of sectors, fits into
// bytes.
func parseNumber(text string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSuffix(text, "\n"), 10, 64)
	if err != nil || n < 0 || n > (1<<63-1)/sector {
		return 0, fmt.Errorf("%.80q is no number of sectors", text)
	}
	return n, nil
}

// parseDev parses "major:minor".
func parseDev(text string) (major, minor uint32, err error) {
	a, b, found := strings.Cut(strings.TrimSuffix(text, "\n"), ":")
	x, errX := strconv.ParseUint(a, 10, 32)
	y, errY := strconv.ParseUint(b, 10, 32)
	if !found || errX != nil || errY != nil {
		return 0, 0, fmt.Errorf("%.80q is no device number", text)
	}
	return uint32(x), uint32(y), nil
}
