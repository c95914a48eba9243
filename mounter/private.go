package mounter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// lockWait is how long to wait for another helper that mounts over the same
// private layer or sets up a loop device: they need milliseconds.
const lockWait = 30 * time.Second

// takeLock takes the lock until the end of the execution, and makes its directory before,
// but for a private layer that a view has already.
func (x *execution) takeLock(ctx context.Context, path string) error {
	if x.plan.Replaces == nil || path == switchLock(x.plan.Run) {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
	}
	lock, err := lockFile(ctx, path)
	if err != nil {
		return err
	}
	x.lock = lock
	x.finally(lock.Close)
	return nil
}

// lockFile opens the file, making it if need be, and takes flock(2) on it. The
// lock goes with the descriptor, however the process ends.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return waitForLock(ctx, f)
	}
	return nil, errors.Join(&fs.PathError{Op: "flock", Path: path, Err: err}, f.Close())
}

// waitForLock blocks in flock(2), since the kernel serves who waits there in turn:
// of many who only tried again and again some would never get it. A wait that is
// given up ends with the process, or with the lock, which is then let go at once.
func waitForLock(ctx context.Context, f *os.File) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	taken := make(chan error)
	go func() {
		err := error(unix.EINTR)
		for errors.Is(err, unix.EINTR) {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		select {
		case taken <- err:
		case <-ctx.Done():
			f.Close()
		}
	}()
	select {
	case err := <-taken:
		if err == nil {
			return f, nil
		}
		return nil, errors.Join(&fs.PathError{Op: "flock", Path: f.Name(), Err: err}, f.Close())
	case <-ctx.Done():
		return nil, fmt.Errorf("lock %q is held by another process: %w", f.Name(), ctx.Err())
	}
}

// idle is an error if any overlay on this machine, visible or not, uses the
// private layer. With index=off the kernel itself would only log a warning and
// let two views write into one directory.
//
// The lock file says which overlay was the last one, and which other it was just
// replacing: the boot they were made in and their device numbers. The layer is free if
// that was another boot, or if no superblock has one of the numbers any more, or a later
// view has it. If it cannot be told, the kernel is asked, which is always right but
// leaves a line in its log.
func (p *Private) idle(lock *os.File, run string) error {
	if _, err := os.Lstat(p.upper()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	now := bootID()
	last := lastUse(lock)
	known := last.boot != "" && now != "" // without /proc nothing can be said of the record
	if known && last.boot != now {
		return nil
	}
	devices := slices.DeleteFunc(last.devices(), func(dev uint64) bool {
		return superblockGone(dev) || markedByOther(run, dev, p)
	})
	if known && len(devices) == 0 {
		return nil
	}
	views, err := Views()
	if err != nil {
		return err
	}
	for _, v := range views {
		if v.Upper == p.upper() {
			inUse := &InUseError{Private: p.Dir, Target: v.Target}
			_, err := healLocked(p.Dir, lock, run, views)
			return errors.Join(inUse, err)
		}
		devices = slices.DeleteFunc(devices, func(dev uint64) bool { return v.device() == dev })
	}
	if known && len(devices) == 0 {
		return nil // later views have the numbers
	}
	return p.askKernel()
}

// An InUseError is a private layer that a view uses already.
type InUseError struct {
	Private string
	Target  string // where that view is mounted; "" if it is not to be seen from here
}

func (e *InUseError) Error() string {
	if e.Target == "" {
		return fmt.Sprintf("private layer %q is in use by a view that is mounted in another mount namespace, or was unmounted lazily and is still open", e.Private)
	}
	return fmt.Sprintf("private layer %q is in use by the view at %q", e.Private, e.Target)
}

// askKernel tries to use the upper directory with index=on, for which overlayfs
// insists on having it alone (EBUSY, ovl_report_in_use in fs/overlayfs/super.c),
// and with a work directory that it refuses only after that test, so that nothing
// is ever made.
func (p *Private) askKernel() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fd)
	for _, option := range [][2]string{
		{"index", "on"}, {"lowerdir", filepath.Dir(p.Dir)}, {"upperdir", p.upper()}, {"workdir", p.upper()},
	} {
		if err := unix.FsconfigSetString(fd, option[0], option[1]); err != nil {
			return fmt.Errorf("is the private layer in use? %s: %w", option[0], err)
		}
	}
	switch err := unix.FsconfigCreate(fd); {
	case errors.Is(err, unix.EBUSY):
		return &InUseError{Private: p.Dir}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ELOOP):
		return nil
	default:
		return fmt.Errorf("is the private layer in use? the kernel gave no answer: %w", err)
	}
}

