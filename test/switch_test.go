package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// A switchRig is a rig whose component has two levels, 1 and 2, whose files say so.
type switchRig struct {
	*rig
	component testenv.Component
	layers    []testenv.Layer
	kills     int
}

// newSwitchRig makes the levels; the policy is for the private layer.
func newSwitchRig(t *testing.T, policy string) *switchRig {
	t.Helper()
	r := &switchRig{rig: newRig(t)}
	r.layers = []testenv.Layer{
		r.Store.Erofs("one", testenv.Files{"which": "1", "conf": "delivered", "removed": "1", "only-1": "", "d/which": "1"}),
		r.Store.Erofs("two", testenv.Files{"which": "2", "conf": "delivered", "removed": "2", "only-2": "", "d/which": "2"}),
		r.Store.Erofs("common", testenv.Files{"common": "common"}),
	}
	r.component = testenv.Component{Name: "emacs", Default: "1", Private: policy, Levels: []testenv.Level{
		{Name: "1", State: "released", Layers: []string{"one", "common"}}, {Name: "2", State: "released", Layers: []string{"two", "common"}},
	}}
	r.assign("1")
	return r
}

func (r *switchRig) assign(level string) {
	r.t.Helper()
	r.component.Default = level
	r.WriteLDIF("emacs.ldif", testenv.Inventory{
		Components: []testenv.Component{r.component}, Layers: r.layers, Users: []testenv.Caller{{Name: "rob", Assign: []string{"emacs=" + level}}},
	}.LDIF())
}

// levelfs runs the command and wants it to succeed, with nothing on standard error.
func (r *switchRig) levelfs(args ...string) string {
	r.t.Helper()
	got := r.RunLevelfs(args...)
	if got.Exit != 0 || got.Stderr != "" {
		r.t.Fatalf("levelfs %s: %v", strings.Join(args, " "), got)
	}
	return got.Stdout
}

// wantLevel checks that the view is the level's, and has the private files.
func (r *switchRig) wantLevel(level string) {
	r.t.Helper()
	r.want(map[string]string{"which": level, "d/which": level, "only-" + level: "", "common": "common"})
	other := map[string]string{"1": "2", "2": "1"}[level]
	r.wantAbsent("only-" + other)
}

// view is the only view at the target.
func (r *switchRig) view() mounter.View {
	r.t.Helper()
	views, err := mounter.Views()
	if err != nil {
		r.t.Fatal(err)
	}
	views = slices.DeleteFunc(views, func(v mounter.View) bool { return v.Target != r.target })
	if len(views) != 1 {
		r.t.Fatalf("views %+v, want one", views)
	}
	return views[0]
}

