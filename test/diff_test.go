package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/testenv"
)

// A diffReport is what levelfs diff --json prints.
type diffReport struct {
	Private  string               `json:"private"`
	Level    string               `json:"level"`
	Findings []diff.Finding       `json:"findings"`
	Counts   map[diff.Verdict]int `json:"counts"`
	by       map[string]diff.Finding
}

// diff runs levelfs diff, and checks that it changes nothing.
func (r *rig) diff(exit int, args ...string) diffReport {
	r.t.Helper()
	var report diffReport
	r.unchanged(func() {
		r.t.Helper()
		got := r.RunLevelfs(append([]string{"diff", "--json", "--exit-code"}, args...)...)
		if got.Exit != exit || got.Stderr != "" {
			r.t.Fatalf("%v; want exit %d", got, exit)
		}
		if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil {
			r.t.Fatalf("%v in %s", err, got.Stdout)
		}
	})
	report.by = make(map[string]diff.Finding)
	for _, f := range report.Findings {
		if _, twice := report.by[f.Path]; twice {
			r.t.Errorf("%s is in it twice", f.Path)
		}
		report.by[f.Path] = f
	}
	return report
}

// wantVerdicts checks the verdicts of all files.
func (d diffReport) wantVerdicts(t *testing.T, want map[string]diff.Verdict) {
	t.Helper()
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if got := d.by[path]; got.Verdict != want[path] {
			t.Errorf("%s: %q, want %q: %+v", path, got.Verdict, want[path], got)
		}
	}
	for path, f := range d.by {
		if _, ok := want[path]; !ok {
			t.Errorf("%s: %q, and was not to be reported: %+v", path, f.Verdict, f)
		}
	}
}

// changes are made to the view of level 1 in TestDiff: a script each.
var changes = map[string]string{
	"append-keep":  "echo mine >>append-keep",
	"append-stale": "echo mine >>append-stale",
	"append-gone":  "echo mine >>append-gone",
	"append-dir":   "echo mine >>append-dir",
	"as-new":       "printf new >as-new",
	"chmod-keep":   "chmod 600 chmod-keep",
	"chmod-stale":  "chmod 600 chmod-stale",
	"touched":      "touch touched",
	"save-keep":    "echo mine >.s && mv .s save-keep",
	"save-stale":   "echo mine >.s && mv .s save-stale",
	"renamed":      "mv rename-me renamed",
	"hard":         "ln link-me hard",
	"del-keep":     "rm del-keep",
	"del-stale":    "rm del-stale",
	"del-gone":     "rm del-gone",
	"del-tree":     "rm -r del-tree",
	"over-keep":    "rm -r over-keep && mkdir over-keep && echo mine >over-keep/mine",
	"over-stale":   "rm -r over-stale && mkdir over-stale && echo mine >over-stale/mine",
	"to-file":      "rm -r to-file && echo mine >to-file",
	"to-dir":       "rm to-dir && mkdir to-dir && echo mine >to-dir/mine",
	"arrives":      "echo mine >arrives",
	"new":          "mkdir new && echo mine >new/file",
	"sub/deep":     "echo mine >>sub/deep/keep",
	"dir-mode":     "chmod 700 dir-mode",
}

func diffLevels() (one, two, common testenv.Files) {
	one, two = testenv.Files{}, testenv.Files{}
	for _, name := range []string{"append-keep", "chmod-keep", "save-keep", "rename-me", "link-me", "touched", "del-keep",
		"over-keep/x", "sub/deep/keep", "dir-mode/x", "to-file/x"} {
		one[name], two[name] = "same", "same"
	}
	for _, name := range []string{"append-stale", "chmod-stale", "save-stale", "as-new", "del-stale", "over-stale/changed", "to-dir"} {
		one[name], two[name] = "old", "new"
	}
	for _, name := range []string{"append-gone", "del-gone", "del-tree/old", "append-dir"} {
		one[name] = "old"
	}
	for _, name := range []string{"append-dir/now", "over-stale/added", "del-tree/added", "to-file/added", "arrives"} {
		two[name] = "new"
	}
	return one, two, testenv.Files{"common": "common"}
}

