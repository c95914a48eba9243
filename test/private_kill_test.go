package test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/testenv"
)

// A killRig is a private layer of which something is taken out, by commands that are
// killed.
type killRig struct {
	*rig
	upper, backups string
	before         map[string]string // the private files, described, by path
}

func newKillRig(t *testing.T) *killRig {
	testenv.Require(t, "git")
	text := func(first, last string) string { return first + "\n2\n3\n4\n5\n6\n7\n8\n" + last + "\n" }
	r := &killRig{rig: staleRig(t,
		"sed 's/^last$/mine/' file >/tmp/.levelfs-x && cat /tmp/.levelfs-x >file && rm /tmp/.levelfs-x gone && rm -r d && mkdir d && echo mine >d/x && echo mine >d/y && ln file hard && echo mine >other",
		testenv.Files{"file": text("old", "last"), "gone": "old", "d/z": "old"}, testenv.Files{"file": text("new", "last"), "gone": "new", "d/z": "new"})}
	r.upper, r.backups = filepath.Join(r.PrivateDir("emacs"), "upper"), r.Path("/var/lib/levelfs/backup")
	r.before = r.files(r.upper)
	if len(r.before) != 7 {
		t.Fatalf("private files %v", r.before)
	}
	return r
}

// files describes all files below a directory: but for how many names they have, and, of
// directories, when they were changed.
func (r *killRig) files(dir string) map[string]string {
	r.t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err == nil {
			found[rel] = describe(r.t, path, rel)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.t.Fatal(err)
	}
	return found
}

// inBackups are the backups' directories of files, the oldest first.
func (r *killRig) inBackups() []string {
	r.t.Helper()
	dirs, err := filepath.Glob(filepath.Join(r.backups, "host/emacs/*/files"))
	if err != nil {
		r.t.Fatal(err)
	}
	return dirs
}

// complete checks that every private file is in the private layer or in a backup, as it
// was, and that there is nothing else in either but what may come. It returns how many are
// in backups.
func (r *killRig) complete(mayCome func(path string) bool) int {
	r.t.Helper()
	now, moved := r.files(r.upper), make(map[string]bool)
	for _, dir := range r.inBackups() {
		for path, is := range r.files(dir) {
			if was, ok := r.before[path]; ok && is == was {
				moved[path] = true
				continue
			}
			// The directory above what was moved.
			if info, err := os.Lstat(filepath.Join(dir, path)); err != nil || !info.IsDir() {
				r.t.Errorf("backup of %s is %s, and was %s; %v", path, is, r.before[path], err)
			}
		}
	}
	for path, was := range r.before {
		if now[path] != was && !moved[path] {
			r.t.Errorf("%s is nowhere as it was, %s; it is %q", path, was, now[path])
		}
	}
	for path, is := range now {
		if is != r.before[path] && !mayCome(path) {
			r.t.Errorf("%s is %s, and was %q", path, is, r.before[path])
		}
	}
	return len(moved)
}

// restore puts everything where it was, and the backups and notes away.
func (r *killRig) restore() {
	r.t.Helper()
	for _, dir := range slices.Backward(r.inBackups()) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == dir {
				return err
			}
			rel, err := filepath.Rel(dir, path)
			if err != nil {
				return err
			}
			if err := os.Rename(path, filepath.Join(r.upper, rel)); err != nil {
				return err
			}
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			r.t.Fatal(err)
		}
	}
	private := r.PrivateDir("emacs")
	if err := errors.Join(os.RemoveAll(r.backups), os.RemoveAll(private+"/adopted"), os.RemoveAll(private+"/merge.new"), os.RemoveAll(private+"/merge")); err != nil {
		r.t.Fatal(err)
	}
}

// eachKill runs the command whole, and then kills it before each of its counted system
// calls, from the n-th before the first of one number on. After each it calls check, which
// gets to run the command again.
func (r *killRig) eachKill(ahead int, before uint64, check func(), args ...string) {
	r.t.Helper()
	argv := append([]string{r.Levelfs}, args...)
	var whole traced
	for range 2 { // so that all is there that is made once
		if whole = traceKill(r.t, killPoint{}, r.Env(), argv...); whole.exit != 0 {
			r.t.Fatalf("traced, but not killed: exit %d", whole.exit)
		}
		r.restore()
	}
	first := slices.Index(whole.calls, before) - ahead
	if first < 0 || everyCall {
		first = 0
	}
	points := 0
	for _, at := range whole.points()[first:] {
		if !traceKill(r.t, at, r.Env(), argv...).killed {
			r.restore() // this run did without that call
			continue
		}
		points++
		check()
		if r.t.Failed() {
			r.t.Fatalf("killed before %v", at)
		}
		r.restore()
	}
	if want := len(whole.calls) - first; points < want*9/10 {
		r.t.Errorf("killed at %d points, but the first run had %d", points, want)
	}
}

