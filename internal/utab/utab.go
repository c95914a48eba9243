// Package utab keeps one option of a mount in libmount's table of what the kernel does not
// know about mounts, /run/mount/utab.
//
// That is how umount(8), and with it automount and systemd, get to know a helper: of a
// mount whose options have helper=NAME there, umount(8) runs umount.NAME instead of
// unmounting it itself. (uhelper=, which umount(8) documents, is looked at for users
// without rights only.) An entry counts for a mount of the same source, root and target,
// so that one that is left behind does nothing.
//
// When not to use it: for anything that has to be there. Whoever calls umount(2), or
// umount(8) with -i, does not look at it.
package utab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Table is libmount's table.
type Table struct{ Dir string }

// System is the table that libmount reads.
func System() Table { return Table{"/run/mount"} }

func (t Table) file() string { return filepath.Join(t.Dir, "utab") }

// Set notes the option for the mount of the source at the target, and forgets what was
// noted for another mount there. It waits for others who change the table.
func (t Table) Set(ctx context.Context, source, target, option string) error {
	if err := os.MkdirAll(t.Dir, 0o755); err != nil {
		return err
	}
	line := fmt.Sprintf("SRC=%s TARGET=%s ROOT=/ OPTS=%s\n", mangle(source), mangle(target), mangle(option))
	return t.change(ctx, target, line)
}

// Remove forgets what is noted for mounts at the target.
func (t Table) Remove(ctx context.Context, target string) error {
	if _, err := os.Lstat(t.file()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return t.change(ctx, target, "")
}

// change replaces the lines about the target by the line, as libmount does it: under a
// lock on utab.lock, by rename.
func (t Table) change(ctx context.Context, target, line string) error {
	lock, err := t.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	text, err := os.ReadFile(t.file())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var rest strings.Builder
	about := "TARGET=" + mangle(target)
	for l := range strings.Lines(string(text)) {
		there := false
		for word := range strings.FieldsSeq(l) {
			there = there || word == about
		}
		if !there {
			rest.WriteString(l)
		}
	}
	rest.WriteString(line)
	if rest.String() == string(text) {
		return nil
	}
	f, err := os.CreateTemp(t.Dir, "utab.")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // it is gone if it got its name
	_, err = f.WriteString(rest.String())
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), t.file())
}

// lockPoll is how often a lock that somebody holds is tried again.
const lockPoll = 10 * time.Millisecond

func (t Table) lock(ctx context.Context) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(t.Dir, "utab.lock"), os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(&fs.PathError{Op: "flock", Path: f.Name(), Err: err}, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%q: somebody else holds the lock: %w", f.Name(), ctx.Err()), f.Close())
		case <-time.After(lockPoll):
		}
	}
}

// mangle escapes what separates words, as libmount does.
func mangle(s string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(s)
}
