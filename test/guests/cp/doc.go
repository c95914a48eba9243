// Package cp plays CP, the control program of z/VM, for one Linux guest in QEMU, so
// that the real dcssblk driver can be tested where there is no z/VM.
//
// Linux asks CP by DIAGNOSE instructions: X'64' for segments, X'08' for commands.
// QEMU knows neither. [Start] puts a breakpoint on each such instruction of the
// guest's kernel and sets the bit by which the kernel knows that it is under z/VM;
// [Machine.Run] then answers whenever one of them is reached. What is answered is
// in [CP], which knows nothing of QEMU.
//
// The contents of segments are put into the guest's memory when it is started
// (QEMU's loader device) and lie there, loaded or not: loading copies nothing but what
// a segment has [Segment.Resaved], purging discards nothing, saving is only noted down, and nothing keeps the guest
// from writing to a shared segment but its own driver.
//
// Preconditions: Linux 6.1, whose lowcore has the machine flags at 0x3c8 and whose
// text is where its addresses say, with nokaslr and one CPU. [Start] refuses others
// as far as it can tell.
package cp
