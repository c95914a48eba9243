package testenv

import (
	"bytes"
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

// sandboxed runs this test again in a sandbox of its own, inside this one, with
// what as the thing to do there.
func sandboxed(t *testing.T, what string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSandboxTask$")
	cmd.Env = setenv(os.Environ(), sandboxVariable+"=", "LEVELFS_TEST_TASK="+what)
	return cmd
}

// TestSandboxTask is what runs in the sandboxes of the tests below.
func TestSandboxTask(t *testing.T) {
	switch task := os.Getenv("LEVELFS_TEST_TASK"); task {
	case "": // other tests run it
	case "nothing":
	case "fail":
		t.Error("as asked")
	case "mount":
		dir := filepath.Join("/run", "left")
		if err := errors.Join(os.Mkdir(dir, 0o755), unix.Mount("left", dir, "tmpfs", 0, "")); err != nil {
			t.Fatal(err)
		}
	case "process", "orphan":
		// An orphan is the child of a shell that has ended: nobody but init reaps it.
		script := "exec sleep 1000"
		if task == "orphan" {
			script = "true & exit"
		}
		if err := exec.Command("setsid", "sh", "-c", script).Start(); err != nil {
			t.Fatal(err)
		}
	case "loop":
		file := filepath.Join(os.TempDir(), "image")
		if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("losetup", "-f", file).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	case "file":
		if err := os.WriteFile(filepath.Join(os.TempDir(), "forgotten"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	case "wait":
		fmt.Println("waiting in", os.TempDir())
		select {}
	case "look":
		host, err := os.Hostname()
		if err != nil || host != "sandbox.example.org" {
			t.Errorf("host name %q, %v", host, err)
		}
		for _, path := range []string{"/dev/levelfs-test", "/sbin/levelfs-test"} {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Error(err)
			}
		}
		if pid := os.Getppid(); pid != 1 {
			t.Errorf("the parent is %d, want init", pid)
		}
		if entries, err := os.ReadDir("/run"); err != nil || len(entries) != 1 {
			t.Errorf("/run has %v, %v; want only the sandbox's own directory", entries, err)
		}
		for _, path := range []string{"/dev/null", "/dev/pts", "/proc/self/exe"} {
			if _, err := os.Stat(path); err != nil {
				t.Error(err)
			}
		}
	default:
		t.Fatalf("unknown task %q", task)
	}
}

func TestSandbox(t *testing.T) {
	Require(t, "root", "overlay")
	for _, c := range []struct {
		task, want string
		fail       bool
	}{
		{"nothing", "", false},
		{"look", "", false},
		{"orphan", "", false},
		{"fail", "as asked", true},
		{"mount", "tmpfs at /run/left, source left", true},
		{"process", "sleep 1000", true},
		{"loop", "loop device /dev/loop", true},
		{"file", "file forgotten: ", true},
	} {
		t.Run(c.task, func(t *testing.T) {
			t.Parallel()
			out, err := sandboxed(t, c.task).CombinedOutput()
			if failed := err != nil; failed != c.fail || !strings.Contains(string(out), c.want) {
				t.Errorf("%v, output:\n%s\nwant failure: %v, %q", err, out, c.fail, c.want)
			}
			if c.fail && c.task != "fail" && !strings.Contains(string(out), "left behind") {
				t.Errorf("it does not say that something was left behind:\n%s", out)
			}
		})
	}
	t.Cleanup(func() { // when they have ended
		for _, path := range []string{"/dev/levelfs-test", "/sbin/levelfs-test"} {
			if _, err := os.Stat(path); err == nil {
				t.Errorf("%s came out of the sandbox", path)
			}
		}
	})
}

// TestSandboxSignal checks that a signal reaches the process inside, and that its
// end is seen outside.
func TestSandboxSignal(t *testing.T) {
	Require(t, "root", "overlay")
	cmd, dir := waiting(t)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	// A test binary leaves SIGTERM at its default.
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Errorf("got %v, want exit status %d", err, 128+int(syscall.SIGTERM))
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its TMPDIR: %v, want none", err)
	}
}

// TestSandboxDies checks that nothing of a sandbox outlives the process that
// started it, however that ends.
func TestSandboxDies(t *testing.T) {
	Require(t, "root", "overlay")
	cmd, dir := waiting(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait() // says that it was killed
	WaitFor(t, "end of the sandbox", func() error {
		processes, err := listProcesses()
		if err != nil {
			return err
		}
		for pid, line := range processes {
			if strings.Contains(line, "TestSandboxTask") {
				return fmt.Errorf("process %s: %s", pid, line)
			}
		}
		return nil
	})
	// Nobody was left to remove it.
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// waiting starts a sandbox whose process waits, and returns its TMPDIR.
func waiting(t *testing.T) (*exec.Cmd, string) {
	t.Helper()
	cmd := sandboxed(t, "wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 256)
	timer := time.AfterFunc(WaitLimit, func() { cmd.Process.Kill() })
	defer timer.Stop()
	n, err := out.Read(line)
	dir, found := strings.CutPrefix(strings.TrimSpace(string(line[:n])), "waiting in ")
	if !found {
		t.Fatalf("it said %q, %v, %s", line[:n], err, stderr.String())
	}
	return cmd, dir
}

func TestEnterNeedsInit(t *testing.T) {
	t.Setenv(sandboxVariable, sandboxInit)
	if _, _, err := Enter(); err == nil || os.Getpid() == 1 {
		t.Errorf("process %d as init: %v, want an error", os.Getpid(), err)
	}
}
