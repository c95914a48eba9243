package dcss

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Device is a block device made of segments.
type Device struct {
	Name     string   // of the segment that was named first when it was attached
	Segments []string // in the order in which they were named; data is in the order of addresses
	Shared   bool     // with the other guests; false: this guest has a copy of its own
	Node     string   // name of the device, "dcssblk0": good for now only, minor numbers are reused
	Major    uint32
	Minor    uint32
	Size     int64 // in bytes
	ReadOnly bool
	DAX      bool // the driver can map it into memory; whether a file system does is for it to say
}

// Path is where devtmpfs has the device.
func (d Device) Path() string { return "/dev/" + d.Node }

// A ParseError is a sysfs attribute that is not what the driver writes.
type ParseError struct {
	File string
	Text string
	Want string
}

func (e *ParseError) Error() string {
	return fmt.Sprintf("%q holds %.80q, which is not %s", e.File, e.Text, e.Want)
}

// List returns the devices, in the order of their names. Devices that come or go at
// that moment may be missing.
func (d *Driver) List() ([]Device, error) {
	entries, err := os.ReadDir(d.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoDriver
	}
	if err != nil {
		return nil, err
	}
	var devices []Device
	for _, e := range entries {
		// Beside devices there are the directory "power" and the files add, remove
		// and uevent.
		if !e.IsDir() {
			continue
		}
		if name, err := ParseName(e.Name()); err != nil || name != e.Name() {
			continue
		}
		device, err := d.read(e.Name())
		switch {
		case err == nil:
			devices = append(devices, device)
		case gone(err):
		default:
			return nil, err
		}
	}
	return devices, nil
}

// Inspect returns the device that the segment is on, be it its first or another. If
// there is none the error wraps [ErrNotAttached].
func (d *Driver) Inspect(segment string) (Device, error) {
	name, err := ParseName(segment)
	if err != nil {
		return Device{}, err
	}
	devices, err := d.List()
	if err != nil {
		return Device{}, err
	}
	for _, device := range devices {
		if slices.Contains(device.Segments, name) {
			return device, nil
		}
	}
	return Device{}, fmt.Errorf("%q: %w", name, ErrNotAttached)
}

// Open opens the device that the segment is on for reading, and makes sure that it
// is that device: between the look into sysfs and the opening the number may have
// been given to another. As long as the file is open the device can not be
// detached.
func (d *Driver) Open(segment string) (*os.File, Device, error) {
	device, err := d.Inspect(segment)
	if err != nil {
		return nil, Device{}, err
	}
	f, err := os.Open(filepath.Join(d.root, device.Path()))
	if err != nil {
		return nil, Device{}, err
	}
	again, err := d.Inspect(segment)
	if err == nil {
		err = device.is(f, again)
	}
	if err != nil {
		return nil, Device{}, errors.Join(err, f.Close())
	}
	return f, device, nil
}

// Instance is a number that tells the device from an earlier or a later one of the same
// segments: that of the inode of its directory in sysfs, as kernfs gives numbers out
// in turn. It is good until the next boot.
func (d *Driver) Instance(device Device) (uint64, error) {
	dir := filepath.Join(d.dir(), device.Name)
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, &fs.PathError{Op: "stat", Path: dir, Err: err}
	}
	return st.Ino, nil
}

// is returns nil if the open file is the device, and sysfs still says the same of it.
func (d Device) is(f *os.File, again Device) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(uint64(st.Rdev)) != d.Major || unix.Minor(uint64(st.Rdev)) != d.Minor {
		return fmt.Errorf("%q is not block device %d:%d", f.Name(), d.Major, d.Minor)
	}
	if d.Node != again.Node || !slices.Equal(d.Segments, again.Segments) {
		return fmt.Errorf("device %q changed while it was opened", d.Node)
	}
	return nil
}

// gone reports whether the error is that of a sysfs file whose device was removed.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

