//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0

// Command auto.levelfs is the autofs program map of levelfs (auto.master(5)).
//
//	auto.levelfs KEY
//
// KEY is COMPONENT, for the level that this host runs, or COMPONENT@LEVEL, for
// that level, read-only. It exits 0 and prints exactly one line,
// "-fstype=levelfs,OPTS :COMPONENT@LEVEL"; or it exits non-zero, prints nothing
// on standard output, and the reason on standard error.
//
// The name that it is run by says whose levels it gives, since automount passes it
// nothing but the key. As auto.levelfs.user it is the map of the users' tree: the key
// is a user, and the line has an offset for each of the user's components. The shared
// map answers the key by-user with that map.
//
// It mounts nothing, and changes nothing but the cache: automount runs it again
// when it restarts, and skips it within its reuse window.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
)

// automount sets no time limit on its map programs: a key would hang for as long
// as they do. The inventory gets the first part of the time; the rest is for the
// answer from the cache.
const (
	deadline = 6 * time.Second
	patience = 5 * time.Second
)

func main() { os.Exit(run(os.Args, os.Stdout, os.Stderr)) }

// run is main. args are those of the process, its name first.
func run(args []string, stdout, stderr io.Writer) int {
	name := config.SharedMap
	if len(args) > 0 {
		name = filepath.Base(args[0])
	}
	line, warnings, err := answer(args)
	for _, w := range warnings {
		fmt.Fprintf(stderr, "%s: warning: %s\n", name, w)
	}
	if err != nil {
		fmt.Fprintf(stderr, "%s: %s\n", name, oneLine(err))
		return 1
	}
	// The only write to standard output: one line, or nothing at all.
	if _, err := io.WriteString(stdout, line); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// A lookup answers one key.
type lookup func(*config.Config) (line string, warnings []string, err error)

// answer returns the map line. It returns by the deadline, whatever hangs.
func answer(args []string) (line string, warnings []string, err error) {
	if len(args) != 2 {
		return "", nil, errors.New("usage: auto.levelfs KEY")
	}
	look, err := understand(args[0], args[1])
	if err != nil {
		return "", nil, err
	}
	type result struct {
		line     string
		warnings []string
		err      error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		c, err := config.Load()
		if err == nil {
			r.line, r.warnings, r.err = look(c)
		} else {
			r.err = err
		}
		done <- r
	}()
	select {
	case r := <-done:
		return r.line, r.warnings, r.err
	case <-time.After(deadline):
		return "", nil, fmt.Errorf("key %q: no answer within %v", args[1], deadline)
	}
}

// understand says what is asked. A key that has no answer is refused here, before
// anything is read.
func understand(program, key string) (lookup, error) {
	if filepath.Base(program) == config.UsersMap {
		if !ldapmap.ValidUser(key) {
			return nil, fmt.Errorf("invalid key %.80q: want the name of a user", key)
		}
		return func(c *config.Config) (string, []string, error) { return lookUpTree(c, key) }, nil
	}
	k, err := ldapmap.ParseKey(key)
	if err != nil {
		return nil, err
	}
	if k.Component == config.UsersKey {
		if k.Level != "" {
			return nil, fmt.Errorf("key %q is reserved", key)
		}
		return func(c *config.Config) (string, []string, error) { return submount(c, program) }, nil
	}
	return func(c *config.Config) (string, []string, error) { return lookUp(c, filepath.Base(program), k) }, nil
}

// submount is the users' tree's place in the shared tree: a mount of autofs's own,
// whose map is the program beside this one.
func submount(c *config.Config, program string) (line string, warnings []string, err error) {
	caller, err := c.Caller(filepath.Base(program))
	if err != nil {
		return "", nil, err
	}
	if caller != config.HostCaller {
		return "", nil, fmt.Errorf("key %q is reserved", config.UsersKey)
	}
	users := c.UsersMap()
	if filepath.IsAbs(program) { // as automount runs it
		users = filepath.Join(filepath.Dir(program), config.UsersMap)
	}
	if !ldapmap.PlainPath(users) {
		return "", nil, fmt.Errorf("the users' tree: %q is not only letters, digits and /._+@~-", users)
	}
	if _, err := os.Stat(users); err != nil {
		return "", nil, fmt.Errorf("the users' tree: %w", err)
	}
	return fmt.Sprintf("-fstype=autofs program:%s\n", users), nil, nil
}

// oneLine keeps automount's log at one line an error.
func oneLine(err error) string {
	text := []byte(err.Error())
	for i, c := range text {
		if c == '\n' {
			text[i] = ';'
		}
	}
	return string(text)
}
