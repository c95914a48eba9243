package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
)

const (
	// freshness is how old a level's definition may be without asking again. The
	// map leaves it some milliseconds before automount calls mount(8), or, if
	// automount reuses an answer, at most its negative timeout before: 60 seconds
	// unless configured otherwise.
	freshness = 60 * time.Second
	// mapDeadline is a little more than the map program's own.
	mapDeadline = 8 * time.Second
)

// resolve finds out what the level is made of: from the cache, where the map
// program has just left it, or by running the map program, so that a mount by
// fstab, systemd or hand takes the same way through the inventory as one by
// automount. For a user's level it is the users' tree's map program that knows it. A
// warning is returned where an old definition had to do.
func resolve(ctx context.Context, c *config.Config, key ldapmap.Key, user string) (r *ldapmap.Resolution, warning string, err error) {
	store := cache.Cache{Dir: c.CacheDir()}
	if key.Level != "" {
		r, when, err := store.Level(key.String())
		if age := time.Since(when); err == nil && age >= 0 && age < freshness {
			return r, "", nil
		}
	}
	if key.Level == "" && user != "" {
		if key, err = askTree(ctx, c.UsersMap(), user, key.Component); err != nil {
			return nil, "", err
		}
	}
	level, warning, err := askMap(ctx, c.Map, key)
	if err != nil {
		// The map itself falls back on its last answer when no server answers. It
		// cannot where it is missing.
		old, when, cacheErr := store.Level(key.String())
		if key.Level != "" && cacheErr == nil && errors.Is(err, os.ErrNotExist) {
			return old, fmt.Sprintf("%v; using the definition of %s", err, when.UTC().Format(time.RFC3339)), nil
		}
		return nil, warning, err
	}
	r, _, err = store.Level(level.String())
	if err != nil {
		return nil, warning, fmt.Errorf("map %q answered, but its cache has no definition: %w", c.Map, err)
	}
	return r, warning, nil
}

// askMap reads the level out of the line that the map program prints for the key.
func askMap(ctx context.Context, program string, key ldapmap.Key) (level ldapmap.Key, warning string, err error) {
	line, warning, err := runMap(ctx, program, key.String())
	if err != nil {
		return level, "", err
	}
	_, location, ok := strings.Cut(line, " :")
	level, err = ldapmap.ParseKey(location)
	if !ok || err != nil || level.Component != key.Component || level.Level == "" {
		return level, warning, fmt.Errorf("map %q gave no level of %q: %q", program, key.Component, line)
	}
	return level, warning, nil
}

// askTree reads the user's level of the component out of the line that the map
// program of the users' tree prints for the user. What it warns of is about the
// user's other components.
func askTree(ctx context.Context, program, user, component string) (ldapmap.Key, error) {
	line, _, err := runMap(ctx, program, user)
	if err != nil {
		return ldapmap.Key{}, err
	}
	for place := range strings.SplitSeq(line, " /") {
		if name, rest, _ := strings.Cut(strings.TrimPrefix(place, "/"), " "); name == component {
			_, location, ok := strings.Cut(rest, " :")
			level, err := ldapmap.ParseKey(location)
			if !ok || err != nil || level.Component != component || level.Level == "" {
				return ldapmap.Key{}, fmt.Errorf("map %q gave no level of %q: %q", program, component, place)
			}
			return level, nil
		}
	}
	return ldapmap.Key{}, fmt.Errorf("user %q has no level of %q", user, component)
}

// runMap runs a map program and returns the line that it prints, and what it warns
// of. It stays in this process group: automount's own may look into its directories
// while a mount there is pending, others hang.
func runMap(ctx context.Context, program, key string) (line, warning string, err error) {
	ctx, cancel := context.WithTimeout(ctx, mapDeadline)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, key)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	words := strings.TrimSpace(strings.ReplaceAll(stderr.String(), filepath.Base(program)+": ", ""))
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && words != "" {
			return "", "", errors.New(words)
		}
		return "", "", fmt.Errorf("map %q: %w", program, err)
	}
	return strings.TrimSuffix(stdout.String(), "\n"), words, nil
}
