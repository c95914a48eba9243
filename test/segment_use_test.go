package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// segment makes a device look like the driver's of a segment: the image on a loop
// device, and beside it what sysfs would say. The driver's files are ordinary ones:
// what is written to them is all that happens. It returns the loop device's path.
func (r *rig) segment(name, image string) string {
	r.t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", "--read-only", image).Output()
	if err != nil {
		r.t.Fatal(err)
	}
	loop := strings.TrimSpace(string(out))
	r.t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", loop).CombinedOutput(); err != nil {
			r.t.Errorf("%v: %s", err, out)
		}
	})
	var st unix.Stat_t
	if err := unix.Stat(loop, &st); err != nil {
		r.t.Fatal(err)
	}
	if err := testenv.PlugSegments(r.Root, name); err != nil {
		r.t.Fatal(err)
	}
	driver := r.Path("sys/devices/dcssblk")
	for file, text := range map[string]string{
		"add": "", "remove": "", name + "/block/dcssblk0/dev": fmt.Sprintf("%d:%d\n", unix.Major(st.Rdev), unix.Minor(st.Rdev)),
	} {
		writeFile(r.t, filepath.Join(driver, file), text)
	}
	if err := unix.Mknod(filepath.Join(r.Mkdir("dev"), "dcssblk0"), unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		r.t.Fatal(err)
	}
	return loop
}

// A listed is what segment list says of one device.
type listed struct {
	Name      string
	Levelfs   bool
	Views     []struct{ Target, Level string }
	Processes []struct {
		PID          int
		Command, How string
	}
}

func (r *rig) listSegment() listed {
	r.t.Helper()
	got := r.RunLevelfs("segment", "list", "--json")
	var list []listed
	if err := json.Unmarshal([]byte(got.Stdout), &list); err != nil || got.Exit != 0 || len(list) != 1 {
		r.t.Fatalf("%v, %v", got, err)
	}
	return list[0]
}

// untilEOF is shell for a process of rig.start.
const untilEOF = `echo; read -r _ || exit 0`

// start starts a process that lives until the end of the test, or of its standard
// input. It has begun what it is to do when it has written a line.
func (r *rig) start(name string, args ...string) (pid int, end func()) {
	r.t.Helper()
	return startProcess(r.t, name, args...)
}

func startProcess(t *testing.T, name string, args ...string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = "/"
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v", cmd, err)
		}
	}
	t.Cleanup(end)
	if _, err := stdout.Read(make([]byte, 64)); err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return cmd.Process.Pid, end
}

