// Package place says where a measured guest has the image of the level. The program
// that starts it and the one inside both go by it.
package place

// The ways, as levelfs=WAY on the guest's command line.
const (
	Idle = "idle" // nowhere: automount runs, and nothing is used
	Pmem = "pmem" // on a virtio-pmem device, which all guests share
	Disk = "disk" // as an image file on a virtio-blk disk
)

// Component is what is used.
const Component = "software"

// Images is the directory of images, on which the disk is mounted.
const Images = "/var/lib/levelfs/images"
