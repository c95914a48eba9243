package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// moveMountBeneath is MOVE_MOUNT_BENEATH of Linux 6.5: the mount comes between the one
// that is there and what that is mounted on.
const moveMountBeneath = 0x200

// freezeTime is how long a switch waits for files that are open for writing: for who
// writes now and closes at once, not for who keeps them open.
const freezeTime = 20 * time.Millisecond

// A LossError is a view whose private layer is in memory: it hangs on the view alone, and
// no other can take it over.
type LossError struct{ View, Target string }

func (e *LossError) Error() string {
	return fmt.Sprintf("view %s at %q: its private layer is in memory, and what is in it would be lost", e.View, e.Target)
}

// A BusyError is a view that cannot be replaced while somebody uses it.
type BusyError struct {
	View, Target string
	// Use is what stands in the way: files open for writing, or any use.
	Use     string
	Holders []Holder // as far as they were found
}

func (e *BusyError) Error() string {
	var who []string
	for i, h := range e.Holders {
		if i == 5 {
			who = append(who, fmt.Sprintf("and %d more", len(e.Holders)-i))
			break
		}
		who = append(who, h.String())
	}
	if len(who) == 0 {
		who = []string{"somebody who was not found: in another PID namespace, gone meanwhile, or the kernel itself"}
	}
	return fmt.Sprintf("view %s at %q has %s: %s", e.View, e.Target, e.Use, strings.Join(who, ", "))
}

// irreplaceable says why the view cannot be replaced by the one that is requested, or "".
func (r *Request) irreplaceable() string {
	v := r.Replaces
	if v == nil {
		return ""
	}
	component, _, _ := strings.Cut(r.Name, "@")
	kept := r.Private != nil && !r.Private.Ephemeral
	switch mounted, _, _ := strings.Cut(v.Name, "@"); {
	case v.Target != r.Target || mounted != component:
		return fmt.Sprintf("it cannot take the place of %s at %q", v.Name, v.Target)
	case v.Frozen:
		return fmt.Sprintf("a change of level of %s at %q was interrupted", v.Name, v.Target)
	case v.Upper != "" && v.ReadOnly:
		return fmt.Sprintf("%s at %q was remounted read-only", v.Name, v.Target)
	case (v.Upper != "") != (r.Private != nil), kept && v.Upper != r.Private.upper(), r.Private != nil && !kept && !v.inMemory(r.Run):
		return fmt.Sprintf("%s at %q has another private layer than it would have now: unmount it first", v.Name, v.Target)
	}
	return ""
}

// inMemory reports whether the view's private layer is ephemeral: then its name is one
// that was on the stage.
func (v View) inMemory(run string) bool { return v.Upper == filepath.Join(run, "layers", "upper") }

// device is the view's device number as stat(2) has it.
func (v View) device() uint64 { return unix.Mkdev(v.Major, v.Minor) }

func (o *Old) device() uint64 { return unix.Mkdev(o.Major, o.Minor) }

// lock is the lock file of a plan that replaces a view: the private layer's, or, where
// there is none that outlives the view, the one for all of those.
func (p *Plan) lock() string {
	if p.Private != nil && !p.Private.Ephemeral {
		return p.Private.lock()
	}
	return switchLock(p.Run)
}

func switchLock(run string) string { return filepath.Join(run, "switch.lock") }