// TestSegmentUse finds who uses a segment: the view that is mounted, and processes that
// run a program of it, have a file of it open, or are in it; while it is mounted, when
// it was unmounted lazily, and in a mount namespace of their own.
func TestSegmentUse(t *testing.T) {
	r := newRig(t)
	cat, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	l := r.Store.Erofs("base", testenv.Files{"bin/cat": string(cat), "file": "a file\n", "dir/file": "another\n"})
	l.Segments = []string{"TOOL01"}
	loop := r.segment("TOOL01", filepath.Join(r.Store.Dir, l.Images[0]))
	r.level("1", l)
	if got := r.RunHelper("emacs", r.target); got.Exit != 0 || !strings.Contains(got.Stderr, "segment TOOL01: execution in place is off") {
		t.Fatalf("%v; want the segment, without DAX", got)
	}
	if got := r.listSegment(); got.Levelfs || len(got.Views) != 1 || got.Views[0].Target != r.target || got.Views[0].Level != "emacs@1" || len(got.Processes) != 0 {
		t.Errorf("mounted: %+v", got)
	}

	users := map[string]func() (int, func()){
		"has open /file": func() (int, func()) {
			return r.start("sh", "-c", `exec 5<"$1"; `+untilEOF, "sh", filepath.Join(r.target, "file"))
		},
		"is in /dir": func() (int, func()) {
			return r.start("sh", "-c", `cd "$1" && `+untilEOF, "sh", filepath.Join(r.target, "dir"))
		},
		"has open /dir": func() (int, func()) {
			return r.start("sh", "-c", `exec 5<"$1"; `+untilEOF, "sh", filepath.Join(r.target, "dir"))
		},
		"maps /bin/cat": func() (int, func()) {
			return r.start("sh", "-c", `echo | cat; exec "$1"`, "sh", filepath.Join(r.target, "bin/cat"))
		},
	}
	pids := make(map[int]string)
	var ends []func()
	for how, start := range users {
		pid, end := start()
		pids[pid] = how
		ends = append(ends, end)
	}
	compare := func(when, prefix string) {
		t.Helper()
		testenv.WaitFor(t, "the processes, "+when, func() error { // one has to execute first
			got := r.listSegment()
			if len(got.Processes) != len(pids) {
				return fmt.Errorf("%+v, want %v", got.Processes, pids)
			}
			for _, p := range got.Processes {
				how, path, _ := strings.Cut(pids[p.PID], "/")
				if p.How != how+prefix+"/"+path || p.Command == "" {
					return fmt.Errorf("%+v; want %q under %q", p, pids[p.PID], prefix)
				}
			}
			return nil
		})
	}
	compare("mounted", r.target)
	if got := r.RunLevelfs("segment", "retire", "TOOL01"); got.Exit != 1 || got.Stdout != "" ||
		!strings.Contains(got.Stderr, "emacs@1 is mounted at "+r.target) || !strings.Contains(got.Stderr, "(\"cat\") maps ") {
		t.Errorf("retire: %v", got)
	}

	if err := unix.Unmount(r.target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	compare("lazily unmounted", "")
	if got := r.listSegment(); len(got.Views) != 0 {
		t.Errorf("unmounted: %+v", got.Views)
	}
	got := r.RunLevelfs("segment", "retire", "--force", "TOOL01")
	if got.Exit != 1 || got.Stdout != "" || !strings.Contains(got.Stderr, "segment TOOL01 is in use: process ") {
		t.Errorf("retire: %v", got)
	}
	if text, err := os.ReadFile(r.Path("sys/devices/dcssblk/remove")); err != nil || len(text) > 0 {
		t.Errorf("the driver was asked: %q, %v", text, err)
	}
	if gc := r.RunLevelfs("gc"); gc.Exit != 0 || strings.Contains(gc.Stdout, "TOOL01") {
		t.Errorf("gc: %v; what others attached stays", gc)
	}
	for _, end := range ends {
		end()
	}
	if got := r.listSegment(); len(got.Processes) != 0 {
		t.Errorf("all have ended: %+v", got.Processes)
	}

	// In a mount namespace of its own, when it is not mounted here any more.
	r.mountDevice()
	pid, end := r.start("unshare", "--mount", "--propagation", "private", "sh", "-c", untilEOF)
	r.Umount(r.target)
	if got := r.listSegment(); len(got.Processes) != 1 || got.Processes[0].PID != pid || got.Processes[0].How != "has mounted "+r.target+" in its own mount namespace" {
		t.Errorf("in another namespace: %+v; want %d", got.Processes, pid)
	}
	end()

	// By others, and with the device's own number, which older kernels show for the
	// files of an overlay, too.
	direct := r.Mkdir("direct")
	if err := unix.Mount(loop, direct, "erofs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	running, end := r.start("sh", "-c", `echo | cat; exec "$1"`, "sh", filepath.Join(direct, "bin/cat"))
	reading, endReading := r.start("sh", "-c", `exec 5<"$1"; `+untilEOF, "sh", loop)
	testenv.WaitFor(t, "the users of the device", func() error {
		how := make(map[int]string)
		for _, p := range r.listSegment().Processes {
			how[p.PID] = p.How
		}
		if len(how) != 2 || how[running] != "maps "+direct+"/bin/cat" || how[reading] != "has open "+loop {
			return fmt.Errorf("%v", how)
		}
		return nil
	})
	end()
	endReading()
	r.Umount(direct)

	// Then it goes: the driver is asked, and what is left to do is said.
	r.level("2", r.Store.Erofs("other", testenv.Files{"file": "other\n"}))
	if got := r.RunLevelfs("segment", "retire", "TOOL01"); got.Exit != 0 || got.Stdout == "" || !strings.Contains(got.Stdout, "PURGE NSS NAME TOOL01") {
		t.Errorf("retire: %v", got)
	}
	if text, err := os.ReadFile(r.Path("sys/devices/dcssblk/remove")); err != nil || string(text) != "TOOL01\n" {
		t.Errorf("written to the driver: %q, %v", text, err)
	}
}

// mountDevice mounts the view from memory that has no DAX, which costs a warning.
func (r *rig) mountDevice() {
	r.t.Helper()
	if got := r.RunHelper("emacs", r.target); got.Exit != 0 {
		r.t.Fatal(got)
	}
}

// TestGCViews: gc leaves what a view uses, and takes it when the view is gone.
func TestGCViews(t *testing.T) {
	r := newRig(t)
	l := r.Store.Erofs("base", testenv.Files{"file": "a file\n"})
	l.Segments = []string{"TOOL01"}
	r.segment("TOOL01", filepath.Join(r.Store.Dir, l.Images[0]))
	r.level("1", l)
	if got := r.RunLevelfs("segment", "attach", "--gc", "TOOL01"); got.Exit != 0 || got.Stdout != "/dev/dcssblk0\n" {
		t.Fatal(got)
	}
	r.mountDevice()
	for _, args := range [][]string{{"gc"}, {"gc", "--dry-run"}} {
		if got := r.RunLevelfs(args...); got.Exit != 0 || got.Stdout != "segment TOOL01: kept (used by emacs@1 at "+r.target+")\n" {
			t.Errorf("mounted: %v", got)
		}
	}
	marks := func() []string {
		t.Helper()
		paths, err := filepath.Glob(r.Path("run/levelfs/views/*"))
		if err != nil {
			t.Fatal(err)
		}
		return paths
	}
	if before := marks(); len(before) != 1 {
		t.Errorf("marks %q", before)
	}
	pid, end := r.start("sh", "-c", `exec 5<"$1"; `+untilEOF, "sh", filepath.Join(r.target, "file"))
	if err := unix.Unmount(r.target, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	if got := r.RunLevelfs("gc", "--dry-run"); got.Exit != 0 || !strings.Contains(got.Stdout, fmt.Sprintf("segment TOOL01: kept (used by process %d (\"sh\"), which has open /file)", pid)) {
		t.Errorf("lazily unmounted: %v", got)
	}
	end()
	testenv.WaitFor(t, "the view to be gone", func() error {
		if got := r.RunLevelfs("gc", "--dry-run"); !strings.Contains(got.Stdout, "view mark ") {
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	got := r.RunLevelfs("gc")
	if got.Exit != 0 || !strings.Contains(got.Stdout, "segment TOOL01: detached ") || !strings.Contains(got.Stdout, "view mark ") {
		t.Errorf("unmounted: %v", got)
	}
	if after := marks(); slices.ContainsFunc(after, func(string) bool { return true }) {
		t.Errorf("marks left %q", after)
	}
	if text, err := os.ReadFile(r.Path("sys/devices/dcssblk/remove")); err != nil || string(text) != "TOOL01\n" {
		t.Errorf("written to the driver: %q, %v", text, err)
	}
}
