package utab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// TestLibmount: libmount finds the option of the mount that it is of, and of no other.
func TestLibmount(t *testing.T) {
	testenv.Require(t, "root")
	target := filepath.Join(t.TempDir(), "a \\b")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	options := func(source string) string {
		t.Helper()
		if err := unix.Mount(source, target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("findmnt", "-m", "-n", "-o", "OPTIONS", target).Output()
		if err := errors.Join(err, unix.Unmount(target, 0)); err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if err := System().Set(t.Context(), "levelfs:a@1", target, "helper=x"); err != nil {
		t.Fatal(err)
	}
	if got := options("levelfs:a@1"); !strings.Contains(got, "helper=x") {
		t.Errorf("options %q", got)
	}
	if got := options("levelfs:a@2"); strings.Contains(got, "helper=x") {
		t.Errorf("options of another: %q", got)
	}
	if err := System().Remove(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	if got := options("levelfs:a@1"); strings.Contains(got, "helper=x") {
		t.Errorf("options after it was removed: %q", got)
	}
}

// TestOthers: lines about other mounts stay as they are, at whatever time others write.
func TestOthers(t *testing.T) {
	table := Table{filepath.Join(t.TempDir(), "mount")}
	if err := table.Remove(t.Context(), "/a"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(table.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("removing made something: %v", err)
	}
	const other = "SRC=x TARGET=/a/b ROOT=/ OPTS=x-what=/a\n"
	if err := errors.Join(os.Mkdir(table.Dir, 0o755), os.WriteFile(table.file(), []byte(other), 0o644)); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for _, target := range []string{"/a", "/b", "/c", "/d"} {
		all.Go(func() {
			for _, level := range []string{"1", "2", "3"} {
				if err := table.Set(t.Context(), "levelfs:e@"+level, target, "helper=x"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for _, target := range []string{"/b", "/c", "/d"} {
		if err := table.Remove(t.Context(), target); err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(table.file()); err != nil || string(text) != other+"SRC=levelfs:e@3 TARGET=/a ROOT=/ OPTS=helper=x\n" {
		t.Errorf("%q, %v", text, err)
	}
	left, err := filepath.Glob(table.Dir + "/*")
	if err != nil || len(left) != 2 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestLocked: who keeps the lock is waited for, and not for ever.
func TestLocked(t *testing.T) {
	table := Table{t.TempDir()}
	lock, err := table.lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := table.Set(ctx, "levelfs:e@1", "/a", "helper=x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	done := make(chan error, 1)
	go func() { done <- table.Set(t.Context(), "levelfs:e@1", "/a", "helper=x") }()
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
