package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"
)

// enteredVariable tells this program, when it is executed in the namespace, that it is: it
// has the number of the process, which stays the same, and of the namespace that it was
// started in. Without a look neither is believed: what is done then would be done to all.
const enteredVariable = "LEVELFS_RUN_OUTSIDE"

// probeTime bounds the trial of unshare(1).
const probeTime = 10 * time.Second

// A NamespaceError is a namespace that this process may not make.
type NamespaceError struct {
	Err    error
	Reason string // what the machine's settings say about it, or ""
}

func (e *NamespaceError) Error() string {
	if e.Reason != "" {
		return fmt.Sprintf("no user namespace: %v (%s)", e.Err, e.Reason)
	}
	return fmt.Sprintf("no user namespace: %v", e.Err)
}

func (e *NamespaceError) Unwrap() error { return e.Err }

// Entered reports whether this process is in a namespace that [Enter] has made for it, and
// forgets that for the processes that it starts.
func Entered() (bool, error) {
	mark := os.Getenv(enteredVariable)
	if err := os.Unsetenv(enteredVariable); err != nil {
		return false, err
	}
	pid, from, _ := strings.Cut(mark, ":")
	if pid != strconv.Itoa(os.Getpid()) {
		return false, nil // another's
	}
	now, err := namespaceID()
	if err != nil {
		return false, err
	}
	if from == now {
		return false, fmt.Errorf("%s is for levelfs's own use", enteredVariable)
	}
	return true, nil
}

func namespaceID() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/mnt", &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: "/proc/thread-self/ns/mnt", Err: err}
	}
	return strconv.FormatUint(st.Ino, 10), nil
}

// Enter executes this program with the arguments in a mount namespace of its own; with
// user, in one of a user namespace in which the caller is who he is outside. It returns only
// an error.
func Enter(ctx context.Context, user bool, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	from, err := namespaceID()
	if err != nil {
		return err
	}
	env := append(os.Environ(), fmt.Sprintf("%s=%d:%s", enteredVariable, os.Getpid(), from))
	if user {
		return enterUser(ctx, self, args, env)
	}
	// The thread that leaves the namespace is the one that executes, and no other outlives
	// that. If it fails, it ends with this goroutine.
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		failed <- enterRoot(self, args, env)
	}()
	return <-failed
}

func enterRoot(self string, args, env []string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace of its own: %w", err)
	}
	if err := mount.MakeRSlave("/"); err != nil {
		return err
	}
	return &os.PathError{Op: "exec", Path: self, Err: unix.Exec(self, append([]string{os.Args[0]}, args...), env)}
}

// unshareFlags are those of unshare(1), from util-linux 2.36 on. The capabilities in the user
// namespace are kept for this program, which mounts; [Exec] drops them.
func unshareFlags() []string {
	return []string{"--user", "--map-current-user", "--mount", "--propagation", "slave", "--keep-caps"}
}

// enterUser has unshare(1) do it: a process can enter a user namespace only while it has
// one thread, which a Go program never has.
func enterUser(ctx context.Context, self string, args, env []string) error {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		return &NamespaceError{Err: err}
	}
	if err := probe(ctx, unshare); err != nil {
		return err
	}
	argv := slices.Concat([]string{"unshare"}, unshareFlags(), []string{"--", self}, args)
	return &os.PathError{Op: "exec", Path: unshare, Err: unix.Exec(unshare, argv, env)}
}

// probe finds out whether unshare(1) can. Its own words, and its status 1, would be taken
// for the command's.
func probe(ctx context.Context, unshare string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	out, err := exec.CommandContext(ctx, unshare, append(unshareFlags(), "--", "true")...).CombinedOutput()
	if err == nil {
		return nil
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if first != "" {
		err = errors.New(first)
	}
	return &NamespaceError{Err: err, Reason: forbidden()}
}

// forbidden is the setting of the machine that forbids user namespaces, or "".
func forbidden() string {
	for _, setting := range [][2]string{
		{"user/max_user_namespaces", "0"},
		{"kernel/unprivileged_userns_clone", "0"},             // Debian
		{"kernel/apparmor_restrict_unprivileged_userns", "1"}, // Ubuntu
	} {
		text, err := os.ReadFile("/proc/sys/" + setting[0])
		if err == nil && strings.TrimSpace(string(text)) == setting[1] {
			return fmt.Sprintf("sysctl %s=%s", strings.ReplaceAll(setting[0], "/", "."), setting[1])
		}
	}
	return ""
}
