package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
	const switches = 50
	changed := 0
	took := make(map[mounter.Op]time.Duration)
	for range switches {
		level := fmt.Sprint(2 - changed%2)
		var last mounter.Op
		at := time.Now()
		a := mounter.Applier{Before: func(s mounter.Step) error { took[last] += time.Since(at); at = time.Now(); last = s.Op; return nil }}
		// Who writes all the time may always be in the way: then again.
		err := a.Apply(t.Context(), r.plan(level))
		took[last] += time.Since(at)
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
	t.Log(took)
	t.Logf("%d switches, lines %v, %d writes refused, at most for %v", changed, written, refused.Load(), time.Duration(longest.Load()))
	if time.Duration(longest.Load()) > time.Second {
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
