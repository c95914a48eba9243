package cache

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/levelfs/levelfs/ldapmap"
)

func resolution(level string) *ldapmap.Resolution {
	return &ldapmap.Resolution{
		Query: ldapmap.Query{Key: ldapmap.Key{Component: "emacs"}, Host: "lnx01", User: "rob"},
		Component: ldapmap.Component{
			DN: "cn=emacs,ou=components,dc=example", Name: "emacs", Default: "1", MountPoint: "/opt/emacs",
			Private: ldapmap.Ephemeral, Description: "an \"editor\" – it's\nmore",
		},
		Level: ldapmap.Level{DN: "cn=emacs@1", Name: "emacs@" + level, Layers: []string{"bin", "base"}, State: "released"},
		Layers: []ldapmap.Layer{
			{DN: "cn=bin", Name: "bin", FSType: "erofs", Digest: "sha256:" + strings.Repeat("0a", 32), Size: 1 << 40,
				UUID: "00112233-4455-6677-8899-aabbccddeeff", Images: []string{"a.erofs", "/images/b.erofs"}, Segments: []string{"EMACS1"}},
			{DN: "cn=base", Name: "base", FSType: "dir", Images: []string{"base"}},
		},
		Trail: []ldapmap.Rule{{Rank: ldapmap.RankHost, Won: true}},
	}
}

// wantDefinition compares what of a resolution is a level's own, not the caller's.
// An empty list and none are the same, as in the inventory.
func wantDefinition(t *testing.T, got, saved *ldapmap.Resolution) {
	t.Helper()
	if g, s := definitionOf(t, got), definitionOf(t, saved); g != s {
		t.Errorf("got %s, want %s", g, s)
	}
}

