package testenv

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// A User is an account of the sandbox.
type User struct {
	Name     string
	UID, GID uint32
}

// AddUsers puts accounts, each with a group, into the sandbox's /etc/passwd and
// /etc/group until the end of the test, and
// lets their processes reach what is below the machine's root.
func (m *Machine) AddUsers(users ...User) {
	m.t.Helper()
	if !Inside() {
		m.t.Fatal("add users: not in a sandbox")
	}
	var passwd, group strings.Builder
	for _, u := range users {
		fmt.Fprintf(&passwd, "%s:x:%d:%d::/:/bin/sh\n", u.Name, u.UID, u.GID)
		fmt.Fprintf(&group, "%s:x:%d:\n", u.Name, u.GID)
	}
	dir := shortDir(m.t, "pw")
	extend(m.t, "/etc/passwd", filepath.Join(dir, "passwd"), passwd.String())
	extend(m.t, "/etc/group", filepath.Join(dir, "group"), group.String())
	for dir := m.Root; dir != "/" && dir != "/tmp"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o711); err != nil {
			m.t.Fatal(err)
		}
		if dir == os.TempDir() {
			break
		}
	}
}

// extend binds a copy of a file with more text over it until the end of the test.
func extend(t testing.TB, path, by, more string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(by, append(text, more...), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(by, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(&os.PathError{Op: "mount", Path: path, Err: err})
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW); err != nil {
			t.Errorf("umount %s: %v", path, err)
		}
	})
}
