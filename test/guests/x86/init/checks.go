package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/pmem"
	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/report"
	"github.com/levelfs/levelfs/test/guests/x86/layout"
)

// An image is a line of layout.UUIDFile.
type image struct{ uuid, fstype string }

type checks struct {
	*report.Reporter
	devices *pmem.Devices
	images  map[string]image
}

func readImages() (map[string]image, error) {
	text, err := os.ReadFile(layout.UUIDFile)
	if err != nil {
		return nil, err
	}
	images := make(map[string]image)
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s: %q", layout.UUIDFile, line)
		}
		images[fields[0]] = image{fields[1], fields[2]}
	}
	return images, nil
}

// layers are the file systems that are mounted, the topmost first.
var layers = []string{layout.Erofs, layout.Ext4, layout.Part}

func dir(name string) string { return "/mnt/" + name }

const view = "/mnt/view"

func (g *checks) device(name string) (pmem.Device, error) { return g.devices.Find(g.images[name].uuid) }

// find finds the devices by their file systems.
func (g *checks) find() {
	for _, name := range []string{layout.Erofs, layout.Ext4, layout.Part, layout.Compact} {
		want := g.images[name]
		g.Check("find/"+name, func() error {
			device, err := g.device(name)
			if err != nil {
				return err
			}
			if device.FSType != want.fstype || !device.DAX || pmem.CheckSize(device.Size) != nil {
				return fmt.Errorf("%+v", device)
			}
			if partition := device.Node != device.Disk; partition != (name == layout.Part || name == layout.Compact) {
				return fmt.Errorf("%+v", device)
			}
			var st unix.Stat_t
			if err := unix.Stat(device.Path(), &st); err != nil {
				return err
			}
			if unix.Mkdev(device.Major, device.Minor) != st.Rdev {
				return fmt.Errorf("%+v is device number %#x", device, st.Rdev)
			}
			return nil
		})
	}
	g.Check("find/unaligned", func() error {
		if _, err := g.device(layout.Unaligned); !errors.Is(err, pmem.ErrNotFound) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	g.Check("read-only/set", func() error {
		for name := range g.images {
			if name != layout.Unaligned && name != layout.NVDIMM {
				if err := g.setReadOnly(name); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// setReadOnly sets the device read-only, which it is not by itself although QEMU
// maps the image for reading only.
func (g *checks) setReadOnly(name string) error {
	device, err := g.device(name)
	if err != nil {
		return err
	}
	if device.ReadOnly {
		return fmt.Errorf("%+v is read-only from the start", device)
	}
	f, err := os.OpenFile(device.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pmem.SetReadOnly(f); err != nil {
		return err
	}
	if _, err := f.Write(make([]byte, 4096)); !errors.Is(err, syscall.EPERM) {
		return fmt.Errorf("write to %q: %v", device.Node, err)
	}
	again, err := g.device(name)
	if err == nil && !again.ReadOnly {
		err = fmt.Errorf("%+v", again)
	}
	return err
}

// mounts mounts the file systems and looks where the pages of their files are.
func (g *checks) mounts() {
	for _, name := range layers {
		g.Check("mount/"+name, func() error {
			if err := g.mount(name, "dax=always"); err != nil {
				return err
			}
			return inside.Same("/content/"+name, dir(name))
		})
		g.Check("dax/"+name, func() error { return inPlace(dir(name)) })
	}
	// mkfs.erofs puts the tails of files into their inodes, and the kernel still shows
	// dax=always for the mount.
	g.Check("dax/refuted", func() error {
		if err := g.mount(layout.Compact, "dax=always"); err != nil {
			return err
		}
		dax, err := inside.DAX(dir(layout.Compact) + "/small")
		if err == nil && dax {
			err = errors.New("a file in its inode has DAX")
		}
		return errors.Join(err, unix.Unmount(dir(layout.Compact), 0))
	})
	g.Check("mount/writable-refused", func() error {
		// An erofs would be read-only anyway.
		device, err := g.device(layout.Ext4)
		if err != nil {
			return err
		}
		if err := unix.Unmount(dir(layout.Ext4), 0); err != nil {
			return err
		}
		if err := unix.Mount(device.Path(), dir(layout.Ext4), "ext4", unix.MS_NODEV, "dax=always"); !errors.Is(err, syscall.EACCES) {
			return fmt.Errorf("mount for writing: %v", err)
		}
		return g.mount(layout.Ext4, "dax=always")
	})
}

func (g *checks) mount(name, options string) error {
	device, err := g.device(name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir(name), 0o755); err != nil {
		return err
	}
	return unix.Mount(device.Path(), dir(name), g.images[name].fstype, unix.MS_RDONLY|unix.MS_NODEV, options)
}

// overlay stacks the layers as a view does.
func (g *checks) overlay() {
	g.Check("overlay/mount", func() error {
		var lower []string
		for _, name := range layers {
			lower = append(lower, dir(name))
		}
		for _, d := range []string{view, "/tmp/upper", "/tmp/work"} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		return unix.Mount("levelfs:pmem@1", view, "overlay", 0, "lowerdir="+strings.Join(lower, ":")+
			",upperdir=/tmp/upper,workdir=/tmp/work,index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off")
	})
	g.Check("overlay/dax", func() error { return inPlace(view) })
	g.Check("overlay/exec", func() error {
		out, err := exec.Command(view+"/bin/busybox", "echo", "in place").Output()
		if err == nil && string(out) != "in place\n" {
			err = fmt.Errorf("output %q", out)
		}
		return err
	})
	g.Check("overlay/private", func() error {
		if err := os.Chmod(view+"/small", 0o600); err != nil { // copies it up
			return err
		}
		dax, err := inside.DAX(view + "/small")
		if err == nil && dax {
			err = errors.New("the private copy has DAX")
		}
		return err
	})
}

// memory reads all there is, which must not bring it into this guest's page cache.
func (g *checks) memory() {
	g.Check("memory/page-cache", func() error {
		before, err := inside.Meminfo("Cached")
		if err != nil {
			return err
		}
		size, err := inside.Touch(view)
		if err != nil {
			return err
		}
		after, err := inside.Meminfo("Cached")
		if err != nil {
			return err
		}
		g.Value("memory/touched", size)
		g.Value("memory/cached", after-before)
		if size < 8<<20 || after-before > size/10 {
			return fmt.Errorf("%d bytes of files were touched, and the page cache grew by %d", size, after-before)
		}
		return nil
	})
}

func (g *checks) umounts() {
	g.Check("umount", func() error {
		errs := []error{unix.Unmount(view, 0)}
		for _, name := range layers {
			errs = append(errs, unix.Unmount(dir(name), 0))
		}
		return errors.Join(errs...)
	})
}

// inPlace makes sure that all files below dir are executed in place, and that their
// pages are those of the pmem devices.
func inPlace(dir string) error {
	ranges, err := inside.PhysicalRanges("virtio_pmem", "Persistent Memory", "namespace")
	if err != nil {
		return err
	}
	return inside.InPlace(dir, ranges)
}
