package repair

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/gc"
	"github.com/levelfs/levelfs/internal/private"
	"github.com/levelfs/levelfs/mounter"
)

// rights gives a file or a directory to root, and takes from others what they must not have.
func (p *planner) rights(_ context.Context, f finding.Finding) (Step, error) {
	i := slices.IndexFunc(p.Perms, func(perm check.Perm) bool { return is(f, perm.Path) })
	if i < 0 {
		return Step{}, &goneError{f.Object}
	}
	perm := p.Perms[i]
	mode := perm.Mode &^ 0o022
	if perm.What != check.PermConfig {
		mode = perm.Mode &^ 0o077
	}
	return Step{
		id: "rights " + perm.Path, stage: stageRights,
		Does: []string{fmt.Sprintf("chmod %04o %s", mode, f.Object), fmt.Sprintf("chown %d %s", perm.Self, f.Object)},
		do:   func(context.Context) error { return narrow(perm, mode) },
	}, nil
}

// narrow changes the rights of the very file that it has looked at.
func narrow(perm check.Perm, mode uint32) error {
	fd, err := unix.Open(perm.Path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: perm.Path, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: perm.Path, Err: err}
	}
	if st.Mode&0o7777 != perm.Mode || st.Uid != perm.Owner {
		return fmt.Errorf("%q has other rights now", perm.Path)
	}
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	// First the rights: who is not the owner any more could have opened it until then.
	if err := unix.Chmod(path, mode); err != nil {
		return &fs.PathError{Op: "chmod", Path: perm.Path, Err: err}
	}
	if st.Uid == 0 || st.Uid == perm.Self {
		return nil
	}
	if err := unix.Fchownat(fd, "", int(perm.Self), -1, unix.AT_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "chown", Path: perm.Path, Err: err}
	}
	return nil
}

// noteDown removes the note that no server answers, if they have answered the check.
func (p *planner) noteDown(_ context.Context, f finding.Finding) (Step, error) {
	if len(p.Keys) > 0 || slices.ContainsFunc(p.Unchecked, func(u check.Unchecked) bool { return u.What == check.WhatInventory }) {
		return Step{}, errors.New("no server has answered the check either")
	}
	store := cache.Cache{Dir: p.Config.CacheDir()}
	return Step{
		id: "note", stage: stageMachine, Does: []string{"remove the note that no server answers: they have answered this check"},
		do: func(context.Context) error {
			store.ClearDown()
			if _, since, down := store.Down(time.Duration(1<<63-1), p.Config.Changed()); down {
				return fmt.Errorf("the note of %s is still there", since.Format(time.RFC3339))
			}
			return nil
		},
	}, nil
}

// include has automount read levelfs's master map.
func (p *planner) include(_ context.Context, f finding.Finding) (Step, error) {
	a := p.Autofs
	if a == nil {
		return Step{}, &goneError{f.Object}
	}
	const line = "+dir:/etc/auto.master.d"
	return Step{
		id: "include", stage: stageMachine, Does: []string{"echo " + line + " >> " + a.Master, "(automount reads it at: systemctl reload autofs)"},
		do: func(context.Context) error {
			text, err := os.ReadFile(a.Master)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if len(text) > 0 && text[len(text)-1] != '\n' {
				text = append(text, '\n')
			}
			master := a.Master
			if target, err := filepath.EvalSymlinks(master); err == nil {
				master = target // what is linked to is to be changed, and not the link
			}
			return renameio.WriteFile(master, append(text, line+"\n"...), 0o644, renameio.WithTempDir(filepath.Dir(master)), renameio.WithExistingPermissions())
		},
	}, nil
}

// mapProgram makes levelfs's own map program known by the name that the master map has.
func (p *planner) mapProgram(_ context.Context, f finding.Finding) (Step, error) {
	a := p.Autofs
	i := -1
	if a != nil {
		i = slices.IndexFunc(a.Programs, func(program string) bool { return is(f, program) })
	}
	if i < 0 {
		return Step{}, &goneError{f.Object}
	}
	program := a.Programs[i]
	if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() && trusted(program) == nil {
		return Step{
			id: "executable " + program, stage: stageMachine, Does: []string{"chmod a+x " + f.Object},
			do: func(context.Context) error { return os.Chmod(program, info.Mode().Perm()|0o111) },
		}, nil
	}
	// By another name levelfs's program would not know whose levels it is to give.
	if name := filepath.Base(program); name != config.UsersMap {
		if _, err := p.Config.Caller(name); err != nil {
			return Step{}, err
		}
	}
	own, err := p.own("auto.levelfs", program, filepath.Dir(program), filepath.Dir(p.Config.Map), filepath.Join(p.Config.Root(), "/usr/libexec/levelfs"))
	if err != nil {
		return Step{}, err
	}
	return link(own, program), nil
}

// helper makes the link by which mount(8) finds the mount helper.
func (p *planner) helper(_ context.Context, _ finding.Finding) (Step, error) {
	root := p.Config.Root()
	name := filepath.Join(root, "/sbin/mount.levelfs")
	own, err := p.own("mount.levelfs", name, filepath.Join(root, "/usr/sbin"), filepath.Join(root, "/usr/bin"), filepath.Join(root, "/usr/libexec/levelfs"))
	if err != nil {
		return Step{}, err
	}
	return link(own, name), nil
}

