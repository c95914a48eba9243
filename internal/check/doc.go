// Package check compares three things that should agree: what the inventory wants of
// this machine, what is on this machine, and what the kernel has mounted.
//
// [Gather] finds out what there is and judges nothing. [Judge] turns that into findings
// and touches nothing, so that every verdict can be tested on plain data. [Deep] reads
// layer images whole, which takes hours and not milliseconds, and goes on where it was
// interrupted.
//
// Nothing here waits for ever. Each look at something that may be dead (a file system, a
// server, automount) runs by itself and is given up when its time is over; that it could
// not be looked at is then part of the result, as an [Unchecked]. The kernel does not let
// a process end that waits for a FUSE server which has taken its request, or for a local disk
// which neither answers nor fails: who must end has a process of its own do this, and does
// not wait for it.
//
// Nothing is written, but for what [Deep] keeps in the cache. Preconditions: root, or
// part of it cannot be checked.
//
// When not to use it: for the inventory itself, which is package lint's, and before a
// mount, which checks what it uses by itself.
package check