// holdOld makes sure, under the lock, that the view that is to be replaced is still what
// it was, and holds it: a mount on which there is a descriptor cannot be unmounted, by
// automount or anybody, but lazily.
func (x *execution) holdOld() error {
	p, old := x.plan, x.plan.Replaces
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.ID != old.ID && m.Parent != old.ID && (uint32(m.Major) != old.Major || uint32(m.Minor) != old.Minor), false
	})
	if err != nil {
		return err
	}
	gone := &GoneError{View: old.Name, Target: p.Target}
	for _, m := range mounts {
		switch {
		case m.ID == old.ID:
			v := viewsOf([]*mountinfo.Info{m})[0]
			if v.Target == p.Target && v.Name == old.Name && v.device() == old.device() && v.Work == old.Work && !v.ReadOnly == (p.Private != nil) {
				gone = nil
			}
		case m.Parent == old.ID:
			return fmt.Errorf("something is mounted in the view, at %q", m.Mountpoint)
		default:
			return fmt.Errorf("the view is mounted at %q, too", m.Mountpoint)
		}
	}
	if gone != nil {
		return gone
	}
	if err := x.samePrivate(); err != nil {
		return err
	}
	if x.namespace, err = mountNamespaceID(); err != nil {
		return err
	}
	if x.old, err = openMount(p.Target, old.device()); errors.Is(err, errOtherMount) {
		return &GoneError{View: old.Name, Target: p.Target} // since the mounts were read
	} else if err != nil {
		return err
	}
	x.finally(func() error { return x.old.Close() })
	return nil
}

// samePrivate is an error if the private layer is not the one that the old view uses, but
// another at the same place: its file system may have been unmounted lazily, so that the
// view still has it and nobody else. The lock file in it tells, or else the kernel.
func (x *execution) samePrivate() error {
	p := x.plan.Private
	if p == nil || p.Ephemeral {
		return nil
	}
	if last := lastUse(x.lock); last.boot != "" && last.boot == bootID() && last.dev == x.plan.Replaces.device() {
		return nil
	}
	err := p.askKernel()
	var inUse *InUseError
	if errors.As(err, &inUse) {
		return nil
	}
	return errors.Join(fmt.Errorf("%q is not the private layer that the view uses: was its file system unmounted?", p.Dir), err)
}

