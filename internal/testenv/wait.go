package testenv

import (
	"os"
	"testing"
	"time"
)

// WaitLimit is how long conditions are waited for: far longer than they take, so
// that only a defect, never a slow machine, gets there.
const WaitLimit = 30 * time.Second

// WaitFor polls a condition until it returns nil, and fails the test with its last
// error when the time is up.
func WaitFor(t testing.TB, what string, condition func() error) {
	t.Helper()
	if err := poll(condition); err != nil {
		t.Fatalf("%s: not within %v: %v", what, WaitLimit, err)
	}
}

func poll(condition func() error) error {
	deadline := time.Now().Add(WaitLimit)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := condition()
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}

// ReadFile is os.ReadFile of a file that may lie below an automount, within
// WaitLimit: a daemon that hangs would hang the whole test run.
func ReadFile(path string) (string, error) {
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := os.ReadFile(path)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return string(r.text), r.err
	case <-time.After(WaitLimit):
		return "", &os.PathError{Op: "read", Path: path, Err: os.ErrDeadlineExceeded}
	}
}
