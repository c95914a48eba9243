package testenv

import (
	"syscall"
	"testing"
)

// RaiseFiles lets this process and those that it starts, such as slapd, have as many
// open files and connections as the machine allows. Go raises its own limit, and gives
// the old one to its children unless it is told otherwise.
func RaiseFiles(t testing.TB) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
}