// own finds a program of levelfs in one of the directories, or beside the one that runs.
func (p *planner) own(name, not string, dirs ...string) (string, error) {
	if self, err := os.Executable(); err == nil {
		dirs = append(dirs, filepath.Dir(self))
	}
	var errs []error
	for _, dir := range dirs {
		path := filepath.Join(dir, name)
		if path == not {
			continue
		}
		err := trusted(path)
		if err == nil {
			if err = unix.Access(path, unix.X_OK); err == nil {
				return path, nil
			}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return "", errors.Join(append([]error{fmt.Errorf("%s is not on this machine: install it", name)}, errs...)...)
}

// trusted is an error if the file is not one that only root can change: it is going to run
// as root.
func trusted(path string) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Uid != 0 && st.Uid != uint32(os.Geteuid()) || st.Mode&0o022 != 0 {
		return fmt.Errorf("%q is not a file that only root can change", path)
	}
	return nil
}

// link makes a symbolic link, in the place of one that leads nowhere.
func link(to, name string) Step {
	return Step{
		id: "link " + name, stage: stageMachine, Does: []string{"ln -sfn " + to + " " + check.Printable(name)},
		do: func(context.Context) error {
			info, err := os.Lstat(name)
			if err == nil && info.Mode()&fs.ModeSymlink == 0 {
				return fmt.Errorf("%q is there, and no link", name)
			}
			return renameio.Symlink(to, name)
		},
	}
}

// hung kills a child of automount that never became its program.
func (p *planner) hung(_ context.Context, f finding.Finding) (Step, error) {
	i := slices.IndexFunc(p.Hung, func(h check.Process) bool { return is(f, h.Object()) })
	if i < 0 {
		return Step{}, &goneError{f.Object}
	}
	pid, now := p.Hung[i].PID, p.Now
	return Step{
		id: "kill " + strconv.Itoa(pid), stage: stageMachine, Does: []string{"kill -9 " + strconv.Itoa(pid)},
		do: func(ctx context.Context) error { return kill(ctx, pid, now) },
	}, nil
}

// killTime is how long a process that was killed may take to be gone.
const killTime = 5 * time.Second

// kill kills the process if, held by a descriptor, it still is what the check has seen.
func kill(ctx context.Context, pid int, checked time.Time) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	hung, err := check.Hung("/proc", checked)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(hung, func(h check.Process) bool { return h.PID == pid }) {
		return fmt.Errorf("process %d is another one now", pid)
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	// A descriptor of a process can be read from when that has ended (pidfd_open(2)).
	end := time.Now().Add(killTime)
	for {
		left := time.Until(end)
		if left <= 0 || ctx.Err() != nil {
			return errors.Join(fmt.Errorf("process %d does not end", pid), ctx.Err())
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// unfinished removes what an interrupted mount has left beside a private layer's files.
func (p *planner) unfinished(_ context.Context, f finding.Finding) (Step, error) {
	for _, l := range p.Private {
		for _, name := range l.Unfinished {
			if path := filepath.Join(l.Dir, name); is(f, path) {
				return Step{
					id: "remove " + path, stage: stageLeftovers, Does: []string{"remove " + f.Object + ", if it is a file or empty"},
					do: func(ctx context.Context) error {
						lock, err := mounter.Lock(ctx, l.Dir)
						if err != nil {
							return err
						}
						defer lock.Close()
						return os.Remove(path) // of a directory that has files in it, an error
					},
				}, nil
			}
		}
	}
	return Step{}, &goneError{f.Object}
}

// nobodys moves a private layer into a backup that belongs to no component or no user.
func (p *planner) nobodys(_ context.Context, f finding.Finding) (Step, error) {
	i := slices.IndexFunc(p.Private, func(l check.Private) bool { return is(f, l.Dir) })
	if i < 0 {
		return Step{}, &goneError{f.Object}
	}
	l := p.Private[i]
	return Step{
		id: "retire " + l.Dir, stage: stageUnused, Does: []string{"move " + f.Object + " into a dated backup below " + p.Config.BackupDir()},
		do: func(ctx context.Context) error {
			_, err := private.Retire(ctx, p.Config, l.Component, l.User)
			return err
		},
	}, nil
}

// unusedSegment detaches a segment as gc does, in which the driver has the last word.
func (p *planner) unusedSegment(_ context.Context, f finding.Finding) (Step, error) {
	i := slices.IndexFunc(p.Segments, func(name string) bool { return is(f, name) })
	if i < 0 {
		return Step{}, &goneError{f.Object}
	}
	name := p.Segments[i]
	return Step{
		id: "segment " + name, stage: stageUnused, Does: []string{"levelfs segment detach " + name},
		do: func(ctx context.Context) error {
			item, err := gc.Segment(ctx, p.Config, name)
			if err == nil && item.Action == gc.Kept {
				err = fmt.Errorf("segment %s: %s", name, item.Reason)
			}
			return err
		},
	}, nil
}
