package test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// request is a request for a view of the layers, as view.Plan would make it.
func (r *rig) request(private *mounter.Private, layers ...testenv.Layer) mounter.Request {
	request := mounter.Request{
		Name: "emacs@1", Target: r.target, Private: private,
		Run: r.Path("/run/levelfs"), Cache: r.Path("/var/cache/levelfs"),
	}
	for _, l := range layers {
		request.Layers = append(request.Layers, mounter.Layer{
			Name: l.Name, FSType: l.FSType, Digest: l.Digest, Size: l.Size, UUID: l.UUID, Dir: r.Store.Dir, Path: l.Images[0],
		})
	}
	return request
}

func (r *rig) plan(private *mounter.Private, layers ...testenv.Layer) *mounter.Plan {
	r.t.Helper()
	p, err := mounter.Build(r.request(private, layers...))
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// openFiles are this process's descriptors and what they are of.
func openFiles(t *testing.T) map[string]string {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil {
			files[filepath.Base(link)] = to
		}
	}
	return files
}

// oneNamespace checks that no thread of this process stayed on a stage, nor with
// another root or working directory.
func oneNamespace(t *testing.T) {
	t.Helper()
	testenv.WaitFor(t, "threads in one mount namespace", func() error {
		for _, what := range []string{"ns/mnt", "root", "cwd"} {
			want, err := os.Readlink("/proc/thread-self/" + what)
			if err != nil {
				return err
			}
			tasks, err := filepath.Glob("/proc/self/task/*/" + what)
			if err != nil {
				return err
			}
			for _, task := range tasks {
				if got, err := os.Readlink(task); err == nil && got != want {
					return fmt.Errorf("%s is %s, want %s", task, got, want)
				}
			}
		}
		return nil
	})
}

var errInjected = errors.New("injected")

// TestMountFaults fails each plan at each of its steps, and finds everything as
// before; the next try works.
func TestMountFaults(t *testing.T) {
	r := newRig(t)
	testenv.Require(t, "squashfs")
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	two := r.Store.Squashfs("two", testenv.Files{"two": "two"})
	tree := r.Store.Directory("tree", testenv.Files{"tree": "tree"})
	private := func() *mounter.Private { return &mounter.Private{Dir: r.PrivateDir("emacs")} }
	// A private layer with something in it, which was under another level.
	r.level("0", one)
	r.mount()
	r.write(r.target+"/private", "mine")
	r.umount(r.target)
	// Once before anything is compared: the first call makes what stays, such as the
	// runtime's own descriptors.
	if err := new(mounter.Applier).Apply(t.Context(), r.plan(nil, one)); err != nil {
		t.Fatal(err)
	}
	r.umount(r.target)

	for name, plan := range map[string]*mounter.Plan{
		"persistent":          r.plan(private(), one, two, tree),
		"ephemeral":           r.plan(&mounter.Private{Ephemeral: true}, one, tree),
		"a user's":            r.plan(&mounter.Private{Dir: r.Path("/var/lib/levelfs/private/user/rob/emacs"), Owner: &mounter.Owner{UID: 1001, GID: 100}}, one, tree),
		"a user's ephemeral":  r.plan(&mounter.Private{Ephemeral: true, Owner: &mounter.Owner{UID: 1001, GID: 100}}, one, two),
		"read-only":           r.plan(nil, two, one),
		"read-only one layer": r.plan(nil, one),
	} {
		for _, mount2 := range []bool{false, true} {
			for k, step := range plan.Steps {
				t.Run(fmt.Sprintf("%s/mount2=%v/%d-%s", name, mount2, k, step.Op), func(t *testing.T) {
					sub := *r
					sub.t = t
					files := openFiles(t)
					for what, fail := range map[string]func(cancel func()) error{
						"error":  func(func()) error { return errInjected },
						"cancel": func(cancel func()) error { cancel(); return context.Canceled },
					} {
						ctx, cancel := context.WithCancel(t.Context())
						reached := -1
						a := mounter.Applier{Mount2: mount2, Before: func(mounter.Step) error {
							if reached++; reached == k {
								return fail(cancel)
							}
							return nil
						}}
						check := sub.unchanged
						if step.Op == mounter.OpUnstage {
							// The view is there already: see below.
							check = func(f func()) { f() }
						}
						check(func() {
							err := a.Apply(ctx, plan)
							var failed *mounter.StepError
							if !errors.As(err, &failed) || failed.Step != step || !errors.Is(err, errInjected) && !errors.Is(err, context.Canceled) {
								t.Errorf("%s: got %v", what, err)
							}
						})
						if step.Op == mounter.OpUnstage {
							// Apply returns nil only if the view is mounted, and an error only if
							// it is not.
							if mounts, err := testenv.Mounts(sub.target); err != nil || len(mounts) != 0 {
								t.Errorf("%s: an error, but the view is mounted", what)
								sub.umount(sub.target)
							}
						}
						cancel()
						oneNamespace(t)
						if now := openFiles(t); !maps.Equal(now, files) {
							t.Errorf("%s: open files are now %v, and were %v", what, now, files)
						}
					}
					a := mounter.Applier{Mount2: mount2}
					if err := a.Apply(t.Context(), plan); err != nil {
						t.Fatalf("and then: %v", err)
					}
					sub.want(map[string]string{"file": "one"})
					if name == "persistent" {
						sub.want(map[string]string{"private": "mine"})
					}
					sub.umount(sub.target)
					if now := openFiles(t); !maps.Equal(now, files) {
						t.Errorf("after a mount: open files are now %v, and were %v", now, files)
					}
				})
			}
		}
	}
}

