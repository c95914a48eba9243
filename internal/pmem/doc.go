// Package pmem finds the pmem devices of this machine by the file systems on them.
//
// A pmem device (Documentation/driver-api/nvdimm/nvdimm.rst) is memory that the
// machine has besides its own: in a virtual machine, an image file of the host
// that all its guests map (virtio-pmem, or an NVDIMM). With DAX, files on it are
// executed in place. Its number says nothing of what is on it, and may be another
// after the next boot; the UUID of the file system stays. Partitions are found like
// whole devices.
//
// A virtio-pmem device does not tell the guest that the host lets it only read:
// writes succeed and are lost. So what is mounted from it is to be set read-only
// first, see [SetReadOnly].
//
// Whether a file system uses DAX is for statx(2) to say, and not for this package.
//
// When not to use it: on images that are files or disks, and on pmem devices in
// sector mode (pmem0s), which have no DAX.
package pmem
