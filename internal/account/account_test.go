package account

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestLocal(t *testing.T) {
	t.Parallel()
	if a, err := Local("root"); err != nil || a != (Account{}) {
		t.Errorf("root: %+v, %v", a, err)
	}
	if a, err := Lookup(t.Context(), "root"); err != nil || a != (Account{}) {
		t.Errorf("root: %+v, %v", a, err)
	}
	var unknown *UnknownError
	if a, err := Local("nosuch-user"); !errors.As(err, &unknown) || unknown.User != "nosuch-user" {
		t.Errorf("got %+v, %v", a, err)
	}
}

// TestAsk puts a script in the place of getent.
func TestAsk(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, script string
		want         Account
		fails        string
	}{
		{"an account", `test "$*" = "passwd -- rob" && echo 'rob:x:6001:6002:Rob:/home/rob:/bin/sh'`, Account{6001, 6002}, ""},
		{"none", "exit 2", Account{}, "has no account on this machine"},
		{"another one", "echo 'bor:x:6001:6002:::'", Account{}, "has no account on this machine"},
		{"nothing", "", Account{}, "has no account on this machine"},
		{"no line of passwd", "echo rob", Account{}, "has no account on this machine"},
		{"failure", "exit 1", Account{}, "getent passwd rob: exit status 1"},
		{"no number", "echo 'rob:x:six:6002:::'", Account{}, `"six" is no user or group id`},
		{"no id", "echo 'rob:x:4294967295:6002:::'", Account{}, `"4294967295" is no user or group id`},
		{"no group", "echo 'rob:x:6001:-1:::'", Account{}, `"-1" is no user or group id`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			getent := filepath.Join(t.TempDir(), "getent")
			// No child may inherit it open for writing (ETXTBSY).
			syscall.ForkLock.RLock()
			err := os.WriteFile(getent, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700)
			syscall.ForkLock.RUnlock()
			if err != nil {
				t.Fatal(err)
			}
			a, err := ask(t.Context(), getent, "rob")
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%+v, %v; want %q", a, err, c.fails)
				}
				return
			}
			if err != nil || a != c.want {
				t.Errorf("%+v, %v; want %+v", a, err, c.want)
			}
		})
	}
	if _, err := ask(t.Context(), "/nonexistent/getent", "rob"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no getent: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ask(ctx, "true", "rob"); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
