package check

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// holders finds the processes that keep views from being unmounted which show another
// level than is wanted, or other layers above it: those that run a program of it, have a file
// open, or are in a directory. Processes in other mount namespaces have mounts of their own.
func (g *gatherer) holders(ctx context.Context) {
	mounts := make(map[uint64]string) // ID -> target
	for i := range g.Views {
		v := &g.Views[i]
		stale := slices.ContainsFunc(g.Wants, func(w Want) bool { return w.Asker == v.Asker && w.differs(*v) })
		if !stale {
			continue
		}
		for _, m := range g.Mounts {
			if m.Target == v.Target && m.Major == v.Major && m.Minor == v.Minor {
				mounts[uint64(m.ID)] = m.Target
			}
		}
	}
	if len(mounts) == 0 {
		return
	}
	found, err := Try(ctx, g.limit, func(ctx context.Context) (map[string][]int, error) { return HoldersOf(ctx, "/proc", mounts) })
	if err != nil {
		g.unchecked("processes that use old levels", err)
		return
	}
	for i := range g.Views {
		g.Views[i].Holders = found[g.Views[i].Target]
	}
}

// HoldersOf are the processes that use the mounts, by target; mounts has their targets by
// their numbers in mountinfo. The mount is asked for and not the device, since overlayfs gives
// files the device numbers of their layers.
func HoldersOf(ctx context.Context, proc string, mounts map[uint64]string) (map[string][]int, error) {
	processes, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	held := make(map[string][]int)
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		dir := filepath.Join(proc, p.Name())
		links := []string{"exe", "cwd", "root"}
		fds, _ := os.ReadDir(filepath.Join(dir, "fd")) // a process that has ended has none
		for _, fd := range fds {
			links = append(links, "fd/"+fd.Name())
		}
		for _, link := range links {
			var st unix.Statx_t
			if unix.Statx(unix.AT_FDCWD, filepath.Join(dir, link), unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st) != nil {
				continue
			}
			if target, ok := mounts[st.Mnt_id]; ok && !slices.Contains(held[target], pid) {
				held[target] = append(held[target], pid)
			}
		}
	}
	return held, nil
}
