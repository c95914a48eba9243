package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// SegmentWriter is the name under which a program is run to write to the driver of
// segments (dcss.Writer). A test binary that is run under it calls [SegmentDriver].
const SegmentWriter = "levelfs-dcss-writer"

// SegmentDriver does what the driver of segments does upon the write that a process
// was started for, in a directory in the place of sysfs: it makes and removes devices.
// Operations on a segment fail with the errno that [RefuseSegment] says. It does not
// return.
func SegmentDriver() {
	result := os.NewFile(3, "result")
	if len(os.Args) != 3 {
		os.Exit(64)
	}
	fmt.Fprintf(result, "write %d\n", driveSegments(os.Args[1], strings.TrimSpace(os.Args[2])))
	os.Exit(0)
}

func driveSegments(file, text string) syscall.Errno {
	dir := filepath.Dir(file)
	names := strings.Split(text, ":")
	device := filepath.Join(dir, names[0])
	if filepath.Base(dir) != "dcssblk" { // of a device: shared, save
		names = []string{filepath.Base(dir)}
		dir, device = filepath.Dir(dir), dir
	}
	refusal, err := os.ReadFile(filepath.Join(dir, "..", "refuse", names[0]))
	if number, bad := strconv.Atoi(strings.TrimSpace(string(refusal))); err == nil && bad == nil {
		return syscall.Errno(number)
	}
	_, err = os.Stat(device)
	switch there := err == nil; {
	case filepath.Base(file) == "add" && there:
		return syscall.EEXIST
	case filepath.Base(file) == "add":
		err = plugSegments(dir, names)
	case !there:
		return syscall.ENODEV
	case filepath.Base(file) == "remove":
		err = os.RemoveAll(device)
	default:
		return syscall.EINVAL
	}
	if err != nil {
		return syscall.EIO
	}
	return 0
}

// plugSegments makes the directory of a device, seglist last: until then it is not
// complete. The devices have a major number that no other of the machine has.
func plugSegments(dir string, names []string) error {
	block := ""
	minor := 0
	for ; ; minor++ {
		node := fmt.Sprintf("dcssblk%d", minor)
		if taken, err := filepath.Glob(filepath.Join(dir, "*/block", node)); err != nil || len(taken) == 0 {
			block = filepath.Join(dir, names[0], "block", node)
			break
		}
	}
	for _, f := range []struct{ path, text string }{
		{block + "/dev", fmt.Sprintf("4094:%d", minor)}, {block + "/size", "16384"}, {block + "/ro", "1"}, {block + "/queue/dax", "1"},
		{filepath.Join(dir, names[0], "shared"), "1"}, {filepath.Join(dir, names[0], "seglist"), strings.Join(names, "\n")},
	} {
		if err := os.MkdirAll(filepath.Dir(f.path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(f.path, []byte(f.text+"\n"), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// PlugSegments makes a tree of sysfs below root with a device for each list of
// segments, "A:B".
func PlugSegments(root string, devices ...string) error {
	dir := filepath.Join(root, "sys/devices/dcssblk")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, d := range devices {
		if err := plugSegments(dir, strings.Split(d, ":")); err != nil {
			return err
		}
	}
	return nil
}

// RefuseSegment has SegmentDriver refuse what is asked of the segment; 0: no more.
func RefuseSegment(root, segment string, errno syscall.Errno) error {
	dir := filepath.Join(root, "sys/devices/refuse")
	if errno == 0 {
		return os.Remove(filepath.Join(dir, segment))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, segment), []byte(strconv.Itoa(int(errno))), 0o644)
}
