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

// attachLoop returns an open loop device (loop(4)) over the image: the one that
// is set up for it already, or a new one, read-only, with direct I/O and
// autoclear. One device per image makes one superblock and one page cache of it,
// however many views use it; direct I/O keeps the image itself out of the page
// cache; autoclear frees the device with its last user, so that a crash at any
// point leaves none.
//
// The caller keeps the file open until the device is mounted.
func attachLoop(ctx context.Context, image *os.File, run string) (*os.File, error) {
	// Two helpers that look at once would both find none and make two.
	lock, err := lockFile(ctx, filepath.Join(run, "loop.lock"))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(image.Fd()), &st); err != nil {
		return nil, err
	}
	if loop := findLoop(image.Name(), &st); loop != nil {
		return loop, nil
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

// findLoop returns an open loop device that is set up over the whole of the
// image, read-only, or nil. Once it is open, autoclear does not take it away.
func findLoop(name string, image *unix.Stat_t) *os.File {
	devices, _ := os.ReadDir("/sys/block")
	for _, d := range devices {
		if !strings.HasPrefix(d.Name(), "loop") {
			continue
		}
		// A quick look at the name first; the file may have been opened by another
		// path, so only the last element counts. A free device has no such file.
		text, err := os.ReadFile("/sys/block/" + d.Name() + "/loop/backing_file")
		backing := strings.TrimSuffix(strings.TrimSpace(string(text)), " (deleted)")
		if err != nil || filepath.Base(backing) != filepath.Base(name) {
			continue
		}
		loop, err := os.Open("/dev/" + d.Name())
		if err != nil {
			continue
		}
		info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
		if err == nil && info.Device == uint64(image.Dev) && info.Inode == image.Ino &&
			info.Offset == 0 && info.Sizelimit == 0 && info.Flags&unix.LO_FLAGS_READ_ONLY != 0 {
			return loop
		}
		loop.Close()
	}
	return nil
}
