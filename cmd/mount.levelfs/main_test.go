package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
)

// TestRunUsage checks the exit status and the one line of everything that is wrong
// with the call itself, none of which needs a right to find out.
func TestRunUsage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "usage: "},
		{[]string{"emacs"}, "usage: "},
		{[]string{"emacs", "/", "-x"}, "unknown option -x"},
		{[]string{"emacs", "/", "-o", "what"}, `unknown mount option "what"`},
		{[]string{"emacs", "/", "-o", "remount,ro"}, "cannot be remounted"},
		{[]string{"emacs", "/", "-o", "dev"}, "is refused"},
		{[]string{"emacs", "/", "-o", "a\nb"}, `"a\nb"`},
		{[]string{"", "/"}, `invalid key ""`},
		{[]string{"two words", "/"}, `invalid key "two words"`},
		{[]string{"emacs\n", "/"}, `invalid key "emacs\n"`},
		{[]string{"$HOME", "/"}, "invalid key"},
		{[]string{`a"b`, "/"}, "invalid key"},
		{[]string{"a'b", "/"}, "invalid key"},
		{[]string{".hidden", "/"}, "invalid key"},
		{[]string{"../x", "/"}, "invalid key"},
		{[]string{"a/b", "/"}, "invalid key"},
		{[]string{"a@b@c", "/"}, "invalid key"},
		{[]string{"emacs@", "/"}, "invalid key"},
		{[]string{"emacs@../x", "/"}, "invalid key"},
		{[]string{strings.Repeat("x", 300), "/"}, "invalid key"},
		{[]string{"e\x00m", "/"}, "invalid key"},
		{[]string{"ém", "/"}, "invalid key"},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			t.Parallel()
			var stderr bytes.Buffer
			if status := run(c.args, &stderr); status != exitUsage {
				t.Errorf("exit status %d, want %d", status, exitUsage)
			}
			line, one := strings.CutSuffix(stderr.String(), "\n")
			if !one || strings.ContainsRune(line, '\n') || !strings.HasPrefix(line, "mount.levelfs: ") || !strings.Contains(line, c.want) {
				t.Errorf("stderr %q, want one line with %q", stderr.String(), c.want)
			}
		})
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want int
	}{
		{usagef("no"), exitUsage},
		{fmt.Errorf("more: %w", usagef("no")), exitUsage},
		{fmt.Errorf("%w: no configuration", errSystem), exitSystem},
		{fmt.Errorf("hashing: %w", context.Canceled), exitInterrupted},
		{fmt.Errorf("map: %w", context.DeadlineExceeded), exitFailed},
		{errors.New("whatever"), exitFailed},
	} {
		if got := exitStatus(c.err); got != c.want {
			t.Errorf("%v: exit status %d, want %d", c.err, got, c.want)
		}
	}
}

func TestReporter(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	r := reporter{program: "mount.levelfs", stderr: &stderr, spec: "emacs\n@1"}
	r.warn("some\nwords")
	r.error(errors.Join(errors.New("one"), errors.New("two")))
	const want = `mount.levelfs: warning: "emacs\n@1": some; words` + "\n" + `mount.levelfs: "emacs\n@1": one; two` + "\n"
	if stderr.String() != want {
		t.Errorf("got %q, want %q", stderr.String(), want)
	}
}