// A use says which overlays use a private layer: the content of its lock file.
type use struct {
	boot string // in which the numbers are good; "": nothing is known
	dev  uint64 // device number of the overlay
	// leaving is the number of the overlay that is being replaced, or 0. While the new one
	// does not exist yet, dev is it, too.
	leaving   uint64
	namespace uint64 // mount namespace in which it is replaced
}

// String is the content of the lock file. Its length is fixed, so that it can be written
// over in place: a file that is truncated and written makes ext4 start writing to the
// disk at once, which takes longer than all the rest of the mount. It need not survive a
// crash of the machine, after which nothing uses the layer anyway.
func (u use) String() string {
	return fmt.Sprintf("%-36s %-20d %-20d %-20d\n", u.boot, u.dev, u.leaving, u.namespace)
}

// note writes the use into the lock file.
func (u use) note(lock *os.File) error {
	_, err := lock.WriteAt([]byte(u.String()), 0)
	return err
}

// devices are the overlays that may use the private layer.
func (u use) devices() []uint64 {
	if u.leaving == 0 {
		return []uint64{u.dev}
	}
	return []uint64{u.dev, u.leaving}
}

// lastUse reads what the lock file says.
func lastUse(lock *os.File) use {
	text := make([]byte, len(use{}.String()))
	if n, err := lock.ReadAt(text, 0); n < len(text) && err != nil {
		return use{}
	}
	words := strings.Fields(string(text))
	if len(words) != 4 || len(words[0]) != 36 {
		return use{}
	}
	var numbers [3]uint64
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.ParseUint(words[i+1], 10, 64); err != nil {
			return use{}
		}
	}
	if numbers[0] == 0 {
		return use{}
	}
	return use{boot: words[0], dev: numbers[0], leaving: numbers[1], namespace: numbers[2]}
}

// noteUse writes down which overlay uses the private layer, and which other one it is
// replacing, or 0.
func (x *execution) noteUse(dev, leaving uint64) error {
	if p := x.plan.Private; p == nil || p.Ephemeral {
		return nil
	}
	u := use{boot: bootID(), dev: dev, leaving: leaving}
	if leaving != 0 {
		u.namespace = x.namespace
	}
	return u.note(x.lock)
}

// markLines are the lines of the mark that the view leaves: its layers, and which mount it
// is.
func (p *Plan) markLines(view *os.File) []string {
	id, _ := UniqueMountID(int(view.Fd()), "") // 0 if the kernel has none
	return append(p.mountNames(), fmt.Sprintf("%s%d %s %s %q", viewLine, id, bootID(), p.Name, p.Target))
}