// plan is the plan of a switch of the view at the target.
func (r *switchRig) plan(level string) *mounter.Plan {
	r.t.Helper()
	v := r.view()
	layers := []testenv.Layer{r.layers[0], r.layers[2]}
	if level == "2" {
		layers[0] = r.layers[1]
	}
	request := r.request(nil, layers...)
	if v.Upper != "" {
		request.Private = &mounter.Private{Dir: filepath.Dir(v.Upper)}
	}
	request.Name, request.Replaces, request.Flags, request.Released = "emacs@"+level, &v, v.Flags(), true
	p, err := mounter.Build(request)
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// keep makes private files of each kind: new, copied up, and removed.
func (r *switchRig) keep() {
	r.t.Helper()
	r.write(r.target+"/private", "mine")
	r.write(r.target+"/conf", "mine")
	r.write(r.target+"/d/private", "mine")
	if err := os.Remove(r.target + "/removed"); err != nil {
		r.t.Fatal(err)
	}
}

func (r *switchRig) wantKept() {
	r.t.Helper()
	r.want(map[string]string{"private": "mine", "conf": "mine", "d/private": "mine"})
	r.wantAbsent("removed")
}

// upperFiles is everything about the files of the private layer.
func (r *switchRig) upperFiles() string {
	r.t.Helper()
	var b strings.Builder
	upper := r.PrivateDir("emacs") + "/upper"
	err := filepath.WalkDir(upper, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			b.WriteString(describe(r.t, path, strings.TrimPrefix(path, upper)))
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return b.String()
}

// writableView checks that all that overlayfs does in its work directory works.
func (r *switchRig) wantWritable() {
	r.t.Helper()
	before := r.upperFiles()
	r.write(r.target+"/new", "x")
	r.write(r.target+"/common", "common") // copied up
	if err := errors.Join(os.Remove(r.target+"/new"), os.Remove(r.target+"/common")); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Remove(r.PrivateDir("emacs") + "/upper/common"); err != nil { // the whiteout
		r.t.Fatal(err)
	}
	if now := r.upperFiles(); now != before {
		r.t.Errorf("private layer is now\n%sand was\n%s", now, before)
	}
	// The overlay may still remember the whiteout.
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		r.t.Fatal(err)
	}
}

// TestSwitch: there and back, by each verb, with files open.
func TestSwitch(t *testing.T) {
	for _, policy := range []string{"persistent", "none"} {
		t.Run(policy, func(t *testing.T) {
			r := newSwitchRig(t, policy)
			kept := policy == "persistent"
			r.mount("-o", "nosuid,noatime")
			options := viewOptions(t, r.target)
			if kept {
				r.keep()
			}
			open, err := os.Open(r.target + "/which")
			if err != nil {
				t.Fatal(err)
			}
			defer open.Close()
			upper := ""
			if kept {
				upper = r.upperFiles()
			}
			switchTo := func(level string, args ...string) {
				t.Helper()
				old := r.view()
				out := r.levelfs(append(args, "--json")...)
				var reports []struct {
					Target, From, To string
					Changed          bool
					Remnants         []any
				}
				if err := json.Unmarshal([]byte(out), &reports); err != nil || len(reports) != 1 {
					t.Fatalf("%v: %s", err, out)
				}
				if got := reports[0]; got.Target != r.target || got.From != old.Name || got.To != "emacs@"+level || !got.Changed || got.Remnants != nil {
					t.Errorf("report %+v", got)
				}
				r.wantLevel(level)
				v := r.view()
				if v.Name != "emacs@"+level || v.Frozen || v.Minor == old.Minor || v.Upper != old.Upper {
					t.Errorf("view %+v was %+v", v, old)
				}
				if kept {
					r.wantKept()
					if now := r.upperFiles(); now != upper {
						t.Errorf("private layer is now\n%sand was\n%s", now, upper)
					}
				}
				// The private layer is not free, whatever is left of the old view.
				if kept {
					r.refused(32, []string{"emacs", r.Mkdir("sw/other")}, "in use by the view at", r.target)
				}
				for _, o := range options {
					if key, _, found := strings.Cut(o, "="); (!found || key == "index") && !slices.Contains(viewOptions(t, r.target), o) {
						t.Errorf("option %s is gone: %v", o, viewOptions(t, r.target))
					}
				}
			}
			if out := r.levelfs("switch", "emacs"); !strings.Contains(out, "emacs@1 already") {
				t.Errorf("%q", out)
			}
			switchTo("2", "switch", "emacs", "--to", "2")
			if kept {
				r.wantWritable()
			}
			switchTo("1", "switch", "emacs", "--to", "emacs@1")
			r.assign("2")
			switchTo("2", "refresh")
			if kept {
				switchTo("1", "rollback", "emacs")
				switchTo("2", "rollback", "emacs")
				wantHistory(t, r, "1 2 1 2 1 2")
			}
			r.assign("1")
			switchTo("1", "switch", "emacs")
			if out := r.levelfs("refresh"); !strings.Contains(out, "emacs@1 already") {
				t.Errorf("%q", out)
			}
			// The file that was opened first is of the view that was first.
			text := make([]byte, 10)
			if n, err := open.Read(text); err != nil || string(text[:n]) != "1" {
				t.Errorf("the open file: %q, %v", text[:n], err)
			}
			if err := open.Close(); err != nil {
				t.Fatal(err)
			}
			r.umount(r.target)
			if kept { // and then it is free, and mounts as ever
				r.mount()
				r.wantLevel("1")
				r.wantKept()
				r.umount(r.target)
			}
		})
	}
}

// TestSwitchLastKnown: while no server answers, mounts get the level that a view was given
// last because it is assigned, and not the one before; what was only named is not it.
func TestSwitchLastKnown(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.AddUsers(rob)
	asked := func(level string) {
		t.Helper()
		for program, key := range map[string]string{r.Map: "emacs", r.UserMap: "rob"} {
			if got := r.Run(program, key); got.Exit != 0 || !strings.Contains(got.Stdout, ":emacs@"+level) {
				t.Errorf("%s: %v, want level %s", key, got, level)
			}
		}
	}
	asked("1")
	r.mount()
	r.assign("2")
	r.levelfs("refresh")
	r.levelfs("switch", "emacs", "--to", "1")
	r.umount(r.target)
	r.assign("1")
	r.mount("-o", forRob)
	r.assign("2")
	r.levelfs("switch", "emacs", "--user", "rob")
	r.umount(r.target)
	r.Configure("[[source]]\ntype = \"ldap\"\nuri = [\"ldap://127.0.0.1:1\"]\nbase = \"dc=example,dc=org\"\n")
	asked("2")
}

func wantHistory(t *testing.T, r *switchRig, want string) {
	t.Helper()
	var periods []mounter.Period
	if err := json.Unmarshal([]byte(r.levelfs("history", "emacs", "--json")), &periods); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, p := range periods {
		got = append(got, strings.TrimPrefix(p.Level, "emacs@"))
		if i > 0 && p.Since.Before(periods[i-1].Since) {
			t.Errorf("%v", periods)
		}
	}
	if strings.Join(got, " ") != want {
		t.Errorf("history %q, want %q", got, want)
	}
}

// TestSwitchWriters: while processes write, each to a file of its own and to one that
// they replace by rename, nothing that was acknowledged is lost, and nobody is refused
// for long.
func TestSwitchWriters(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var (
		all     sync.WaitGroup
		longest atomic.Int64
		refused atomic.Int64
	)
	const writers = 4
	written := make([]int, writers)
	for i := range writers {
		all.Go(func() {
			path := fmt.Sprintf("%s/writer-%d", r.target, i)
			var since time.Time // from when on it was refused
			for n := 1; ctx.Err() == nil; n++ {
				err := appendLine(path, n)
				if errors.Is(err, unix.EROFS) {
					if since.IsZero() {
						since = time.Now()
					}
					refused.Add(1)
					n--
					runtime.Gosched()
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				if !since.IsZero() {
					longest.Store(max(longest.Load(), int64(time.Since(since))))
					since = time.Time{}
				}
				written[i] = n
				for range 20 { // it has other things to do than to write
					if _, err := os.ReadFile(r.target + "/common"); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	const switches = 20
	changed := 0
	for range switches {
		level := fmt.Sprint(2 - changed%2)
		// Who writes all the time may always be in the way: then again.
		err := new(mounter.Applier).Apply(t.Context(), r.plan(level))
		var busy *mounter.BusyError
		if errors.As(err, &busy) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		changed++
	}
	stop()
	all.Wait()
	for i, n := range written {
		text, err := os.ReadFile(fmt.Sprintf("%s/upper/writer-%d", r.PrivateDir("emacs"), i))
		if err != nil {
			t.Fatal(err)
		}
		var want strings.Builder
		for line := range n {
			fmt.Fprintf(&want, "%d\n", line+1)
		}
		if string(text) != want.String() {
			t.Errorf("writer %d: %d bytes, want the %d of %d lines", i, len(text), want.Len(), n)
		}
	}
	if changed < switches/2 {
		t.Errorf("%d of %d switches succeeded", changed, switches)
	}
	t.Logf("%d switches, lines %v, %d writes refused, at most for %v", changed, written, refused.Load(), time.Duration(longest.Load()))
	if time.Duration(longest.Load()) > 5*time.Second {
		t.Errorf("a writer was refused for %v", time.Duration(longest.Load()))
	}
	r.umount(r.target)
}

func appendLine(path string, n int) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, n)
	return errors.Join(err, f.Close())
}

// fails checks that a switch fails with one line on standard error, which has all of the
// words, and a hint at most; that the old view is as it was, and nothing else has changed.
func (r *switchRig) fails(args []string, words ...string) {
	r.t.Helper()
	v := r.view()
	which, err := os.ReadFile(r.target + "/which")
	if err != nil {
		r.t.Fatal(err)
	}
	r.unchanged(func() {
		r.t.Helper()
		history := r.levelfs("history", "emacs")
		got := r.RunLevelfs(args...)
		if now := r.levelfs("history", "emacs"); now != history {
			r.t.Errorf("history is now\n%sand was\n%s", now, history)
		}
		lines := strings.Split(strings.TrimSuffix(got.Stderr, "\n"), "\n")
		if got.Exit != 1 || !strings.HasPrefix(lines[0], "levelfs: error: ") || len(lines) > 2 || len(lines) == 2 && !strings.HasPrefix(lines[1], "levelfs: hint: ") {
			r.t.Errorf("%v; want exit 1, a line and a hint", got)
		}
		for _, w := range words {
			if !strings.Contains(lines[0], w) {
				r.t.Errorf("%q: want %q in it", lines[0], w)
			}
		}
	})
	if now := r.view(); now.ID != v.ID || now.ReadOnly != v.ReadOnly {
		r.t.Errorf("view %+v was %+v", now, v)
	}
	r.wantLevel(string(which))
}

// TestSwitchFaults fails a switch at each of its steps, and finds the old view and all
// else as it was; the next try works.
func TestSwitchFaults(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	level := "1"
	for _, noBeneath := range []bool{false, true} {
		for k, step := range r.plan("2").Steps {
			t.Run(fmt.Sprintf("%v/%d-%s", noBeneath, k, step.Op), func(t *testing.T) {
				sub := *r
				base := *r.rig
				sub.rig, sub.t = &base, t
				base.t = t
				to := map[string]string{"1": "2", "2": "1"}[level]
				files := openFiles(t)
				for what, fail := range map[string]func(cancel func()) error{
					"error":  func(func()) error { return errInjected },
					"cancel": func(cancel func()) error { cancel(); return context.Canceled },
				} {
					ctx, cancel := context.WithCancel(t.Context())
					reached := -1
					a := mounter.Applier{NoBeneath: noBeneath, Before: func(mounter.Step) error {
						if reached++; reached == k {
							return fail(cancel)
						}
						return nil
					}}
					sub.unchanged(func() {
						err := a.Apply(ctx, sub.plan(to))
						var failed *mounter.StepError
						if !errors.As(err, &failed) || failed.Step.Op != step.Op || !errors.Is(err, errInjected) && !errors.Is(err, context.Canceled) {
							t.Errorf("%s: got %v", what, err)
						}
					})
					cancel()
					oneNamespace(t)
					if now := openFiles(t); !maps.Equal(now, files) {
						t.Errorf("%s: open files are now %v, and were %v", what, now, files)
					}
					sub.wantLevel(level)
					sub.wantKept()
					sub.wantWritable()
				}
				a := mounter.Applier{NoBeneath: noBeneath}
				if err := a.Apply(t.Context(), sub.plan(to)); err != nil {
					t.Fatalf("and then: %v", err)
				}
				level = to
				sub.wantLevel(level)
				sub.wantKept()
				sub.wantWritable()
				if now := openFiles(t); !maps.Equal(now, files) {
					t.Errorf("after a switch: open files are now %v, and were %v", now, files)
				}
			})
		}
	}
	r.umount(r.target)
}

// TestSwitchBusy: whoever writes is named, and can be waited for; the view stays as it
// was. Before Linux 6.5, so is everybody who uses it.
func TestSwitchBusy(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	r.mount()
	r.keep()
	start := func(script string) (end func(), holder string) { // in a process of its own, which says that it is ready
		t.Helper()
		cmd := exec.Command("sh", "-c", script+"\necho ready; read line")
		cmd.Dir = "/"
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		end = sync.OnceFunc(func() { in.Close(); cmd.Wait() })
		t.Cleanup(end)
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			t.Fatalf("%q, %v", line, err)
		}
		return end, fmt.Sprintf("sh[%d]", cmd.Process.Pid)
	}
	for what, c := range map[string]struct {
		script, path string
		writes       bool
	}{
		"appends":       {"exec 3>>" + r.target + "/private", "/private", true},
		"reads, writes": {"exec 3<>" + r.target + "/fresh", "/fresh", true},
		"deleted":       {"cd " + r.target + "; echo >gone; exec 3<gone; rm gone; cd /", "/gone (deleted)", true},
		"cwd deleted":   {"mkdir " + r.target + "/dir; cd " + r.target + "/dir; rmdir " + r.target + "/dir", "/dir (deleted)", true},
		"reads":         {"exec 3<" + r.target + "/which", "/which", false},
		"cwd":           {"cd " + r.target + "/d", "/d", false},
	} {
		t.Run(what, func(t *testing.T) {
			sub := *r
			base := *r.rig
			sub.rig, sub.t, base.t = &base, t, t
			end, holder := start(c.script)
			defer end()
			if c.writes {
				sub.fails([]string{"switch", "emacs", "--to", "2"}, "open for writing", holder, r.target+c.path)
				sub.fails([]string{"switch", "emacs", "--to", "2", "--when-idle", "--wait", "300ms"}, holder)
			}
			sub.unchanged(func() {
				err := (&mounter.Applier{NoBeneath: true}).Apply(t.Context(), sub.plan("2"))
				var busy *mounter.BusyError
				if !errors.As(err, &busy) || !strings.Contains(err.Error(), holder) || !strings.Contains(err.Error(), r.target+c.path) {
					t.Errorf("without mounting beneath: %v", err)
				}
			})
			sub.wantLevel("1")
			sub.wantWritable()
			if c.writes {
				done := make(chan testenv.Result, 1)
				go func() { done <- sub.RunLevelfs("switch", "emacs", "--to", "2", "--when-idle", "--wait", "30s") }()
				end()
				if got := <-done; got.Exit != 0 {
					t.Errorf("waited: %v", got)
				}
				sub.wantLevel("2")
				sub.levelfs("rollback", "emacs")
			} else {
				sub.levelfs("switch", "emacs", "--to", "2")
				sub.levelfs("switch", "emacs", "--to", "1")
			}
			end()
			os.Remove(r.target + "/fresh")
			sub.wantKept()
		})
	}
	r.umount(r.target)
}

// TestSwitchReaders: 50 processes open and read files all the time; no open fails, and no
// file has bytes of two levels. "make bench-switch" does the same for longer.
func TestSwitchReaders(t *testing.T) {
	r := newSwitchRig(t, "persistent")
	for i := range 2 {
		r.layers[i] = r.Store.Erofs(r.layers[i].Name, testenv.Files{"which": strings.Repeat(fmt.Sprint(i+1), 32<<10), "d/which": strings.Repeat(fmt.Sprint(i+1), 4<<10)})
	}
	r.assign("1")
	r.mount()
	r.write(r.target+"/private", "mine")
	mounts, loops := len(mountTable(t)), len(r.loops())
	readers := testenv.StartReaders(t, 50, r.target+"/which", r.target+"/d/which")
	const switches = 25
	for i := range switches {
		if err := new(mounter.Applier).Apply(t.Context(), r.plan(fmt.Sprint(2-i%2))); err != nil {
			t.Fatal(err)
		}
	}
	tally := readers.Stop()
	if tally.Opened < switches || tally.Failed != 0 || tally.Mixed != 0 {
		t.Errorf("%+v", tally)
	}
	t.Logf("%+v", tally)
	if now := len(mountTable(t)); now != mounts {
		t.Errorf("%d mounts, and were %d", now, mounts)
	}
	testenv.WaitFor(t, "loop devices as before", func() error {
		if now := r.loops(); len(now) != loops {
			return fmt.Errorf("they are %v, and were %d", now, loops)
		}
		return nil
	})
	r.want(map[string]string{"private": "mine"})
	r.umount(r.target)
}
