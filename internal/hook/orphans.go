package hook

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// orphanTime is how long it is waited for processes to go that were killed.
const orphanTime = 2 * time.Second

// orphans are what a hook leaves behind. While they are waited for they become children
// of this process, and not of process 1.
type orphans struct {
	before map[int]bool // children that are none: a segment may still be being attached
	was    int          // PR_GET_CHILD_SUBREAPER
}

// adopt makes this process the parent of what its descendants leave behind.
func adopt() (*orphans, error) {
	o := new(orphans)
	if !ended() {
		var err error
		if o.before, err = children(); err != nil {
			return nil, err
		}
	}
	var was int32
	if err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&was)), 0, 0, 0); err != nil {
		return nil, fmt.Errorf("PR_GET_CHILD_SUBREAPER: %w", err)
	}
	o.was = int(was)
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("PR_SET_CHILD_SUBREAPER: %w", err)
	}
	return o, nil
}

// end kills what is left of a hook that has ended itself, until nothing is: each that is
// killed may leave children, which come next.
func (o *orphans) end() error {
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, uintptr(o.was), 0, 0, 0)
	var left []int
	for start := time.Now(); !ended(); {
		now, err := children()
		if err != nil {
			return err
		}
		left = left[:0]
		for pid := range now {
			if o.before[pid] {
				continue
			}
			left = append(left, pid)
			// A child that nobody has waited for keeps its number: this is no other process.
			unix.Kill(pid, unix.SIGKILL)
			unix.Wait4(pid, nil, unix.WNOHANG, nil)
		}
		if len(left) == 0 {
			return nil
		}
		if time.Since(start) > orphanTime {
			return fmt.Errorf("processes that it left behind cannot be killed: %v", left)
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// children are the processes whose parent is this one, by /proc/PID/stat
// (proc_pid_stat(5)); /proc/self/task/TID/children leaves some out while others end.
func children() (map[int]bool, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return nil, err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return nil, fmt.Errorf("/proc is of another PID namespace: this process is %s in it", self)
	}
	found := make(map[int]bool)
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		// The name, in parentheses, may contain anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		if len(fields) < 2 || fields[1] != self {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		found[pid] = true
	}
	return found, nil
}
