package mounter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// An Applier executes plans.
type Applier struct {
	// Before, if set, is called before each step; its error stops the plan there
	// as a failure of that step would.
	Before func(Step) error
	// Mount2 makes the overlay with mount(2) even where the kernel knows
	// lowerdir+, as it has to be done before Linux 6.7.
	Mount2 bool
	// NoBeneath replaces a view as it has to be done before Linux 6.5, even where the
	// kernel can mount beneath another mount: only while nobody uses it.
	NoBeneath bool
	// Long, if set, wraps the context of work that can take seconds: reading all of
	// an image that was not checked before. A command listens for signals there and
	// not from the start, since setting that up takes time on every mount.
	Long func(context.Context) (context.Context, context.CancelFunc)
	// Note, if set, is told what the kernel could not do as it is planned, where the
	// view is mounted all the same.
	Note func(text string)
	// Open opens shared memory, attached if need be, read-only. It returns a block
	// device whose Name is its path. nil: none is used.
	Open func(context.Context, Device) (*os.File, error)
}

// A StepError is the step of a plan that failed.
type StepError struct {
	View string
	Step Step
	Err  error
}

func (e *StepError) Error() string { return fmt.Sprintf("view %s: %s: %v", e.View, e.Step.Op, e.Err) }
func (e *StepError) Unwrap() error { return e.Err }

// Apply mounts the plan's view. It returns nil only if the view is mounted at the
// target. On an error, and if the process is killed at any point, no mount and no
// loop device stays, and the private layer is as it was.
//
// If the plan replaces a view, that one is as it was after an error. If the process is
// killed, the one or the other is there, and [Heal] gives it back what it lacks.
func (a *Applier) Apply(ctx context.Context, p *Plan) error {
	own := *p // which devices are chosen is this execution's
	own.Layers = slices.Clone(p.Layers)
	x := &execution{plan: &own, applier: a, images: make(map[int]*os.File)}
	done := make(chan error)
	go func() {
		// Never unlocked: the thread, which has been elsewhere, ends with this
		// function.
		runtime.LockOSThread()
		done <- x.run(ctx)
	}()
	return <-done
}

// An execution is the state of one Apply.
type execution struct {
	plan      *Plan
	applier   *Applier
	images    map[int]*os.File // layer index -> open image
	lock      *os.File         // the private layer's
	namespace uint64           // mount namespace in which a view is replaced
	stage     *stage
	loops     *loopDevices              // nil before the first image
	old       *os.File                  // the view that is replaced (O_PATH)
	view      *os.File                  // the one that takes its place, still attached nowhere
	users     *os.File                  // user namespace with the plan's IDMap; nil before the first layer
	mapped    []string                  // mounts on the stage that are covered by mapped ones
	then      func() error              // after the last step, or nil
	undo      []func(failed bool) error // in the order in which the things were done
}

func (x *execution) run(ctx context.Context) (err error) {
	defer func() {
		for _, f := range x.images {
			f.Close()
		}
		for i := len(x.undo) - 1; i >= 0; i-- {
			err = errors.Join(err, x.undo[i](err != nil))
		}
	}()
	for _, s := range x.plan.Steps {
		err := ctx.Err()
		if err == nil && x.applier.Before != nil {
			err = x.applier.Before(s)
		}
		if err == nil {
			err = x.step(ctx, s)
		}
		if err != nil {
			return &StepError{View: x.plan.Name, Step: s, Err: err}
		}
	}
	if x.then != nil {
		return x.then()
	}
	return nil
}

func (x *execution) note(text string) {
	if x.applier.Note != nil {
		x.applier.Note(text)
	}
}

// finally adds something that has to happen whatever comes.
func (x *execution) finally(f func() error) {
	x.undo = append(x.undo, func(bool) error { return f() })
}

// onFailure adds something that has to happen if a later step fails.
func (x *execution) onFailure(f func() error) {
	x.undo = append(x.undo, func(failed bool) error {
		if failed {
			return f()
		}
		return nil
	})
}

// onlyFinally forgets what was to happen on failure: what was done cannot be undone any
// more, and need not be.
func (x *execution) onlyFinally() {
	undo := x.undo
	x.undo = nil
	for _, f := range undo {
		x.undo = append(x.undo, func(bool) error { return f(false) })
	}
}

