package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/testenv"
)

// newStaleRig makes a switchRig with private files of which some are stale under level 2.
func newStaleRig(t *testing.T) *switchRig {
	t.Helper()
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep() // "removed" is stale: another file of that name comes
	r.write(r.target+"/which", "mine")
	return r
}

// switchReport is what a change of level prints in JSON about one view.
type switchReport struct {
	From, To string
	Changed  bool
	Error    string
	Stale    *struct {
		Policy   string
		Counts   map[diff.Verdict]int
		Findings []diff.Finding
		More     int
		Unknown  string
	}
}

// report runs a command that changes levels, and returns what it says of the one view.
func (r *switchRig) report(exit int, args ...string) (switchReport, testenv.Result) {
	r.t.Helper()
	got := r.RunLevelfs(append(args, "--json")...)
	var reports []switchReport
	if err := json.Unmarshal([]byte(got.Stdout), &reports); err != nil || len(reports) != 1 || got.Exit != exit {
		r.t.Fatalf("%v; want exit %d and one report: %v", got, exit, err)
	}
	return reports[0], got
}

func (s switchReport) unsettled() string {
	var list []string
	for _, f := range s.Stale.Findings {
		list = append(list, fmt.Sprintf("%s %s", f.Path, f.Verdict))
	}
	return strings.Join(list, ", ")
}

const wantUnsettled = "removed stale-deletion, which stale"

// TestSwitchStale: every verb that changes levels says which private files would be stale
// before it does it, and goes on.
func TestSwitchStale(t *testing.T) {
	r := newStaleRig(t)
	files := r.upperFiles()
	dry, _ := r.report(0, "switch", "emacs", "--to", "2", "--dry-run")
	if dry.Changed || dry.Stale == nil || dry.Stale.Policy != "warn" || dry.unsettled() != wantUnsettled || dry.Stale.Unknown != "" {
		t.Errorf("dry run: %+v", dry)
	}
	if n := dry.Stale.Counts; n[diff.New] != 2 || n[diff.Override] != 1 || n[diff.Stale] != 1 || n[diff.StaleDeletion] != 1 {
		t.Errorf("counts %v", n)
	}
	out := r.levelfs("switch", "emacs", "--to", "2")
	for _, want := range []string{
		r.target + ": emacs@1 -> emacs@2: 2 of 5 private files are not settled:\n", "  stale           which\t", "  stale-deletion  removed\t",
		r.target + ": emacs@2, was emacs@1",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("output without %q:\n%s", want, out)
		}
	}
	// Back to where they were made everything is as it was.
	if got, _ := r.report(0, "rollback", "emacs"); !got.Changed || got.unsettled() != "" || got.Stale.Counts[diff.Override] != 2 {
		t.Errorf("rollback: %+v", got)
	}
	r.assign("2")
	if got, _ := r.report(0, "refresh"); !got.Changed || got.unsettled() != wantUnsettled {
		t.Errorf("refresh: %+v", got)
	}
	if now := r.upperFiles(); now != files {
		t.Errorf("private layer is now\n%sand was\n%s", now, files)
	}
	r.umount(r.target)
}

// TestSwitchStaleMany: a long list is cut, and it is said where all of it is.
func TestSwitchStaleMany(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	one, two := testenv.Files{}, testenv.Files{}
	for i := range 30 {
		name := fmt.Sprintf("f%02d", i)
		one[name], two[name] = "1", "2"
	}
	r.layers = append(r.layers, r.Store.Erofs("many-1", one), r.Store.Erofs("many-2", two))
	r.component.Levels[0].Layers = []string{"many-1", "one", "common"}
	r.component.Levels[1].Layers = []string{"many-2", "two", "common"}
	r.assign("1")
	r.mount()
	for name := range one {
		r.write(filepath.Join(r.target, name), "mine")
	}
	out := r.levelfs("switch", "emacs", "--to", "2", "--dry-run")
	for _, want := range []string{": 30 of 30 private files are not settled:\n", "  stale           f19\t", "  … and 10 more: levelfs diff emacs --to emacs@2\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output without %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, "f20") {
		t.Errorf("output with what was to be cut:\n%s", out)
	}
	if got, _ := r.report(0, "switch", "emacs", "--to", "2"); len(got.Stale.Findings) != 20 || got.Stale.More != 10 || got.Stale.Counts[diff.Stale] != 30 {
		t.Errorf("%+v", got.Stale)
	}
	r.umount(r.target)
}

