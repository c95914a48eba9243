package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
)

// files are the cache's files by their paths in it.
func files(t *testing.T, c Cache) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(c.Dir, path)
			paths = append(paths, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// TestLimit: the oldest go when a new one is too much, and no others.
func TestLimit(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir(), Limit: 4 * block}
	verified := filepath.Join(c.Dir, "verified")
	if err := errors.Join(os.Mkdir(verified, 0o700), os.WriteFile(filepath.Join(verified, "image"), make([]byte, 10*block), 0o600)); err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(-time.Hour)
	answer := func(user string, minute int) {
		t.Helper()
		if err := c.SaveAnswer(user+"@lnx01", answerOf("emacs", "1")); err != nil {
			t.Fatal(err)
		}
		when := start.Add(time.Duration(minute) * time.Minute)
		if err := os.Chtimes(c.answerFile(user+"@lnx01", "emacs"), when, when); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		answer(fmt.Sprint("u", i), i)
	}
	answer("u0", 10) // used again
	if got := files(t, c); len(got) != 5 {
		t.Errorf("within the limit: %q", got)
	}
	answer("u4", 11)
	want := []string{"answers/u0@lnx01/emacs", "answers/u2@lnx01/emacs", "answers/u3@lnx01/emacs", "answers/u4@lnx01/emacs", "verified/image"}
	if got := files(t, c); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// A large one takes the place of several; it stays itself, whatever its size.
	var levels []Answer
	for i := range 1000 {
		levels = append(levels, answerOf(fmt.Sprint("component-", i), "1"))
	}
	if err := c.SaveTree("u0@lnx01", levels); err != nil {
		t.Fatal(err)
	}
	if got := files(t, c); !slices.Equal(got, []string{"trees/u0@lnx01", "verified/image"}) {
		t.Errorf("after a large one: %q", got)
	}
	if got, _, err := c.Tree("u0@lnx01"); err != nil || !reflect.DeepEqual(got, levels) {
		t.Errorf("it has %d levels, %v", len(got), err)
	}
}

func TestTree(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	levels := []Answer{answerOf("ed", "1"), answerOf("emacs", "29.4-1", "emacs-rob", "emacs-site")}
	if err := c.SaveTree("rob@lnx01", levels); err != nil {
		t.Fatal(err)
	}
	got, when, err := c.Tree("rob@lnx01")
	if err != nil || !reflect.DeepEqual(got, levels) || time.Since(when) > time.Minute {
		t.Errorf("got %v of %v, %v", got, when, err)
	}
	for _, caller := range []string{"ann@lnx01", "rob@lnx02", "lnx01"} {
		if got, _, err := c.Tree(caller); !errors.Is(err, ErrNotCached) {
			t.Errorf("%s: %v, %v", caller, got, err)
		}
	}
	whole, err := os.ReadFile(c.treeFile("rob@lnx01"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(c.treeFile("rob@lnx01"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := c.Tree("rob@lnx01"); !errors.Is(err, ErrNotCached) {
			t.Errorf("cut to %d bytes: %v, %v", n, got, err)
		}
	}
	for _, bad := range []string{"ed\n", "ed@1 /x -fstype=tmpfs :y\n", "../ed@1\n", "ed@1 ../x\n", "\n", ""} {
		if err := os.WriteFile(c.treeFile("rob@lnx01"), []byte(bad+complete), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := c.Tree("rob@lnx01"); !errors.Is(err, ErrNotCached) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestSaveMissingLevels(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir(), Limit: 3 * block}
	if err := c.SaveLevel(resolution("1")); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(c.levelFile("emacs@1"), old, old); err != nil {
		t.Fatal(err)
	}
	if err := c.SaveMissingLevels([]*ldapmap.Resolution{resolution("1"), resolution("2"), resolution("3")}); err != nil {
		t.Fatal(err)
	}
	// What was there is as old as it was: the helper must not take it for fresh.
	if _, when, err := c.Level("emacs@1"); err != nil || time.Since(when) < time.Minute {
		t.Errorf("of %v, %v", when, err)
	}
	if r, _, err := c.Level("emacs@3"); err != nil {
		t.Error(err)
	} else {
		wantDefinition(t, r, resolution("3"))
	}
	if err := c.SaveMissingLevels([]*ldapmap.Resolution{resolution("4")}); err != nil {
		t.Fatal(err)
	}
	if got := levelFiles(t, c); len(got) != 3 || slices.Contains(got, c.levelFile("emacs@1")) {
		t.Errorf("left %q", got)
	}
}

// BenchmarkPrune is what a new file costs where the cache is at its default limit.
func BenchmarkPrune(b *testing.B) {
	c := Cache{Dir: b.TempDir()}
	for i := range (16 << 20) / block {
		if err := c.SaveAnswer(fmt.Sprintf("u%d@lnx01", i%1000), answerOf(fmt.Sprint("c", i), "1")); err != nil {
			b.Fatal(err)
		}
	}
	c.Limit = 16 << 20
	for b.Loop() {
		if err := c.prune(); err != nil {
			b.Fatal(err)
		}
	}
}

func TestCollect(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	now := time.Now()
	put := func(name string, age time.Duration, size int) {
		t.Helper()
		path := filepath.Join(c.Dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, size), 0o600),
			os.Chtimes(path, now.Add(-age), now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	put("levels/a.toml", 3*time.Hour, 1)
	put("answers/lnx01/a", 2*time.Hour, 1)
	put("trees/rob@lnx01", time.Minute, 5000)
	put("levels/b.toml", 0, 1)
	put("levels/c.toml", 99*time.Hour, 1) // mounted
	put("checked/base", 99*time.Hour, 1)  // not for this
	left := func() (names []string) {
		t.Helper()
		err := filepath.WalkDir(c.Dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				name, _ := filepath.Rel(c.Dir, path)
				names = append(names, name)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	collect := func(c Cache, age time.Duration, dryRun bool, want ...string) {
		t.Helper()
		got, err := c.Collect(now.Add(-age), map[string]bool{"c": true}, dryRun)
		for i := range got {
			got[i], _ = filepath.Rel(c.Dir, got[i])
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	collect(c, 2*time.Hour+time.Minute, true, "levels/a.toml")
	if got := left(); len(got) != 6 {
		t.Errorf("a dry run left %q", got)
	}
	collect(c, 2*time.Hour+time.Minute, false, "levels/a.toml")
	collect(Cache{Dir: c.Dir, Limit: 4 * block}, 2*time.Hour+time.Minute, false, "answers/lnx01/a")
	collect(Cache{Dir: c.Dir, Limit: 4 * block}, 2*time.Hour, false)
	if got := left(); !slices.Equal(got, []string{"checked/base", "levels/b.toml", "levels/c.toml", "trees/rob@lnx01"}) {
		t.Errorf("left %q", got)
	}
	collect(Cache{Dir: filepath.Join(c.Dir, "none")}, 0, false)
}
