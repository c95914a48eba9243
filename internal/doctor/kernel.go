package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/config"
)

// kernel tries what mounts need.
func kernel(_ context.Context, c *config.Config) []Line {
	done := make(chan []Line)
	go func() {
		// Never unlocked: the thread ends with this function, and with it its mount
		// namespace and every mount in it.
		runtime.LockOSThread()
		done <- tryKernel(c)
	}()
	return <-done
}

func tryKernel(c *config.Config) []Line {
	image, imageErr := someImage(c) // before anything is mounted over what it may lie in
	if imageErr == nil {
		defer image.Close()
	}
	if err := ownNamespace(); err != nil {
		return []Line{{"mount namespace", Error, err.Error(), "run it as root, outside of a container without CAP_SYS_ADMIN"}}
	}
	var lines []Line
	add := func(name string, err error, otherwise State, good, remedy string) {
		if err == nil {
			lines = append(lines, Line{Name: name, State: OK, Text: good})
			return
		}
		lines = append(lines, Line{name, otherwise, err.Error(), remedy})
	}
	add("overlayfs", tryOverlay(false), Error, "a private layer over two layers", "load the module overlay, of Linux 5.2 or later")
	add("lowerdir+", tryOverlay(true), Warning, "layers are handed over one by one", "Linux 6.7; without it the names of a level's layers have to fit into one page")
	add("MOVE_MOUNT_BENEATH", tryBeneath(), Warning, "views can be switched while they are in use", "Linux 6.5; without it a view changes its level when it is next mounted")
	for _, fstype := range []string{"erofs", "squashfs", "ext4"} {
		add(fstype, tryFileSystem(fstype), Warning, "there", "load the module "+fstype+"; without it layers of this type cannot be mounted")
	}
	direct, err := false, imageErr
	if err == nil {
		direct, err = tryLoop(image)
	}
	add("loop devices", err, Error, "there", "load the module loop")
	if err == nil && !direct {
		lines = append(lines, Line{"direct I/O", Warning, "the file system of the images has none: they are in memory twice", "move the images to ext4 or xfs"})
	} else if err == nil {
		lines = append(lines, Line{Name: "direct I/O", State: OK, Text: "image files stay out of the page cache"})
	}
	return lines
}

// ownNamespace gives the thread a mount namespace with an empty tmpfs at /tmp.
func ownNamespace() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace of its own: %w", err)
	}
	if err := mount.MakeRPrivate("/"); err != nil {
		return err
	}
	return mount.Mount("levelfs-doctor", "/tmp", "tmpfs", "mode=0700")
}

// tryOverlay mounts a view, in one of the two ways that there are.
func tryOverlay(oneByOne bool) error {
	dir, err := os.MkdirTemp("/tmp", "overlay")
	if err != nil {
		return err
	}
	for _, name := range []string{"a", "b", "upper", "work", "view"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	if !oneByOne {
		return mount.Mount("levelfs-doctor", in("view"), "overlay", "index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off,lowerdir="+
			in("a")+":"+in("b")+",upperdir="+in("upper")+",workdir="+in("work"))
	}
	context, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(context)
	// A kernel before 6.5 takes any key here.
	if unix.FsconfigSetString(context, "levelfs-unknown", "1") == nil {
		return errors.New("the kernel has no lowerdir+")
	}
	for _, option := range [][2]string{{"lowerdir+", in("a")}, {"lowerdir+", in("b")}, {"upperdir", in("upper")}, {"workdir", in("work")}} {
		if err := unix.FsconfigSetString(context, option[0], option[1]); err != nil {
			return fmt.Errorf("%s: %w", option[0], err)
		}
	}
	if err := unix.FsconfigCreate(context); err != nil {
		return err
	}
	view, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return unix.Close(view)
}

// moveMountBeneath is MOVE_MOUNT_BENEATH (include/uapi/linux/mount.h).
const moveMountBeneath = 0x200

// tryBeneath puts a file system under one that is mounted.
func tryBeneath() error {
	dir, err := os.MkdirTemp("/tmp", "beneath")
	if err != nil {
		return err
	}
	if err := mount.Mount("levelfs-doctor", dir, "tmpfs", ""); err != nil {
		return err
	}
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return err
	}
	fd, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH|moveMountBeneath)
}

// tryFileSystem has the kernel load the module, if it is one.
func tryFileSystem(fstype string) error {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	return unix.Close(fd)
}

// tryLoop sets a loop device up over the file and reports whether it does direct I/O. The
// device goes when it is closed.
func tryLoop(image *os.File) (direct bool, err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return false, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return false, fmt.Errorf("no free loop device: %w", err)
		}
		loop, err := os.Open(fmt.Sprintf("/dev/loop%d", n))
		if err != nil {
			return false, err
		}
		defer loop.Close()
		setup := unix.LoopConfig{Fd: uint32(image.Fd())}
		setup.Info.Flags = unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &setup)
		if errors.Is(err, unix.EBUSY) {
			continue // other software took it
		}
		if err != nil {
			return false, fmt.Errorf("set up a loop device: %w", err)
		}
		info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
		return err == nil && info.Flags&unix.LO_FLAGS_DIRECT_IO != 0, err
	}
}

// someImage opens an image of a layer, or, where there is none yet, this program.
func someImage(c *config.Config) (*os.File, error) {
	for _, dir := range c.Images {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				return os.Open(filepath.Join(dir, e.Name()))
			}
		}
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return os.Open(self)
}
