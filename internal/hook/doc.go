// Package hook runs an administrator's own programs around what levelfs does: before and
// after a view is mounted, switched to another level, or unmounted.
//
// Hooks are executables in /etc/levelfs/hooks.d/EVENT.d, run in the order of their names.
// They run as root, so nobody else may have a hand in them: a hook that others than root
// can write, or that lies in a directory that they can, is refused, and with it what was
// to happen. There is no shell, and no variable of levelfs's own environment gets to them.
//
// Hooks stay in the process group of levelfs. That of automount is the one in which its
// directories can be looked into while a mount there is pending: elsewhere a hook that
// touches the view that it was called for would wait for itself. So it is not by its
// process group that all of a hook ends: what it leaves behind becomes a child of this
// process (PR_SET_CHILD_SUBREAPER), whatever session it is in, and is killed.
//
// When not to use it: while the calling thread is in a mount namespace of its own, which
// the hooks would share; and for anything that has to happen, since what hooks do is for
// people to say.
package hook
