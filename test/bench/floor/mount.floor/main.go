// Command mount.floor is a mount helper that decides nothing and checks nothing:
// what the start of any Go mount helper and the overlay itself cost. It mounts the
// layers ROOT/lower/{top,bottom} under ROOT/raw/floor/KEY, where ROOT is
// LEVELFS_ROOT.
package main

import (
	"os"

	"golang.org/x/sys/unix"
)

func main() {
	root, key, target := os.Getenv("LEVELFS_ROOT"), os.Args[1], os.Args[2]
	private := root + "/raw/floor/" + key
	data := "lowerdir=" + root + "/lower/top:" + root + "/lower/bottom,upperdir=" + private + "/upper,workdir=" + private + "/work"
	if err := unix.Mount("floor", target, "overlay", unix.MS_NODEV, data); err != nil {
		os.Stderr.WriteString("mount.floor: " + err.Error() + "\n")
		os.Exit(32)
	}
}
