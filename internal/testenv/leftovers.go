package testenv

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// possessions are the things that a test can leave behind, by a name for each.
type possessions struct {
	processes map[string]string // pid -> command line
	mounts    map[string]string // mount ID -> description
	loops     map[string]string // device -> backing file
	files     map[string]string // path
}

// takeInventory lists the processes and mounts of this process's namespaces, the
// loop devices of the machine over files below tmp, and the files in tmp.
func takeInventory(tmp string) (*possessions, error) {
	tmp, err := filepath.EvalSymlinks(tmp)
	if err != nil {
		return nil, err
	}
	p := &possessions{mounts: make(map[string]string), files: make(map[string]string)}
	if p.processes, err = listProcesses(); err != nil {
		return nil, err
	}
	mounts, err := mountsOf("self")
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		p.mounts[strconv.Itoa(m.ID)] = fmt.Sprintf("%s at %s, source %s", m.FSType, m.Mountpoint, m.Source)
	}
	if p.loops, err = LoopDevices(tmp); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(tmp)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		p.files[f.Name()] = filepath.Join(tmp, f.Name())
	}
	return p, nil
}

// fleeting reports whether some of what p has and before did not may go away by
// itself: mounts and files do not.
func (p *possessions) fleeting(before *possessions) bool {
	some := possessions{processes: p.processes, loops: p.loops}
	return len(some.since(before)) > 0
}

// since describes what p has and before did not.
func (p *possessions) since(before *possessions) []string {
	var left []string
	for _, kind := range []struct {
		name        string
		now, before map[string]string
	}{
		{"process", p.processes, before.processes},
		{"mount", p.mounts, before.mounts},
		{"loop device", p.loops, before.loops},
		{"file", p.files, before.files},
	} {
		for _, key := range slices.Sorted(maps.Keys(kind.now)) {
			if _, had := kind.before[key]; had {
				continue
			}
			left = append(left, strings.TrimSpace(fmt.Sprintf("%s %s: %s", kind.name, key, kind.now[key])))
		}
	}
	return left
}

// detachLoops frees the loop devices that were not there before: unlike all the
// rest they would outlive the sandbox.
func (p *possessions) detachLoops(before *possessions) {
	for device := range p.loops {
		if _, had := before.loops[device]; had {
			continue
		}
		f, err := os.Open(device)
		if err != nil {
			continue
		}
		unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0) // the device is reported anyway
		f.Close()
	}
}

// A leftError is what a run left behind.
type leftError struct{ left []string }

func (e *leftError) Error() string {
	return "left behind:\n\t" + strings.Join(e.left, "\n\t")
}

// LoopDevices returns the loop devices over files below dir and those files. It
// sees the devices of the whole machine: there is no namespace for them.
func LoopDevices(dir string) (map[string]string, error) {
	loops := make(map[string]string)
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // freed since
		}
		backing := strings.TrimSuffix(string(text), "\n")
		if strings.HasPrefix(backing, dir+"/") {
			loops["/dev/"+strings.Split(file, "/")[3]] = backing
		}
	}
	return loops, nil
}

// Mounts returns the mounts at or below dir in this process's mount namespace, in
// the order in which they were made.
func Mounts(dir string) ([]*mountinfo.Info, error) {
	all, err := mountsOf("self")
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m *mountinfo.Info) bool {
		return m.Mountpoint != dir && !strings.HasPrefix(m.Mountpoint, strings.TrimSuffix(dir, "/")+"/")
	}), nil
}

func mountsOf(process string) ([]*mountinfo.Info, error) {
	f, err := os.Open("/proc/" + process + "/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return mountinfo.GetMountsFromReader(f, nil)
}

// listProcesses lists the processes of this PID namespace but this one.
func listProcesses() (map[string]string, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	processes := make(map[string]string)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if len(line) == 0 {
			line, _ = os.ReadFile(filepath.Join("/proc", e.Name(), "comm"))
		}
		processes[e.Name()] = strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
	}
	return processes, nil
}
