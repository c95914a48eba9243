package test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// typed runs the lines that "levelfs plan" prints, as a person would who pastes
// them into a shell that stops at the first error.
func (r *rig) typed(target string, options ...string) testenv.Result {
	r.t.Helper()
	got := r.RunLevelfs(append([]string{"plan", "emacs", "--json", "--target", target}, options...)...)
	var report struct{ Commands []string }
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil || got.Exit != 0 {
		r.t.Fatalf("levelfs plan: %v, %v", err, got)
	}
	script := r.Path("script")
	r.write(script, strings.Join(report.Commands, "\n")+"\n")
	return r.Run("sh", "-e", script)
}

// TestMountTyped: the printed commands make the same view as the helper.
func TestMountTyped(t *testing.T) {
	testenv.Require(t, "root", "overlay", "erofs", "squashfs", "ext4")
	for _, place := range []string{"", "it's a $root; \"x\" & co"} {
		for _, policy := range []string{"persistent", "ephemeral", "none"} {
			t.Run(place+"/"+policy, func(t *testing.T) {
				r := newRig(t)
				r.target = r.Mkdir("sw", place, "emacs")
				layers := []testenv.Layer{
					r.Store.Erofs("one", testenv.Files{"file": "one", "d/one": "one"}),
					r.Store.Squashfs("two", testenv.Files{"file": "two", "d/two": "two"}),
					r.journaledExt4("three", testenv.Files{"d/three": "three"}),
					r.Store.Directory("four", testenv.Files{"d/four": "four"}),
				}
				tree := map[string]string{"file": "one", "d/one": "one", "d/two": "two", "d/three": "three", "d/four": "four"}
				if policy == "persistent" { // with the site's above them
					layers = append([]testenv.Layer{r.Store.Erofs("site", testenv.Files{"file": "site"}).As("site")}, layers...)
					tree["file"] = "site"
				}
				if policy == "none" { // a single layer, for which the plan has a second
					layers, tree = layers[:1], map[string]string{"file": "one", "d/one": "one"}
				}
				r.levelWith(testenv.Component{Name: "emacs", Default: "1", Private: policy}, layers...)
				if policy == "persistent" { // the kernel shows what is new about an upper layer once
					r.mount()
					r.umount(r.target)
				}
				r.mount()
				byHelper, loops, record := viewLine(t, r.target), len(r.loops()), r.privateFiles()
				r.umount(r.target)

				// As if read-only views had had every device number before.
				marks := r.Mkdir("run/levelfs/views")
				for n := range 500 {
					r.write(filepath.Join(marks, fmt.Sprintf("0:%d", n)), "\n")
				}
				before := mountTable(t)
				if got := r.typed(r.target); got.Exit != 0 || got.Stdout != "" || got.Stderr != "" {
					t.Fatalf("%v", got)
				}
				if now := viewLine(t, r.target); now != byHelper {
					t.Errorf("typed\n%s\nby the helper\n%s", now, byHelper)
				}
				if now := mountTable(t); len(now) != len(before)+1 {
					t.Errorf("mounts are now\n%s\nand were\n%s", strings.Join(now, "\n"), strings.Join(before, "\n"))
				}
				if now := r.loops(); len(now) != loops {
					t.Errorf("%d loop devices, want %d", len(now), loops)
				}
				if now := r.privateFiles(); now != record {
					t.Errorf("private layer\n%sby the helper\n%s", now, record)
				}
				r.want(tree)
				other := r.Mkdir("sw/other")
				if policy == "persistent" {
					r.write(r.target+"/private", "mine")
					r.refused(32, []string{"emacs", other}, "in use")
					r.unchanged(func() {
						if got := r.typed(other); got.Exit == 0 {
							t.Errorf("typed again while the view is mounted: %v", got)
						}
					})
					for _, left := range slices.Backward(mountsBelow(t, r.Root)) {
						if left != r.target {
							r.Umount(left)
						}
					}
				}
				// A view by the helper over the same images shares the devices.
				r.mountAt("emacs", other, "-o", "ro")
				r.wantAt(other, tree)
				if now := r.loops(); len(now) != loops {
					t.Errorf("shared by typed and helper's views: %d loop devices, want %d", len(now), loops)
				}
				r.umount(other, r.target)
				r.mount()
				r.want(tree)
				if policy == "persistent" {
					r.want(map[string]string{"private": "mine"})
				}
				// And the other way round.
				r.levelWith(testenv.Component{Name: "emacs", Default: "1", Private: "none"}, layers...)
				if got := r.typed(other); got.Exit != 0 {
					t.Fatal(got)
				}
				if now := r.loops(); len(now) != loops {
					t.Errorf("shared by the helper's and typed views: %d loop devices, want %d", len(now), loops)
				}
				r.umount(r.target, other)
			})
		}
	}
}

// mountsBelow are the mount points at and below dir, in the order of the mounts.
func mountsBelow(t *testing.T, dir string) []string {
	t.Helper()
	mounts, err := testenv.Mounts(dir)
	if err != nil {
		t.Fatal(err)
	}
	var points []string
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points
}

// TestMountStrange: what has a meaning in mount options, in mountinfo or in a shell
// can be in the path of the mount point, and Views reads it back; it is refused in
// the path of the root, of which every mount option has a part.
func TestMountStrange(t *testing.T) {
	for _, place := range []string{
		"two words", "a,b", "c:d", `back\slash`, `\054`, "tab\tnew\nline", `"quo'tes"`, "#=$%+", "é", "-o", "upperdir=x",
	} {
		t.Run(place, func(t *testing.T) {
			r := newRig(t)
			r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}), r.Store.Directory("two", testenv.Files{"two": "two"}))
			r.target = r.Mkdir("sw", place)
			r.mount()
			r.want(map[string]string{"file": "one", "two": "two"})
			r.write(r.target+"/private", "mine")
			r.wantAt(r.PrivateDir("emacs"), map[string]string{"upper/private": "mine"})
			views, err := mounter.Views()
			if err != nil || len(views) != 1 {
				t.Fatalf("views %+v, %v", views, err)
			}
			v := views[0]
			if v.Target != r.target || v.Name != "emacs@1" || v.Upper != r.PrivateDir("emacs")+"/upper" || v.ReadOnly {
				t.Errorf("got %+v, want target %q, upper %q", v, r.target, r.PrivateDir("emacs")+"/upper")
			}
			if len(v.Layers) != 2 || !strings.HasPrefix(v.Layers[0], "one@") || v.Layers[1] != "two@dir" {
				t.Errorf("layers %q", v.Layers)
			}
			if since := v.Since(r.Path("/run/levelfs")); since.IsZero() {
				t.Error("nothing says since when")
			}
			r.refused(32, []string{"emacs", r.Mkdir("sw/other")}, "in use by the view at")
			r.refused(32, []string{"emacs", r.target}, "emacs@1")
			r.umount(r.target)

			if place == "-o" {
				return // which is no harm within a path
			}
			root := r.Root
			r.Root = r.Mkdir(place)
			r.refused(2, []string{"emacs", r.target}, "LEVELFS_ROOT", "must be a clean absolute path")
			r.Root = root
		})
	}
}
