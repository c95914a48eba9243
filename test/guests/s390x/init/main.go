// Command init is the first and only process of the s390x guest. It tries package
// dcss and the commands against the kernel's dcssblk driver and reports on the console,
// see package report.
package main

import (
	"bufio"
	"fmt"
	"os"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/report"
)

func main() {
	if exit, ok := dcss.Writer(os.Args); ok {
		os.Exit(exit)
	}
	if len(os.Args) > 1 && os.Args[1] == "attach" {
		os.Exit(attach(os.Args[2:]))
	}
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
	g := &checks{Reporter: r, driver: dcss.New("/run/levelfs", "/proc/self/exe")}
	g.withoutDriver()
	for _, module := range modules {
		if err := inside.LoadModule(module, ""); err != nil {
			return err
		}
	}
	g.withoutCP()
	symbols, err := inside.Symbols("_stext", "_etext")
	if err != nil {
		return err
	}
	fmt.Printf("CP-READY %#x %#x\n", symbols["_stext"], symbols["_etext"])
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return fmt.Errorf("wait for CP: %w", err)
	}
	g.attach()
	if err := capture(); err != nil {
		return err
	}
	g.refusals()
	g.modes()
	g.killed()
	g.mounts()
	if err := inside.MountPrivate(); err != nil {
		return err
	}
	g.views()
	g.resaved()
	g.helperKilled()
	g.verbs()
	return nil
}