// read reads the device of the name from sysfs. A device that is not complete yet,
// or not any more, is an error for which gone is true.
func (d *Driver) read(name string) (Device, error) {
	dir := filepath.Join(d.dir(), name)
	device := Device{Name: name}
	text, err := readAttribute(filepath.Join(dir, "seglist"))
	if err != nil {
		return Device{}, err
	}
	if device.Segments, err = parseSeglist(text); err != nil {
		return Device{}, &ParseError{filepath.Join(dir, "seglist"), text, err.Error()}
	}
	block, err := blockDir(dir)
	if err != nil {
		return Device{}, err
	}
	device.Node = filepath.Base(block)
	if device.Shared, err = readFlag(filepath.Join(dir, "shared")); err != nil {
		return Device{}, err
	}
	// Where the layout allows it these are read through the segment's own directory
	// and not by the device's number, which may be another's by now.
	if text, err = readAttribute(filepath.Join(block, "dev")); err != nil {
		return Device{}, err
	}
	if device.Major, device.Minor, err = parseDev(text); err != nil {
		return Device{}, &ParseError{filepath.Join(block, "dev"), text, err.Error()}
	}
	if text, err = readAttribute(filepath.Join(block, "size")); err != nil {
		return Device{}, err
	}
	if device.Size, err = parseSize(text); err != nil {
		return Device{}, &ParseError{filepath.Join(block, "size"), text, err.Error()}
	}
	if device.ReadOnly, err = readFlag(filepath.Join(block, "ro")); err != nil {
		return Device{}, err
	}
	// Kernels before 4.10 have no such file, and say by no other that there is DAX.
	device.DAX, err = readFlag(filepath.Join(block, "queue/dax"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Device{}, err
	}
	return device, nil
}

// blockDir finds the block device in a segment's directory: DIR/block/dcssblkN, or
// with CONFIG_SYSFS_DEPRECATED a link DIR/block to a directory named dcssblkN. The
// result is a path whose last element is dcssblkN.
func blockDir(dir string) (string, error) {
	block := filepath.Join(dir, "block")
	target, err := os.Readlink(block)
	if err == nil {
		if !filepath.IsAbs(target) {
			target = filepath.Join(dir, target)
		}
		if !isNode(filepath.Base(target)) {
			return "", &ParseError{block, target, "a link to a dcssblk device"}
		}
		return target, nil
	}
	if !errors.Is(err, syscall.EINVAL) {
		return "", err
	}
	entries, err := os.ReadDir(block)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if isNode(e.Name()) {
			return filepath.Join(block, e.Name()), nil
		}
	}
	return "", &fs.PathError{Op: "find dcssblk device", Path: block, Err: fs.ErrNotExist}
}

// isNode reports whether the name is that of a device of this driver. It becomes
// part of paths.
func isNode(name string) bool {
	number, found := strings.CutPrefix(name, "dcssblk")
	if !found || number == "" || len(number) > 7 {
		return false
	}
	return strings.Trim(number, "0123456789") == ""
}

// readAttribute reads a sysfs file, which has a page at most.
func readAttribute(file string) (string, error) {
	text, err := os.ReadFile(file)
	return string(text), err
}

func readFlag(file string) (bool, error) {
	text, err := readAttribute(file)
	if err != nil {
		return false, err
	}
	switch strings.TrimSuffix(text, "\n") {
	case "0":
		return false, nil
	case "1":
		return true, nil
	}
	return false, &ParseError{file, text, "0 or 1"}
}

// parseSeglist parses the names of a device's segments, one a line. The errors of
// this and the next functions say what the text should have been.
func parseSeglist(text string) ([]string, error) {
	var names []string
	for line := range strings.Lines(text) {
		line, complete := strings.CutSuffix(line, "\n")
		// The driver's own names are upper case already. What it accepted may have
		// characters that ParseName does not take, though never these.
		if !complete || line == "" || len(line) > maxName || strings.ContainsAny(line, ":/\x00") {
			return nil, errors.New("a list of segment names, one a line")
		}
		names = append(names, line)
	}
	if len(names) == 0 {
		return nil, errors.New("a list of segment names, one a line")
	}
	return names, nil
}

// parseDev parses "major:minor".
func parseDev(text string) (major, minor uint32, err error) {
	a, b, found := strings.Cut(strings.TrimSuffix(text, "\n"), ":")
	x, errX := strconv.ParseUint(a, 10, 32)
	y, errY := strconv.ParseUint(b, 10, 32)
	if !found || errX != nil || errY != nil {
		return 0, 0, errors.New("a device number")
	}
	return uint32(x), uint32(y), nil
}

// parseSize parses a number of sectors of 512 bytes, the unit of all block devices
// in sysfs whatever their block size, into bytes.
func parseSize(text string) (int64, error) {
	sectors, err := strconv.ParseInt(strings.TrimSuffix(text, "\n"), 10, 64)
	if err != nil || sectors < 0 || sectors > (1<<63-1)/512 {
		return 0, errors.New("a number of sectors")
	}
	return sectors * 512, nil
}
