package dcss

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// attachVariable has the test binary be a program that attaches a segment.
const attachVariable = "DCSS_TEST_ATTACH"

// TestMain has the test binary be what it tests: a writer, and a caller to be killed.
func TestMain(m *testing.M) {
	if exit, ok := Writer(os.Args); ok {
		os.Exit(exit)
	}
	if where, ok := os.LookupEnv(attachVariable); ok {
		root, run, _ := strings.Cut(where, ":")
		_, err := NewFromRoot(root, run, "/proc/self/exe").Attach(context.Background(), "C")
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// hanging makes the file a pipe that nobody reads: a write to it does not return.
func hanging(t *testing.T, file string) {
	t.Helper()
	if err := errors.Join(os.Remove(file), syscall.Mkfifo(file, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// release lets the write to a hanging file happen, and returns what was written.
func release(t *testing.T, file string) string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestWriterResults(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	add := filepath.Join(root, "sys/devices/dcssblk/add")
	d := NewFromRoot(root, t.TempDir(), "/proc/self/exe")

	plug(t, root, 3, "D")
	if err := d.Detach(t.Context(), "d"); err != nil {
		t.Error(err)
	}
	if text, err := os.ReadFile(filepath.Join(root, "sys/devices/dcssblk/remove")); err != nil || !strings.HasPrefix(string(text), "D\n") {
		t.Errorf("remove got %q, %v", text, err)
	}

	// A device that refuses every write.
	if err := errors.Join(os.Remove(add), os.Symlink("/dev/full", add)); err != nil {
		t.Fatal(err)
	}
	var refused *Error
	if _, err := d.Attach(t.Context(), "C"); !errors.As(err, &refused) || *refused != (Error{OpAdd, "C", syscall.ENOSPC}) {
		t.Errorf("refused write: %v", err)
	}

	// What cannot be opened is no answer of the driver, and nothing is created.
	if err := os.Remove(add); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Attach(t.Context(), "C"); err == nil || errors.As(err, &refused) {
		t.Errorf("no such file: %v", err)
	}
	if _, err := os.Lstat(add); err == nil {
		t.Error("the file was created")
	}
	if err := d.Save(t.Context(), "C"); !errors.Is(err, ErrNotAttached) {
		t.Errorf("no such device: %v", err)
	}

	d = NewFromRoot(root, t.TempDir(), "/bin/true")
	if err := d.Detach(t.Context(), "D"); err == nil {
		t.Error("a program that is no writer: no error")
	}
	d = NewFromRoot(root, t.TempDir(), "/nonexistent")
	if err := d.Detach(t.Context(), "D"); !errors.Is(err, os.ErrNotExist) || errors.Is(err, ErrNotAttached) {
		t.Errorf("no such program: %v", err)
	}
}

// TestDeadline has a driver that is at work for longer than the caller waits.
func TestDeadline(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	add := filepath.Join(root, "sys/devices/dcssblk/add")
	hanging(t, add)
	d := NewFromRoot(root, t.TempDir(), "/proc/self/exe")
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := d.Attach(ctx, "C")
		first <- err
	}()
	awaitWriter(t, add)
	cancel()
	var late *DeadlineError
	if err := <-first; !errors.As(err, &late) || !late.Started || late.Op != OpAdd || late.Segment != "C" || !errors.Is(err, context.Canceled) {
		t.Errorf("first caller: %v", err)
	}
	// The segment stays locked by the writer, not by its caller, who has returned.
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Attach(ctx, "C"); !errors.As(err, &late) || late.Started || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("second caller: %v", err)
	}
	// Other segments can be attached meanwhile, and what is attached can be seen.
	if _, err := d.Attach(t.Context(), "EXT4"); err != nil {
		t.Error(err)
	}
	found := make(chan error, 1)
	go func() {
		device, err := d.Attach(t.Context(), "C")
		if err == nil && device.Node != "dcssblk3" {
			err = fmt.Errorf("%+v", device)
		}
		found <- err
	}()
	plug(t, root, 3, "C")
	if got := release(t, add); got != "C\n" {
		t.Errorf("the driver got %q", got)
	}
	if err := <-found; err != nil {
		t.Errorf("third caller: %v", err)
	}
}

// TestCallerKilled kills the caller while the driver is at work.
func TestCallerKilled(t *testing.T) {
	root, run := tree(t, "linux-6.1.sysfs"), t.TempDir()
	add := filepath.Join(root, "sys/devices/dcssblk/add")
	hanging(t, add)
	caller := exec.Command("/proc/self/exe")
	caller.Env = append(os.Environ(), attachVariable+"="+root+":"+run)
	output := new(strings.Builder)
	caller.Stderr = output // a pipe: Wait returns only when no process has it open
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	awaitWriter(t, add)
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	caller.Wait()
	if output.Len() > 0 {
		t.Errorf("the caller ended by itself: %s", output)
	}
	d := NewFromRoot(root, run, "/proc/self/exe")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var late *DeadlineError
	if _, err := d.Attach(ctx, "C"); !errors.As(err, &late) || late.Started {
		t.Errorf("while the writer is at work: %v", err)
	}
	plug(t, root, 3, "C")
	if got := release(t, add); got != "C\n" {
		t.Errorf("the driver got %q", got)
	}
	if device, err := d.Attach(t.Context(), "C"); err != nil || device.Node != "dcssblk3" {
		t.Errorf("afterwards: %+v, %v", device, err)
	}
}

// awaitWriter waits until there is a writer to the file.
func awaitWriter(t *testing.T, file string) {
	t.Helper()
	want := strings.Join([]string{writerName, file}, "\x00")
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if text, err := os.ReadFile(line); err == nil && strings.HasPrefix(string(text), want) {
				return
			}
		}
	}
	t.Fatalf("nobody writes to %q", file)
}

func TestWriterIsNot(t *testing.T) {
	for _, args := range [][]string{{}, {"mount.levelfs", "emacs", "/sw/emacs"}, {"x", writerName}} {
		if exit, ok := Writer(args); ok {
			t.Errorf("%q is a writer, exit status %d", args, exit)
		}
	}
	if exit, ok := Writer([]string{writerName}); !ok || exit != 64 {
		t.Errorf("a writer without arguments: %d, %v", exit, ok)
	}
}

func FuzzDecode(f *testing.F) {
	for _, text := range []string{"write 0\n", "write 17\n", "open 2\n", "open 0\n", "", "panic: x\n", "write 99999\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		// Only what encode makes is a result; all else is an error, never success.
		if err := decode(text); err == nil && !strings.HasPrefix(text, "write 0") {
			t.Errorf("%q is success", text)
		}
	})
}

func TestEncode(t *testing.T) {
	for text, want := range map[string]error{
		"write 0": nil, "write 17": syscall.EEXIST, "open 13": fmt.Errorf("%w: %w", errOpen, syscall.EACCES),
	} {
		if got := encode(want); got != text {
			t.Errorf("%v became %q, want %q", want, got, text)
		}
		if got := decode(text + "\n"); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q became %v, want %v", text, got, want)
		}
	}
}
