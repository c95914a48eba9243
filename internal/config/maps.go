package config

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// The names of the map programs that are always there.
const (
	SharedMap = "auto.levelfs"      // the shared tree
	UsersMap  = "auto.levelfs.user" // a user's components, in the users' tree
)

// UsersKey is the shared map's key of the users' tree.
const UsersKey = "by-user"

// A Map is one [maps.NAME] table.
type Map struct {
	Caller Caller `toml:"caller"`
}

// Caller says whose level a map gives.
type Caller string

// The callers of a map.
const (
	HostCaller Caller = "host" // this machine's, whoever comes first
	UserCaller Caller = "user" // that of the user who makes automount mount it
)

// Caller returns whose level the map program of that name gives. The name is all
// that tells map programs apart, since automount passes them nothing but the key: one
// of an unknown name is an error, so that nobody gets another's level by a misspelt
// link.
func (c *Config) Caller(program string) (Caller, error) {
	if m, ok := c.Maps[program]; ok {
		return m.Caller, nil
	}
	if program == SharedMap {
		return HostCaller, nil
	}
	return "", fmt.Errorf("map program %q: %s has no [maps.%q] that says whose level it gives", program, c.File(), program)
}

// UsersMap is the map program of the users' tree, which lies beside the map program.
func (c *Config) UsersMap() string { return filepath.Join(filepath.Dir(c.Map), UsersMap) }

// UsersTree is the directory of the users' tree, in the shared one.
func (c *Config) UsersTree() string { return filepath.Join(c.Tree, UsersKey) }

// check is an error if the map program of that name cannot be what it is said to be.
// shared is the one that the mount helper asks.
func (m Map) check(name, shared string) error {
	switch {
	case name == UsersMap:
		return errors.New("is reserved for the users' tree")
	case name == filepath.Base(shared) && m.Caller == UserCaller:
		// Nobody knows the caller when the mount helper asks it; and in the shared tree
		// whoever comes first must not decide for others.
		return errors.New("is the map of the host's levels: give users' levels by another name")
	case m.Caller != HostCaller && m.Caller != UserCaller:
		return fmt.Errorf("caller %q: must be host or user", m.Caller)
	}
	return nil
}

// A Size is written as "16MiB": a number and KiB, MiB or GiB. It is a struct for the
// reason that Duration is one.
type Size struct{ Bytes int64 }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Size) UnmarshalText(text []byte) error {
	for i, unit := range []string{"KiB", "MiB", "GiB"} {
		number, ok := strings.CutSuffix(string(text), unit)
		if !ok {
			continue
		}
		shift := 10 * (i + 1)
		if n, err := strconv.ParseUint(number, 10, 62-shift); err == nil && n > 0 {
			s.Bytes = int64(n) << shift
			return nil
		}
	}
	return fmt.Errorf("%q: must be a size such as 16MiB", text)
}
