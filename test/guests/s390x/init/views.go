package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/s390x/layout"
)

// The views of components whose layers are in segments.
var (
	inErofs = inside.View{
		Component: "erofs", Content: "/content/erofs", Program: "bin/busybox", Device: "segment." + layout.Erofs, XIP: "active",
		Ranges: inside.Ranges{{layout.ErofsStart, layout.ErofsStart + layout.ErofsSize - 1}},
	}
	inResaved = inside.View{
		Component: "resaved", Content: "/content/resaved", Device: "segment." + layout.Resaved, XIP: "active",
		Ranges: inside.Ranges{{layout.ResavedStart, layout.ResavedStart + layout.SmallSize - 1}},
	}
)

// useFile is what the helper says, among other things, when it goes on without a segment.
const useFile = "using the image file"

// digests are what it says if the segment has another content than the layer.
var digests = []string{"digest is sha256:", "the inventory says sha256:"}

func views() []inside.View {
	file := func(component string, said ...string) inside.View {
		return inside.View{Component: component, Content: "/content/other", Said: append(said, useFile)}
	}
	return []inside.View{
		{
			Component: "ext4", Content: "/content/ext4", Program: "busybox", Device: "segment." + layout.Ext4, XIP: "active",
			Ranges: inside.Ranges{{layout.Ext4Start, layout.Ext4Start + layout.Ext4Size - 1}},
		},
		inErofs,
		{
			Component: "joined", Content: "/content/joined", Device: "segment." + layout.First, XIP: "active",
			Ranges: inside.Ranges{{layout.JoinedStart, layout.JoinedStart + 2*layout.JoinedHalf - 1}},
		},
		{
			Component: "compact", Content: "/content/compact", Device: "segment." + layout.Compact, XIP: "partial (1 of 2 files",
			Said: []string{"execution in place is partial (1 of 2 files"},
		},
		file("unknown", "segment UNKNOWN", "CP knows no segment of that name"),
		file("broken", "segment BROKEN", "CP could not load the segment"),
		file("overlap", "segment OVERLAP", "overlaps the guest's memory or another loaded segment"), // EXT4 stays attached
		file("half", `segment "A" is attached already, in device "A"`),
		file("other", append(digests, "segment OTHER")...),
	}
}

func refusedViews() []inside.Refusal {
	return []inside.Refusal{
		{Component: "compact-required", Said: []string{"execution in place is required, but it is partial (1 of 2 files"}},
		{Component: "unknown-required", Said: []string{"CP knows no segment of that name"}},
		{Component: "other-required", Said: digests},
	}
}

// views mounts them by hand and through automount. Their segments stay attached, and
// can be detached in between.
func (g *checks) views() {
	attached := []string{layout.First, layout.Compact, layout.Erofs, layout.Ext4, layout.Other}
	inside.CheckByHand(g.Reporter, views(), refusedViews())
	g.Check("hand/detach", func() error { return g.detach(attached...) })
	inside.CheckAutomount(g.Reporter, views(), refusedViews())
	g.Check("automount/detach", func() error { return g.detach(attached...) })
}

// detach detaches the devices of these names, which are all that there are.
func (g *checks) detach(names ...string) error {
	if err := g.attached(names...); err != nil {
		return err
	}
	for _, name := range names {
		if err := g.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// resaved has a segment that is saved again while this guest does not have it. That its
// content was checked before says nothing then.
func (g *checks) resaved() {
	mount := func(v inside.View) error {
		said, exit := inside.Mount(v.Component)
		if exit != 0 {
			return fmt.Errorf("exit %d: %s", exit, said)
		}
		return errors.Join(v.Look(said), v.Umount())
	}
	g.Check("resaved/before", func() error { return mount(inResaved) })
	g.Check("resaved/attached", func() error { return mount(inResaved) }) // the old content is ours as long as we have it
	g.Check("resaved/after", func() error {
		if err := g.detach(layout.Resaved); err != nil {
			return err
		}
		return mount(inside.View{Component: "resaved", Content: inResaved.Content, Said: append(digests, "segment RESAVED", useFile)})
	})
	g.Check("resaved/detach", func() error { return g.detach(layout.Resaved) })
}

// helperKilled kills the mount helper before it asks the driver, while the driver is
// asked, and later, and mounts afterwards as if nothing had been.
func (g *checks) helperKilled() {
	heal := func() error {
		if err := inside.NothingMounted(); err != nil {
			return err
		}
		said, exit := inside.Mount(inErofs.Component)
		if exit != 0 {
			return fmt.Errorf("exit %d: %s", exit, said)
		}
		return errors.Join(inErofs.Look(said), inErofs.Umount(), g.detach(layout.Erofs))
	}
	// Each step is announced before it is done.
	for _, step := range []string{"device", "stage", "mount", "overlay", "unstage"} {
		g.Check("killed/"+step, func() error {
			helper, err := inside.StartHelper(inErofs.Component)
			if err != nil {
				return err
			}
			if err := helper.Await("mount.levelfs: " + step); err != nil {
				return err
			}
			if err := helper.Kill(); err != nil {
				return err
			}
			inside.UmountIfMounted() // it may have been quicker
			return heal()
		})
	}
	// The writer is the driver's caller, and outlives the helper. It is held as it opens
	// the driver's file, with the lock of the segment.
	g.Check("killed/attaching", func() error {
		gate, err := inside.NewGate("/sys/devices/dcssblk/add")
		if err != nil {
			return err
		}
		defer gate.Close()
		helper, err := inside.StartHelper(inErofs.Component)
		if err != nil {
			return err
		}
		if err := gate.Await(); err != nil {
			return err
		}
		if err := helper.Kill(); err != nil {
			return err
		}
		if _, err := g.driver.Inspect(layout.Erofs); err == nil {
			return errors.New("the segment is attached, although its writer is held")
		}
		healed := make(chan error, 1)
		go func() { healed <- heal() }()
		// The next to mount waits for the writer that is at work.
		if err := awaitHelper(healed); err != nil {
			return err
		}
		if err := gate.Open(); err != nil {
			return err
		}
		return <-healed
	})
}

// awaitHelper waits until there is a helper that waits for something.
func awaitHelper(ended <-chan error) error {
	for deadline := time.Now().Add(checkLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			return fmt.Errorf("mounted although the segment is being attached: %v", err)
		default:
		}
		out, err := exec.Command("/content/ext4/busybox", "ps", "-o", "args").Output()
		if err != nil {
			return err
		}
		if strings.Contains(string(out), "/sbin/mount.levelfs") {
			return nil
		}
	}
	return os.ErrDeadlineExceeded
}
