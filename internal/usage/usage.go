// Package usage finds out who on this machine uses an image in shared memory: the views
// that are mounted from it, and the processes that run or have open what is in them.
//
// A mounted view is in the mount table of its namespace, and says there which device
// each of its layers is of. A view that was unmounted lazily is in none any more, and
// still used by processes; so processes are asked for the number of the file system that
// their files are in (s_dev). Where the kernel shows it, seen on Linux 6.18 with an
// overlay over a block device:
//
//	stat(2) of a file of a layer       a number of overlayfs's own, of no use
//	stat(2) of a directory             the overlay's
//	/proc/PID/maps                     the overlay's; on older kernels, to about 6.7, the device's
//	/proc/PID/fdinfo/FD, mnt_id        the mount, which a lazily unmounted view has in no table
//	fdinfo of an inotify(7) watch      the overlay's (sdev)
//
// The overlay's number is that of a mounted view, or of a mark that the view left when
// it was mounted (mounter.Marks).
//
// When not to use it: to decide that a device may go. The driver alone knows that; a
// process may come in between, or keep the device by means that are not looked for,
// such as a message with a descriptor that nobody has received.
package usage

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/mounter"
)

// A Device is shared memory, as a block device of this machine.
type Device struct {
	mounter.Device
	Major, Minor uint32
}

// A Use is who uses a device.
type Use struct {
	Views     []View    `json:"views"`     // in this mount namespace
	Processes []Process `json:"processes"` // in any
}

// Any reports whether anybody uses it.
func (u Use) Any() bool { return len(u.Views)+len(u.Processes) > 0 }

// A View is one that has a layer on the device.
type View struct {
	Target string `json:"target"`
	Level  string `json:"level"`
}

// A Process is one that uses a device, and the first way that was found in which it does.
type Process struct {
	PID     int    `json:"pid"`
	Command string `json:"command"` // as in /proc/PID/comm
	How     string `json:"how"`     // "maps /bin/emacs", "has open …", "is in …", "has mounted …"
}

// An IncompleteError is a search that has not seen everything.
type IncompleteError struct {
	Denied  int   // processes that may not be looked at
	Waiting int   // process that was being looked at when the time was up, or 0
	Err     error // of the context, or nil
}

func (e *IncompleteError) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("the search for processes is not complete: process %d does not let itself be looked at: %v", e.Waiting, e.Err)
	}
	return fmt.Sprintf("the search for processes is not complete: %d may not be looked at", e.Denied)
}

func (e *IncompleteError) Unwrap() error {
	if e.Err == nil {
		return fs.ErrPermission
	}
	return e.Err
}

// Of returns who uses each of the devices. Run is levelfs's run directory. It gives up
// when the context ends, even if a process does not let itself be looked at; with an
// *[IncompleteError] there is what was found until then.
func Of(ctx context.Context, run string, devices []Device) ([]Use, error) {
	s := &search{
		devices: devices, of: make(map[number][]int), mounted: make(map[number]bool),
		spaces: make(map[string]*space), uses: make([]Use, len(devices)),
	}
	for i, d := range devices {
		s.uses[i] = Use{Views: []View{}, Processes: []Process{}}
		s.belongs(number{d.Major, d.Minor}, i)
	}
	views, err := mounter.Views()
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		for _, i := range s.under(v.Layers) {
			s.uses[i].Views = append(s.uses[i].Views, View{Target: v.Target, Level: v.Name})
			s.mounted[number{v.Major, v.Minor}] = true
			s.belongs(number{v.Major, v.Minor}, i)
		}
	}
	marks, err := mounter.Marks(run)
	if err != nil {
		return nil, err
	}
	for _, m := range marks {
		for _, i := range s.under(m.Layers) {
			s.belongs(number{m.Major, m.Minor}, i)
		}
	}
	spaces := make(map[int]*space)
	// Mount namespaces come first: views that are only there have numbers that are not known
	// yet.
	err = s.all(ctx,
		func(pid int) (err error) { spaces[pid], err = s.space(pid); return err },
		func(pid int) error { return s.process(pid, spaces[pid]) })
	s.mu.Lock()
	defer s.mu.Unlock()
	uses := make([]Use, len(s.uses))
	for i, u := range s.uses {
		uses[i] = Use{Views: u.Views, Processes: slices.Clone(u.Processes)}
	}
	return uses, err
}

// A number is that of a file system: s_dev.
type number struct{ major, minor uint32 }

type search struct {
	walk
	devices []Device
	of      map[number][]int  // file system -> devices that it is on
	mounted map[number]bool   // file systems of views in this mount namespace
	spaces  map[string]*space // mount namespace and root -> its mounts
	uses    []Use             // under mu
}

// A space is a mount namespace as it is seen from a root directory.
type space struct{ mounts map[int]number }

func (s *search) belongs(n number, device int) {
	if !slices.Contains(s.of[n], device) {
		s.of[n] = append(s.of[n], device)
	}
}

// under returns the devices that some of the layers are of.
func (s *search) under(layers []string) []int {
	var found []int
	for i, d := range s.devices {
		if slices.ContainsFunc(layers, func(l string) bool { return mounter.IsOf(l, d.Device) }) {
			found = append(found, i)
		}
	}
	return found
}

