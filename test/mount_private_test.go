package test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestMountLevelChange: the private layer survives a change of level, up and down,
// and says which level it is under.
func TestMountLevelChange(t *testing.T) {
	r := newRig(t)
	testenv.Require(t, "squashfs")
	common := r.Store.Built("common", testenv.Files{"common": "common", "conf": "delivered"})
	one := r.Store.Erofs("one", testenv.Files{"which": "1", "only1": "", "removed": "1", "d/one": "1"})
	two := r.Store.Squashfs("two", testenv.Files{"which": "2", "only2": "", "removed": "2", "d/two": "2"})
	record := func(level string, layers ...testenv.Layer) string {
		text := "level emacs@" + level + "\n"
		for _, l := range layers {
			text += fmt.Sprintf("layer %s %s %s\n", l.Name, l.Digest, orNone(l.UUID))
		}
		return text
	}
	r.level("1", one, common)
	r.mount()
	r.want(map[string]string{"which": "1", "conf": "delivered", "common": "common"})
	r.write(r.target+"/conf", "mine")
	r.write(r.target+"/d/private", "mine")
	if err := os.Remove(r.target + "/removed"); err != nil {
		t.Fatal(err)
	}
	r.wantAt(r.PrivateDir("emacs"), map[string]string{"level": record("1", one, common)})
	r.umount(r.target)

	for _, level := range []string{"2", "1", "1", "2"} {
		layers, other := []testenv.Layer{one, common}, "2"
		if level == "2" {
			layers, other = []testenv.Layer{two, common}, "1"
		}
		r.level(level, layers...)
		r.mount()
		r.want(map[string]string{"which": level, "only" + level: "", "conf": "mine", "d/private": "mine", "common": "common"})
		r.wantAbsent("only"+other, "removed")
		r.wantAt(r.PrivateDir("emacs"), map[string]string{"level": record(level, layers...)})
		r.umount(r.target)
	}
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// TestMountInUse: while any view uses a private layer, seen or not, there is no
// second one.
func TestMountInUse(t *testing.T) {
	// How the lock file can be when the second view is asked for.
	locks := map[string]func(r *rig){
		"as it is": func(*rig) {},
		"emptied":  func(r *rig) { r.write(r.PrivateDir("emacs")+"/lock", "") },
		"removed": func(r *rig) {
			if err := os.Remove(r.PrivateDir("emacs") + "/lock"); err != nil {
				r.t.Fatal(err)
			}
		},
		"run directory removed": func(r *rig) {
			if err := os.RemoveAll(r.Path("/run/levelfs")); err != nil {
				r.t.Fatal(err)
			}
		},
	}
	for lock, spoil := range locks {
		t.Run(lock, func(t *testing.T) {
			r := newRig(t)
			one := r.Store.Erofs("one", testenv.Files{"file": "one"})
			two := r.Store.Erofs("two", testenv.Files{"file": "two"})
			other := r.Mkdir("sw/other")
			refusedAt := func(words ...string) {
				t.Helper()
				r.level("2", two)
				r.refused(32, []string{"emacs", other}, append(words, r.PrivateDir("emacs"), "in use")...)
				r.refused(32, []string{"emacs@2", other}, append(words, "in use")...)
				// Without it the level can be had side by side.
				r.mountAt("emacs@2", other, "-o", "ro")
				r.wantAt(other, map[string]string{"file": "two"})
				r.Umount(other)
			}
			works := func() {
				t.Helper()
				// Overlayfs lets go of it when the last one closes: not at once.
				testenv.WaitFor(t, "free private layer", func() error {
					got := r.RunHelper("emacs", other)
					if got.Exit == 0 {
						return nil
					}
					return fmt.Errorf("%v", got)
				})
				r.wantAt(other, map[string]string{"file": "two", "private": "mine"})
				r.umount(other)
			}
			mount := func() {
				t.Helper()
				r.level("1", one)
				r.mount()
				r.write(r.target+"/private", "mine")
				spoil(r)
			}

			mount() // mounted
			refusedAt(r.target)
			r.umount(r.target)
			works()

			mount() // unmounted lazily, and a file open
			f, err := os.Open(r.target + "/private")
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.Unmount(r.target, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			refusedAt("unmounted lazily")
			if text, err := io.ReadAll(f); err != nil || string(text) != "mine" {
				t.Errorf("the open file: %q, %v", text, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			works()

			mount() // in another mount namespace only
			leave := otherNamespace(t)
			r.Umount(r.target)
			refusedAt("another mount namespace")
			leave()
			works()

			mount() // at another place only: a bind mount
			bound := r.Mkdir("bound")
			if err := unix.Mount(r.target, bound, "", unix.MS_BIND, ""); err != nil {
				t.Fatal(err)
			}
			r.Umount(r.target)
			refusedAt(bound)
			r.Umount(bound)
			works()
			r.wantNoLoops()
		})
	}
}

// otherNamespace starts a process that keeps a copy of this mount namespace, until
// the function is called.
func otherNamespace(t *testing.T) (leave func()) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", "echo ready; read line")
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
	var once sync.Once
	leave = func() {
		once.Do(func() {
			in.Close()
			cmd.Wait() // read fails at the end of its input, and so does the shell
		})
	}
	t.Cleanup(leave)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return leave
}

// TestMountForeignUse: a private layer that other software uses as an upper
// directory is in use too, and is found so even if levelfs has never used it.
func TestMountForeignUse(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	r.level("1", one)
	r.mount()
	r.umount(r.target)
	foreign, lower, work := r.Mkdir("foreign"), r.Mkdir("lower"), filepath.Join(r.PrivateDir("emacs"), "work2")
	if err := os.Mkdir(work, 0o700); err != nil {
		t.Fatal(err)
	}
	r.write(r.PrivateDir("emacs")+"/lock", "")
	data := "index=off,lowerdir=" + lower + ",upperdir=" + r.PrivateDir("emacs") + "/upper,workdir=" + work
	if err := unix.Mount("foreign", foreign, "overlay", 0, data); err != nil {
		t.Fatal(err)
	}
	r.refused(32, []string{"emacs", r.target}, "in use")
	r.Umount(foreign)
	r.mount()
	r.umount(r.target)
}

// TestMountAfterLoss: what is in /run, in the cache and in the lock file can be had
// again.
func TestMountAfterLoss(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	r.level("1", one)
	r.mount()
	r.write(r.target+"/private", "mine")
	r.umount(r.target)
	private := r.PrivateDir("emacs")
	for what, lose := range map[string]func() error{
		"run":             func() error { return os.RemoveAll(r.Path("/run/levelfs")) },
		"cache":           func() error { return os.RemoveAll(r.Path("/var/cache/levelfs")) },
		"lock":            func() error { return os.Remove(private + "/lock") },
		"content of lock": func() error { return os.Truncate(private+"/lock", 0) },
		"half of lock":    func() error { return os.Truncate(private+"/lock", 20) },
		"work":            func() error { return os.RemoveAll(private + "/work") },
		"level":           func() error { return os.Remove(private + "/level") },
		"all but upper and work": func() error {
			return errors.Join(os.RemoveAll(r.Path("/run/levelfs")), os.RemoveAll(r.Path("/var/cache/levelfs")), os.Remove(private+"/lock"), os.Remove(private+"/level"))
		},
		"a boot, half-finished files": func() error {
			boot := "00000000-0000-0000-0000-000000000000 0\n"
			return errors.Join(os.WriteFile(private+"/lock", []byte(boot), 0o600), os.Mkdir(private+"/upper.new", 0o700), os.WriteFile(private+"/level.new", []byte("lev"), 0o600))
		},
	} {
		t.Run(what, func(t *testing.T) {
			sub := *r
			sub.t = t
			if err := lose(); err != nil {
				t.Fatal(err)
			}
			sub.mount()
			sub.want(map[string]string{"file": "one", "private": "mine"})
			sub.umount(sub.target)
		})
	}
}

// TestMountRace: of helpers that are called at once for one private layer, exactly
// one wins.
func TestMountRace(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	r.level("1", one)
	const n = 4
	var targets []string
	for i := range n {
		targets = append(targets, r.Mkdir("sw", fmt.Sprint(i)))
	}
	for round := range 10 {
		if round == 5 { // from the beginning: the layer itself has to be made
			if err := os.RemoveAll(r.PrivateDir("emacs")); err != nil {
				t.Fatal(err)
			}
		}
		results := make([]testenv.Result, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { results[i] = r.RunHelper("emacs", targets[i]) })
		}
		all.Wait()
		var won []string
		for i, got := range results {
			if got.Exit == 0 {
				won = append(won, targets[i])
				continue
			}
			r.wantRefusal(got, 32, "in use")
		}
		mounts, err := testenv.Mounts(r.Path("sw"))
		if err != nil || len(mounts) != 1 || len(won) != 1 || mounts[0].Mountpoint != won[0] {
			t.Fatalf("round %d: %d winners, %v, mounts %v, %v", round, len(won), won, mounts, results)
		}
		r.umount(won...)
	}
}

// TestMountTargetRace: of views of different components that are mounted at one
// place at once, exactly one is: nothing is mounted at a view.
func TestMountTargetRace(t *testing.T) {
	r := newRig(t)
	inv := testenv.Inventory{Layers: []testenv.Layer{r.Store.Erofs("one", testenv.Files{"file": "one"})}}
	const n = 4
	for i := range n {
		inv.Components = append(inv.Components, testenv.Component{
			Name: fmt.Sprint("c", i), Default: "1", Levels: []testenv.Level{{Name: "1", Layers: []string{"one"}}},
		})
	}
	r.WriteLDIF("all.ldif", inv.LDIF())
	for i := range n {
		// The levels are in the cache, so that the helpers have nothing to wait for.
		if got := r.RunMap(fmt.Sprintf("c%d@1", i)); got.Exit != 0 {
			t.Fatal(got)
		}
	}
	for round := range 30 {
		results := make([]testenv.Result, n)
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { results[i] = r.RunHelper(fmt.Sprintf("c%d@1", i), r.target) })
		}
		all.Wait()
		won := 0
		for _, got := range results {
			if got.Exit == 0 {
				won++
				continue
			}
			r.wantRefusal(got, 32, r.target)
		}
		mounts, err := testenv.Mounts(r.Path("sw"))
		if err != nil || len(mounts) != 1 || won != 1 {
			t.Errorf("round %d: %d winners, %d mounts, %v, %v", round, won, len(mounts), results, err)
		}
		for range mounts {
			r.Umount(r.target)
		}
		if t.Failed() {
			break
		}
	}
	r.wantNoLoops()
}

