package main

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestParseUmount reads what libmount passes to a helper of umount(8).
func TestParseUmount(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args  []string
		dir   string
		flags int
	}{
		{[]string{"/sw/emacs"}, "/sw/emacs", 0},
		{[]string{"/sw/emacs", "-n"}, "/sw/emacs", 0},
		{[]string{"/sw/emacs", "-n", "-l", "-f", "-v", "-r"}, "/sw/emacs", unix.MNT_DETACH | unix.MNT_FORCE},
		{[]string{"-lf", "/sw/emacs", "-t", "overlay"}, "/sw/emacs", unix.MNT_DETACH | unix.MNT_FORCE},
	} {
		dir, flags, err := parseUmount(c.args)
		if err != nil || dir != c.dir || flags != c.flags|unix.UMOUNT_NOFOLLOW {
			t.Errorf("%q: %q, %#x, %v", c.args, dir, flags, err)
		}
	}
	for _, args := range [][]string{nil, {"-l"}, {"sw"}, {"/a", "/b"}, {"/a", "-x"}, {"/a", "-N", "1"}} {
		var usage *usageError
		if _, _, err := parseUmount(args); !errors.As(err, &usage) {
			t.Errorf("%q: %v", args, err)
		}
	}
}