func definitionOf(t *testing.T, r *ldapmap.Resolution) string {
	t.Helper()
	text, err := json.Marshal([]any{r.Component, r.Level, r.Layers})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// levelFiles are the files of the cached levels.
func levelFiles(t *testing.T, c Cache) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(c.Dir, "levels", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestLevel(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	if _, _, err := c.Level("emacs@1"); !errors.Is(err, ErrNotCached) {
		t.Errorf("empty cache: %v", err)
	}
	before := time.Now().Add(-time.Second) // file times are coarse
	r := resolution("1")
	if err := c.SaveLevel(r); err != nil {
		t.Fatal(err)
	}
	got, when, err := c.Level("emacs@1")
	if err != nil {
		t.Fatal(err)
	}
	wantDefinition(t, got, r)
	if got.Query.Host != "" || got.Query.User != "" || got.Trail != nil {
		t.Errorf("the cache tells who asked: %+v, %+v", got.Query, got.Trail)
	}
	if when.Before(before) || when.After(time.Now().Add(time.Second)) {
		t.Errorf("saved at %v, but it is %v", when, time.Now())
	}
	for _, other := range []string{"emacs@2", "emacs", "vi@1"} {
		if _, _, err := c.Level(other); !errors.Is(err, ErrNotCached) {
			t.Errorf("%s: %v", other, err)
		}
	}
	r.Layers = r.Layers[:1]
	if err := c.SaveLevel(r); err != nil {
		t.Fatal(err)
	}
	if got, _, err = c.Level("emacs@1"); err != nil {
		t.Fatal(err)
	}
	wantDefinition(t, got, r)
	if files := levelFiles(t, c); len(files) != 1 {
		t.Errorf("files %q, want one", files)
	}
}

// TestSaveAgain checks that saving the same is a new time only.
func TestSaveAgain(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	if err := c.SaveLevel(resolution("1")); err != nil {
		t.Fatal(err)
	}
	file := levelFiles(t, c)[0]
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(file, old, old); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SaveLevel(resolution("1")); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, when, err := c.Level("emacs@1"); err != nil || time.Since(when) > time.Minute {
		t.Errorf("saved again just now, but the time is %v, %v", when, err)
	}
	if !os.SameFile(before, after) {
		t.Error("the same content was written again")
	}
}

// TestTornLevel cuts the file at each byte: what can be read is then all of it, or
// nothing.
func TestTornLevel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		r    *ldapmap.Resolution
	}{
		{"two layers", resolution("1")},
		{"one of many of the same begin", func() *ldapmap.Resolution {
			r := resolution("1")
			for _, n := range []string{"l1", "l10", "l100"} {
				r.Level.Layers = append(r.Level.Layers, n)
				r.Layers = append(r.Layers, ldapmap.Layer{Name: n, FSType: "dir", Images: []string{n}})
			}
			return r
		}()},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			cache := Cache{Dir: t.TempDir()}
			if err := cache.SaveLevel(c.r); err != nil {
				t.Fatal(err)
			}
			file := levelFiles(t, cache)[0]
			whole, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			whole = append([]byte{}, whole...)
			for n := range len(whole) + 1 {
				if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
					t.Fatal(err)
				}
				switch got, _, err := cache.Level("emacs@1"); {
				case err == nil:
					wantDefinition(t, got, c.r)
				case !errors.Is(err, ErrNotCached):
					t.Errorf("cut to %d of %d bytes: %v", n, len(whole), err)
				case n == len(whole):
					t.Errorf("not cut: %v", err)
				}
			}
			// A crash of the machine may leave zeros, or another file's bytes.
			for name, text := range map[string]string{
				"zeros": strings.Repeat("\x00", len(whole)), "text": "what?\n",
				"half zeros": string(whole[:len(whole)/2]) + strings.Repeat("\x00", len(whole)/2),
			} {
				if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
				if _, _, err := cache.Level("emacs@1"); !errors.Is(err, ErrNotCached) {
					t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
}

// TestWrongName checks that a file is not taken for another level's by its name.
func TestWrongName(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	if err := c.SaveLevel(resolution("1")); err != nil {
		t.Fatal(err)
	}
	file := levelFiles(t, c)[0]
	other := strings.Replace(file, "emacs@1", "emacs@2", 1)
	if other == file {
		t.Fatalf("no level in the name %s", file)
	}
	if err := os.Rename(file, other); err != nil {
		t.Fatal(err)
	}
	if r, _, err := c.Level("emacs@2"); !errors.Is(err, ErrNotCached) {
		t.Errorf("got %+v, %v", r, err)
	}
	// A level under another component's name.
	r := resolution("1")
	r.Component.Name = "vi"
	if err := c.SaveLevel(r); err != nil {
		t.Fatal(err)
	}
	if r, _, err := c.Level("emacs@1"); err == nil && r.Key().String() != "emacs@1" {
		t.Errorf("a definition whose component is %q was taken for emacs@1", r.Component.Name)
	}
}

func answerOf(component, level string, above ...string) Answer {
	return Answer{Level: ldapmap.Key{Component: component, Level: level}, Above: above}
}

// TestAbove: the layers above a level are kept with it, one by one, and are had all or not
// at all.
func TestAbove(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	r := resolution("1")
	for _, name := range []string{"host", "site"} {
		r.Above = append(r.Above, ldapmap.Layer{Name: name, FSType: "dir", Images: []string{name}, Kind: name})
	}
	if err := c.SaveLevel(r); err != nil {
		t.Fatal(err)
	}
	if got := AnswerOf(r); !reflect.DeepEqual(got, answerOf("emacs", "1", "host", "site")) {
		t.Errorf("%v", got)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(c.layerFile("site"), old, old); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{{"host", "site"}, {"site", "host"}, {"site"}, nil} {
		got, oldest, err := c.Above(names)
		if err != nil || len(got) != len(names) || names != nil && !oldest.Before(time.Now().Add(-time.Minute)) {
			t.Errorf("%q: %+v of %v, %v", names, got, oldest, err)
		}
		for i, name := range names {
			if got[i].Name != name || got[i].Kind != name || got[i].Images[0] != name {
				t.Errorf("%+v for %q", got[i], name)
			}
		}
	}
	level, _, err := c.Level("emacs@1")
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Layers(level, []string{"host", "none"}); len(got) != len(r.Layers)+1 || got[len(got)-1].Name != "host" {
		t.Errorf("%+v", got)
	}
	none, _, _ := c.Level("emacs@none")
	if got := c.Layers(none, nil); got != nil {
		t.Errorf("%+v", got)
	}
	// The level is the same for who has none above it.
	if level, _, err := c.Level("emacs@1"); err != nil || len(level.Above) != 0 || len(level.Layers) == 0 {
		t.Errorf("%+v, %v", level, err)
	}
	whole, err := os.ReadFile(c.layerFile("site"))
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(c.layerFile("site"), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := c.Above([]string{"host", "site"}); !errors.Is(err, ErrNotCached) || got != nil {
			t.Errorf("cut to %d bytes: %v, %v", n, got, err)
		}
	}
	if got, _, err := c.Above([]string{"host", "gone"}); !errors.Is(err, ErrNotCached) || got != nil {
		t.Errorf("%v, %v", got, err)
	}
	// Another layer's definition under the name.
	if err := os.WriteFile(c.layerFile("host"), whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _, err := c.Above([]string{"host"}); !errors.Is(err, ErrNotCached) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestAnswer(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	if _, _, err := c.Answer("lnx01", "emacs"); !errors.Is(err, ErrNotCached) {
		t.Errorf("empty cache: %v", err)
	}
	given := Answer{Level: ldapmap.Key{Component: "emacs", Level: "29.4-1"}, Above: []string{"emacs-lnx01", "emacs~site+1"}}
	if err := c.SaveAnswer("lnx01", given); err != nil {
		t.Fatal(err)
	}
	if got, when, err := c.Answer("lnx01", "emacs"); err != nil || !reflect.DeepEqual(got, given) || time.Since(when) > time.Minute {
		t.Errorf("got %v, %v, %v", got, when, err)
	}
	for _, other := range [][2]string{{"lnx02", "emacs"}, {"lnx01", "vi"}} {
		if got, _, err := c.Answer(other[0], other[1]); !errors.Is(err, ErrNotCached) {
			t.Errorf("%v: %v, %v", other, got, err)
		}
	}
	file := filepath.Join(c.Dir, "answers", "lnx01", "emacs")
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole { // "emacs@29.4-" is a level too, but not this one
		if err := os.WriteFile(file, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := c.Answer("lnx01", "emacs"); !errors.Is(err, ErrNotCached) {
			t.Errorf("cut to %q: %v, %v", whole[:n], got, err)
		}
	}
	for _, text := range []string{"vi@1\n", "emacs\n", "emacs@\n", "emacs@../x\n", "emacs@1\nemacs@2\n", "\n", "emacs@1 \n", "emacs@1 a  b\n", "emacs@1 ../a\n", "emacs@1 a:b\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, _, err := c.Answer("lnx01", "emacs"); !errors.Is(err, ErrNotCached) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// TestPermissions: the inventory may hold what not everybody on the machine may
// read.
func TestPermissions(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: filepath.Join(t.TempDir(), "var", "cache")}
	if err := errors.Join(c.SaveLevel(resolution("1")), c.SaveAnswer("lnx01", answerOf("emacs", "1"))); err != nil {
		t.Fatal(err)
	}
	seen := 0
	err := filepath.WalkDir(c.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, want %v", path, info.Mode().Perm(), want)
		}
		seen++
		return nil
	})
	if err != nil || seen != 6 {
		t.Errorf("%d files and directories, %v; want 6", seen, err)
	}
}

// TestUnreadable checks that what is wrong with the directory itself is not taken
// for an empty cache.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Cache{Dir: file}
	if _, _, err := c.Level("emacs@1"); err == nil || errors.Is(err, ErrNotCached) {
		t.Errorf("read: %v", err)
	}
	if err := c.SaveLevel(resolution("1")); err == nil {
		t.Error("saved below a file")
	}
}

// TestConcurrent has maps and helpers meet: each reads all of one definition.
func TestConcurrent(t *testing.T) {
	t.Parallel()
	c := Cache{Dir: t.TempDir()}
	short, long := resolution("1"), resolution("1")
	long.Component.Description = strings.Repeat("long ", 2000)
	if err := c.SaveLevel(short); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for _, r := range []*ldapmap.Resolution{short, long} {
		writers.Go(func() {
			for range 100 {
				if err := c.SaveLevel(r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for {
		got, _, err := c.Level("emacs@1")
		if err != nil {
			t.Fatal(err)
		}
		if d := got.Component.Description; d != short.Component.Description && d != long.Component.Description {
			t.Fatalf("half of two: %d bytes", len(d))
		}
		select {
		case <-done:
			if files := levelFiles(t, c); len(files) != 1 {
				t.Errorf("left %q", files)
			}
			return
		default:
		}
	}
}
