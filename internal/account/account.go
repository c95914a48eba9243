// Package account finds out which user and group ids an account of this machine has.
//
// The commands are static programs, which cannot load the C library's name service
// modules (nsswitch.conf(5)). Accounts in /etc/passwd they read themselves; for those
// of a directory, sssd or systemd they run getent(1), which can.
package account

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"time"
)

// patience is how long getent may take: the name service may have to ask a server.
const patience = 3 * time.Second

// An Account is a user by number.
type Account struct{ UID, GID uint32 }

// An UnknownError is a user who has no account on this machine.
type UnknownError struct{ User string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("user %q has no account on this machine", e.User)
}

// Local returns the account that the user has in /etc/passwd. Without one it returns
// an *UnknownError, which does not mean that there is none elsewhere.
func Local(name string) (Account, error) {
	u, err := user.Lookup(name)
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return Account{}, &UnknownError{name}
	}
	if err != nil {
		return Account{}, err
	}
	return Parse(u.Uid, u.Gid)
}

// Lookup returns the user's account, wherever this machine has its accounts from.
func Lookup(ctx context.Context, name string) (Account, error) {
	a, err := Local(name)
	var unknown *UnknownError
	if !errors.As(err, &unknown) {
		return a, err
	}
	return ask(ctx, "getent", name)
}

// ask runs getent passwd NAME (exit status 2: there is none).
func ask(ctx context.Context, getent, name string) (Account, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, getent, "passwd", "--", name)
	cmd.WaitDelay = time.Second
	line, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 {
		return Account{}, &UnknownError{name}
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Account{}, fmt.Errorf("getent passwd %s: %w", name, err)
	}
	fields := strings.Split(string(line), ":")
	// A number would have found the account that has it.
	if len(fields) < 4 || fields[0] != name {
		return Account{}, &UnknownError{name}
	}
	return Parse(fields[2], fields[3])
}

// Parse reads the two ids as passwd(5) has them.
func Parse(uid, gid string) (Account, error) {
	u, err := parseID(uid)
	if err != nil {
		return Account{}, err
	}
	g, err := parseID(gid)
	return Account{UID: u, GID: g}, err
}

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	// (uid_t) -1 means "none" to the kernel.
	if err != nil || n == math.MaxUint32 {
		return 0, fmt.Errorf("%q is no user or group id", s)
	}
	return uint32(n), nil
}
