package usage

import (
	"bytes"
	"cmp"
	"context"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/mounter"
)

// An Old is a process that still uses a level in a view that is not mounted any more: of
// what it has begun with it sees nothing newer until it is started again.
type Old struct {
	PID     int    `json:"pid"`
	Command string `json:"command"` // as in /proc/PID/comm
	User    string `json:"user"`
	Unit    string `json:"unit,omitempty"`   // systemd's service or scope, by its cgroup
	Level   string `json:"level,omitempty"`  // "emacs@29.4-1"; empty: it is not known which
	Target  string `json:"target,omitempty"` // where it was mounted
	Now     string `json:"now,omitempty"`    // the level that is there now; empty: none
	How     string `json:"how"`              // "runs", "maps", "has open" or "is in"
	Path    string `json:"path"`             // of the first file that was found, in the view or from the root
}

// Outdated returns the processes that use a view which is mounted nowhere any more, or
// only in their own mount namespace while another level is mounted in its place here.
//
// A view that was replaced, or unmounted lazily, is in no mount table. What tells is the
// mount that a file was opened on, of which the kernel gives a number that it never gives
// again in this boot, and which each view has noted when it was mounted (mounter.Marks).
// Its device number proves nothing, as it is given again: with it alone, be it that the
// kernel is older than 6.8 or that the mount is another namespace's copy, the level is
// known only if another process proves which view has that number now. Nothing is ever
// taken for a level that it was not.
//
// It gives up as [Of] does.
func Outdated(ctx context.Context, run string) ([]Old, error) {
	s := &outdated{byMount: make(map[uint64]mounter.Mark), byNumber: make(map[number]mounter.Mark),
		mounted: make(map[number]bool), proven: make(map[number]mounter.Mark), spaces: make(map[string]map[int]*mountinfo.Info)}
	marks, err := mounter.Marks(run)
	if err != nil {
		return nil, err
	}
	for _, m := range marks {
		s.byNumber[number{m.Major, m.Minor}] = m
		if m.Mount != 0 {
			s.byMount[m.Mount] = m
		}
	}
	if s.views, err = mounter.Views(); err != nil {
		return nil, err
	}
	for _, v := range s.views {
		s.mounted[number{v.Major, v.Minor}] = true
	}
	err = s.all(ctx, s.process)
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.result(), err
}

// A held is a view that a process holds, and by which file.
type held struct {
	pid    int
	how    string
	path   string
	number number       // of a view of which only that is known
	mark   mounter.Mark // of which Name is empty then
}

type outdated struct {
	walk
	views    []mounter.View          // that are mounted here
	mounted  map[number]bool         // their file systems
	byMount  map[uint64]mounter.Mark // by the number of the mount, which proves it
	byNumber map[number]mounter.Mark // by that of the file system, which does not
	spaces   map[string]map[int]*mountinfo.Info

	// Under mu.
	proven map[number]mounter.Mark
	found  []held
}

// process looks at what the process runs, maps, has open and is in, until something of it
// is of an old view.
func (s *outdated) process(pid int) error {
	mounts, err := s.space(pid)
	if err != nil {
		return err
	}
	type link struct{ how, name string }
	links := []link{{"runs", "exe"}}
	for _, dir := range []struct{ how, name string }{{"maps", "map_files"}, {"has open", "fd"}} {
		entries, err := os.ReadDir(proc(pid, dir.name))
		if err != nil {
			return err
		}
		for _, e := range entries {
			links = append(links, link{dir.how, dir.name + "/" + e.Name()})
		}
	}
	links = append(links, link{"is in", "cwd"}, link{"is in", "root"})
	seen := make(map[string]bool)
	for _, l := range links {
		path, err := os.Readlink(proc(pid, l.name))
		if err != nil || !strings.HasPrefix(path, "/") || seen[path] { // a pipe, a socket …
			continue
		}
		seen[path] = true
		if h, old := s.old(pid, proc(pid, l.name), mounts); old {
			h.pid, h.how, h.path = pid, l.how, path
			s.mu.Lock()
			s.found = append(s.found, h)
			s.mu.Unlock()
			return nil
		}
	}
	return nil
}

// space is the mount table that the process sees, by the mounts' numbers.
func (s *outdated) space(pid int) (map[int]*mountinfo.Info, error) {
	key, err := spaceKey(pid)
	if err != nil {
		return nil, err
	}
	if known := s.spaces[key]; known != nil {
		return known, nil
	}
	mounts, err := table(pid)
	if err == nil {
		s.spaces[key] = mounts
	}
	return mounts, err
}