func (x *execution) step(ctx context.Context, s Step) error {
	p := x.plan
	switch s.Op {
	case OpTarget:
		return checkTarget(s.Target)
	case OpLock:
		return x.takeLock(ctx, s.Target)
	case OpReplaces:
		return x.holdOld()
	case OpFreeze:
		return x.freeze(ctx)
	case OpReplace:
		return x.replace()
	case OpIdle:
		return p.Private.idle(x.lock, p.Run)
	case OpDevice:
		return x.openDevice(ctx, s.Layer)
	case OpCheck:
		if p.Layers[s.Layer].chosen != nil {
			return nil
		}
		f, err := x.applier.checkImage(ctx, p.Layers[s.Layer], p.Cache)
		if err == nil {
			x.images[s.Layer] = f
		}
		return err
	case OpStage:
		return x.makeStage(s.Target)
	case OpMount:
		if p.Layers[s.Layer].chosen != nil {
			return x.mountDevice(ctx, s.Layer, p.staged(p.Layers[s.Layer]))
		}
		return x.mountImage(ctx, s)
	case OpBind:
		return x.bindDirectory(s)
	case OpIDMap:
		x.mapOwner(s)
		return nil
	case OpEmpty:
		return os.Mkdir(s.Target, 0o755)
	case OpPrivate:
		return makePrivate(p.staged(p.root()), p.upper(), p.work(), p.Private.Owner)
	case OpRecord:
		return x.record(s.Target)
	case OpOverlay:
		return x.overlay(ctx)
	case OpUnstage:
		return x.stage.leave()
	case OpAlso:
		return x.attachAlso(s.Target)
	}
	return fmt.Errorf("unknown operation %q", s.Op)
}

func (x *execution) mountImage(ctx context.Context, s Step) error {
	l := x.plan.Layers[s.Layer]
	if x.loops == nil {
		loops, err := lockLoops(ctx, x.plan.Run)
		if err != nil {
			return fmt.Errorf("loop devices: %w", err)
		}
		x.loops = loops
		x.finally(loops.unlock)
	}
	loop, err := x.loops.attach(ctx, x.images[s.Layer])
	if err != nil {
		return fmt.Errorf("loop device for %q: %w", s.Path, err)
	}
	// Held open until it is mounted: with its last user an autoclear device goes.
	defer loop.Close()
	if err := mountLayer(loop.Name(), s.Target, l.FSType, layerOptions(l.FSType)); err != nil {
		return fmt.Errorf("image %q: %w", s.Path, hint(err, map[error]string{
			unix.EINVAL:  "damaged, or no " + l.FSType,
			unix.EBADMSG: "damaged",
			unix.EUCLEAN: "damaged",
			unix.EIO:     "damaged, or its disk is",
			unix.ENODEV:  "this kernel has no " + l.FSType,
			unix.EBUSY:   "mounted by somebody else, read-write or as another file system type",
		}))
	}
	return nil
}

