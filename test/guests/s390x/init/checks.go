package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/test/guests/report"
	"github.com/levelfs/levelfs/test/guests/s390x/layout"
)

// checkLimit is how long one operation may take here: far longer than it does.
const checkLimit = time.Minute

type checks struct {
	*report.Reporter
	driver *dcss.Driver
}

// attach is the program that [checks.killed] kills.
func attach(segments []string) int {
	_, err := dcss.New("/run/levelfs", "/proc/self/exe").Attach(context.Background(), segments...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func (g *checks) add(segments ...string) (dcss.Device, error) {
	ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
	defer cancel()
	return g.driver.Attach(ctx, segments...)
}

func (g *checks) remove(segment string) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
	defer cancel()
	return g.driver.Detach(ctx, segment)
}

func (g *checks) share(segment string, shared bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
	defer cancel()
	return g.driver.SetShared(ctx, segment, shared)
}

// refused makes sure that the error is the driver's, with that number, and that
// package dcss knows what it means.
func refused(err error, op dcss.Op, errno syscall.Errno) error {
	var e *dcss.Error
	if !errors.As(err, &e) || e.Op != op || e.Errno != errno {
		return fmt.Errorf("%v, not %q refused with %q", err, op, errno)
	}
	if e.Meaning() == "" {
		return fmt.Errorf("no meaning is known for %q refused with %q", op, errno)
	}
	return nil
}

// is compares, with what differs in the error.
func is[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, not %v", what, got, want)
	}
	return nil
}

func (g *checks) withoutDriver() {
	g.Check("driver/absent", func() error {
		if _, err := g.driver.List(); !errors.Is(err, dcss.ErrNoDriver) {
			return fmt.Errorf("list: %v", err)
		}
		if _, err := g.add(layout.Ext4); !errors.Is(err, dcss.ErrNoDriver) {
			return fmt.Errorf("attach: %v", err)
		}
		if err := g.remove(layout.Ext4); !errors.Is(err, dcss.ErrNoDriver) {
			return fmt.Errorf("detach: %v", err)
		}
		return nil
	})
}

func (g *checks) withoutCP() {
	g.Check("refused/no-zvm", func() error {
		_, err := g.add(layout.Ext4)
		return refused(err, dcss.OpAdd, syscall.ENOSYS)
	})
	g.Check("list/empty", func() error {
		devices, err := g.driver.List()
		return errors.Join(err, is("number of devices", len(devices), 0))
	})
}

