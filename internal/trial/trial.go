package trial

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/mounter"
)

// Outside is the directory of the cover where the tree is as it is on the machine. No key
// begins with a dot.
const Outside = ".outside"

// scratch is the directory of the cover for what exists only while views are mounted.
const scratch = ".scratch"

// coverSource is the cover's mount source, by which people know it.
const coverSource = "levelfs-run"

// lingering is for how long a private layer that is in use may be so by a namespace that is
// gone already. On a busy machine it takes some milliseconds.
const (
	lingering     = 2 * time.Second
	lingeringPoll = 20 * time.Millisecond
)

// A Trial is a namespace as pure data.
type Trial struct {
	Tree  string          `json:"tree"`  // what is covered
	Links []string        `json:"links"` // names that lead to the machine's tree
	Plans []*mounter.Plan `json:"plans"`
	User  bool            `json:"user"` // in a user namespace
}

// Scratch is where plans in a user namespace have their run directory: nowhere else is it
// certain that the caller may make one.
func Scratch(tree string) string { return filepath.Join(tree, scratch) }

// Machine is where the tree is as it is on the machine: below the cover of each namespace
// that this one was made in.
func Machine(tree string) string {
	for {
		// Automount would look for such a key.
		var st unix.Statfs_t
		if err := unix.Statfs(tree, &st); err != nil || st.Type == unix.AUTOFS_SUPER_MAGIC {
			return tree
		}
		inner := filepath.Join(tree, Outside)
		if _, err := os.Lstat(inner); err != nil {
			return tree
		}
		tree = inner
	}
}

// Covered is where what is in the tree now will be.
func Covered(tree, path string) string {
	return filepath.Join(tree, Outside, strings.TrimPrefix(path, tree))
}

// link adds links for what the tree has, and for the names that are given, but for what has
// a plan.
func (t *Trial) link(names []string) error {
	files, err := os.ReadDir(t.Tree)
	if err != nil {
		return err
	}
	for _, f := range files {
		names = append(names, f.Name())
	}
	own := make(map[string]bool)
	for _, p := range t.Plans {
		own[filepath.Base(p.Target)] = true
	}
	slices.Sort(names)
	t.Links = slices.DeleteFunc(slices.Compact(names), func(name string) bool {
		return own[name] || strings.HasPrefix(name, ".") || strings.Contains(name, "/")
	})
	return nil
}

// New completes a Trial: names are what the tree of the machine may have, beside what is
// mounted there now.
func New(tree string, user bool, plans []*mounter.Plan, names []string) (*Trial, error) {
	t := &Trial{Tree: tree, User: user, Plans: plans}
	return t, t.link(slices.Clone(names))
}

// Commands renders the namespace as shell commands, one a line, to be typed in a shell in
// it.
func (t *Trial) Commands() []string {
	lines := []string{"unshare --mount --propagation slave"}
	if t.User {
		// Not as who he is: mount(8) wants to be run by root.
		lines = []string{"unshare --user --map-root-user --mount --propagation slave"}
	}
	// The tree and the keys are whitelisted; what lies in the tree may be anything.
	held, outside := "/mnt", filepath.Join(t.Tree, Outside)
	lines = append(lines,
		"mount --rbind "+t.Tree+" "+held,
		"mount -t tmpfs -o nosuid,nodev,mode=0755 "+coverSource+" "+t.Tree,
		"mkdir "+outside,
		"mount --no-mtab --move "+held+" "+outside)
	for _, name := range t.Links {
		lines = append(lines, "ln -s "+mounter.Quote(filepath.Join(Outside, name))+" "+mounter.Quote(filepath.Join(t.Tree, name)))
	}
	for _, p := range t.Plans {
		lines = append(lines, "mkdir "+p.Target)
		lines = append(lines, p.Commands()...)
	}
	return append(lines, "mount -o remount,bind,ro "+t.Tree)
}

// Apply covers the tree and mounts the views. It must be called in a namespace that was
// entered, which is of no use after an error.
func (t *Trial) Apply(ctx context.Context, a *mounter.Applier) error {
	if err := t.cover(); err != nil {
		return err
	}
	for _, p := range t.Plans {
		if err := os.Mkdir(p.Target, 0o755); err != nil {
			return err
		}
		if err := apply(ctx, a, p); err != nil {
			return err
		}
	}
	// The mount alone is made read-only, and so are no views in it.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, t.Tree, 0, &attr); err != nil && !errors.Is(err, unix.ENOSYS) { // before Linux 5.12
		return fmt.Errorf("cover of %q: mount_setattr: %w", t.Tree, err)
	}
	return nil
}

// apply executes a plan, whose private layer may be that of a run which has just ended: the
// kernel takes away what is mounted in a namespace some time after its last process.
func apply(ctx context.Context, a *mounter.Applier, p *mounter.Plan) error {
	giveUp := time.Now().Add(lingering)
	for {
		err := a.Apply(ctx, p)
		var inUse *mounter.InUseError
		if !errors.As(err, &inUse) || inUse.Target != "" || time.Now().After(giveUp) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lingeringPoll):
		}
	}
}

// cover mounts the file system over the tree, and the tree in it.
func (t *Trial) cover() error {
	machine, err := unix.OpenTree(unix.AT_FDCWD, t.Tree, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return &fs.PathError{Op: "open_tree", Path: t.Tree, Err: err}
	}
	defer unix.Close(machine)
	if err := mount.Mount(coverSource, t.Tree, "tmpfs", "nosuid,nodev,mode=0755"); err != nil {
		return err
	}
	outside := filepath.Join(t.Tree, Outside)
	if err := os.Mkdir(outside, 0o755); err != nil {
		return err
	}
	if err := unix.MoveMount(machine, "", unix.AT_FDCWD, outside, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: outside, Err: err}
	}
	for _, name := range t.Links {
		if err := os.Symlink(filepath.Join(Outside, name), filepath.Join(t.Tree, name)); err != nil {
			return err
		}
	}
	return nil
}
