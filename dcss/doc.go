// Package dcss attaches z/VM segments (DCSS, discontiguous saved segments) as
// block devices, through the sysfs files of the kernel's dcssblk driver
// (drivers/s390/block/dcssblk.c).
//
// A segment is memory that CP, z/VM's control program, shares among guests. The
// driver makes one block device of one segment, or of several that are contiguous
// in memory, and a file system on it that is mounted with DAX is executed in place:
// its pages are in no guest's page cache.
//
// What is attached is read from sysfs each time, and nothing is written down
// besides: minor numbers are reused as soon as they are free, and a program may be
// killed between any two instructions. Attach and detach of one segment exclude
// each other by a lock file.
//
// CP may need long for a segment that it has to load from its spool, and the write
// that asks for it can be neither interrupted nor killed. A process with a thread
// in it cannot even exit, so it is another process that writes: see [Writer]. The
// caller gets a [DeadlineError] when its time is up, and a later call finds what
// came of it.
//
// A segment's name says nothing about its content: CP keeps old and new content
// alive under one name, for whoever has loaded which. Look at the file system.
//
// Preconditions: root, and Linux 2.6.28 or later for more than one segment on a
// device. Kernels 5.17 to 6.0 without "s390/dcssblk: fix deadlock when adding a
// DCSS" (a41a11b40095) hang in the driver; nothing here helps against that.
//
// When not to use it: to define or fill segments. That is done with CP commands
// and the device in exclusive mode; of it, only what sysfs offers is here
// ([Driver.SetShared], [Driver.Save]).
package dcss