func (g *checks) attach() {
	g.Check("attach/single", func() error {
		device, err := g.add(strings.ToLower(layout.Ext4))
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Stat(device.Path(), &st); err != nil {
			return err
		}
		return errors.Join(
			is("name", device.Name, layout.Ext4),
			is("segments", strings.Join(device.Segments, ":"), layout.Ext4),
			is("node", device.Node, "dcssblk0"),
			is("number", unix.Mkdev(device.Major, device.Minor), uint64(st.Rdev)),
			is("size", device.Size, layout.Ext4Size),
			is("shared", device.Shared, true),
			is("read-only", device.ReadOnly, true),
			is("DAX", device.DAX, true))
	})
	g.Check("attach/again", func() error {
		device, err := g.add(layout.Ext4)
		return errors.Join(err, is("node", device.Node, "dcssblk0"))
	})
	g.Check("attach/joined", func() error {
		device, err := g.add(layout.First, layout.Second)
		return errors.Join(err,
			is("name", device.Name, layout.First),
			is("segments", strings.Join(device.Segments, ":"), "A:B"),
			is("size", device.Size, 2*layout.JoinedHalf))
	})
	g.Check("attach/held", func() error {
		for _, segments := range [][]string{{"A"}, {"B"}, {"B", "A"}, {"B", "C"}} {
			_, err := g.add(segments...)
			var held *dcss.HeldError
			if !errors.As(err, &held) || held.Device.Name != layout.First {
				return fmt.Errorf("attach %q: %v", segments, err)
			}
		}
		return nil
	})
	g.Check("inspect/member", func() error {
		device, err := g.driver.Inspect(layout.Second)
		return errors.Join(err, is("name", device.Name, layout.First))
	})
	g.Check("inspect/absent", func() error {
		if _, err := g.driver.Inspect(layout.Erofs); !errors.Is(err, dcss.ErrNotAttached) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	g.Check("list/two", func() error {
		devices, err := g.driver.List()
		if err != nil {
			return err
		}
		var names []string
		for _, d := range devices {
			names = append(names, d.Name)
		}
		return is("list", strings.Join(names, " "), "A EXT4")
	})
	g.Check("open/busy", func() error {
		f, device, err := g.driver.Open(layout.Ext4)
		if err != nil {
			return err
		}
		err = refused(g.remove(layout.Ext4), dcss.OpRemove, syscall.EBUSY)
		return errors.Join(err, f.Close(), is("node", device.Node, "dcssblk0"))
	})
	g.Check("detach/member", func() error {
		return refused(g.remove(layout.Second), dcss.OpRemove, syscall.ENODEV)
	})
	g.Check("detach/first", func() error { return g.remove(layout.First) })
	g.Check("detach/again", func() error {
		return refused(g.remove(layout.First), dcss.OpRemove, syscall.ENODEV)
	})
	g.Check("attach/reversed", func() error {
		device, err := g.add(layout.Second, layout.First)
		return errors.Join(err,
			is("name", device.Name, layout.Second),
			is("segments", strings.Join(device.Segments, ":"), "B:A"))
	})
	// EXT4 goes while another device stays, and comes back: its number is free, and
	// the next to come gets it.
	g.Check("attach/number-reused", func() error {
		if err := g.remove(layout.Ext4); err != nil {
			return err
		}
		device, err := g.add(layout.Erofs)
		if err != nil {
			return err
		}
		if err := is("node", device.Node, "dcssblk0"); err != nil {
			return err
		}
		device, err = g.add(layout.Ext4)
		return errors.Join(err, is("node", device.Node, "dcssblk2"))
	})
	g.Check("attach/national", func() error {
		device, err := g.add(layout.National)
		return errors.Join(err, is("name", device.Name, layout.National), is("read-only", device.ReadOnly, false),
			g.remove(layout.National))
	})
	g.Check("attach/two-parts", func() error {
		device, err := g.add(layout.Merged)
		return errors.Join(err, is("read-only", device.ReadOnly, false), g.remove(layout.Merged))
	})
}

// refusals are what the driver answers to what it does not do.
func (g *checks) refusals() {
	for _, c := range []struct {
		name     string
		segments []string
		errno    syscall.Errno
	}{
		{"unknown", []string{layout.Unknown}, syscall.ENOENT},
		{"unknown-second", []string{layout.Gap, layout.Unknown}, syscall.ENOENT},
		{"gap", []string{layout.Work, layout.Gap}, syscall.EINVAL},
		{"types", []string{layout.Gap, layout.Mixed}, syscall.EINVAL},
		{"overlap", []string{layout.Overlap}, syscall.EBUSY},
		{"memory", []string{layout.InRAM}, syscall.EBUSY},
		{"range", []string{layout.Far}, syscall.ERANGE},
		{"load", []string{layout.Broken}, syscall.EIO},
		{"parts", []string{layout.Parts}, syscall.EOPNOTSUPP},
		{"many-parts", []string{layout.Many}, syscall.EOPNOTSUPP},
	} {
		g.Check("refused/"+c.name, func() error {
			_, err := g.add(c.segments...)
			return refused(err, dcss.OpAdd, c.errno)
		})
	}
	g.Check("refused/nothing-left", func() error {
		// What was loaded before a list was refused has been unloaded again.
		_, err := g.add(layout.Gap)
		return errors.Join(err, g.remove(layout.Gap))
	})
	// What package dcss does not let through, written as it is.
	for _, c := range []struct {
		name, file, text string
		errno            syscall.Errno
	}{
		{"long", "add", "NINECHARS\n", syscall.ENAMETOOLONG},
		{"empty", "add", "\n", syscall.ENAMETOOLONG},
		{"empty-between", "add", "C::WORK\n", syscall.ENAMETOOLONG},
		{"empty-last", "add", "C:\n", syscall.ENAMETOOLONG},
		{"twice", "add", "C:C\n", syscall.EINVAL},
		{"loaded", "add", layout.Ext4 + "\n", syscall.EEXIST},
		{"loaded-member", "add", layout.First + "\n", syscall.EEXIST},
		{"remove-long", "remove", "NINECHARS\n", syscall.ENAMETOOLONG},
		{"shared-value", layout.Ext4 + "/shared", "2\n", syscall.EINVAL},
		{"save-value", layout.Ext4 + "/save", "2\n", syscall.EINVAL},
	} {
		g.Check("raw/"+c.name, func() error {
			f, err := os.OpenFile("/sys/devices/dcssblk/"+c.file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := unix.Write(int(f.Fd()), []byte(c.text)); err != c.errno {
				return fmt.Errorf("%v, not %v", err, c.errno)
			}
			return nil
		})
	}
}

// modes are shared and exclusive access, and saving.
func (g *checks) modes() {
	g.Check("shared/cp-only", func() error {
		device, err := g.add(layout.CPOnly)
		if err != nil {
			return err
		}
		return errors.Join(is("read-only", device.ReadOnly, true),
			refused(g.share(layout.CPOnly, false), dcss.OpShared, syscall.EINVAL),
			g.remove(layout.CPOnly))
	})
	g.Check("shared/open", func() error {
		f, _, err := g.driver.Open(layout.Ext4)
		if err != nil {
			return err
		}
		return errors.Join(refused(g.share(layout.Ext4, false), dcss.OpShared, syscall.EBUSY), f.Close())
	})
	g.Check("shared/not-attached", func() error {
		if err := g.share(layout.Work, false); !errors.Is(err, dcss.ErrNotAttached) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	g.Check("shared/writable-type", func() error {
		device, err := g.add(layout.Copied)
		return errors.Join(err, is("read-only", device.ReadOnly, false), g.remove(layout.Copied))
	})
	g.Check("save/exclusive", func() error {
		if _, err := g.add(layout.Work); err != nil {
			return err
		}
		if err := g.share(layout.Work, false); err != nil {
			return err
		}
		device, err := g.driver.Inspect(layout.Work)
		if err != nil {
			return err
		}
		if err := errors.Join(is("shared", device.Shared, false), is("read-only", device.ReadOnly, false)); err != nil {
			return err
		}
		if err := os.WriteFile(device.Path(), make([]byte, 4096), 0); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), checkLimit)
		defer cancel()
		if err := g.driver.Save(ctx, layout.Work); err != nil {
			return err
		}
		if err := g.share(layout.Work, true); err != nil {
			return err
		}
		device, err = g.driver.Inspect(layout.Work)
		return errors.Join(err, is("shared", device.Shared, true), is("read-only", device.ReadOnly, true), g.remove(layout.Work))
	})
}

// killed kills a process that attaches, sooner and later, and attaches afterwards.
func (g *checks) killed() {
	g.Check("attach/killed", func() error {
		for try := range 8 {
			cmd := exec.Command("/proc/self/exe", "attach", layout.Work)
			if err := cmd.Start(); err != nil {
				return err
			}
			// Nothing waits for a condition here: the later, the further it got.
			timer := time.AfterFunc(time.Duration(try)*10*time.Millisecond, func() { cmd.Process.Kill() })
			err := cmd.Wait()
			timer.Stop()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				return err
			}
			device, err := g.add(layout.Work)
			if err != nil {
				return fmt.Errorf("try %d: %w", try, err)
			}
			devices, err := g.driver.List()
			if err != nil {
				return err
			}
			held := slices.DeleteFunc(devices, func(d dcss.Device) bool { return !slices.Contains(d.Segments, layout.Work) })
			if err := errors.Join(is("devices", len(held), 1), is("name", device.Name, layout.Work), g.remove(layout.Work)); err != nil {
				return fmt.Errorf("try %d: %w", try, err)
			}
		}
		return nil
	})
}