// program writes a shell script to stand for the map. The shell is replaced by
// exec wherever it would wait, so that nothing outlives it.
func program(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), config.SharedMap)
	// A child that another test forks meanwhile would keep it open for writing, and
	// then it could not be run (ETXTBSY).
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAskMap(t *testing.T) {
	t.Parallel()
	emacs := ldapmap.Key{Component: "emacs"}
	for _, c := range []struct {
		name, script   string
		level, warning string
		fails          string
	}{
		{"answer", `echo "-fstype=levelfs,rw :$1@29.4-1"`, "emacs@29.4-1", "", ""},
		{"answer with a warning", `echo "auto.levelfs: warning: old" >&2; echo "-fstype=levelfs,rw :$1@29.4-1"`, "emacs@29.4-1", "warning: old", ""},
		{"fails with a reason", `echo "auto.levelfs: no such component" >&2; exit 1`, "", "", "no such component"},
		{"fails with two lines", `echo "auto.levelfs: one" >&2; echo "auto.levelfs: two" >&2; exit 1`, "", "", "one\ntwo"},
		{"fails without a reason", `exit 3`, "", "", "exit status 3"},
		{"fails after an answer", `echo "-fstype=levelfs,rw :$1@29.4-1"; exit 1`, "", "", "exit status 1"},
		{"killed", `kill -9 $$`, "", "", "signal: killed"},
		{"nothing", ``, "", "", `gave no level of "emacs"`},
		{"garbage", `echo "what?"`, "", "", `gave no level of "emacs": "what?"`},
		{"no level", `echo "-fstype=levelfs,rw :emacs"`, "", "", `gave no level`},
		{"another component", `echo "-fstype=levelfs,rw :vi@1"`, "", "", `gave no level of "emacs"`},
		{"two lines", `echo "-fstype=levelfs,rw :emacs@1"; echo "-fstype=levelfs,rw :emacs@2"`, "", "", `gave no level`},
		{"bad level", `echo "-fstype=levelfs,rw :emacs@../../x"`, "", "", `gave no level`},
		{"multi-mount", `echo "/emacs -fstype=levelfs,rw :emacs@1 /vi -fstype=levelfs :vi@1"`, "", "", `gave no level`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			level, warning, err := askMap(context.Background(), program(t, c.script), emacs)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("level %v, error %v; want %q", level, err, c.fails)
				}
				return
			}
			if err != nil || level.String() != c.level || warning != c.warning {
				t.Errorf("got %v, %q, %v; want %s, %q", level, warning, err, c.level, c.warning)
			}
		})
	}
	_, _, err := askMap(context.Background(), "/nonexistent/map", emacs)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "/nonexistent/map") {
		t.Errorf("missing map: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, _, err := askMap(ctx, program(t, "exec sleep 1000"), emacs); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// TestAskTree reads the user's level out of the users' tree's line.
func TestAskTree(t *testing.T) {
	t.Parallel()
	const line = `echo "/ed -fstype=levelfs,rw,caller=$1 :ed@1 /emacs -fstype=levelfs,rw,caller=$1 :emacs@29.4-1 /vi -fstype=levelfs,rw,caller=$1 :vi@9"`
	for _, c := range []struct{ script, component, level, fails string }{
		{line, "ed", "ed@1", ""},
		{line, "emacs", "emacs@29.4-1", ""},
		{line, "vi", "vi@9", ""},
		{line, "gcc", "", `user "rob" has no level of "gcc"`},
		{line, "fstype=levelfs", "", "has no level"},
		{`echo "/ed -fstype=levelfs,rw,above=a:b,uid=1 :ed@1 /vi -fstype=levelfs,rw,above=c :vi@9"`, "ed", "ed@1 a b", ""},
		{`echo "/ed -fstype=levelfs,rw,above=a:../b :ed@1"`, "ed", "", `gave no level of "ed"`},
		{"echo no such user >&2; exit 1", "ed", "", "no such user"},
		{`echo "/ed -fstype=levelfs :vi@1"`, "ed", "", `gave no level of "ed"`},
		{`echo "/ed -fstype=levelfs :ed"`, "ed", "", `gave no level of "ed"`},
		{`echo "/ed"`, "ed", "", `gave no level of "ed"`},
	} {
		t.Run(c.component+" "+c.fails, func(t *testing.T) {
			t.Parallel()
			level, err := askTree(context.Background(), program(t, c.script), "rob", c.component)
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("%v, %v; want %q", level, err, c.fails)
				}
				return
			}
			if err != nil || level.String() != c.level { // the level, and what is above it
				t.Errorf("%v, %v; want %s", level, err, c.level)
			}
		})
	}
}

