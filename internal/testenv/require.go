package testenv

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Require skips the test when the machine lacks one of what. When the
// environment variable LEVELFS_TEST_REQUIRE, a comma-separated list, holds that
// word or "all", the test fails instead: a CI run must not pass by skipping.
//
// The words are "root" (effective uid 0), the programs "slapd", "automount",
// "strace", "git" and "systemd-sysext", "ds389" (389 Directory Server's ns-slapd), the file
// systems "overlay", "erofs", "squashfs" and "ext4", and "userns" (who is not root may make
// a user namespace). An unknown word fails the test.
func Require(t testing.TB, what ...string) {
	t.Helper()
	required := strings.FieldsFunc(os.Getenv("LEVELFS_TEST_REQUIRE"), func(r rune) bool {
		return r == ',' || r == ' '
	})
	for _, word := range what {
		err := available(word)
		switch {
		case err == nil:
		case errors.Is(err, errUnknownRequirement):
			t.Fatal(err)
		case slices.Contains(required, word) || slices.Contains(required, "all"):
			t.Fatalf("LEVELFS_TEST_REQUIRE asks for %s: %v", word, err)
		default:
			t.Skipf("needs %s: %v", word, err)
		}
	}
}

var errUnknownRequirement = errors.New("unknown requirement")

// available returns nil if this machine has what word stands for, otherwise
// the reason why not.
func available(word string) error {
	switch word {
	case "root":
		if uid := os.Geteuid(); uid != 0 {
			return fmt.Errorf("effective uid is %d", uid)
		}
		return nil
	case "slapd", "automount", "strace", "git", "systemd-sysext":
		_, err := lookPath(word)
		return err
	case "ds389":
		_, err := lookPath("ns-slapd")
		return err
	case "overlay", "erofs", "squashfs", "ext4":
		return hasFileSystem(word)
	case "userns":
		return hasUserNamespaces()
	}
	return fmt.Errorf("%w: %q", errUnknownRequirement, word)
}

// hasUserNamespaces makes one as nobody, if it can be somebody else.
func hasUserNamespaces() error {
	cmd := exec.Command("unshare", "--user", "--map-current-user", "--mount", "--propagation", "slave", "--keep-caps", "true")
	if os.Geteuid() == 0 {
		const nobody = 65534
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = "/"
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// lookPath is exec.LookPath with the directories of the administrator's
// programs added, which are not in the PATH of ordinary users on Debian. The
// error wraps exec.ErrNotFound if there is no such program.
func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path, nil
		}
	}
	return "", err
}

// hasFileSystem reports whether the kernel can mount file systems of type
// name: it knows the type already, or has a module that mount(2) would load.
func hasFileSystem(name string) error {
	known, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(known)) {
		if fields := strings.Fields(line); len(fields) > 0 && fields[len(fields)-1] == name {
			return nil
		}
	}

	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	modules, err := os.Open(filepath.Join("/lib/modules", unix.ByteSliceToString(uts.Release[:]), "modules.dep"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not in /proc/filesystems", name)
	} else if err != nil {
		return err
	}
	defer modules.Close()
	lines := bufio.NewScanner(modules)
	for lines.Scan() {
		// kernel/fs/erofs/erofs.ko.xz: kernel/...
		file, _, _ := strings.Cut(lines.Text(), ":")
		if strings.HasPrefix(filepath.Base(file), name+".ko") {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return fmt.Errorf("%s is neither in /proc/filesystems nor a module", name)
}
