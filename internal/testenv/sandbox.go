package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// sandboxVariable tells a process which of the three it is: none, the sandbox's
// init, or one inside.
const (
	sandboxVariable = "LEVELFS_TEST_SANDBOX"
	sandboxInit     = "init"
	sandboxInside   = "inside"
)

// ErrNotRoot is returned by [Enter] to a process without the rights for it.
var ErrNotRoot = errors.New("a sandbox needs root")

// Main runs the tests of a package in a sandbox: see [Enter]. Without root it
// just runs them, for those that do not need one. The result is the exit status:
//
//	func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }
func Main(m *testing.M) int {
	inside, exit, err := Enter()
	switch {
	case errors.Is(err, ErrNotRoot):
	case err != nil:
		fmt.Fprintln(os.Stderr, "testenv: sandbox:", err)
		return 1
	case !inside:
		return exit
	}
	defer removeBuilt()
	return m.Run()
}

// Inside reports whether this process runs in a sandbox.
func Inside() bool { return os.Getenv(sandboxVariable) == sandboxInside }

// Enter runs the program again, with the same arguments, in a sandbox: private
// mount, PID and host name namespaces, with
//
//   - nothing propagated to or from the machine's mounts,
//   - a /proc of its own, and an empty /run, so that automount's fifos and levelfs's
//     run directory never meet the machine's,
//   - an overlay over /usr/sbin and one over /dev, so that a mount helper can be
//     installed and /dev/log be listened on,
//   - an autofs.conf that changes nothing,
//   - a TMPDIR of its own with a short path,
//   - the host name sandbox.example.org.
//
// In that second process inside is true, and the caller goes on. In the first one
// Enter returns when the second has ended, with its exit status, for the caller
// to exit with; 128 and a number more for a signal. Signals are passed on, and if
// the first process dies the sandbox dies with it.
//
// At the end the sandbox is looked over. Processes, mounts, loop devices over
// files of its TMPDIR, or files there, that were not there at the start are
// listed on standard error, and the exit status is then not 0.
//
// Call it first thing in main: what was done before happens again. Benchmarks
// call it as tests do; it needs no *testing.M.
func Enter() (inside bool, exit int, err error) {
	switch os.Getenv(sandboxVariable) {
	case sandboxInside:
		return true, 0, nil
	case sandboxInit:
		exit, err = runInit()
	default:
		exit, err = runSandbox()
	}
	return false, exit, err
}

// runSandbox starts init and waits for it.
func runSandbox() (exit int, err error) {
	if os.Geteuid() != 0 {
		return 0, ErrNotRoot
	}
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	tmp, err := os.MkdirTemp("", "lv")
	if err != nil {
		return 0, err
	}
	// The mounts of the sandbox cannot be seen from here, and are gone with it.
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()

	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), sandboxVariable+"="+sandboxInit, "TMPDIR="+tmp)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
		Setsid:     true,
		Pdeathsig:  syscall.SIGKILL,
	}
	// Pdeathsig is sent when the thread that forked ends, not the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan struct{})
	defer close(ended)
	go passOn(signals, ended, cmd.Process)
	err = cmd.Wait()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		return exitStatus(failed.Sys().(syscall.WaitStatus)), nil
	}
	return 0, err
}

// passedOn are the signals that somebody may send to the process that they
// started, and mean the one inside.
var passedOn = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

func passOn(signals <-chan os.Signal, ended <-chan struct{}, to *os.Process) {
	for {
		select {
		case s := <-signals:
			to.Signal(s) // a process that has ended needs none
		case <-ended:
			return
		}
	}
}

func exitStatus(w syscall.WaitStatus) int {
	if w.Signaled() {
		return 128 + int(w.Signal())
	}
	return w.ExitStatus()
}

// setenv returns env with variables replaced.
func setenv(env []string, variables ...string) []string {
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		replaced := false
		for _, v := range variables {
			replaced = replaced || strings.HasPrefix(v, name+"=")
		}
		if !replaced {
			out = append(out, e)
		}
	}
	return append(out, variables...)
}