// TestSwitchStaleStop: with stop nothing is touched, each verb names the files and what
// to type; and what is typed leads on.
func TestSwitchStaleStop(t *testing.T) {
	r := newStaleRig(t)
	files, view := r.upperFiles(), r.view()
	refused := func(args ...string) {
		t.Helper()
		r.unchanged(func() {
			t.Helper()
			got, result := r.report(1, args...)
			if got.Changed || got.unsettled() != wantUnsettled || got.Stale.Policy != "stop" || got.Error == "" {
				t.Errorf("%v: %+v", args, got)
			}
			for _, want := range []string{
				`private files are not settled for emacs@2: "removed" (stale-deletion), "which" (stale)` + "\n",
				"hint: see what they are: levelfs diff emacs --to emacs@2\n",
				"hint: keep a private file as it is: levelfs adopt emacs PATH --as mine --to emacs@2\n",
				"hint: or take it out of the way: umount " + r.target + " && levelfs reset emacs PATH\n",
				"hint: go on this once: --stale=warn\n",
			} {
				if !strings.Contains(result.Stderr, want) {
					t.Errorf("%v: stderr without %q:\n%s", args, want, result.Stderr)
				}
			}
		})
		if now := r.view(); now.ID != view.ID || now.Frozen || now.Name != "emacs@1" {
			t.Errorf("%v: view %+v, was %+v", args, now, view)
		}
		if now := r.upperFiles(); now != files {
			t.Errorf("private layer is now\n%sand was\n%s", now, files)
		}
	}
	// The component says so, or the machine, or the command line, which goes before them.
	refused("switch", "emacs", "--to", "2", "--stale=stop")
	r.Configure(`on-stale = "stop"`)
	refused("switch", "emacs", "--to", "2")
	refused("switch", "emacs", "--to", "2", "--dry-run")
	r.component.OnStale = "warn"
	r.assign("1")
	r.levelfs("switch", "emacs", "--to", "2")
	r.levelfs("switch", "emacs", "--to", "1")
	view = r.view()
	r.Configure("")
	r.component.OnStale = "stop"
	r.assign("2")
	refused("switch", "emacs")
	refused("refresh")
	r.levelfs("switch", "emacs", "--stale=warn")
	r.wantKept()
	r.levelfs("switch", "emacs", "--to", "1")
	// As the hints say: one is kept as it is, the other taken out of the way.
	if got := r.RunLevelfs("adopt", "emacs", "removed", "--as", "mine", "--to", "2"); got.Exit != 0 {
		t.Fatal(got)
	}
	r.umount(r.target)
	r.levelfs("reset", "emacs", "which")
	r.assign("1")
	r.mount()
	if got, _ := r.report(0, "switch", "emacs", "--to", "2"); !got.Changed || got.unsettled() != "" || got.Stale.Counts[diff.Deleted] != 1 {
		t.Errorf("after adopt and reset: %+v", got)
	}
	r.want(map[string]string{"which": "2", "private": "mine"})
	r.wantAbsent("removed")
	r.umount(r.target)
}

// TestSwitchStaleUnknown: without the lists of files a switch goes on and says what is not
// known; with stop it does not go on.
func TestSwitchStaleUnknown(t *testing.T) {
	r := newStaleRig(t)
	// The image of the level of now is gone, and was never listed.
	image := filepath.Join(r.Store.Dir, r.layers[0].Images[0])
	if err := os.Rename(image, image+".aside"); err != nil {
		t.Fatal(err)
	}
	got, _ := r.report(1, "switch", "emacs", "--to", "2", "--stale=stop")
	if got.Changed || got.unsettled() != "conf unknown, removed unknown, which unknown" {
		t.Errorf("stop: %+v", got)
	}
	if why := got.Stale.Findings[0].Why; !strings.Contains(why, `neither a list of the files of layer "one" nor its image is here`) {
		t.Errorf("why: %q", why)
	}
	if got, _ := r.report(0, "switch", "emacs", "--to", "2"); !got.Changed || got.unsettled() != "conf unknown, removed unknown, which unknown" {
		t.Errorf("warn: %+v", got)
	}
	// Nothing is known where the record of levels is not one.
	bases := filepath.Join(r.PrivateDir("emacs"), "bases")
	kept, err := os.ReadFile(bases)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(image+".aside", image); err != nil {
		t.Fatal(err)
	}
	r.write(bases, "rubbish\n")
	got, result := r.report(1, "refresh", "--stale=stop", "--dry-run")
	if got.Stale.Unknown == "" || !strings.Contains(result.Stderr, "is not known: ") {
		t.Errorf("%+v, %v", got, result)
	}
	r.write(bases, string(kept))
	r.umount(r.target)
}

// TestSwitchStaleNone: where there are no private files nothing is compared, and no list
// of files is made or looked for.
func TestSwitchStaleNone(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.component.OnStale = "stop"
	r.assign("1")
	r.mount()
	lists := r.Path("/var/cache/levelfs/manifests")
	if got, _ := r.report(0, "switch", "emacs", "--to", "2"); !got.Changed || got.Stale != nil {
		t.Errorf("%+v", got)
	}
	if _, err := os.Lstat(lists); !os.IsNotExist(err) {
		t.Errorf("%s: %v", lists, err)
	}
	r.write(r.target+"/private", "mine")
	if got, _ := r.report(0, "switch", "emacs", "--to", "1"); !got.Changed || got.Stale == nil || got.Stale.Counts[diff.New] != 1 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Lstat(lists); err != nil {
		t.Error(err)
	}
	r.umount(r.target)
}

// TestSwitchStaleUser: a user's view is compared with his own private layer.
func TestSwitchStaleUser(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.AddUsers(rob)
	r.mount("-o", forRob)
	if got := r.RunAs(rob, "sh", "-c", "echo mine >"+r.target+"/which"); got.Exit != 0 {
		t.Fatal(got)
	}
	got, _ := r.report(1, "switch", "emacs", "--user", "rob", "--to", "2", "--stale=stop")
	if got.Changed || got.unsettled() != "which stale" {
		t.Errorf("%+v", got)
	}
	if _, result := r.report(1, "switch", "emacs", "--user", "rob", "--to", "2", "--stale=stop"); !strings.Contains(result.Stderr, "levelfs diff emacs --user rob --to emacs@2\n") {
		t.Errorf("%v", result)
	}
	r.umount(r.target)
}
