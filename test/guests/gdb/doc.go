// Package gdb speaks the GDB remote serial protocol ("Debugging with GDB", appendix
// E) to the stub in QEMU, as far as it takes to be the control program of a guest:
// memory, registers, breakpoints, and running on.
//
// When not to use it: to debug something. There is no asynchronous stop, no thread
// but the one CPU of the guest, and what the peer sends unasked is an error.
package gdb