func (x *execution) bindDirectory(s Step) error {
	l := x.plan.Layers[s.Layer]
	root, err := os.OpenRoot(l.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	dir, err := root.OpenFile(l.Path, unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("layer %q: %w", l.Name, err)
	}
	defer dir.Close()
	if err := os.Mkdir(s.Target, 0o755); err != nil {
		return err
	}
	options := "bind,ro,nodev"
	if x.plan.UserNS {
		// Its mount flags are not the caller's to change, and an overlay never writes to a
		// lower layer.
		options = "bind"
	}
	return mount.Mount("/proc/self/fd/"+strconv.Itoa(int(dir.Fd())), s.Target, "none", options)
}

// makeStage enters the stage; it is left whatever comes.
func (x *execution) makeStage(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if x.stage, err = enterStage(dir); err != nil {
		return err
	}
	x.finally(x.stage.leave)
	return nil
}

// overlay makes the view on the stage, where it is seen by nobody. Unless it replaces
// another it leaves the stage, notes which device the view is, and attaches it at its
// target.
func (x *execution) overlay(ctx context.Context) error {
	p := x.plan
	if x.loops != nil {
		if err := x.loops.unlock(); err != nil { // all layers are mounted
			return err
		}
	}
	view, err := x.newOverlay()
	if errors.Is(err, unix.EINVAL) && len(x.mapped) > 0 {
		view, err = x.unmappedOverlay(err)
	}
	if err != nil {
		return err
	}
	if p.Replaces != nil {
		x.view = view
		x.finally(view.Close)
		return x.writable()
	}
	defer view.Close() // before an undo: a mount with a descriptor on it is busy
	var st unix.Stat_t
	if err := unix.Fstat(int(view.Fd()), &st); err != nil {
		return err
	}
	if err := x.stage.leave(); err != nil {
		return err
	}
	if err := x.noteUse(st.Dev, 0); err != nil {
		return err
	}
	if err := noteView(p.Run, st.Dev, p.Private, p.markLines(view)); err != nil {
		return err
	}
	return x.attach(ctx, view, st.Dev)
}

// attach puts the view at its target. Two helpers that do so at once for one
// target would both have found it free: it is looked at again under a lock.
func (x *execution) attach(ctx context.Context, view *os.File, dev uint64) error {
	target := x.plan.Target
	lock, err := lockFile(ctx, filepath.Join(x.plan.Run, "attach.lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := checkTarget(target); err != nil {
		return err
	}
	if err := unix.MoveMount(int(view.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach at %q: %w", target, err)
	}
	x.onFailure(func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
	// automount turns a helper's success without a mount into 40 runs of it and an
	// ELOOP for the user: look before saying so.
	var at unix.Stat_t
	if err := unix.Stat(target, &at); err != nil {
		return err
	}
	if at.Dev != dev {
		return fmt.Errorf("attached at %q, but something else is mounted there", target)
	}
	return nil
}

// attachAlso puts the view at another mount point, too. It is not looked whether that is
// automount's: move_mount(2) does not make automount mount anything there, which a look
// would.
func (x *execution) attachAlso(target string) error {
	v, err := viewAround(target)
	if err != nil {
		return err
	}
	if v != nil && v.Target != target {
		return inViewError(target, v)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, x.plan.Target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach at %q: %w", target, err)
	}
	x.onFailure(func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
	return nil
}

// newOverlay returns the view as a mount that is attached nowhere.
func (x *execution) newOverlay() (*os.File, error) {
	if !x.applier.Mount2 {
		view, err := x.plan.fsmountOverlay()
		if !errors.Is(err, errOldKernel) {
			return view, err
		}
	}
	return x.mount2Overlay()
}

var errOldKernel = errors.New("the kernel has no lowerdir+")

// fsmountOverlay uses the new mount API: layers one by one, of any number.
func (p *Plan) fsmountOverlay() (*os.File, error) {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen: %w", err)
	}
	fs := os.NewFile(uintptr(fd), "overlay")
	defer fs.Close()
	// A kernel that lets mount(2) parse overlayfs's options (before 6.5) takes any
	// key here. It has to be asked: version numbers say nothing about back-ports.
	if unix.FsconfigSetString(fd, "levelfs-unknown", "1") == nil {
		return nil, errOldKernel
	}
	drainLog(fs)
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fd, key, value); err != nil {
			return contextError(fs, fmt.Sprintf("%s=%s", key, value), err)
		}
		return nil
	}
	if err := set("source", p.Source); err != nil {
		return nil, err
	}
	for i, dir := range p.lowers() {
		if err := set("lowerdir+", dir); err != nil {
			if i == 0 && errors.Is(err, unix.EINVAL) {
				return nil, errOldKernel // 6.5 and 6.6
			}
			return nil, err
		}
	}
	if p.Private != nil {
		if err := set("upperdir", p.upper()); err != nil {
			return nil, err
		}
		if err := set("workdir", p.work()); err != nil {
			return nil, err
		}
	} else if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
		return nil, contextError(fs, "ro", err)
	}
	for _, option := range p.Options {
		key, value, hasValue := strings.Cut(option, "=")
		if !hasValue {
			if err := unix.FsconfigSetFlag(fd, key); err != nil {
				return nil, contextError(fs, key, err)
			}
			continue
		}
		if err := set(key, value); err != nil {
			return nil, err
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, contextError(fs, "create", err)
	}
	attrs, err := mountAttrs(p.Flags)
	if err != nil {
		return nil, err
	}
	view, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, contextError(fs, "fsmount", err)
	}
	return os.NewFile(uintptr(view), p.Source), nil
}

// mount2Overlay uses mount(2), which takes the options in one page, and clones
// the mount so that it can leave the stage.
func (x *execution) mount2Overlay() (*os.File, error) {
	p := x.plan
	// The names of the layers are given relative to the stage, to fit more of them:
	// this thread shares its working directory with no other.
	if err := unix.Chdir(p.Stage); err != nil {
		return nil, err
	}
	var dirs []string
	for _, dir := range p.lowers() {
		dirs = append(dirs, filepath.Base(dir))
	}
	data := p.mountOptions("lowerdir=" + strings.Join(dirs, ":"))
	// The kernel cuts what does not fit, in silence (copy_mount_options).
	if page := os.Getpagesize(); len(data) >= page {
		return nil, fmt.Errorf("%d layers need %d bytes of mount options, but before Linux 6.7 they have to fit into %d: use fewer layers or a newer kernel",
			len(p.Layers), len(data), page-1)
	}
	at := filepath.Join(p.Stage, ".view")
	if err := os.Mkdir(at, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { // there at a second try
		return nil, err
	}
	if err := mount.Mount(p.Source, at, "overlay", data); err != nil {
		return nil, overlayHint(err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open_tree: %w", err)
	}
	return os.NewFile(uintptr(fd), p.Source), nil
}

// mountFlags are mount(8)'s names of the flags that fsmount(2) takes.
func mountFlags() map[string]int {
	return map[string]int{
		"ro": unix.MOUNT_ATTR_RDONLY, "nodev": unix.MOUNT_ATTR_NODEV, "nosuid": unix.MOUNT_ATTR_NOSUID,
		"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME,
		"nodiratime": unix.MOUNT_ATTR_NODIRATIME, "relatime": unix.MOUNT_ATTR_RELATIME,
		"strictatime": unix.MOUNT_ATTR_STRICTATIME,
	}
}

// mountAttrs translates mount(8)'s flag names for fsmount(2).
func mountAttrs(flags []string) (attrs int, err error) {
	names := mountFlags()
	for _, f := range flags {
		bit, ok := names[f]
		if !ok {
			return 0, fmt.Errorf("unknown mount flag %q", f)
		}
		attrs |= bit
	}
	return attrs, nil
}

// contextError adds the kernel's own words, which it leaves in the file system
// context's log, to an error number; where there are none, the likely cause.
func contextError(fs *os.File, what string, err error) error {
	if words := drainLog(fs); words != "" {
		return fmt.Errorf("%s: %s: %w", what, words, err)
	}
	return fmt.Errorf("%s: %w", what, overlayHint(err))
}

// drainLog reads what the kernel said since the last call. Each message is a
// letter for its severity, a blank and the text.
func drainLog(fs *os.File) string {
	var words []string
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(int(fs.Fd()), buf)
		if err != nil || n <= 0 {
			return strings.Join(words, "; ")
		}
		text := strings.TrimSpace(string(buf[:n]))
		if len(text) > 2 && text[1] == ' ' {
			text = text[2:]
		}
		words = append(words, text)
	}
}

func overlayHint(err error) error {
	return hint(err, map[error]string{
		unix.ESTALE: "the private layer was used with index=on, by other software",
		unix.EBUSY:  "the private layer is in use",
		unix.ELOOP:  "two layers are one directory, or one lies in the other",
		unix.EINVAL: "the private layer lies on a file system that cannot hold one (NFS, overlay), or upper and work on two",
	})
}

// hint adds the likely cause to an error number that comes without words.
func hint(err error, causes map[error]string) error {
	for number, cause := range causes {
		if errors.Is(err, number) {
			return fmt.Errorf("%w (%s)", err, cause)
		}
	}
	return err
}

// checkTarget refuses a mount point that is no directory, and one that lies in, or
// is, a view: nothing is ever mounted there, since automount's plain umount of the
// view would fail for ever.
func checkTarget(target string) error {
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return fmt.Errorf("mount point %q: %w", target, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fmt.Errorf("mount point %q: %w", target, unix.ENOTDIR)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return fmt.Errorf("mount point %q: %w", target, err)
	}
	if fs.Type == unix.AUTOFS_SUPER_MAGIC {
		return nil // automount's own directory: no need to read all mounts for it
	}
	v, err := viewAround(target)
	if err != nil || v == nil {
		return err
	}
	if v.Target == target {
		return fmt.Errorf("%s is mounted at %q already", v.Name, target)
	}
	return inViewError(target, v)
}

func inViewError(target string, v *View) error {
	return fmt.Errorf("%q lies in the view %s at %q, below which nothing is mounted", target, v.Name, v.Target)
}
