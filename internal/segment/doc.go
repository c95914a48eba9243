// Package segment plans z/VM segments (DCSSs): which layer lies in which, under which
// name, and at which addresses.
//
// A segment is loaded at the addresses that it was defined for, in every guest the same,
// and two that overlap cannot be loaded by one guest. So the addresses of all layers
// that one guest may use are given out beforehand, like those of a map of memory:
// package survey finds out of a fleet which layers those are, and [Plan] gives each of
// them names and pages. What the inventory has already stays where it is.
//
// The package plans; it talks neither to CP nor to Linux. Package dcss does that.
//
// # Rules
//
// Each device, which is one segment or several that are contiguous (A:B), begins and ends
// on a boundary of 2 MiB: since Linux 6.18 the driver (drivers/s390/block/dcssblk.c) has
// DAX for no others. The driver refuses to load a segment in a megabyte of which another
// one has a part (arch/s390/mm/extmem.c, segment_overlaps_others), so ranges are compared
// in whole megabytes. One segment has at most 2047 MiB, which leaves 2046 ([MaxBytes]).
package segment