// space returns the mounts that the process sees, and notes the views among them that
// are not mounted here.
func (s *search) space(pid int) (*space, error) {
	key, err := spaceKey(pid)
	if err != nil {
		return nil, err
	}
	if known := s.spaces[key]; known != nil {
		return known, nil
	}
	text, err := os.ReadFile(proc(pid, "mountinfo"))
	if err != nil {
		return nil, err
	}
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(text), nil)
	if err != nil {
		return nil, err
	}
	found := &space{mounts: make(map[int]number, len(infos))}
	for _, m := range infos {
		found.mounts[m.ID] = number{uint32(m.Major), uint32(m.Minor)}
	}
	s.spaces[key] = found
	// Of a namespace one process is enough: it is not the process who uses the view.
	views, err := mounter.ViewsIn(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		for _, i := range s.under(v.Layers) {
			n := number{v.Major, v.Minor}
			s.belongs(n, i)
			if !s.mounted[n] { // and not a copy of a mount table that has it, too
				s.note(pid, []int{i}, "has mounted "+v.Target+" in its own mount namespace")
			}
		}
	}
	return found, nil
}

// process looks at what the process maps, has open, and is in.
func (s *search) process(pid int, mounts *space) error {
	if mounts == nil {
		return nil // it had ended, or may not be looked at
	}
	if err := s.maps(pid); err != nil {
		return err
	}
	for _, dir := range []string{"cwd", "root"} {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, proc(pid, dir), unix.AT_STATX_DONT_SYNC, 0, &st); err != nil {
			return err
		}
		if devices := s.of[number{st.Dev_major, st.Dev_minor}]; devices != nil {
			path, _ := os.Readlink(proc(pid, dir))
			s.note(pid, devices, "is in "+path)
		}
	}
	entries, err := os.ReadDir(proc(pid, "fd"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := s.descriptor(pid, e.Name(), mounts); err != nil && !over(err) {
			return err
		}
	}
	return nil
}

// maps looks at the process's mappings (proc_pid_maps(5)).
func (s *search) maps(pid int) error {
	f, err := os.Open(proc(pid, "maps"))
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// address perms offset dev inode path
		words := strings.Fields(lines.Text())
		if len(words) < 6 || words[4] == "0" {
			continue
		}
		var n number
		if _, err := fmt.Sscanf(words[3], "%x:%x", &n.major, &n.minor); err != nil {
			continue
		}
		if devices := s.of[n]; devices != nil {
			s.note(pid, devices, "maps "+words[5])
		}
	}
	return lines.Err()
}

// descriptor looks at an open file.
func (s *search) descriptor(pid int, fd string, mounts *space) error {
	link := proc(pid, "fd/"+fd)
	path, err := os.Readlink(link)
	if err != nil || !strings.HasPrefix(path, "/") { // a pipe, a socket …
		return err
	}
	if strings.HasPrefix(path, "/dev/") {
		var st unix.Stat_t
		if err := unix.Stat(link, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			s.note(pid, s.of[number{unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))}], "has open "+path)
		}
		return nil
	}
	text, err := os.ReadFile(proc(pid, "fdinfo/"+fd))
	if err != nil {
		return err
	}
	id, err := strconv.Atoi(field(text, "mnt_id:"))
	if err != nil {
		return nil // a kernel before 3.15
	}
	n, mounted := mounts.mounts[id]
	if !mounted {
		if n, err = fileSystem(s.inotify, link); err != nil {
			return nil // of a file that cannot be watched nothing is known
		}
	}
	s.note(pid, s.of[n], "has open "+path)
	return nil
}

// fileSystem returns the number of the file system that an open file is in. stat(2)
// does not tell for overlayfs; what tells is the watch of inotify(7), by
// /proc/self/fdinfo (Documentation/filesystems/proc.rst, "Inotify files").
func fileSystem(inotify int, link string) (number, error) {
	watch, err := unix.InotifyAddWatch(inotify, link, unix.IN_DELETE_SELF)
	if err != nil {
		return number{}, err
	}
	text, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(inotify))
	if _, rmErr := unix.InotifyRmWatch(inotify, uint32(watch)); err == nil {
		err = rmErr
	}
	if err != nil {
		return number{}, err
	}
	// In the kernel's own notation, which has 20 bits for the minor number.
	dev, err := strconv.ParseUint(field(text, "sdev:"), 16, 32)
	return number{uint32(dev >> 20), uint32(dev & 0xfffff)}, err
}

// field returns the word after, or at the end of, a name in the text.
func field(text []byte, name string) string {
	_, rest, _ := strings.Cut(string(text), name)
	words := strings.Fields(rest)
	if len(words) == 0 {
		return ""
	}
	return words[0]
}

// note adds a process to the users of the devices, once.
func (s *search) note(pid int, devices []int, how string) {
	if len(devices) == 0 {
		return
	}
	comm, _ := os.ReadFile(proc(pid, "comm"))
	p := Process{PID: pid, Command: strings.TrimSuffix(string(comm), "\n"), How: how}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, i := range devices {
		u := &s.uses[i]
		if !slices.ContainsFunc(u.Processes, func(q Process) bool { return q.PID == pid }) {
			u.Processes = append(u.Processes, p)
		}
	}
}
