package main

import (
	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/x86/layout"
)

// nvdimmModule makes the device that has no DAX. It is loaded last: what is captured of
// sysfs, and the memory that the host measures, are without it.
const nvdimmModule = "nfit"

// views mounts components whose layers are on pmem devices, by hand and through automount.
func (g *checks) views() error {
	if err := inside.LoadModule(nvdimmModule, ""); err != nil {
		return err
	}
	if err := inside.MountPrivate(); err != nil {
		return err
	}
	ranges, err := inside.PhysicalRanges("virtio_pmem", "Persistent Memory", "namespace")
	if err != nil {
		return err
	}
	node := func(name string) string {
		device, err := g.device(name)
		if err != nil {
			return err.Error() // which is no device of any layer
		}
		return "pmem." + device.Node
	}
	content := func(name string) string { return "/content/" + name }
	active := func(component, name, program string) inside.View {
		return inside.View{Component: component, Content: content(name), Program: program, Device: node(name), XIP: "active", Ranges: ranges}
	}
	const partial, off = "partial (1 of 2 files", "off (the kernel has no DAX for this device"
	views := []inside.View{
		active(layout.Erofs, layout.Erofs, "bin/busybox"),
		active(layout.Ext4, layout.Ext4, ""),
		active(layout.Part, layout.Part, ""),
		active(layout.Ext4+layout.Required, layout.Ext4, ""),
		{
			Component: layout.Compact, Content: content(layout.Compact), Device: node(layout.Compact), XIP: partial,
			Said: []string{"execution in place is " + partial},
		},
		{
			Component: layout.NVDIMM, Content: content(layout.NVDIMM), Device: node(layout.NVDIMM), XIP: "off",
			Said: []string{"execution in place is " + off},
		},
		// A device that there is not is nothing to warn of: most machines have none.
		{Component: layout.Unaligned, Content: content(layout.Unaligned)},
	}
	refused := []inside.Refusal{
		{Component: layout.Compact + layout.Required, Said: []string{"execution in place is required, but it is " + partial}},
		{Component: layout.NVDIMM + layout.Required, Said: []string{"execution in place is required, but it is " + off}},
		{Component: layout.Unaligned + layout.Required, Said: []string{"execution in place is required, but", "it is on no pmem device"}},
	}
	inside.CheckByHand(g.Reporter, views, refused)
	inside.CheckAutomount(g.Reporter, views, refused)
	return nil
}
