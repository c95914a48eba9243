package mounter

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// An Owner is the user to whom a private layer belongs.
type Owner struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// An IDMap says whose the files of a layer are in a view (mount_setattr(2),
// "ID-mapped mounts"). Layers hold root's files, which nobody else could change in
// his view, and which copied up would stay root's. Mapped, they are the owner's: he
// can change all of it, and nothing of what he changes is root's. The layer itself
// stays one superblock, whoever it is mapped for.
type IDMap struct {
	UID []Extent `json:"uid"`
	GID []Extent `json:"gid"`
}

// An Extent maps Count consecutive ids: what is Layer's in the layer is View's in
// the view.
type Extent struct {
	Layer uint32 `json:"layer"`
	View  uint32 `json:"view"`
	Count uint32 `json:"count"`
}

// idMap is the mapping for an owner, or nil if there is nothing to map.
func (o *Owner) idMap() *IDMap {
	if o == nil || o.UID == 0 && o.GID == 0 {
		return nil
	}
	return &IDMap{UID: rootTo(o.UID), GID: rootTo(o.GID)}
}

// rootTo maps root to the id, and all others to themselves. Nothing is mapped to
// root. The id itself is root's now, so that in a layer it has no meaning: the
// kernel shows such files as the overflow id's (65534), and lets nobody change them.
func rootTo(id uint32) []Extent {
	const invalid = math.MaxUint32 // (uid_t) -1 is no id
	if id == 0 {
		return []Extent{{0, 0, invalid}}
	}
	extents := []Extent{{0, id, 1}}
	if id > 1 {
		extents = append(extents, Extent{1, 1, id - 1})
	}
	if rest := invalid - 1 - id; rest > 0 && id < invalid {
		extents = append(extents, Extent{id + 1, id + 1, rest})
	}
	return extents
}

// option is the mapping as mount(8) takes it from util-linux 2.39 on.
func (m *IDMap) option() string {
	var words []string
	for _, e := range m.UID {
		words = append(words, fmt.Sprintf("u:%d:%d:%d", e.Layer, e.View, e.Count))
	}
	for _, e := range m.GID {
		words = append(words, fmt.Sprintf("g:%d:%d:%d", e.Layer, e.View, e.Count))
	}
	return "X-mount.idmap=" + strings.Join(words, " ")
}

// mapOwner covers the layer's mount on the stage by one of the same file system in
// which root's files are the owner's. A kernel or a file system that cannot do this
// (overlayfs takes such layers from Linux 5.19 on, erofs can be mapped from 5.19,
// squashfs from 6.2, ext4 from 5.12) is no failure: the files stay root's.
func (x *execution) mapOwner(s Step) {
	target := x.plan.staged(x.plan.Layers[s.Layer])
	err := x.coverMapped(target)
	if err != nil {
		x.note(fmt.Sprintf("layer %q: files stay root's, as they cannot be mapped: %v", x.plan.Layers[s.Layer].Name, err))
		return
	}
	x.mapped = append(x.mapped, target)
}

func (x *execution) coverMapped(dir string) error {
	if x.users == nil {
		users, err := newUserNamespace(x.plan.IDMap)
		if err != nil {
			return fmt.Errorf("user namespace: %w", err)
		}
		x.users = users
		x.finally(users.Close)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	defer unix.Close(fd)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(x.users.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// unmappedOverlay is newOverlay without the mapped mounts, which overlayfs has refused:
// before Linux 5.19 it takes none. If it was for another reason, it fails again.
func (x *execution) unmappedOverlay(refused error) (*os.File, error) {
	for _, dir := range x.mapped {
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil {
			return nil, errors.Join(refused, &os.PathError{Op: "umount", Path: dir, Err: err})
		}
	}
	view, err := x.newOverlay()
	if err == nil {
		x.note(fmt.Sprintf("files of all layers stay root's, as overlayfs takes no mapped ones: %v", refused))
	}
	return view, err
}

// newUserNamespace makes a user namespace (user_namespaces(7)), which is the form in
// which the kernel takes a mapping. Only a new process can enter one. It is traced,
// so that it stops before its first instruction, and is gone when this returns; if
// this process is killed meanwhile, it dies too.
func newUserNamespace(m *IDMap) (*os.File, error) {
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"levelfs-idmap"}, &syscall.ProcAttr{
		Sys: &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: processMap(m.UID),
			GidMappings: processMap(m.GID),
			Ptrace:      true,
			Pdeathsig:   unix.SIGKILL,
		},
	})
	if err != nil {
		return nil, err
	}
	defer end(pid)
	return os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
}

// end kills a traced child and waits until it is gone.
func end(pid int) {
	_ = syscall.Kill(pid, syscall.SIGKILL) // a child that was not waited for is there
	for {
		var status syscall.WaitStatus // of the stop first, and then of the end
		_, err := syscall.Wait4(pid, &status, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) || status.Signaled() || status.Exited() {
			return
		}
	}
}

func processMap(extents []Extent) []syscall.SysProcIDMap {
	var m []syscall.SysProcIDMap
	for _, e := range extents {
		m = append(m, syscall.SysProcIDMap{ContainerID: int(e.Layer), HostID: int(e.View), Size: int(e.Count)})
	}
	return m
}
