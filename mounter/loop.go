package mounter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loopDevices are the machine's loop devices (loop(4)), locked against other
// helpers: two that look at once would both find none over an image and make two.
// They are listed once for all layers of a view, since there can be hundreds.
type loopDevices struct {
	lock *os.File
	over map[string][]string // last element of the backing file's name -> devices
}

// lockLoops takes the lock and lists the devices in use.
func lockLoops(ctx context.Context, run string) (*loopDevices, error) {
	lock, err := lockFile(ctx, filepath.Join(run, "loop.lock"))
	if err != nil {
		return nil, err
	}
	d := &loopDevices{lock: lock, over: make(map[string][]string)}
	if err := d.list(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// list finds the devices in use. There can be hundreds of free ones beside them, which
// every mount would look at: so those are taken that have a size (proc_partitions(5)).
func (d *loopDevices) list() error {
	table, err := os.ReadFile("/proc/partitions")
	if err != nil {
		return err
	}
	text := make([]byte, unix.PathMax+64) // with " (deleted)"
	for line := range strings.Lines(string(table)) {
		fields := strings.Fields(line) // major, minor, blocks, name
		if len(fields) != 4 || !strings.HasPrefix(fields[3], "loop") {
			continue
		}
		device := fields[3]
		// One that was freed meanwhile, or is a partition, has no such file.
		fd, err := unix.Open("/sys/block/"+device+"/loop/backing_file", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		n, err := unix.Read(fd, text)
		unix.Close(fd)
		if err != nil {
			continue // freed meanwhile
		}
		// The image may have been opened by another path, so only the last element is
		// compared; what decides is the inode.
		base := filepath.Base(strings.TrimSuffix(strings.TrimSpace(string(text[:n])), " (deleted)"))
		d.over[base] = append(d.over[base], "/dev/"+device)
	}
	return nil
}

// unlock lets other helpers go on. Again, it does nothing.
func (d *loopDevices) unlock() error {
	if d.lock == nil {
		return nil
	}
	lock := d.lock
	d.lock = nil
	return lock.Close()
}

// attach returns an open loop device over the image: the one that is set up for it
// already, or a new one, read-only, with direct I/O and autoclear. One device per
// image makes one superblock and one page cache of it, however many views use it;
// direct I/O keeps the image itself out of the page cache; autoclear frees the
// device with its last user, so that a crash at any point leaves none.
//
// The caller keeps the file open until the device is mounted.
func (d *loopDevices) attach(ctx context.Context, image *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &st); err != nil {
		return nil, err
	}
	for _, device := range d.over[filepath.Base(image.Name())] {
		if loop := openIfOver(device, &st); loop != nil {
			return loop, nil
		}
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	copy(config.Info.File_name[:len(config.Info.File_name)-1], image.Name())
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("no free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		loop.Close()
		// Other software took it between the two calls.
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return nil, errors.Join(err, ctx.Err())
		}
	}
}

// openIfOver opens the device and returns it if it is set up over the whole of the
// image, read-only. Once it is open, autoclear does not take it away.
func openIfOver(device string, image *unix.Stat_t) *os.File {
	loop, err := os.Open(device)
	if err != nil {
		return nil
	}
	info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
	if err == nil && info.Device == uint64(image.Dev) && info.Inode == image.Ino &&
		info.Offset == 0 && info.Sizelimit == 0 && info.Flags&unix.LO_FLAGS_READ_ONLY != 0 {
		return loop
	}
	loop.Close()
	return nil
}
