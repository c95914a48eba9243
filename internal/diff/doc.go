// Package diff compares a private layer with the shared files below it, three ways: the
// private file, the shared file that it came from, and the one that is there now. So a
// change of the caller's can be told from one of the level, and a file that hides a new
// version of itself is found.
//
// What a private file came from is known and not guessed. overlayfs notes on what it
// copies up of which file system it was (trusted.overlay.origin), and the private layer
// has a record of the levels that it was under with the UUIDs of their layers
// ([mounter.Bases]). Where there is no note, since a program wrote a new file and renamed
// it, the time at which the inode came into being says under which level that was; nobody
// can set it. Each finding names its evidence. What neither tells is reported as unknown.
//
// The shared files are read from manifests (package manifest), so that no level has to be
// mounted. All is merged as sorted streams: memory does not grow with the number of files.
//
// The upper directory is read as it is on disk, which is good while a view uses it; what
// changes meanwhile is seen or not.
package diff
