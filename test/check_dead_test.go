package test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestCheckDeadLayer: a view over a network file system whose server takes requests and
// never answers. Whoever waits for it cannot be killed, and the check ends all the same.
func TestCheckDeadLayer(t *testing.T) {
	r := newRig(t)
	r.configureCheck(deadTime)
	layer := r.Store.Directory("remote", testenv.Files{"bin/emacs": "from afar"})
	remote := filepath.Join(r.Store.Dir, "remote")
	from := r.Path("exported")
	if err := os.Rename(remote, from); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(remote, 0o755); err != nil {
		t.Fatal(err)
	}
	dead := testenv.MountDeadFS(t, from, remote)
	other := r.Store.Erofs("ed-1", testenv.Files{"bin/ed": "1"})
	r.WriteLDIF("all.ldif", testenv.Inventory{
		Layers:     []testenv.Layer{layer, other},
		Components: []testenv.Component{{Name: "emacs", Levels: []testenv.Level{{Name: "1", State: "test", Layers: []string{"remote"}}}}, component("ed", "1", "1")},
		Hosts:      []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=1"}}},
	}.LDIF())
	r.mount()
	ed := r.Mkdir("sw/ed")
	r.mountAt("ed", ed)
	r.wantAt(r.target, map[string]string{"bin/emacs": "from afar"})
	r.healthy()

	revive := sync.OnceFunc(dead.Die())
	defer revive()
	report, got := r.check()
	if got.Exit != 3 || got.Took > deadLimit || report.Views != 2 {
		t.Errorf("%v after %v", got, got.Took)
	}
	named := false
	for _, u := range report.Unchecked {
		named = named || u.What == "view "+r.target
		if strings.Contains(u.What, ed) {
			t.Errorf("the view that is well: %+v", u)
		}
	}
	if !named {
		t.Errorf("the view is not named: %+v", report.Unchecked)
	}
	// The one that waits keeps the lock: they do not pile up.
	if got := r.RunLevelfs("check"); got.Exit != 3 || !strings.Contains(got.Stderr, "cannot end as it waits for something dead") || got.Took > deadLimit {
		t.Errorf("again: %v", got)
	}
	revive()
	testenv.WaitFor(t, "a machine that is well again", func() error {
		if got := r.RunLevelfs("check"); got.Exit != 0 {
			return errors.New(got.String())
		}
		return nil
	})
	for _, target := range []string{r.target, ed} {
		testenv.WaitFor(t, "nobody in "+target, func() error { return unix.Unmount(target, unix.UMOUNT_NOFOLLOW) })
	}
	r.wantNoLoops()
}