// TestResetKill kills levelfs reset before each system call that changes something: each
// private file is where it was or in the backup, whole, and the next reset takes the rest.
func TestResetKill(t *testing.T) {
	r := newKillRig(t)
	paths := []string{"d", "file", "gone"}
	var counts []int
	r.eachKill(12, unix.SYS_RENAMEAT2, func() {
		moved := r.complete(func(string) bool { return false })
		if !slices.Contains(counts, moved) {
			counts = append(counts, moved)
		}
		var left []string
		for _, path := range paths {
			if _, err := os.Lstat(filepath.Join(r.upper, path)); err == nil {
				left = append(left, path)
			}
		}
		if len(left) > 0 {
			if got := r.RunLevelfs(append([]string{"reset", "emacs"}, left...)...); got.Exit != 0 {
				t.Error(got)
			}
		}
		r.complete(func(string) bool { return false })
		r.mount()
		r.want(map[string]string{"gone": "new", "d/z": "new", "other": "mine\n"})
		r.wantAbsent("d/x")
		r.umount(r.target)
		if _, err := os.Lstat(filepath.Join(r.upper, "file")); err == nil {
			t.Error("file was not reset")
		}
	}, append([]string{"reset", "emacs"}, paths...)...)
	// d and what is in it are three.
	slices.Sort(counts)
	if !slices.Equal(counts, []int{0, 3, 4, 5}) {
		t.Errorf("kills left %v files in backups: is everything counted?", counts)
	}
}

// TestMergeKill kills levelfs adopt --as merge: the private file is what it was or the
// merged one, never anything else; what it was is never without a name; and the next one
// merges it.
func TestMergeKill(t *testing.T) {
	r := newKillRig(t)
	merged := strings.Replace(strings.Replace("old\n2\n3\n4\n5\n6\n7\n8\nlast\n", "old", "new", 1), "last", "mine", 1)
	file := filepath.Join(r.upper, "file")
	old, done := 0, 0
	r.eachKill(30, unix.SYS_LINKAT, func() {
		r.complete(func(path string) bool { return path == "file" })
		text, err := os.ReadFile(file)
		switch {
		case err == nil && string(text) == merged:
			done++
		case describe(t, file, "file") == r.before["file"]:
			old++
		default:
			t.Errorf("file is %q, %v", text, err)
		}
		got := r.RunLevelfs("adopt", "emacs", "file", "--as", "merge")
		if settled := r.diff(1, "emacs").by["file"].Verdict == diff.Override; !settled || got.Exit != 0 && !strings.Contains(got.Stderr, "it is not stale") {
			t.Errorf("the next one: settled %v, %v", settled, got)
		}
		wantFile(t, file, merged)
		r.complete(func(path string) bool { return path == "file" })
		for _, name := range []string{"merge", "merge.new"} {
			if _, err := os.Lstat(filepath.Join(r.PrivateDir("emacs"), name)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", name, err)
			}
		}
	}, "adopt", "emacs", "file", "--as", "merge")
	if old < 5 || done < 3 {
		t.Errorf("%d kills before it, %d after it: is everything counted?", old, done)
	}
}

// TestMineKill kills levelfs adopt --as mine: it is noted or not, and no private file is
// touched.
func TestMineKill(t *testing.T) {
	r := newKillRig(t)
	noted := map[diff.Verdict]int{}
	r.eachKill(1000, unix.SYS_RENAMEAT, func() {
		if n := r.complete(func(string) bool { return false }); n > 0 {
			t.Errorf("%d files in backups", n)
		}
		noted[r.diff(1, "emacs").by["file"].Verdict]++
		if got := r.RunLevelfs("adopt", "emacs", "file", "--as", "mine"); got.Exit != 0 {
			t.Error(got)
		}
		if f := r.diff(1, "emacs").by["file"]; f.Verdict != diff.Override || f.By != diff.ByAdoption {
			t.Errorf("%+v", f)
		}
	}, "adopt", "emacs", "file", "--as", "mine")
	if noted[diff.Stale] < 3 || noted[diff.Override] < 1 || len(noted) != 2 {
		t.Errorf("%v: is everything counted?", noted)
	}
}
