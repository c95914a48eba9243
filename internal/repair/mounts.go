package repair

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/mounter"
)

// lookTime bounds a look at what may be dead.
const lookTime = 3 * time.Second

// foreignMount unmounts what is neither automount's nor a view.
func (p *planner) foreignMount(ctx context.Context, f finding.Finding) (Step, error) {
	i := onTop(p.Mounts, func(m check.Mount) bool { return is(f, m.Target) }, mountNumbers)
	if i < 0 || p.Mounts[i].FSType == "overlay" && strings.HasPrefix(p.Mounts[i].Source, mounter.SourcePrefix) {
		return Step{}, &goneError{f.Object}
	}
	m := p.Mounts[i]
	if inMemory := m.FSType == "tmpfs" || m.FSType == "ramfs"; inMemory {
		some, err := check.Try(ctx, lookTime, func(context.Context) (bool, error) { return hasFiles(m.Target) })
		if err != nil {
			return Step{}, err
		}
		if some {
			return Step{}, fmt.Errorf("what is in it is in memory, and would be lost: copy it, then umount %s", m.Target)
		}
	}
	return unmount(m.Target, m.ID), nil
}

// onTop is the index of the mount on which no other is, of those at one mount point; -1
// if there is none. Their order does not tell: a mount can be put beneath another.
func onTop[T any](all []T, at func(T) bool, numbers func(T) (id, parent int)) int {
	return slices.IndexFunc(all, func(m T) bool {
		id, _ := numbers(m)
		return at(m) && !slices.ContainsFunc(all, func(other T) bool {
			_, parent := numbers(other)
			return at(other) && parent == id
		})
	})
}

func mountNumbers(m check.Mount) (id, parent int)  { return m.ID, m.Parent }
func checkedNumbers(v check.View) (id, parent int) { return v.ID, v.Parent }
func viewNumbers(v mounter.View) (id, parent int)  { return v.ID, v.Parent }

func hasFiles(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	names, err := d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return len(names) > 0, err
}

// view is the mounted view on top at the object of the finding.
func (p *planner) view(f finding.Finding) (check.View, error) {
	i := onTop(p.Views, func(v check.View) bool { return is(f, v.Target) }, checkedNumbers)
	if i < 0 {
		return check.View{}, &goneError{f.Object}
	}
	return p.Views[i], nil
}

// unmountView takes away a view that is not as it should be; the next access mounts it anew.
func (p *planner) unmountView(_ context.Context, f finding.Finding) (Step, error) {
	v, err := p.view(f)
	if err != nil {
		return Step{}, err
	}
	return p.away(v)
}

// away unmounts a view whose private layer outlives it.
func (p *planner) away(v check.View) (Step, error) {
	if strings.HasPrefix(v.Upper, p.Config.RunDir()+"/") {
		return Step{}, fmt.Errorf("its private layer is in memory, and what is in it would be lost: umount %s gives it up", v.Target)
	}
	return unmount(v.Target, v.ID), nil
}

// unmount unmounts as umount(8) does, never lazily, what is mounted at the target, if it is
// still the mount that the check has seen.
func unmount(target string, id int) Step {
	return Step{
		id: fmt.Sprintf("umount %s %d", target, id), stage: stageUnmount, Repair: finding.Ask, Does: []string{"umount " + check.Printable(target)},
		do: func(ctx context.Context) error {
			now, err := mountID(target)
			if err != nil {
				return err
			}
			if now != uint64(id) {
				return fmt.Errorf("something else is mounted at %q now", target)
			}
			err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
			if errors.Is(err, unix.EBUSY) {
				return inUse(ctx, target, now)
			}
			if err != nil {
				return &fs.PathError{Op: "umount", Path: target, Err: err}
			}
			return nil
		},
	}
}

// mountID is the number of the mount on top at the path.
func mountID(target string) (uint64, error) {
	var st unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC
	if err := unix.Statx(unix.AT_FDCWD, target, flags, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &fs.PathError{Op: "statx", Path: target, Err: err}
	}
	return st.Mnt_id, nil
}

