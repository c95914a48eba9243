// Package trial makes a mount namespace (mount_namespaces(7)) in which software levels are
// tried: the views of some levels are mounted there, at their usual places, and nobody else
// sees them.
//
// A [Trial] is pure data: what the namespace will look like. [Enter] makes the namespace and
// executes this program in it once more, in its own place, since a process with several
// threads can take only one of them along, and none into a user namespace. There [Entered]
// is true, [Trial.Apply] mounts, and [Exec] has the command take this program's place. So
// there is nobody who has to pass signals on, hand over the terminal or clean up: the
// command is the process that was started, and with the last process in the namespace the
// kernel takes away all that was mounted.
//
// The tree of the views is automount's, and nothing can be mounted in it: the directory of a
// key is made and removed by automount, and what somebody else has mounted on it, even in
// another namespace, is detached when it is removed (vfs_rmdir, detach_mounts in
// fs/namespace.c). So the tree is covered as a whole by a small file system that has
// directories for the components that are tried, and, for all others, symbolic links into
// the tree as it is on the machine, which lies in the directory [Outside] of the cover.
//
// Mounts propagate into the namespace, and none out of it (MS_SLAVE). The links need that:
// automount mounts where it runs. Where mounts do not propagate, as on a machine without
// systemd, only what is mounted already can be reached through them, and for all else the
// kernel says ELOOP.
//
// Without root the namespace belongs to a user namespace, which unshare(1) makes. In it an
// overlay can be mounted, but no image: the layer is then the view of the level as it was
// delivered, which automount mounts under its name for anybody.
//
// When not to use it: to confine anything. Processes in it can do what they could do before.
package trial
