package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

const schemaDir = "../packaging/schema"

// startSlapd starts a server with the inventory in it, unless it loads one itself.
func startSlapd(t *testing.T, o testenv.SlapdOptions, inv testenv.Inventory) *testenv.Slapd {
	t.Helper()
	testenv.Require(t, "slapd")
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s, err := testenv.StartSlapd(t.Context(), dir, schemaDir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	if o.Load != "" {
		return s
	}
	if err := s.Add(inv.LDIF()); err != nil {
		t.Fatal(err)
	}
	return s
}

// startAutomount serves the machine's inventory at a directory of it.
func startAutomount(t *testing.T, m *testenv.Machine, args ...string) (*testenv.Automount, string) {
	t.Helper()
	sw := m.Mkdir("sw")
	// -n 1: the shortest time for which automount reuses an answer, good or bad.
	return testenv.StartAutomount(t, m, append(args, sw+" program:"+m.Map+" -n 1")...), sw
}

// component is a component whose levels have one layer each, of the same name.
func component(name, standard string, levels ...string) testenv.Component {
	c := testenv.Component{Name: name, Default: standard}
	for _, l := range levels {
		c.Levels = append(c.Levels, testenv.Level{Name: l, Layers: []string{name + "-" + l}})
	}
	return c
}

// wantFile checks what a file says.
func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := testenv.ReadFile(path); err != nil || got != want {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// wantNothingLeft checks that no view is mounted below dir and that no loop device
// has an image of the store.
func wantNothingLeft(t *testing.T, dir string, s *testenv.Store) {
	t.Helper()
	// A loop device is freed a moment after the umount that made it idle.
	testenv.WaitFor(t, "freed mounts and loop devices", func() error {
		mounts, err := testenv.Mounts(dir)
		if err != nil {
			return err
		}
		for _, m := range mounts {
			if m.FSType != "autofs" {
				return fmt.Errorf("%s is mounted at %s", m.Source, m.Mountpoint)
			}
		}
		store, err := filepath.EvalSymlinks(s.Dir)
		if err != nil {
			return err
		}
		loops, err := testenv.LoopDevices(store)
		if err != nil {
			return err
		}
		if len(loops) > 0 {
			return fmt.Errorf("loop devices: %v", loops)
		}
		return nil
	})
}