// TestMount2 checks the way by mount(2), for kernels before 6.7, against the other:
// the same view, for any number of layers that fits, and a clear refusal where the
// kernel would cut the options in silence.
func TestMount2(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one", "d/one": "one"})
	layers := []testenv.Layer{one}
	for i := range 80 {
		name := fmt.Sprintf("%s%02d", strings.Repeat("n", 58), i)
		layers = append(layers, r.Store.Directory(name, testenv.Files{"d/" + strconv.Itoa(i): name, "top": name}))
	}
	// The kernel gives a private layer a UUID the first time, and shows it only then.
	for _, a := range []mounter.Applier{{Mount2: true}, {}} {
		if err := a.Apply(t.Context(), r.plan(&mounter.Private{Dir: r.PrivateDir("emacs")}, one)); err != nil {
			t.Fatal(err)
		}
		r.Umount(r.target)
	}
	refused := 0
	for _, n := range []int{1, 2, 3, 10, 40, 50, 52, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 66, 80} {
		for _, private := range []*mounter.Private{{Dir: r.PrivateDir("emacs")}, {Ephemeral: true}, nil} {
			plan := r.plan(private, layers[:n]...)
			var seen []string
			for _, mount2 := range []bool{false, true} {
				a := mounter.Applier{Mount2: mount2}
				var err error
				if mount2 && n > 50 { // it may be refused, and then nothing has changed
					mounts := mountTable(t)
					if err = a.Apply(t.Context(), plan); err != nil {
						refused++
						if !strings.Contains(err.Error(), "bytes of mount options") || !strings.Contains(err.Error(), fmt.Sprintf("%d layers", n)) {
							t.Errorf("%d layers: %v", n, err)
						}
						if now := mountTable(t); !slices.Equal(now, mounts) {
							t.Errorf("%d layers: refused, but the mounts are now %v", n, now)
						}
						continue
					}
				} else if err = a.Apply(t.Context(), plan); err != nil {
					t.Fatalf("%d layers, mount2=%v: %v", n, mount2, err)
				}
				text := lowerDirs(viewLine(t, r.target), plan.Stage) + "\n"
				for _, dir := range []string{"", "d"} {
					entries, err := os.ReadDir(filepath.Join(r.target, dir))
					if err != nil {
						t.Fatal(err)
					}
					text += fmt.Sprintln(entries)
				}
				if top, err := os.ReadFile(filepath.Join(r.target, "top")); err == nil {
					text += string(top)
				}
				r.Umount(r.target)
				seen = append(seen, text)
			}
			if len(seen) == 2 && seen[0] != seen[1] {
				t.Errorf("%d layers: by fsmount(2)\n%s\nby mount(2)\n%s", n, seen[0], seen[1])
			}
			if len(seen) > 0 && n > 1 && strings.Count(seen[0], "@") < n {
				t.Errorf("%d layers: %s", n, seen[0])
			}
		}
	}
	if refused == 0 {
		t.Error("nothing was too long: this test did not test the limit")
	}
	r.wantNoLoops()
}

// lowerDirs spells lowerdir=a:b as lowerdir+=STAGE/a,lowerdir+=STAGE/b.
func lowerDirs(line, stage string) string {
	options := strings.Split(line, ",")
	for i, o := range options {
		if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			var each []string
			for dir := range strings.SplitSeq(dirs, ":") {
				each = append(each, "lowerdir+="+filepath.Join(stage, dir))
			}
			options[i] = strings.Join(each, ",")
		}
	}
	return strings.Join(options, ",")
}
