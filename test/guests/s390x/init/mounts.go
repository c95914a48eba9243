package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/s390x/layout"
)

// A layer is a file system in segments.
type layer struct {
	name       string
	segments   []string
	fstype     string
	dir        string
	start, end uint64 // physical addresses of the segments, first and last byte
}

// mounts mounts the images and looks where the pages of their files are.
func (g *checks) mounts() {
	layers := []layer{
		{"ext4", []string{layout.Ext4}, "ext4", "/mnt/ext4", layout.Ext4Start, layout.Ext4Start + layout.Ext4Size - 1},
		{"erofs", []string{layout.Erofs}, "erofs", "/mnt/erofs", layout.ErofsStart, layout.ErofsStart + layout.ErofsSize - 1},
		{"joined", []string{layout.Second, layout.First}, "erofs", "/mnt/joined", layout.JoinedStart, layout.JoinedStart + 2*layout.JoinedHalf - 1},
	}
	g.Check("mount/read-only", g.readOnly)
	for _, l := range layers {
		g.Check("mount/"+l.name, func() error {
			device, err := g.add(l.segments...)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(l.dir, 0o755); err != nil {
				return err
			}
			if err := unix.Mount(device.Path(), l.dir, l.fstype, unix.MS_RDONLY|unix.MS_NODEV, "dax=always"); err != nil {
				return err
			}
			return inside.Same("/content/"+l.name, l.dir)
		})
		g.Check("dax/"+l.name, func() error { return inside.InPlace(l.dir, inside.Ranges{{l.start, l.end}}) })
		g.Check("mount/"+l.name+"-busy", func() error {
			return errors.Join(
				refused(g.remove(l.segments[0]), dcss.OpRemove, syscall.EBUSY),
				refused(g.share(l.segments[0], false), dcss.OpShared, syscall.EBUSY))
		})
	}
	g.overlay(layers)
	for _, l := range layers {
		g.Check("umount/"+l.name, func() error {
			if err := unix.Unmount(l.dir, 0); err != nil {
				return err
			}
			return g.remove(l.segments[0])
		})
	}
	// What DAX is not: the option of a file system that does without it.
	g.Check("dax/refuted", func() error {
		device, err := g.add(layout.Ext4)
		if err != nil {
			return err
		}
		if err := unix.Mount(device.Path(), "/mnt/ext4", "ext4", unix.MS_RDONLY|unix.MS_NODEV, "dax=inode"); err != nil {
			return err
		}
		without, files, err := inside.NotDAX("/mnt/ext4")
		if err == nil && (files == 0 || len(without) != files) {
			err = fmt.Errorf("%d of %d files are without DAX", len(without), files)
		}
		address, physicalErr := inside.Physical("/mnt/ext4/busybox")
		if physicalErr == nil && address >= layout.LinuxMemory {
			physicalErr = fmt.Errorf("page at %#x", address)
		}
		return errors.Join(err, physicalErr, unix.Unmount("/mnt/ext4", 0), g.remove(layout.Ext4))
	})
	g.Check("list/empty-again", func() error {
		devices, err := g.driver.List()
		return errors.Join(err, is("number of devices", len(devices), 0))
	})
}

// readOnly makes sure that a shared segment is not written to.
func (g *checks) readOnly() error {
	device, err := g.add(layout.Ext4)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(device.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if _, err = f.Write(make([]byte, 4096)); !errors.Is(err, syscall.EPERM) {
		err = fmt.Errorf("write to the device: %v", err)
	} else {
		err = nil
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll("/mnt/ext4", 0o755); err != nil {
		return err
	}
	if err := unix.Mount(device.Path(), "/mnt/ext4", "ext4", unix.MS_NODEV, "dax=always"); !errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("mount for writing: %v", err)
	}
	return nil
}

// overlay stacks the layers as a view does.
func (g *checks) overlay(layers []layer) {
	const view = "/mnt/view"
	var lower []string
	for _, l := range layers {
		lower = append(lower, l.dir)
	}
	g.Check("overlay/mount", func() error {
		for _, dir := range []string{view, "/tmp/upper", "/tmp/work"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		return unix.Mount("levelfs:segments@1", view, "overlay", 0, "lowerdir="+strings.Join(lower, ":")+
			",upperdir=/tmp/upper,workdir=/tmp/work,index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off")
	})
	g.Check("overlay/dax", func() error {
		without, files, err := inside.NotDAX(view)
		if err == nil && (files == 0 || len(without) > 0) {
			err = fmt.Errorf("of %d files without DAX: %q", files, without)
		}
		return err
	})
	g.Check("overlay/exec", func() error {
		// The topmost layer's: its pages are the segment's.
		address, err := inside.Physical(view + "/busybox")
		if err != nil {
			return err
		}
		if address < layout.Ext4Start || address >= layout.Ext4Start+layout.Ext4Size {
			return fmt.Errorf("page at %#x", address)
		}
		out, err := exec.Command(view+"/busybox", "echo", "in place").Output()
		return errors.Join(err, is("output", string(out), "in place\n"))
	})
	g.Check("overlay/private", func() error {
		if err := os.WriteFile(view+"/new", []byte("private"), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(view+"/busybox", 0o700); err != nil { // copies it up
			return err
		}
		dax, err := inside.DAX(view + "/busybox")
		return errors.Join(err, is("DAX of the private copy", dax, false))
	})
	g.Check("overlay/holds-devices", func() error {
		// The layers' own mounts may go: the overlay has its clones of them.
		for _, l := range layers {
			if err := unix.Unmount(l.dir, 0); err != nil {
				return err
			}
			if err := refused(g.remove(l.segments[0]), dcss.OpRemove, syscall.EBUSY); err != nil {
				return err
			}
			device, err := g.driver.Inspect(l.segments[0])
			if err != nil {
				return err
			}
			if err := unix.Mount(device.Path(), l.dir, l.fstype, unix.MS_RDONLY|unix.MS_NODEV, "dax=always"); err != nil {
				return err
			}
		}
		return nil
	})
	g.Check("overlay/umount", func() error { return unix.Unmount(view, 0) })
}