// TestDiff: every kind of private change, at its own level and under the next one, seen
// before and after the switch, on what the kernel makes of it.
func TestDiff(t *testing.T) {
	r := newRig(t)
	r.AddUsers(rob)
	one, two, common := diffLevels()
	layers := map[string][]testenv.Layer{
		"1": {r.Store.Built("app-1", one), r.Store.Built("common", common)},
		"2": {r.Store.Built("app-2", two), r.Store.Built("common-2", common)},
	}
	inv := testenv.Inventory{Users: []testenv.Caller{{Name: "rob"}}}
	for _, name := range []string{"1", "2"} {
		inv.Layers = append(inv.Layers, layers[name]...)
	}
	assign := func(level, stateOfOne string) {
		t.Helper()
		i := inv
		i.Components = []testenv.Component{{Name: "emacs", Default: level, Levels: []testenv.Level{
			{Name: "1", State: stateOfOne, Layers: []string{"app-1", "common"}}, {Name: "2", Layers: []string{"app-2", "common-2"}}}}}
		r.WriteLDIF("emacs.ldif", i.LDIF())
	}
	atOne := map[string]diff.Verdict{
		"append-keep": diff.Override, "append-stale": diff.Override, "append-gone": diff.Override, "append-dir": diff.Override,
		"as-new": diff.Override, "chmod-keep": diff.Override, "chmod-stale": diff.Override, "touched": diff.Identical,
		"save-keep": diff.Override, "save-stale": diff.Override, "renamed": diff.New, "rename-me": diff.Deleted,
		"hard": diff.New, "link-me": diff.Identical, "del-keep": diff.Deleted, "del-stale": diff.Deleted, "del-gone": diff.Deleted,
		"del-tree": diff.Deleted, "over-keep": diff.Override, "over-keep/mine": diff.New, "over-stale": diff.Override,
		"over-stale/mine": diff.New, "to-file": diff.Override, "to-dir": diff.Override, "to-dir/mine": diff.New, "arrives": diff.New,
		"new": diff.New, "new/file": diff.New, "sub/deep/keep": diff.Override, "dir-mode": diff.Override,
	}
	atTwo := maps.Clone(atOne)
	maps.Copy(atTwo, map[string]diff.Verdict{
		"append-stale": diff.Stale, "append-gone": diff.Stale, "append-dir": diff.TypeConflict, "as-new": diff.Identical,
		"chmod-stale": diff.Stale, "save-stale": diff.Stale, "del-stale": diff.StaleDeletion, "del-gone": diff.Moot,
		"del-tree": diff.StaleDeletion, "over-stale": diff.HidesNew, "to-file": diff.TypeConflict, "to-dir": diff.TypeConflict,
		"arrives": diff.Stale,
	})
	for _, who := range []string{"", "rob"} {
		t.Run("of "+who, func(t *testing.T) {
			r.t = t
			defer func() { r.t = nil }()
			assign("1", "released")
			var options, args []string
			if who != "" {
				options, args = []string{"-o", forRob}, []string{"--user", who}
			}
			args = append(args, "emacs")
			r.mount(options...)
			for _, name := range slices.Sorted(maps.Keys(changes)) {
				script := "cd " + r.target + " && " + changes[name]
				as := testenv.User{}
				if who != "" {
					as = rob
				}
				if got := r.RunAs(as, "sh", "-c", script); got.Exit != 0 {
					t.Fatalf("%s: %v", name, got)
				}
			}
			// While the view is mounted, too.
			d := r.diff(0, args...)
			d.wantVerdicts(t, atOne)
			for path, by := range map[string]diff.Evidence{"append-keep": diff.ByOrigin, "save-keep": diff.ByBirth, "del-keep": diff.ByBirth} {
				if d.by[path].By != by {
					t.Errorf("%s is known by %q, want %q", path, d.by[path].By, by)
				}
			}
			if got := d.by["chmod-keep"].Differs; !slices.Equal(got, []string{"mode"}) {
				t.Errorf("chmod-keep differs in %v", got)
			}
			// What a switch would make of it, and what it has made of it.
			r.diff(1, append(args, "--to", "2")...).wantVerdicts(t, atTwo)
			r.umount(r.target)
			assign("2", "retired")
			r.mount(options...)
			d = r.diff(1, args...)
			d.wantVerdicts(t, atTwo)
			f := d.by["append-stale"]
			if f.Base == nil || f.Base.Level != "emacs@1" || f.Base.Layer != "app-1" || f.Base.Digest == "" ||
				f.Now.Level != "emacs@2" || f.Now.Layer != "app-2" || f.Now.Digest == "" || f.Base.Digest == f.Now.Digest || f.By != diff.ByOrigin {
				t.Errorf("append-stale: %+v, base %+v, now %+v", f, f.Base, f.Now)
			}
			if f := d.by["over-stale"]; f.Hidden != 2 || !slices.Equal(f.HiddenPaths, []string{"over-stale/added", "over-stale/changed"}) {
				t.Errorf("over-stale: %+v", f)
			}
			if got := d.by["append-gone"].Changed; !slices.Equal(got, []string{"gone"}) {
				t.Errorf("append-gone: %v", got)
			}
			r.umount(r.target)
			// The old images are gone, and their lists in the cache or beside them are enough.
			aside := r.Mkdir("aside")
			image := filepath.Join(r.Store.Dir, "app-1.erofs")
			if err := os.Rename(image, filepath.Join(aside, "app-1.erofs")); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(r.Path("/var/cache/levelfs/manifests")); err != nil {
				t.Fatal(err)
			}
			r.diff(1, args...).wantVerdicts(t, atTwo)
			// Without any, it is said, and nothing is guessed.
			list := image + ".mtree"
			if err := os.Rename(list, filepath.Join(aside, "app-1.erofs.mtree")); err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(r.Path("/var/cache/levelfs/manifests")); err != nil {
				t.Fatal(err)
			}
			d = r.diff(3, args...)
			if f := d.by["append-stale"]; f.Verdict != diff.Unknown || !strings.Contains(f.Why, `neither a list of the files of layer "app-1" nor its image is here`) {
				t.Errorf("append-stale: %+v", f)
			}
			// With the image alone, a list is made; a wrong list is not used.
			if err := os.Rename(filepath.Join(aside, "app-1.erofs"), image); err != nil {
				t.Fatal(err)
			}
			r.write(list, "#mtree v2.0\n. type=dir mode=0755 uid=0 gid=0\n# complete\n")
			r.diff(1, args...).wantVerdicts(t, atTwo)
			if err := os.Rename(filepath.Join(aside, "app-1.erofs.mtree"), list); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// backupOf is the place that reset or adopt printed for a path.
func backupOf(t *testing.T, stdout, path string) string {
	t.Helper()
	for line := range strings.Lines(stdout) {
		if rest, ok := strings.CutPrefix(line, path+" -> "); ok {
			return strings.TrimSuffix(rest, "\n")
		}
	}
	t.Fatalf("no backup of %s in %q", path, stdout)
	return ""
}

// staleRig is a rig whose private layer was made under level 1 and is under level 2 now,
// unmounted.
func staleRig(t *testing.T, script string, one, two testenv.Files) *rig {
	t.Helper()
	r := newRig(t)
	a, b := r.Store.Built("app-1", one), r.Store.Built("app-2", two)
	r.level("1", a)
	r.mount()
	if got := r.Run("sh", "-c", "cd "+r.target+" && "+script); got.Exit != 0 {
		t.Fatal(got)
	}
	r.umount(r.target)
	r.level("2", b)
	r.mount()
	r.umount(r.target)
	return r
}

// TestReset: what is reset lies in a backup, byte for byte, and the shared file is seen
// again; in use it is refused, and nothing else than what was named is touched.
func TestReset(t *testing.T) {
	r := staleRig(t, "echo mine >file && rm gone && rm -r d && mkdir d && echo mine >d/x && echo mine >other && ln -s /etc evil",
		testenv.Files{"file": "old", "gone": "old", "d/y": "old", "other": "old"},
		testenv.Files{"file": "new", "gone": "new", "d/y": "new", "other": "new"})
	upper := filepath.Join(r.PrivateDir("emacs"), "upper")
	before := make(map[string]string)
	for _, name := range []string{"file", "gone", "d", "d/x", "other"} {
		before[name] = describe(t, filepath.Join(upper, name), name)
	}
	r.mount()
	got := r.RunLevelfs("reset", "emacs", "file")
	if got.Exit != 1 || got.Stdout != "" || !strings.Contains(got.Stderr, "is in use by the view at") || !strings.Contains(got.Stderr, "hint: umount "+r.target+"\n") {
		t.Errorf("in use: %v", got)
	}
	r.want(map[string]string{"file": "mine\n"})
	r.umount(r.target)
	r.unchanged(func() {
		if got := r.RunLevelfs("reset", "emacs", "file", "--dry-run"); got.Exit != 0 || !strings.HasPrefix(got.Stdout, "file -> "+r.Path("/var/lib/levelfs/backup/host/emacs")) {
			t.Errorf("dry run: %v", got)
		}
		for _, bad := range []string{"../level", "/etc/passwd", ".", "", "d/../../level"} {
			if got := r.RunLevelfs("reset", "emacs", bad); got.Exit != 64 {
				t.Errorf("%q: %v", bad, got)
			}
		}
		for _, bad := range []string{"evil/passwd", "nosuch", "file/x"} {
			if got := r.RunLevelfs("reset", "emacs", "other", bad); got.Exit != 1 || got.Stdout != "" {
				t.Errorf("%q: %v", bad, got)
			}
		}
	})
	// Nothing can be renamed to another file system, and no backup of nothing stays there.
	elsewhere := r.Mkdir("var/lib/levelfs/backup")
	if err := unix.Mount("elsewhere", elsewhere, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	r.unchanged(func() {
		for _, dry := range []string{"--dry-run=false", "--dry-run"} {
			if got := r.RunLevelfs("reset", "emacs", "file", dry); got.Exit != 1 || got.Stdout != "" || !strings.Contains(got.Stderr, "is on another file system than") {
				t.Errorf("%s: %v", dry, got)
			}
		}
	})
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("left in the backup: %v, %v", left, err)
	}
	r.Umount(elsewhere)
	if err := os.Remove(elsewhere); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(r.Path("/var/lib/levelfs/backup")); !os.IsNotExist(err) {
		t.Errorf("a backup was made of nothing: %v", err)
	}
	got = r.RunLevelfs("reset", "emacs", "d/x", "gone", "d", "file")
	if got.Exit != 0 {
		t.Fatal(got)
	}
	for _, name := range []string{"file", "gone", "d"} {
		backup := backupOf(t, got.Stdout, name)
		if now := describe(t, backup, name); now != before[name] {
			t.Errorf("the backup is %s, and was %s", now, before[name])
		}
		note, err := os.ReadFile(filepath.Join(backup, "../../note"))
		if err != nil || !strings.Contains(string(note), "verb reset\nlevel emacs@2\n") || !strings.Contains(string(note), fmt.Sprintf("path %q\n", name)) {
			t.Errorf("note: %q, %v", note, err)
		}
	}
	if now := describe(t, filepath.Join(backupOf(t, got.Stdout, "d"), "x"), "d/x"); now != before["d/x"] {
		t.Errorf("d/x in the backup is %s, and was %s", now, before["d/x"])
	}
	if now := describe(t, filepath.Join(upper, "other"), "other"); now != before["other"] {
		t.Errorf("other is %s, and was %s", now, before["other"])
	}
	r.mount()
	r.want(map[string]string{"file": "new", "gone": "new", "d/y": "new", "other": "mine\n"})
	r.wantAbsent("d/x")
	r.umount(r.target)
}

// TestDiffCutOff: a record that names no level, as a disk with errors may leave, is never
// taken for one of a level without files: what depends on it is unknown.
func TestDiffCutOff(t *testing.T) {
	r := staleRig(t, "echo mine >a", testenv.Files{"a": "old", "b": "old"}, testenv.Files{"a": "new", "b": "new"})
	r.diff(1, "emacs").wantVerdicts(t, map[string]diff.Verdict{"a": diff.Stale})
	r.write(filepath.Join(r.PrivateDir("emacs"), "level"), "")
	if got := r.RunLevelfs("diff", "emacs", "--exit-code"); got.Exit != 3 || got.Stdout != "" || !strings.Contains(got.Stderr, "nothing says which level it was under") {
		t.Errorf("%v", got)
	}
	if got := r.RunLevelfs("history", "emacs", "--json"); got.Exit != 0 || !strings.Contains(got.Stdout, `"emacs@1"`) || strings.Contains(got.Stdout, `""`) {
		t.Errorf("%v", got)
	}
	r.mount() // which does not depend on the record, and writes it anew
	r.umount(r.target)
	r.diff(1, "emacs").wantVerdicts(t, map[string]diff.Verdict{"a": diff.Stale})
}

// TestAdopt: a stale file is settled each way, and each result is what it says.
func TestAdopt(t *testing.T) {
	text := func(first, last string) string { return first + "\n2\n3\n4\n5\n6\n7\n8\n" + last + "\n" }
	r := staleRig(t, "sed -i 's/^last$/mine/' saved clash && for f in merged theirs both; do sed 's/^last$/mine/' $f >/tmp/.levelfs-x && cat /tmp/.levelfs-x >$f || exit; done; rm /tmp/.levelfs-x; chmod 600 merged && rm del && printf 'mine\\000' >bin",
		testenv.Files{"saved": text("old", "last"), "clash": text("old", "last"), "merged": text("old", "last"), "theirs": text("old", "last"), "both": text("old", "last"), "del": "old", "bin": "old\x00"},
		testenv.Files{"saved": text("new", "last"), "clash": text("old", "other"), "merged": text("new", "last"), "theirs": text("new", "last"), "both": text("new", "last"), "del": "new", "bin": "new\x00"})
	upper := filepath.Join(r.PrivateDir("emacs"), "upper")
	r.diff(1, "emacs").wantVerdicts(t, map[string]diff.Verdict{"saved": diff.Stale, "clash": diff.Stale, "merged": diff.Stale, "theirs": diff.Stale, "both": diff.Stale, "del": diff.StaleDeletion, "bin": diff.Stale})
	adopt := func(path, as string) testenv.Result {
		t.Helper()
		return r.RunLevelfs("adopt", "emacs", path, "--as", as)
	}

	// Mine, while a view is mounted: nothing of the private layer's files is touched.
	r.mount()
	before := describe(t, filepath.Join(upper, "both"), "both") + describe(t, filepath.Join(upper, "del"), "del")
	for _, name := range []string{"both", "del"} {
		if got := adopt(name, "mine"); got.Exit != 0 || got.Stderr != "" {
			t.Errorf("%v", got)
		}
	}
	if now := describe(t, filepath.Join(upper, "both"), "both") + describe(t, filepath.Join(upper, "del"), "del"); now != before {
		t.Errorf("now %s, and was %s", now, before)
	}
	for _, as := range []string{"merge", "theirs"} {
		if got := adopt("merged", as); got.Exit != 1 || !strings.Contains(got.Stderr, "in use") {
			t.Errorf("in use, %s: %v", as, got)
		}
	}
	r.umount(r.target)
	if f := r.diff(1, "emacs").by["both"]; f.Verdict != diff.Override || f.By != diff.ByAdoption {
		t.Errorf("both: %+v", f)
	}

	testenv.Require(t, "git")
	was := describe(t, filepath.Join(upper, "merged"), "merged")
	got := adopt("merged", "merge")
	if got.Exit != 0 {
		t.Fatal(got)
	}
	wantFile(t, filepath.Join(upper, "merged"), text("new", "mine"))
	if now := describe(t, backupOf(t, got.Stdout, "merged"), "merged"); now != was {
		t.Errorf("the backup is %s, and was %s", now, was)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(upper, "merged"), &st); err != nil || st.Mode&0o7777 != 0o600 {
		t.Errorf("merged has mode %o, %v", st.Mode, err)
	}
	if got := adopt("saved", "merge"); got.Exit != 0 {
		t.Error(got)
	}
	wantFile(t, filepath.Join(upper, "saved"), text("new", "mine"))
	r.unchanged(func() {
		if got := adopt("clash", "merge"); got.Exit != 1 || got.Stdout != "" || !strings.Contains(got.Stderr, `"clash" cannot be merged: 1 conflicts`) {
			t.Errorf("%v", got)
		}
		if got := adopt("bin", "merge"); got.Exit != 1 || got.Stdout != "" || !strings.Contains(got.Stderr, "Cannot merge binary files") {
			t.Errorf("%v", got)
		}
		if got := adopt("merged", "merge"); got.Exit != 1 || !strings.Contains(got.Stderr, "not stale") {
			t.Errorf("%v", got)
		}
	})
	if got := adopt("theirs", "theirs"); got.Exit != 0 {
		t.Error(got)
	}
	// Without the old image there is no base to merge with, though its list says what it was.
	if err := os.Remove(filepath.Join(r.Store.Dir, "app-1.erofs")); err != nil {
		t.Fatal(err)
	}
	r.unchanged(func() {
		if got := adopt("clash", "merge"); got.Exit != 1 || !strings.Contains(got.Stderr, "not on this machine") {
			t.Errorf("%v", got)
		}
	})
	r.diff(1, "emacs").wantVerdicts(t, map[string]diff.Verdict{"saved": diff.Override, "clash": diff.Stale, "merged": diff.Override, "both": diff.Override, "del": diff.Deleted, "bin": diff.Stale})
	r.mount()
	r.want(map[string]string{"theirs": text("new", "last"), "merged": text("new", "mine"), "both": text("old", "mine")})
	r.umount(r.target)
}
