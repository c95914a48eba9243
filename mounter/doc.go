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
// Layer order is written once: first is topmost, as in overlayfs's lowerdir.
//
// Preconditions: root (CAP_SYS_ADMIN), Linux 5.2 or later. From 6.7 on, layers are
// handed over one by one (lowerdir+); before, their names must fit into one page,
// and a plan that does not is refused.
//
// When not to use it: for overlays in general. The options are fixed to the one
// set under which the kernel allows a new lower layer under an old upper one.
package mounter
