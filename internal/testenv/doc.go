// Package testenv is what the tests of levelfs, and its benchmarks, run in.
//
//   - [Main] and [Enter] run a program in mount and PID namespaces of its own, and
//     fail it if it leaves a mount, a loop device, a process or a file behind.
//   - [Require] skips a test where the machine lacks something, or fails it where
//     that must not be.
//   - [Build] compiles the commands; [Machine] is one machine that runs levelfs:
//     a root with a configuration, an inventory, images, and the commands.
//   - [Inventory] writes a software inventory as LDIF, [Store] makes the images.
//   - [Automount] is a real automount, [Slapd] a real slapd, alone or with a replica,
//     [DS389] a real 389 Directory Server; [SilentServer] and [ClosingServer] are LDAP
//     servers that fail.
//
// Whatever waits here waits for a condition, until a deadline: nothing sleeps for
// a time and hopes.
//
// Automounts, mounts by mount(8) and everything that writes to /usr/sbin, /dev or
// /run need the sandbox; on the machine itself these functions refuse to run.
// When not to use it: in code that ships. It is for tests only.
package testenv