// TestMountChangedLevel: a level name means the same digests for ever. A released
// level that comes with other layers is refused by name of both; one that is not
// released may change.
func TestMountChangedLevel(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"which": "1"})
	two := r.Store.Erofs("two", testenv.Files{"which": "2"})
	define := func(state string, layers ...testenv.Layer) {
		level := testenv.Level{Name: "1", State: state}
		for _, l := range layers {
			level.Layers = append(level.Layers, l.Name)
		}
		r.WriteLDIF("emacs.ldif", testenv.Inventory{
			Components: []testenv.Component{{Name: "emacs", Levels: []testenv.Level{level}}},
			Layers:     layers,
			Hosts:      []testenv.Caller{{Name: r.Host, Assign: []string{"emacs=1"}}},
		}.LDIF())
	}
	define("draft", one)
	r.mount()
	r.umount(r.target)
	define("draft", two, one) // a draft may change
	r.mount()
	r.want(map[string]string{"which": "2"})
	r.umount(r.target)
	define("released", two, one) // and be released as it is
	r.mount()
	r.write(r.target+"/private", "mine")
	r.umount(r.target)

	define("released", one)
	r.unchanged(func() {
		r.refused(32, []string{"emacs", r.target}, "released level emacs@1 was changed", one.Digest, two.Digest)
	})
	define("released", two, one)
	r.mount()
	r.want(map[string]string{"which": "2", "private": "mine"})
	r.umount(r.target)
}
