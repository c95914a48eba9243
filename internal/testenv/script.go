package testenv

import (
	"errors"
	"os/exec"
	"strconv"

	"github.com/rogpeppe/go-internal/testscript"
)

// SetUpScript gives a test script a LEVELFS_ROOT in its own directory.
func SetUpScript(env *testscript.Env) error {
	env.Setenv("LEVELFS_ROOT", env.WorkDir)
	env.Setenv("GORACE", "atexit_sleep_ms=0") // a second for each command otherwise
	return nil
}

// Exits is a command of test scripts that runs a command and wants that exit
// status: exits N COMMAND [ARG...].
func Exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}
