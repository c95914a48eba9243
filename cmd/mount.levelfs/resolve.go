package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
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
// automount. A warning is returned where an old definition had to do.
func resolve(ctx context.Context, c *config.Config, key ldapmap.Key) (r *ldapmap.Resolution, warning string, err error) {
	store := cache.Cache{Dir: c.CacheDir()}
	if key.Level != "" {
		r, when, err := store.Level(key.String())
		if age := time.Since(when); err == nil && age >= 0 && age < freshness {
			return r, "", nil
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

// askMap runs the map program and reads the level out of the line that it prints.
// It stays in this process group: automount's own may look into its directories
// while a mount there is pending, others hang.
func askMap(ctx context.Context, program string, key ldapmap.Key) (level ldapmap.Key, warning string, err error) {
	ctx, cancel := context.WithTimeout(ctx, mapDeadline)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, key.String())
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	err = cmd.Run()
	words := strings.TrimSpace(strings.ReplaceAll(stderr.String(), "auto.levelfs: ", ""))
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && words != "" {
			return level, "", errors.New(words)
		}
		return level, "", fmt.Errorf("map %q: %w", program, err)
	}
	_, location, ok := strings.Cut(strings.TrimSuffix(stdout.String(), "\n"), " :")
	level, err = ldapmap.ParseKey(location)
	if !ok || err != nil || level.Component != key.Component || level.Level == "" {
		return level, words, fmt.Errorf("map %q gave no level of %q: %q", program, key.Component, stdout.String())
	}
	return level, words, nil
}
