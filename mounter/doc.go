// Package mounter plans a view and applies the plan.
//
// A view is an overlay (Documentation/filesystems/overlayfs.rst): the caller's
// private layer over the read-only layers of one software level. [Build] turns a
// [Request] into a [Plan], which is pure data: what will be mounted, of what, and
// in which steps. [Plan.Commands] prints it as commands that a person could type,
// and an [Applier] executes it. There is no other way to mount a view.
//
// The layers are mounted in a mount namespace of their own, which is given up as
// soon as the overlay exists: overlayfs keeps private clones of its layers'
// mounts, so that only the overlay is ever visible and a plain umount(8) of it
// frees everything, loop devices included.
//
// A private layer belongs to one view at a time. See [Private] for how that is
// ensured. Nothing here changes or removes what is in it.
//
// A view can be replaced by one of another level, under those who use it
// ([Request.Replaces]). The private layer passes from one to the other, and is never
// used by two that can be written: under its lock
//
//   - the old view's file system is made read-only, for all of its mounts in all mount
//     namespaces. The kernel refuses while a file is open for writing through any of them,
//     and reports success only when all that was written is on its way to the disk;
//   - the lock file says that the old view is being replaced, and the record of the level
//     is written;
//   - only then the new overlay is made, with the same upper directory and a work
//     directory of its own, since an overlay empties the one that it gets, and the old
//     one needs its own if it has to come back. With index=off the kernel accepts that,
//     and logs a line;
//   - it is mounted beneath the old view, which is then detached. Who has files of it
//     open, or is in it, keeps it as it is: read-only.
//
// Before the new one is attached any failure gives the old one back. After that nothing
// can fail that matters. What a kill leaves in between is told by mountinfo and the lock
// file, and ended by [Heal]: an old view that is read-only becomes writable, and one that
// covers the new is detached. Before Linux 6.5 nothing can be mounted beneath; then a view
// is replaced only while nobody uses it, and is not there for an instant.
//
// Layer order is written once: first is topmost, as in overlayfs's lowerdir.
//
// Preconditions: root (CAP_SYS_ADMIN), Linux 5.2 or later. From 6.7 on, layers are
// handed over one by one (lowerdir+); before, their names must fit into one page,
// and a plan that does not is refused.
//
// When not to use it: for overlays in general. The options are fixed to the one
// set under which the kernel allows a new lower layer under an old upper one.
package mounter
