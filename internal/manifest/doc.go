// Package manifest lists what is in a layer: every file with its type, mode, owner,
// size, digest and extended attributes, in a text of the format mtree(5) that is read
// as a stream. With it a private layer can be compared with a level of long ago, of
// which no image is on this machine any more.
//
// A manifest is sorted: each name below its directory, and siblings by their bytes
// ([Compare]). So any number of them can be merged with no more than one entry of each
// in memory. Whoever changes the order of the lines breaks that, and the [Reader] says
// so. The last line tells a manifest that is whole from one that was cut short.
//
// bsdtar, mtree(8) and go-mtree read manifests, and the latter checks them in the
// tests. go-mtree does not read them here since it holds a whole hierarchy in memory,
// several hundred bytes for each file, and there are as many hierarchies as layers.
//
// Do not use this package to check an image: its own digest does that.
package manifest
