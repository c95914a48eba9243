package testenv

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// runLimit is how long a command may take. The map and the helper have limits of
// their own, which tests check; this one only keeps a test run from hanging.
const runLimit = 60 * time.Second

// A Machine is one machine that runs levelfs: a LEVELFS_ROOT with a configuration,
// an inventory and state of its own. Several of them do not meet.
type Machine struct {
	Root  string // LEVELFS_ROOT, a short path
	Host  string // name in the inventory
	Store *Store // where its images are
	Binaries
	t testing.TB
}

// NewMachine makes a machine with an empty LDIF inventory and a Store.
func NewMachine(t testing.TB, host string) *Machine {
	t.Helper()
	m := &Machine{Host: host, t: t, Binaries: Commands(t)}
	m.Root = shortDir(t, "m")
	// Before the root is removed: a test that failed may have left a view there.
	t.Cleanup(func() { unmountBelow(t, m.Root) })
	for _, dir := range []string{m.InventoryDir(), filepath.Join(m.Root, "/var/lib/levelfs/images")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.Store = &Store{Dir: filepath.Join(m.Root, "/var/lib/levelfs/images"), t: t}
	m.Configure("")
	return m
}

// Path is a path below the machine's root.
func (m *Machine) Path(elem ...string) string {
	return filepath.Join(append([]string{m.Root}, elem...)...)
}

// Mkdir makes a directory below the root, such as a mount point, and returns its
// path.
func (m *Machine) Mkdir(elem ...string) string {
	m.t.Helper()
	dir := m.Path(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		m.t.Fatal(err)
	}
	return dir
}

// InventoryDir is the directory of LDIF files that the default configuration reads.
func (m *Machine) InventoryDir() string { return m.Path("/etc/levelfs/inventory.d") }

// UserPrivateDir is where a user's private layer of a component lies.
func (m *Machine) UserPrivateDir(user, component string) string {
	return m.Path("/var/lib/levelfs/private/user", user, component)
}

// PrivateDir is where the host's private layer of a component lies.
func (m *Machine) PrivateDir(component string) string {
	return m.Path("/var/lib/levelfs/private/host", component)
}

// Configure writes levelfs.toml: the host name, the map program, the Store and
// then the text. Without a [[source]] in it the inventory is InventoryDir.
func (m *Machine) Configure(text string) {
	m.t.Helper()
	m.WriteConfig(fmt.Sprintf("host = %q\nmap = %q\nimages = [%q]\ndirectories = [%q]\n%s",
		m.Host, m.Map, m.Store.Dir, m.Store.Dir, text))
}

// WriteConfig writes levelfs.toml as it is given.
func (m *Machine) WriteConfig(text string) {
	m.t.Helper()
	m.write(m.Path("/etc/levelfs/levelfs.toml"), text)
}

// WriteLDIF replaces a file of the inventory directory.
func (m *Machine) WriteLDIF(name, text string) {
	m.t.Helper()
	m.write(filepath.Join(m.InventoryDir(), name), text)
}

// write replaces a file by rename, so that no lookup reads half of it.
func (m *Machine) write(path, text string) {
	m.t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

// LDAPSource is a [[source]] table for Configure.
func LDAPSource(base string, uris ...string) string {
	return fmt.Sprintf("[[source]]\ntype = \"ldap\"\nuri = [\"%s\"]\nbase = %q\n", strings.Join(uris, `", "`), base)
}

// Env is the environment of the machine's processes.
func (m *Machine) Env() []string {
	return setenv(os.Environ(), "LEVELFS_ROOT="+m.Root)
}

// A Result is how a command ended.
type Result struct {
	Exit           int // -1: killed
	Stdout, Stderr string
	Took           time.Duration
}

func (r Result) String() string {
	return fmt.Sprintf("exit %d, stdout %q, stderr %q", r.Exit, r.Stdout, r.Stderr)
}

// Run runs a command as a process of the machine.
func (m *Machine) Run(name string, args ...string) Result {
	m.t.Helper()
	return m.run(nil, name, args...)
}

// RunAs runs a command as a process of the user, in a session of its own.
func (m *Machine) RunAs(u User, name string, args ...string) Result {
	m.t.Helper()
	return m.run(&syscall.SysProcAttr{Setsid: true, Credential: &syscall.Credential{Uid: u.UID, Gid: u.GID}}, name, args...)
}

func (m *Machine) run(attr *syscall.SysProcAttr, name string, args ...string) Result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), runLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = m.Env()
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		m.t.Fatalf("%s: %v", cmd, err)
	}
	return Result{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(), Took: time.Since(start)}
}

// RunMap runs auto.levelfs.
func (m *Machine) RunMap(args ...string) Result { m.t.Helper(); return m.Run(m.Map, args...) }

// RunHelper runs mount.levelfs.
func (m *Machine) RunHelper(args ...string) Result { m.t.Helper(); return m.Run(m.Helper, args...) }

// RunLevelfs runs levelfs.
func (m *Machine) RunLevelfs(args ...string) Result { m.t.Helper(); return m.Run(m.Levelfs, args...) }

// Mount runs mount(8) with the mount helper installed.
func (m *Machine) Mount(args ...string) Result {
	m.t.Helper()
	if err := InstallHelper(m.Binaries); err != nil {
		m.t.Fatal(err)
	}
	return m.Run("mount", args...)
}

// Umount unmounts as umount(8) does, and fails the test if it cannot.
func (m *Machine) Umount(target string) {
	m.t.Helper()
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil {
		m.t.Fatalf("umount %s: %v", target, err)
	}
}

// unmountBelow takes away what a failed test left, so that its directory can be
// removed and other tests go on; it is an error of that test.
func unmountBelow(t testing.TB, dir string) {
	t.Helper()
	mounts, err := Mounts(dir)
	if err != nil {
		t.Error(err)
		return
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		t.Errorf("still mounted: %s at %s", mounts[i].Source, mounts[i].Mountpoint)
		if err := unix.Unmount(mounts[i].Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			t.Error(err)
		}
	}
}
