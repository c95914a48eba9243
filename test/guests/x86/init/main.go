// Command init is the first and only process of the x86 guest. It tries package
// internal/pmem and file systems on pmem devices, and reports on the console, see
// package report.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/levelfs/levelfs/internal/pmem"
	"github.com/levelfs/levelfs/mounter"
	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/report"
)

func main() {
	r := report.New(os.Stdout)
	if err := run(r); err != nil {
		fmt.Println("init:", err)
	} else {
		r.Done()
	}
	inside.PowerOff()
}

// run is what the guest does. An error is what keeps it from doing its checks.
func run(r *report.Reporter) error {
	if err := inside.Init(); err != nil {
		return err
	}
	modules, err := inside.Modules()
	if err != nil {
		return err
	}
	g := &checks{Reporter: r, devices: pmem.New(mounter.Probe)}
	r.Check("list/none", func() error {
		devices, err := g.devices.List()
		if err == nil && len(devices) > 0 {
			err = fmt.Errorf("%+v", devices)
		}
		return err
	})
	for _, module := range modules {
		if module == nvdimmModule {
			continue // g.views
		}
		if err := inside.LoadModule(module, ""); err != nil {
			return err
		}
	}
	if g.images, err = readImages(); err != nil {
		return err
	}
	if err := capture(); err != nil {
		return err
	}
	g.find()
	g.mounts()
	g.overlay()
	g.memory()
	// The host looks at what we take of its memory as long as this takes.
	fmt.Println("MEASURE")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the host: %w", err)
	}
	g.umounts()
	return g.views()
}
