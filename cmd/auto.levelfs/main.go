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
// It mounts nothing, and changes nothing but the cache: automount runs it again
// when it restarts, and skips it within its reuse window.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/ldapmap"
)

// automount sets no time limit on its map programs: a key would hang for as long
// as they do. The inventory gets the first part of the time; the rest is for the
// answer from the cache.
const (
	deadline  = 6 * time.Second
	patience  = 5 * time.Second
	submounts = "by-user" // reserved for the users' tree
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	line, warning, err := answer(args)
	if warning != "" {
		fmt.Fprintf(stderr, "auto.levelfs: warning: %s\n", warning)
	}
	if err != nil {
		fmt.Fprintf(stderr, "auto.levelfs: %s\n", oneLine(err))
		return 1
	}
	// The only write to standard output: one line, or nothing at all.
	if _, err := io.WriteString(stdout, line); err != nil {
		fmt.Fprintf(stderr, "auto.levelfs: %v\n", err)
		return 1
	}
	return 0
}

// answer returns the map line. It returns by the deadline, whatever hangs.
func answer(args []string) (line, warning string, err error) {
	if len(args) != 1 {
		return "", "", errors.New("usage: auto.levelfs KEY")
	}
	key, err := ldapmap.ParseKey(args[0])
	if err != nil {
		return "", "", err
	}
	if key.Component == submounts {
		return "", "", fmt.Errorf("key %q is reserved", args[0])
	}
	type result struct {
		line, warning string
		err           error
	}
	done := make(chan result, 1)
	go func() {
		var r result
		r.line, r.warning, r.err = lookUp(key)
		done <- r
	}()
	select {
	case r := <-done:
		return r.line, r.warning, r.err
	case <-time.After(deadline):
		return "", "", fmt.Errorf("key %q: no answer within %v", args[0], deadline)
	}
}

func lookUp(key ldapmap.Key) (line, warning string, err error) {
	c, err := config.Load()
	if err != nil {
		return "", "", err
	}
	host, err := c.Hostname()
	if err != nil {
		return "", "", err
	}
	inv, err := inventory.Open(c)
	if err != nil {
		return "", "", err
	}
	defer inv.Close()
	store := cache.Cache{Dir: c.CacheDir()}
	if why, since, down := store.Down(c.Retry.Duration, c.Changed()); down {
		return lastKnown(c, store, host, key, fmt.Errorf("%s (at %s, not asked again within %v)",
			why, since.UTC().Format(time.RFC3339), c.Retry.Duration))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := inv.Resolve(ctx, ldapmap.Query{Key: key, Host: host})
	var down *ldapmap.UnavailableError
	if errors.As(err, &down) {
		store.SetDown(oneLine(down))
		return lastKnown(c, store, host, key, down)
	}
	store.ClearDown()
	if err != nil {
		return "", "", err
	}
	level := r.Key()
	if err := errors.Join(store.SaveLevel(r), saveAnswer(store, host, key, level)); err != nil {
		warning = fmt.Sprintf("cannot write the cache: %s", oneLine(err))
	}
	return format(key, level), warning, nil
}

func saveAnswer(store cache.Cache, host string, asked, given ldapmap.Key) error {
	if asked.Level != "" {
		return nil
	}
	return store.SaveAnswer(host, given)
}

// lastKnown answers from the cache when no server does.
func lastKnown(c *config.Config, store cache.Cache, host string, key ldapmap.Key, down error) (line, warning string, err error) {
	level, when := key, time.Time{}
	if key.Level == "" {
		if level, when, err = store.Answer(host, key.Component); err != nil {
			return "", "", fmt.Errorf("%w; and %w", down, err)
		}
	}
	if _, defined, err := store.Level(level.String()); err != nil {
		return "", "", fmt.Errorf("%w; and %w", down, err)
	} else if when.IsZero() {
		when = defined
	}
	if age := time.Since(when); age > c.Keep.Duration {
		return "", "", fmt.Errorf("%w; and the last known level is of %s, older than %v", down, when.UTC().Format(time.RFC3339), c.Keep.Duration)
	}
	return format(key, level), fmt.Sprintf("%s; giving %s, the last known level of %s",
		oneLine(down), level, when.UTC().Format(time.RFC3339)), nil
}

// format is the map line. Both keys have passed ParseKey, so that nothing in it
// needs quoting.
func format(asked, given ldapmap.Key) string {
	access := "rw"
	if asked.Level != "" {
		access = "ro"
	}
	return fmt.Sprintf("-fstype=levelfs,%s :%s\n", access, given)
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
