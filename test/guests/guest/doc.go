// Package guest runs Linux guests under QEMU for tests, by software emulation: no
// KVM is needed, nor a machine of the guest's architecture.
//
//   - [Fetch] gets a Debian kernel and other packages of any architecture into a cache,
//     without touching the machine's own package state.
//   - [Archive] is an initramfs in the making; [Build] compiles a program for it.
//     [Archive.Levelfs] adds the commands, [Archive.Automount] a real automount(8),
//     [Archive.Program] any program of a package with its libraries, and
//     [Archive.Inventory] and [Archive.Image] what there is to mount.
//   - [Start] runs QEMU; a [VM] is one that runs. It ends with its context, and with
//     the process that started it, however that ends.
//   - [VM.Report] collects what the guest reports on its console, see package report.
//   - [MemoryOf] and [MappingOf] tell what a QEMU process takes of the host's memory.
//     An initramfs is in the guest's memory: for measuring it is to be small.
//
// The programs that run inside use package inside.
package guest