// inUse is the error for a mount that somebody uses.
func inUse(ctx context.Context, target string, id uint64) error {
	holders, err := check.HoldersOf(ctx, "/proc", map[uint64]string{id: target})
	if err != nil || len(holders[target]) == 0 {
		return errors.Join(fmt.Errorf("%q is in use", target), err)
	}
	return fmt.Errorf("%q is in use by process %s", target, check.Numbers(holders[target]))
}

// interrupted reports whether a switch of the view was, which mounter.Heal ends.
func (p *planner) interrupted(v check.View) bool {
	var views []mounter.View
	for _, v := range p.Views {
		views = append(views, v.View)
	}
	return slices.ContainsFunc(mounter.Interruptions(p.Config.RunDir(), views), func(i mounter.Interruption) bool { return i.View.Target == v.Target })
}

// heal ends the interrupted switch of the views at the target.
func (p *planner) heal(target string) Step {
	run := p.Config.RunDir()
	return Step{
		id: "heal " + target, stage: stageHeal, Repair: finding.Safe,
		Does: []string{"end the interrupted switch of " + check.Printable(target) + ", as levelfs refresh does"},
		do: func(ctx context.Context) error {
			views, err := mounter.Views()
			if err != nil {
				return err
			}
			views = slices.DeleteFunc(views, func(v mounter.View) bool { return v.Target != target })
			_, err = mounter.Heal(ctx, run, views)
			return err
		},
	}
}

func (p *planner) readOnly(_ context.Context, f finding.Finding) (Step, error) {
	v, err := p.view(f)
	if err != nil {
		return Step{}, err
	}
	if !p.interrupted(v) {
		return Step{}, fmt.Errorf("no switch has left it so: if the kernel's log has no errors of the disk, mount -o remount,rw %s", v.Target)
	}
	return p.heal(v.Target), nil
}

func (p *planner) stacked(_ context.Context, f finding.Finding) (Step, error) {
	v, err := p.view(f)
	if err != nil {
		return Step{}, err
	}
	if p.interrupted(v) {
		return p.heal(v.Target), nil
	}
	return p.away(v)
}

// mountAnew is for a view that was mounted before there was the memory for its layers.
func (p *planner) mountAnew(_ context.Context, f finding.Finding) (Step, error) {
	v, err := p.view(f)
	if err != nil {
		return Step{}, err
	}
	if v.Proof != nil && v.Proof.State() != mounter.Active {
		return Step{}, errors.New("it is mounted from the memory, and the kernel does not execute it in place: the finding says why")
	}
	return p.away(v)
}

// otherLevel switches the view.
func (p *planner) otherLevel(_ context.Context, f finding.Finding) (Step, error) {
	v, err := p.view(f)
	if err != nil {
		return Step{}, err
	}
	i := slices.IndexFunc(p.Wants, func(w check.Want) bool { return w.Asker == v.Asker && w.Resolution() != nil })
	switch {
	case i < 0:
		return Step{}, &goneError{f.Object}
	case p.Wants[i].Missing != nil:
		return Step{}, fmt.Errorf("%s cannot be mounted here: %w", p.Wants[i].Level, p.Wants[i].Missing)
	case strings.HasPrefix(v.Upper, p.Config.RunDir()+"/"):
		return Step{}, fmt.Errorf("its private layer is in memory: levelfs switch %s --discard gives up what is in it", v.Component)
	}
	w, target := p.Wants[i], v.Target
	command := "levelfs switch " + v.Component
	if v.User != "" {
		command += " --user " + v.User
	}
	return Step{
		id: "switch " + target, stage: stageLevels, Does: []string{command},
		do: func(ctx context.Context) error { return p.switchAt(ctx, target, w) },
	}, nil
}

// switchAt gives the view that is at the target now the wanted level.
func (p *planner) switchAt(ctx context.Context, target string, w check.Want) error {
	views, err := mounter.Views()
	if err != nil {
		return err
	}
	i := onTop(views, func(v mounter.View) bool { return v.Target == target }, viewNumbers)
	if i < 0 {
		return &goneError{target}
	}
	return p.change(ctx, views[i], w.Resolution())
}