func table(pid int) (map[int]*mountinfo.Info, error) {
	text, err := os.ReadFile(proc(pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(text), nil)
	if err != nil {
		return nil, err
	}
	mounts := make(map[int]*mountinfo.Info, len(infos))
	for _, m := range infos {
		mounts[m.ID] = m
	}
	return mounts, nil
}

// old reports whether the file is of an old view.
func (s *outdated) old(pid int, link string, mounts map[int]*mountinfo.Info) (held, bool) {
	var st unix.Statx_t
	if unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st) != nil || st.Mask&unix.STATX_MNT_ID == 0 {
		return held{}, false
	}
	if m := mounts[int(st.Mnt_id)]; m != nil {
		return s.elsewhere(pid, m)
	}
	id, err := mounter.UniqueMountID(unix.AT_FDCWD, link)
	if mark, known := s.byMount[id]; err == nil && known {
		if n, overlay := s.overlayNumber(link); overlay {
			s.mu.Lock()
			s.proven[n] = mark
			s.mu.Unlock()
		}
		return held{mark: mark}, !s.mountedNow(id)
	}
	// Every view of this boot has left a mark: without one it is somebody else's overlay.
	n, overlay := s.overlayNumber(link)
	if _, marked := s.byNumber[n]; !overlay || !marked || s.mounted[n] {
		return held{}, false
	}
	return held{number: n}, true
}

// overlayTime bounds the question of which type a file system is that is not mounted any
// more: those that are unmounted lazily are often dead.
const overlayTime = time.Second

// overlayNumber is the number of the file's file system, if that is an overlay. One that
// does not answer counts as a process that may not be looked at.
func (s *outdated) overlayNumber(link string) (n number, overlay bool) {
	done := make(chan bool, 1)
	go func() {
		var fs unix.Statfs_t
		done <- unix.Statfs(link, &fs) == nil && fs.Type == unix.OVERLAYFS_SUPER_MAGIC
	}()
	select {
	case overlay = <-done:
	case <-time.After(overlayTime):
		s.deny()
	}
	if !overlay {
		return number{}, false
	}
	n, err := fileSystem(s.inotify, link)
	return n, err == nil
}

// mountedNow reports whether the mount is that of a view that is mounted here: one that came
// after the tables were read is in none of them.
func (s *outdated) mountedNow(id uint64) bool {
	views, err := mounter.Views()
	return err != nil || slices.ContainsFunc(views, func(v mounter.View) bool {
		now, err := mounter.UniqueMountID(unix.AT_FDCWD, v.Target)
		return err == nil && now == id
	})
}

// elsewhere reports whether the mount, which is in a mount table, is a view that was
// mounted here and is not any more, while another level is in its place. What it is, the
// table says. One that was mounted there and never here, such as levelfs run mounts, has the
// very mount that its mark has.
func (s *outdated) elsewhere(pid int, m *mountinfo.Info) (held, bool) {
	n := number{uint32(m.Major), uint32(m.Minor)}
	name, ours := strings.CutPrefix(m.Source, mounter.SourcePrefix)
	if m.FSType != "overlay" || !ours || s.mounted[n] || s.levelAt(m.Mountpoint, name) == "" {
		return held{}, false
	}
	mark := s.byNumber[n]
	if mark.Mount == 0 {
		return held{}, false
	}
	if id, err := mounter.UniqueMountID(unix.AT_FDCWD, proc(pid, "root")+mark.Target); err == nil && id == mark.Mount {
		return held{}, false
	}
	return held{mark: mounter.Mark{Name: name, Target: m.Mountpoint}}, true
}

// levelAt is the level of the same component that is mounted at the target here, or "".
func (s *outdated) levelAt(target, name string) string {
	component, _, _ := strings.Cut(name, "@")
	for _, v := range s.views {
		if mounted, _, _ := strings.Cut(v.Name, "@"); v.Target == target && mounted == component {
			return v.Name
		}
	}
	return ""
}

// result describes what was found, but for who has the level that is mounted there again.
func (s *outdated) result() []Old {
	all := []Old{}
	for _, h := range s.found {
		if h.mark.Name == "" {
			h.mark = s.proven[h.number]
		}
		now := s.levelAt(h.mark.Target, h.mark.Name)
		if h.mark.Name != "" && now == h.mark.Name {
			continue
		}
		comm, _ := os.ReadFile(proc(h.pid, "comm"))
		all = append(all, Old{PID: h.pid, Command: strings.TrimSuffix(string(comm), "\n"), User: owner(h.pid), Unit: unit(h.pid),
			Level: h.mark.Name, Target: h.mark.Target, Now: now, How: h.how, Path: h.path})
	}
	slices.SortFunc(all, func(a, b Old) int { return cmp.Or(cmp.Compare(a.Level, b.Level), a.PID-b.PID) })
	return all
}

// owner is the name of the user whose process it is, or the number.
func owner(pid int) string {
	var st unix.Stat_t
	if unix.Stat(proc(pid, ""), &st) != nil {
		return ""
	}
	uid := strconv.FormatUint(uint64(st.Uid), 10)
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// unit is the service or the scope that systemd runs the process in, by the last part of
// its cgroup that is named so (systemd.unit(5)), or "".
func unit(pid int) string {
	text, _ := os.ReadFile(proc(pid, "cgroup"))
	for line := range strings.Lines(string(text)) {
		rest, unified := strings.CutPrefix(strings.TrimSpace(line), "0::")
		for dir := rest; unified && dir != "/" && dir != "."; dir = path.Dir(dir) {
			if name := path.Base(dir); strings.HasSuffix(name, ".service") || strings.HasSuffix(name, ".scope") {
				return name
			}
		}
	}
	return ""
}
