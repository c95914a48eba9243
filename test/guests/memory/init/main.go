// Command init is the first process of a guest that is measured. It has automount mount
// the level, touches every page of it, and waits while the host looks.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/memory/place"
	"github.com/levelfs/levelfs/test/guests/report"
)

func main() {
	r := report.New(os.Stdout)
	r.Check("guest", func() error { return run(r) })
	r.Done()
	inside.PowerOff()
}

func run(r *report.Reporter) error {
	if err := inside.Init(); err != nil {
		return err
	}
	modules, err := inside.Modules()
	if err != nil {
		return err
	}
	for _, module := range modules {
		if err := inside.LoadModule(module, ""); err != nil {
			return err
		}
	}
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	has := func(way string) bool { return strings.Contains(string(cmdline), "levelfs="+way) }
	if has(place.Disk) {
		if err := unix.Mount("/dev/vda", place.Images, "ext4", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount the disk with the image: %w", err)
		}
	}
	if err := inside.MountPrivate(); err != nil {
		return err
	}
	automount, err := inside.StartAutomount(inside.Tree, "program:/usr/libexec/levelfs/auto.levelfs --timeout=600")
	if err != nil {
		return err
	}
	if !has(place.Idle) {
		if err := use(r, has(place.Pmem)); err != nil {
			return fmt.Errorf("%w; automount's log: %s", err, automount.Log())
		}
	}
	fmt.Println("MEASURE")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the host: %w", err)
	}
	return automount.Stop()
}

// use uses all of the level, and makes sure that it is where it was to be.
func use(r *report.Reporter, shared bool) error {
	view := inside.Tree + "/" + place.Component
	before, err := inside.Meminfo("MemFree")
	if err != nil {
		return err
	}
	size, err := inside.Touch(view)
	if err != nil {
		return err
	}
	after, err := inside.Meminfo("MemFree")
	if err != nil {
		return err
	}
	r.Value("touched", size)
	r.Value("taken", before-after)
	without, files, err := inside.NotDAX(view)
	switch {
	case err != nil:
		return err
	case shared && len(without) > 0:
		return fmt.Errorf("%d of %d files are without DAX", len(without), files)
	case !shared && len(without) != files:
		return errors.New("files have DAX that are to have none")
	}
	return nil
}
