// Package layout says which images the x86 guest has on its pmem devices. The test
// that starts it and the program in the guest both go by it.
package layout

// UUIDs of the file systems, by the name of their content.
const (
	Erofs     = "erofs"     // a device
	Ext4      = "ext4"      // a device
	Part      = "part"      // the first partition of a device, erofs
	Compact   = "compact"   // the second one: erofs as mkfs.erofs makes it, which is not all DAX
	Unaligned = "unaligned" // no multiple of 2 MiB: there is no device of it
	NVDIMM    = "nvdimm"    // a device that the kernel has no DAX for, as it has no pfn superblock
)

// Required is what the name of a component ends with that has to be executed in place.
// Beside it there is one of the same layer without.
const Required = "-required"

// UUIDFile has a line "NAME UUID FSTYPE" for each of them.
const UUIDFile = "/images"
