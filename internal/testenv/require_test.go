package testenv

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// verdict records how Require ended a test.
type verdict struct {
	testing.TB
	skipped, failed string
}

func (v *verdict) Helper() {}

func (v *verdict) Skipf(format string, args ...any) {
	v.skipped = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (v *verdict) Fatalf(format string, args ...any) {
	v.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func (v *verdict) Fatal(args ...any) {
	v.failed = fmt.Sprint(args...)
	runtime.Goexit()
}

// require runs Require as a test would: a verdict ends the goroutine.
func require(t *testing.T, what ...string) *verdict {
	v := &verdict{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		Require(v, what...)
	}()
	<-done
	return v
}

func TestRequire(t *testing.T) {
	// What is missing differs between machines: take what is missing here.
	words := []string{"root", "slapd", "automount", "strace", "ds389", "overlay", "erofs", "squashfs", "ext4"}
	i := slices.IndexFunc(words, func(word string) bool { return available(word) != nil })
	if i < 0 {
		t.Setenv("PATH", "") // strace is in /usr/bin
		i = slices.Index(words, "strace")
		if available(words[i]) == nil {
			t.Skip("nothing is missing on this machine")
		}
	}
	missing := words[i]

	for _, c := range []struct {
		env  string
		fail bool
	}{
		{"", false},
		{"other", false},
		{missing, true},
		{"other," + missing, true},
		{"other, " + missing, true},
		{"all", true},
	} {
		t.Setenv("LEVELFS_TEST_REQUIRE", c.env)
		v := require(t, missing)
		if c.fail && (v.failed == "" || v.skipped != "") || !c.fail && (v.failed != "" || v.skipped == "") {
			t.Errorf("LEVELFS_TEST_REQUIRE=%q: skipped %q, failed %q; want fail=%v", c.env, v.skipped, v.failed, c.fail)
		}
	}

	t.Setenv("LEVELFS_TEST_REQUIRE", "")
	if v := require(t, "salpd"); !strings.Contains(v.failed, "unknown requirement") {
		t.Errorf("an unknown word: skipped %q, failed %q", v.skipped, v.failed)
	}
	if v := require(t); v.failed != "" || v.skipped != "" {
		t.Errorf("no requirement: skipped %q, failed %q", v.skipped, v.failed)
	}
}

func TestAvailable(t *testing.T) {
	if _, err := lookPath("no-such-program"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("lookPath of a missing program: %v, want exec.ErrNotFound", err)
	}
	t.Setenv("PATH", "/bin")
	if path, err := lookPath("sh"); err != nil {
		t.Errorf("lookPath of sh: %q, %v", path, err)
	}
	if err := hasFileSystem("proc"); err != nil {
		t.Errorf("proc is mounted, yet: %v", err)
	}
	if err := hasFileSystem("no-such-fs"); err == nil {
		t.Error("no-such-fs is said to exist")
	}
}
