package mounter

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A Holder is a process that uses a view.
type Holder struct {
	PID     int
	Command string // as in /proc/PID/comm
	Path    string // of what it uses
}

func (h Holder) String() string { return fmt.Sprintf("%s[%d] %q", h.Command, h.PID, h.Path) }

// A mountNamespace is one of those in which this PID namespace's processes are.
type mountNamespace struct {
	id      string // "mnt:[4026531841]"
	pid     int    // of a process in it
	command string
	views   []View
}

// mountNamespaces returns all that are found through /proc. Processes that end meanwhile
// are left out.
func mountNamespaces() ([]mountNamespace, error) {
	var found []mountNamespace
	err := processes(func(pid int) error {
		id, err := os.Readlink(procFile(pid, "ns/mnt"))
		if err != nil || slices.ContainsFunc(found, func(n mountNamespace) bool { return n.id == id }) {
			return err
		}
		f, err := os.Open(procFile(pid, "mountinfo"))
		if err != nil {
			return err
		}
		defer f.Close()
		infos, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) { return !isView(m), false })
		if err != nil {
			return err
		}
		found = append(found, mountNamespace{id: id, pid: pid, command: command(pid), views: viewsOf(infos)})
		return nil
	})
	return found, err
}

// processes calls f with each process, until it fails for another reason than that the
// process is gone or not ours to look at.
func processes(f func(pid int) error) error {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := f(pid); err != nil && !gone(err) {
			return err
		}
	}
	return nil
}

func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrPermission)
}

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

func command(pid int) string {
	text, err := os.ReadFile(procFile(pid, "comm"))
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}

// holders finds the processes that use the view with the device number, which is mounted
// at the target. If writing is set, only those that keep it from becoming read-only: who
// has files of it open for writing, or that were deleted.
//
// Descriptors are known by the mount that they are on, in whichever mount namespace it
// is; what is only mapped, and directories that a process is in, by their paths.
func holders(target string, device uint64, writing bool) ([]Holder, error) {
	namespaces, err := mountNamespaces()
	if err != nil {
		return nil, err
	}
	mounts := make(map[int]bool)
	for _, n := range namespaces {
		for _, v := range n.views {
			if v.device() == device {
				mounts[v.ID] = true
			}
		}
	}
	var found []Holder
	err = processes(func(pid int) error {
		if pid == os.Getpid() {
			return nil
		}
		for _, path := range slices.Concat(openOn(pid, mounts, writing), standsIn(pid, target, writing), mapped(pid, target, writing)) {
			h := Holder{PID: pid, Command: command(pid), Path: path}
			if !slices.Contains(found, h) {
				found = append(found, h)
			}
		}
		return nil
	})
	return found, err
}

const deleted = " (deleted)"

// openOn are the files that the process has open on one of the mounts.
func openOn(pid int, mounts map[int]bool, writing bool) []string {
	var paths []string
	entries, err := os.ReadDir(procFile(pid, "fdinfo"))
	if err != nil {
		return nil
	}
	for _, entry := range entries {
		text, err := os.ReadFile(procFile(pid, "fdinfo/"+entry.Name()))
		if err != nil {
			continue
		}
		var flags uint64
		on := false
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			switch value = strings.TrimSpace(value); key {
			case "flags":
				flags, _ = strconv.ParseUint(value, 8, 64)
			case "mnt_id":
				id, err := strconv.Atoi(value)
				on = err == nil && mounts[id]
			}
		}
		if !on {
			continue
		}
		path, err := os.Readlink(procFile(pid, "fd/"+entry.Name()))
		if err != nil {
			continue
		}
		if !writing || flags&unix.O_ACCMODE != unix.O_RDONLY || strings.HasSuffix(path, deleted) {
			paths = append(paths, path)
		}
	}
	return paths
}

// standsIn are the directories and the program of the process that lie in the view.
func standsIn(pid int, target string, writing bool) []string {
	var paths []string
	for _, link := range []string{"cwd", "root", "exe"} {
		path, err := os.Readlink(procFile(pid, link))
		if err == nil && within(path, target) && (!writing || strings.HasSuffix(path, deleted)) {
			paths = append(paths, path)
		}
	}
	return paths
}

// mapped are the files in the view that the process has mapped (proc_pid_maps(5)).
func mapped(pid int, target string, writing bool) []string {
	f, err := os.Open(procFile(pid, "maps"))
	if err != nil {
		return nil
	}
	defer f.Close()
	var paths []string
	lines := bufio.NewReader(f)
	for {
		line, err := lines.ReadString('\n')
		// address perms offset dev inode path
		if i := strings.IndexByte(line, '/'); i >= 0 && within(strings.TrimSuffix(line[i:], "\n"), target) {
			path := strings.TrimSuffix(line[i:], "\n")
			perms := strings.Fields(line)[1]
			if !writing || perms[1] == 'w' && perms[3] == 's' || strings.HasSuffix(path, deleted) {
				paths = append(paths, path)
			}
		}
		if err != nil {
			if err != io.EOF {
				return nil
			}
			return slices.Compact(paths)
		}
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// A Remnant is a mount namespace in which a view that was replaced is still mounted.
type Remnant struct {
	PID     int    `json:"pid"` // of a process in it
	Command string `json:"command"`
	Target  string `json:"target"` // where it is there
}

// Remnants returns where the view is still mounted: after it was replaced here, those are
// the mount namespaces that the change did not reach, where it stays, read-only.
func Remnants(v View) ([]Remnant, error) {
	if superblockGone(v.device()) { // without a look at every process
		return nil, nil
	}
	namespaces, err := mountNamespaces()
	if err != nil {
		return nil, err
	}
	var remnants []Remnant
	for _, n := range namespaces {
		for _, other := range n.views {
			if other.device() == v.device() && other.Name == v.Name && other.Upper == v.Upper {
				remnants = append(remnants, Remnant{PID: n.pid, Command: n.command, Target: other.Target})
			}
		}
	}
	return remnants, nil
}