// mountNamespaceID is the number of the calling thread's mount namespace (namespaces(7)).
func mountNamespaceID() (uint64, error) {
	const path = "/proc/thread-self/ns/mnt"
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// A GoneError is a view that is not mounted any more, or was replaced by another.
type GoneError struct{ View, Target string }

func (e *GoneError) Error() string {
	return fmt.Sprintf("view %s is not mounted at %q any more", e.View, e.Target)
}

var errOtherMount = errors.New("something else is mounted")

// openMount opens the root of what is mounted at the path, if it is the device; if not the
// error is errOtherMount. Nothing is mounted by automount for it.
func openMount(path string, device uint64) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Dev != device {
		err = fmt.Errorf("%w at %q", errOtherMount, path)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// freeze makes the file system of the old view read-only, so that nobody writes through
// it any more when the new one is made over the same private layer. The kernel refuses
// while a file is open for writing.
func (x *execution) freeze(ctx context.Context) error {
	p := x.plan
	old := p.Replaces.device()
	if err := x.noteUse(old, old); err != nil {
		return err
	}
	x.onFailure(func() error { return x.noteUse(old, 0) })
	if !p.Private.Ephemeral {
		// What has to be on the disk before the new view comes is written now, when nobody
		// has to wait for it: the record, and all that was written through the old view.
		level := p.Private.level()
		if err := p.Private.keepBase(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := writeNew(level, p.levelRecord()); err != nil {
			return err
		}
		x.onFailure(func() error { return removeIfThere(level + ".new") })
		if err := syncFileSystem(p.Private.Dir); err != nil {
			return err
		}
	}
	// Without a pause: a process that writes all the time has its file closed for some
	// microseconds only.
	for start := time.Now(); ; {
		err := reconfigure(x.old, "ro")
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EBUSY) || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if time.Since(start) > freezeTime {
			return x.busy("files open for writing, or deleted and still open", true)
		}
	}
	x.onFailure(func() error { return reconfigure(x.old, "rw") })
	return nil
}

func removeIfThere(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncFileSystem(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: path, Err: err}
	}
	return nil
}

// busy is the error for a view that is in use, with who uses it.
func (x *execution) busy(use string, writing bool) error {
	old := x.plan.Replaces
	holders, err := holders(x.plan.Target, old.device(), writing)
	return errors.Join(&BusyError{View: old.Name, Target: x.plan.Target, Use: use, Holders: holders}, err)
}

// reconfigure makes the file system of the mount read-only ("ro") or writable ("rw"), for
// all of its mounts, and leaves the mounts' own flags alone.
func reconfigure(root *os.File, flag string) error {
	fd, err := unix.Fspick(int(root.Fd()), "", unix.FSPICK_EMPTY_PATH|unix.FSPICK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fspick: %w", err)
	}
	overlay := os.NewFile(uintptr(fd), "overlay")
	defer overlay.Close()
	if err := unix.FsconfigSetFlag(fd, flag); err != nil {
		return contextError(overlay, flag, err)
	}
	if err := unix.FsconfigReconfigure(fd); err != nil {
		if errors.Is(err, unix.EBUSY) {
			return err
		}
		return fmt.Errorf("remount %s: %w", flag, hint(err, map[error]string{
			unix.EROFS: "it was read-only from the start: its private layer's file system was full or read-only",
		}))
	}
	return nil
}

// writable refuses a new view that the kernel has made read-only, which it does in
// silence where it cannot make what it needs in the work directory.
func (x *execution) writable() error {
	if x.plan.Private == nil {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(x.view.Fd()), &st); err != nil {
		return err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return fmt.Errorf("the new view would be read-only: the file system of %q is full or read-only", x.plan.upper())
	}
	return nil
}

// replace attaches the view beneath the old one and takes that away: who looks up a name
// finds the one or the other. Up to the first everything can be undone, and from there
// on nothing has to be.
func (x *execution) replace() error {
	p := x.plan
	var st unix.Stat_t
	if err := unix.Fstat(int(x.view.Fd()), &st); err != nil {
		return err
	}
	// The one that counts is the new one, but as long as the old one may come back, too.
	if err := x.noteUse(st.Dev, p.Replaces.device()); err != nil {
		return err
	}
	if err := noteView(p.Run, st.Dev, p.Private, p.markLines(x.view)); err != nil {
		return err
	}
	if !x.applier.NoBeneath {
		flags := unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH | moveMountBeneath
		err := unix.MoveMount(int(x.view.Fd()), "", int(x.old.Fd()), "", flags)
		if err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("attach beneath %q: %w", p.Target, err)
		}
		if err == nil {
			x.onlyFinally()
			if err := detach(x.old); err != nil {
				return err
			}
			return x.noteUse(st.Dev, 0)
		}
	}
	if err := x.exchange(); err != nil {
		return fmt.Errorf("%w (without mounting beneath it, which this kernel cannot)", err)
	}
	x.onlyFinally()
	return x.noteUse(st.Dev, 0)
}

// exchange is for kernels before 6.5: the old view is unmounted, which the kernel refuses
// while anybody uses it, and the new one mounted. In between there is none, and automount
// would mount one; a clone of the old one is kept, to be put back.
func (x *execution) exchange() error {
	target := x.plan.Target
	clone, err := unix.OpenTree(int(x.old.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	// Without the descriptor that keeps it from being unmounted.
	if err := x.old.Close(); err != nil {
		return err
	}
	x.old = os.NewFile(uintptr(clone), target)
	if at, err := openMount(target, x.plan.Replaces.device()); err != nil {
		return err
	} else if err := at.Close(); err != nil {
		return err
	}
	switch err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); {
	case errors.Is(err, unix.EBUSY):
		return x.busy("users", false)
	case err != nil:
		return &os.PathError{Op: "umount", Path: target, Err: err}
	}
	attach := func(view *os.File) error {
		err := unix.MoveMount(int(view.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
		if err != nil {
			return fmt.Errorf("attach at %q: %w", target, err)
		}
		return nil
	}
	if err := attach(x.view); err != nil {
		return errors.Join(err, attach(x.old))
	}
	return nil
}

// detach takes the mount away from where it is seen. Who has a file of it open, or is in
// it, keeps it.
func detach(mount *os.File) error {
	// The link leads to this very mount, whatever its path leads to.
	path := "/proc/self/fd/" + strconv.Itoa(int(mount.Fd()))
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
		return &os.PathError{Op: "umount", Path: mount.Name(), Err: err}
	}
	return nil
}