// noteView leaves a mark for the view's device number in the run directory: its
// time tells the age of the view, its first line which private layer the number
// belongs to, and the others the view's layers and its mount. The next view with the
// number takes it over. Nothing that is mounted depends on it.
func noteView(run string, dev uint64, p *Private, layers []string) error {
	path := viewMark(run, unix.Major(dev), unix.Minor(dev))
	var owner string
	if p != nil {
		owner = p.Dir
	}
	text := []byte(strings.Join(append([]string{owner}, layers...), "\n") + "\n")
	err := os.WriteFile(path, text, 0o600)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// markedByOther reports whether a view that does not use the private layer was
// the last to have the device number. Then the one that did is gone.
func markedByOther(run string, dev uint64, p *Private) bool {
	text, err := os.ReadFile(viewMark(run, unix.Major(dev), unix.Minor(dev)))
	owner, _, complete := strings.Cut(string(text), "\n")
	return err == nil && complete && owner != p.Dir
}

func viewMark(run string, major, minor uint32) string {
	return filepath.Join(run, "views", fmt.Sprintf("%d:%d", major, minor))
}

// bootID is the kernel's random name for this boot (random(4)).
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// makePrivate makes the upper and the work directory if they are not there. The
// upper directory is the root of the view: it gets the owner and the mode of the
// topmost layer's root, and gets its name last, so that a crash leaves none with
// the wrong ones. An owner's is his, and nobody else's, from the start.
func makePrivate(top, upper, work string, owner *Owner) error {
	if err := os.Mkdir(work, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if info, err := os.Lstat(upper); err == nil {
		if !info.IsDir() {
			return fmt.Errorf("%q is no directory", upper)
		}
		return owner.owns(upper)
	}
	var root unix.Stat_t
	if err := unix.Stat(top, &root); err != nil {
		return &fs.PathError{Op: "stat", Path: top, Err: err}
	}
	if owner != nil {
		root.Uid, root.Gid, root.Mode = owner.UID, owner.GID, 0o700
	}
	unfinished := upper + ".new"
	if err := os.Mkdir(unfinished, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := unix.Chown(unfinished, int(root.Uid), int(root.Gid)); err != nil {
		return &fs.PathError{Op: "chown", Path: unfinished, Err: err}
	}
	if err := unix.Chmod(unfinished, root.Mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: unfinished, Err: err}
	}
	return os.Rename(unfinished, upper)
}

// owns is an error if the directory is another user's. Uids are given to others when
// accounts are deleted; what the old account kept is not theirs. The group may have
// changed: it says nothing.
func (o *Owner) owns(dir string) error {
	if o == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Uid != o.UID {
		return &OwnerError{Private: filepath.Dir(dir), Got: st.Uid, Want: o.UID}
	}
	return nil
}

// An OwnerError is a private layer that belongs to another user than the one it is
// to be mounted for.
type OwnerError struct {
	Private   string
	Got, Want uint32 // uids
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("private layer %q belongs to uid %d, but the caller has uid %d", e.Private, e.Got, e.Want)
}

// levelRecord is the content of the private layer's file level: the base that its
// copied-up files came from, a line for the level and one for each layer, topmost
// first: name, digest and file system UUID, "-" for what there is not. Layers that are
// added above the level have lines of their own, with their kinds.
func (p *Plan) levelRecord() string {
	var b strings.Builder
	fmt.Fprintf(&b, "level %s\n", p.Name)
	for _, l := range p.Layers {
		if l.Kind != "" {
			fmt.Fprintf(&b, "above %s %s %s %s\n", l.Kind, l.Name, cmp.Or(l.Digest, "-"), cmp.Or(l.UUID, "-"))
			continue
		}
		fmt.Fprintf(&b, "layer %s %s %s\n", l.Name, cmp.Or(l.Digest, "-"), cmp.Or(l.UUID, "-"))
	}
	return b.String()
}

// A ChangedError is a released level that does not have the layers that it had
// when it was last mounted over this private layer. The records are those of the
// file level.
type ChangedError struct{ Level, Was, Is string }

func (e *ChangedError) Error() string {
	lines := func(record string) string {
		_, layers, _ := strings.Cut(strings.TrimSpace(record), "\n")
		return strings.ReplaceAll(layers, "\n", ", ")
	}
	return fmt.Sprintf("released level %s was changed: it had %s, and the inventory now says %s", e.Level, lines(e.Was), lines(e.Is))
}

// delivered is what a record says of the level itself, which is the same for ever, without
// what was added above it for one caller or another.
func delivered(record string) string {
	var b strings.Builder
	for line := range strings.Lines(record) {
		if !strings.HasPrefix(line, "above ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// record writes down the level that the private layer comes under, before anything
// can be copied up from it. If the view is not mounted after all, the old record
// comes back; after a crash the level that was being mounted stays recorded.
func (x *execution) record(path string) error {
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	record := x.plan.levelRecord()
	if string(old) == record {
		return nil
	}
	if was, is := delivered(string(old)), delivered(record); x.plan.Released && recordedLevel(was) == x.plan.Name && was != is {
		return &ChangedError{Level: x.plan.Name, Was: was, Is: is}
	}
	if err != nil {
		x.onFailure(func() error { return os.Remove(path) })
		return writeDurably(path, record)
	}
	if err := x.plan.Private.keepBase(); err != nil {
		return err
	}
	if err := x.plan.Private.keepRecord(); err != nil {
		return err
	}
	x.onFailure(x.plan.Private.restoreRecord)
	if x.plan.Replaces != nil { // it is on the disk already
		return renameDurably(path)
	}
	return writeDurably(path, record)
}

// writeDurably replaces a file so that after a crash it has the old content or
// the new, and the new if anything that was done afterwards is there. The temporary
// name is fixed, unlike in the libraries for this, so that a killed helper leaves
// one file and not many; the caller holds a lock.
func writeDurably(path, text string) error {
	if err := writeNew(path, text); err != nil {
		return err
	}
	return renameDurably(path)
}

// writeNew is the first half of writeDurably: the new content is on the disk, under the
// temporary name.
func writeNew(path, text string) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(temporary))
	}
	return nil
}

// renameDurably is the second half.
func renameDurably(path string) error {
	if err := os.Rename(path+".new", path); err != nil {
		return errors.Join(err, os.Remove(path+".new"))
	}
	return syncDirectory(filepath.Dir(path))
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
