package inside

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Init makes a bare initramfs usable: proc, sysfs, devtmpfs, a tmpfs on /run and /tmp.
// It is for the first process of the guest.
func Init() error {
	for _, m := range []struct{ source, target, fstype string }{
		{"proc", "/proc", "proc"},
		{"sysfs", "/sys", "sysfs"},
		{"devtmpfs", "/dev", "devtmpfs"},
		{"tmpfs", "/run", "tmpfs"},
		{"tmpfs", "/tmp", "tmpfs"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		// The kernel may have mounted devtmpfs itself.
		if err := unix.Mount(m.source, m.target, m.fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return os.Setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
}

// Modules is the list that guest.Archive.Modules has made.
func Modules() ([]string, error) {
	order, err := os.ReadFile("/modules/order")
	return strings.Fields(string(order)), err
}

// LoadModule loads one of them.
func LoadModule(name, parameters string) error {
	f, err := os.Open("/modules/" + name + ".ko")
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters, 0); err != nil {
		return fmt.Errorf("load module %s: %w", name, err)
	}
	return nil
}

// PowerOff ends the guest.
func PowerOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Println("power off:", err)
	}
}

// Symbols looks up addresses of the kernel's symbols.
func Symbols(names ...string) (map[string]uint64, error) {
	f, err := os.Open("/proc/kallsyms")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	wanted := make(map[string]bool)
	for _, name := range names {
		wanted[name] = true
	}
	found := make(map[string]uint64)
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 3 || !wanted[fields[2]] {
			continue
		}
		address, err := strconv.ParseUint(fields[0], 16, 64)
		if err != nil {
			return nil, err
		}
		found[fields[2]] = address
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(found) != len(wanted) {
		return nil, fmt.Errorf("of %q the kernel has only %v", names, found)
	}
	return found, nil
}

// Run runs a program and returns its output.
func Run(program string, args ...string) (string, error) {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}
