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

// resolve finds out what the level is made of, and the layers above it: from the cache,
// where the map program has just left it, or by running the map program, so that a mount by
// fstab, systemd or hand takes the same way through the inventory as one by
// automount. For a user's level it is the users' tree's map program that knows it. A
// warning is returned where an old definition had to do.
func resolve(ctx context.Context, c *config.Config, key ldapmap.Key, above []string, user string) (r *ldapmap.Resolution, warning string, err error) {
	store := cache.Cache{Dir: c.CacheDir()}
	if key.Level == "" {
		a, warning, err := ask(ctx, c, key.Component, user)
		if err != nil {
			return nil, warning, err
		}
		if user == "" { // the map has just left all of it
			r, err := answered(store, c.Map, a)
			return r, warning, err
		}
		key, above = a.Level, a.Above
	}
	r, when, err := store.Level(key.String())
	if err != nil || !fresh(when) {
		if r, warning, err = resolveLevel(ctx, c, store, key); err != nil {
			return nil, warning, err
		}
	}
	more, err := resolveAbove(ctx, c, store, key.Component, above, user)
	if err != nil {
		return nil, warning, err
	}
	// The level's definition is shared: what goes above it is this caller's.
	r.Above = more
	return r, warning, nil
}

// fresh reports whether what the cache has had of that time need not be asked for.
func fresh(when time.Time) bool {
	age := time.Since(when)
	return age >= 0 && age < freshness
}

// answered is what the map program has answered, as it has just left it in the cache.
func answered(store cache.Cache, program string, a cache.Answer) (*ldapmap.Resolution, error) {
	r, _, err := store.Level(a.Level.String())
	if err == nil {
		r.Above, _, err = store.Above(a.Above)
	}
	if err != nil {
		return nil, fmt.Errorf("map %q answered, but its cache has no definition: %w", program, err)
	}
	return r, nil
}

// resolveLevel asks for a level by its name.
func resolveLevel(ctx context.Context, c *config.Config, store cache.Cache, key ldapmap.Key) (r *ldapmap.Resolution, warning string, err error) {
	a, warning, err := askMap(ctx, c.Map, key)
	if err != nil {
		// The map itself falls back on its last answer when no server answers. It
		// cannot where it is missing.
		old, when, cacheErr := store.Level(key.String())
		if cacheErr == nil && errors.Is(err, os.ErrNotExist) {
			return old, fmt.Sprintf("%v; using the definition of %s", err, when.UTC().Format(time.RFC3339)), nil
		}
		return nil, warning, err
	}
	r, err = answered(store, c.Map, cache.Answer{Level: a.Level})
	return r, warning, err
}

// resolveAbove finds the customisation layers of these names: all of them, or none and an
// error. Where a definition is old, the map program is asked what goes above the component
// for the caller, which makes those new that do so still. One that does not, as automount
// has kept its answer for long, or as no server answers, is taken as it was.
func resolveAbove(ctx context.Context, c *config.Config, store cache.Cache, component string, above []string, user string) ([]ldapmap.Layer, error) {
	layers, when, err := store.Above(above)
	if len(above) == 0 || err == nil && fresh(when) {
		return layers, err
	}
	_, _, askErr := ask(ctx, c, component, user)
	layers, _, err = store.Above(above)
	if err != nil {
		return nil, errors.Join(askErr, err)
	}
	return layers, nil
}

// ask asks for the level of a component that the host runs, or the user.
func ask(ctx context.Context, c *config.Config, component, user string) (a cache.Answer, warning string, err error) {
	if user != "" {
		a, err = askTree(ctx, c.UsersMap(), user, component)
		return a, "", err
	}
	return askMap(ctx, c.Map, ldapmap.Key{Component: component})
}

// askMap reads the answer out of the line that the map program prints for the key.
func askMap(ctx context.Context, program string, key ldapmap.Key) (a cache.Answer, warning string, err error) {
	line, warning, err := runMap(ctx, program, key.String())
	if err != nil {
		return a, "", err
	}
	a, ok := parseEntry(line, key.Component)
	if !ok {
		return a, warning, fmt.Errorf("map %q gave no level of %q: %q", program, key.Component, line)
	}
	return a, warning, nil
}

// parseEntry reads a map entry, options and location: -fstype=levelfs,OPTS :COMPONENT@LEVEL.
func parseEntry(entry, component string) (a cache.Answer, ok bool) {
	options, location, ok := strings.Cut(entry, " :")
	level, err := ldapmap.ParseKey(location)
	if !ok || err != nil || level.Component != component || level.Level == "" {
		return a, false
	}
	_, above, err := parseAbove(strings.Split(options, ","))
	return cache.Answer{Level: level, Above: above}, err == nil
}

// askTree reads the answer for the user's component out of the line that the map
// program of the users' tree prints for the user. What it warns of is about the
// user's other components.
func askTree(ctx context.Context, program, user, component string) (cache.Answer, error) {
	line, _, err := runMap(ctx, program, user)
	if err != nil {
		return cache.Answer{}, err
	}
	for place := range strings.SplitSeq(line, " /") {
		if name, rest, _ := strings.Cut(strings.TrimPrefix(place, "/"), " "); name == component {
			a, ok := parseEntry(rest, component)
			if !ok {
				return a, fmt.Errorf("map %q gave no level of %q: %q", program, component, place)
			}
			return a, nil
		}
	}
	return cache.Answer{}, fmt.Errorf("user %q has no level of %q", user, component)
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