// TestResolve checks when the map is asked and when the cache answers.
func TestResolve(t *testing.T) {
	t.Parallel()
	level := ldapmap.Key{Component: "emacs", Level: "1"}
	resolution := &ldapmap.Resolution{
		Component: ldapmap.Component{Name: "emacs", Private: ldapmap.None},
		Level:     ldapmap.Level{Name: "emacs@1", Layers: []string{"a"}},
		Layers:    []ldapmap.Layer{{Name: "a", FSType: "dir", Images: []string{"a"}}},
	}
	setup := func(t *testing.T, script string, age int) *config.Config {
		t.Helper()
		c, err := config.LoadFrom(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		if c.Map = script; script != "/nonexistent" {
			c.Map = program(t, script)
		}
		if age < 0 {
			return c
		}
		if err := (cache.Cache{Dir: c.CacheDir()}).SaveLevel(resolution); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(c.CacheDir(), "levels", "*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		info, err := os.Stat(files[0])
		if err != nil {
			t.Fatal(err)
		}
		when := info.ModTime()
		if age > 0 {
			when = info.ModTime().Add(-2 * freshness)
		}
		if err := os.Chtimes(files[0], when, when); err != nil {
			t.Fatal(err)
		}
		return c
	}
	const fresh, stale, absent = 0, 1, -1
	for _, c := range []struct {
		name, script  string
		age           int
		key           ldapmap.Key
		warning, fail string
	}{
		{"fresh", "exit 1", fresh, level, "", ""},
		{"fresh but which level", "echo no >&2; exit 1", fresh, ldapmap.Key{Component: "emacs"}, "", "no"},
		{"stale and the map answers", "echo '-fstype=levelfs,ro :emacs@1'", stale, level, "", ""},
		{"stale and the map refuses", "echo gone >&2; exit 1", stale, level, "", "gone"},
		{"stale and no map", "/nonexistent", stale, level, "using the definition of", ""},
		{"absent and no map", "/nonexistent", absent, level, "", "/nonexistent"},
		{"the map leaves no definition", "echo '-fstype=levelfs,ro :emacs@1'", absent, level, "", "its cache has no definition"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, warning, err := resolve(context.Background(), setup(t, c.script, c.age), c.key, nil, "")
			if c.fail != "" {
				if err == nil || !strings.Contains(err.Error(), c.fail) {
					t.Errorf("error %v, want %q", err, c.fail)
				}
				return
			}
			if err != nil || r.Level.Name != "emacs@1" || !strings.Contains(warning, c.warning) || (c.warning == "") != (warning == "") {
				t.Errorf("got %+v, %q, %v", r, warning, err)
			}
		})
	}
}

// TestParseAbove: what names the layers is checked, wherever it comes from.
func TestParseAbove(t *testing.T) {
	t.Parallel()
	rest, above, err := parseAbove(strings.Split("rw,above=a:b~c,nosuid", ","))
	if err != nil || !slices.Equal(rest, []string{"rw", "nosuid"}) || !slices.Equal(above, []string{"a", "b~c"}) {
		t.Errorf("%q, %q, %v", rest, above, err)
	}
	if _, above, err := parseAbove([]string{"above=a", "above=b"}); err != nil || !slices.Equal(above, []string{"b"}) {
		t.Errorf("%q, %v", above, err)
	}
	for _, bad := range []string{"above=", "above=a:", "above=:a", "above=a:b:a", "above=../a", "above=a/b", "above=a b", "above=a@1", "above=.a"} {
		var usage *usageError
		if _, err := parseArgs([]string{"emacs@1", "/sw/emacs", "-s", "-o", bad}); !errors.As(err, &usage) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// TestResolveAbove checks where the layers above a level come from: all of them, or it is
// an error.
func TestResolveAbove(t *testing.T) {
	t.Parallel()
	layer := func(name, image string) ldapmap.Layer {
		return ldapmap.Layer{Name: name, FSType: "dir", Images: []string{image}, Kind: "site"}
	}
	resolution := &ldapmap.Resolution{
		Component: ldapmap.Component{Name: "emacs", Private: ldapmap.None},
		Level:     ldapmap.Level{Name: "emacs@1", Layers: []string{"v"}},
		Layers:    []ldapmap.Layer{{Name: "v", FSType: "dir", Images: []string{"v"}}},
		Above:     []ldapmap.Layer{layer("a", "a"), layer("b", "b")},
	}
	key := ldapmap.Key{Component: "emacs", Level: "1"}
	for _, c := range []struct {
		name, script, user string
		age                time.Duration
		above              []string
		want               string // images, or what the error says
		fails              bool
	}{
		{"fresh", "exit 1", "", 0, []string{"b", "a"}, "b a", false},
		{"none", "exit 1", "", 0, nil, "", false},
		{"not there", "exit 1", "", 0, []string{"a", "c"}, `layer "c"`, true},
		{"old and no answer", "exit 1", "", time.Hour, []string{"a"}, "a", false},
		{"old and the host has it still", "touch $0.ran; echo '-fstype=levelfs,rw,above=a :emacs@2'", "", time.Hour, []string{"a"}, "a", false},
		{"old and the user has it still", "touch $0.ran; echo '/emacs -fstype=levelfs,rw,above=a :emacs@2'", "rob", time.Hour, []string{"a"}, "a", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conf, err := config.LoadFrom(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			conf.Map = program(t, c.script)
			users := filepath.Join(filepath.Dir(conf.Map), config.UsersMap)
			if err := os.Symlink(conf.Map, users); err != nil {
				t.Fatal(err)
			}
			store := cache.Cache{Dir: conf.CacheDir()}
			if err := store.SaveLevel(resolution); err != nil {
				t.Fatal(err)
			}
			files, err := filepath.Glob(filepath.Join(conf.CacheDir(), "layers", "*"))
			if err != nil || len(files) != 2 {
				t.Fatal(files, err)
			}
			for _, file := range files {
				when := time.Now().Add(-c.age)
				if err := os.Chtimes(file, when, when); err != nil {
					t.Fatal(err)
				}
			}
			r, _, err := resolve(t.Context(), conf, key, c.above, c.user)
			if c.fails {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var images []string
			for _, l := range r.Above {
				images = append(images, l.Images...)
			}
			if got := strings.Join(images, " "); got != c.want || len(r.Layers) != 1 {
				t.Errorf("%q above %+v, want %q", got, r.Layers, c.want)
			}
			asked, err := filepath.Glob(filepath.Join(filepath.Dir(conf.Map), "*.ran"))
			if want := strings.Contains(c.script, "touch"); err != nil || want != (len(asked) == 1) {
				t.Errorf("asked %q, %v", asked, err)
			}
		})
	}
}
