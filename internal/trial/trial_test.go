package trial

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/mounter"
)

func emacs(t *testing.T, tree string) *mounter.Plan {
	t.Helper()
	p, err := mounter.Build(mounter.Request{
		Name: "emacs@2", Target: tree + "/emacs", Layers: []mounter.Layer{{Name: "a", FSType: "dir", Dir: "/dirs", Path: "a"}},
		Private: &mounter.Private{Ephemeral: true}, Run: "/run/levelfs", Cache: "/var/cache/levelfs",
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestNew: the cover has the names that there are and those that are given, each once.
func TestNew(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	for _, name := range []string{"vi", "emacs", "emacs@1", "by hand", ".outside", ".hidden"} {
		if err := os.Mkdir(filepath.Join(tree, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	names := []string{"vi", "gcc", "emacs", "../etc", ".x"}
	trial, err := New(tree, false, []*mounter.Plan{emacs(t, tree)}, names)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"by hand", "emacs@1", "gcc", "vi"}; !slices.Equal(trial.Links, want) {
		t.Errorf("links %q, want %q", trial.Links, want)
	}
	if names[0] != "vi" || names[4] != ".x" {
		t.Errorf("the names have become %q", names)
	}
	if _, err := New(filepath.Join(tree, "nosuch"), false, nil, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no tree: %v", err)
	}
	commands := strings.Join(trial.Commands(), "\n")
	for _, want := range []string{
		"unshare --mount --propagation slave\n", "mount --no-mtab --move /mnt " + tree + "/.outside\n", "ln -s .outside/gcc " + tree + "/gcc\n",
		"ln -s '.outside/by hand' '" + tree + "/by hand'\n",
		"mkdir " + tree + "/emacs\n", "levelfs:emacs@2 " + tree + "/emacs\n", "\nmount -o remount,bind,ro " + tree,
	} {
		if !strings.Contains(commands, want) {
			t.Errorf("commands\n%s\nwant %q", commands, want)
		}
	}
	trial.User = true
	if first := trial.Commands()[0]; first != "unshare --user --map-root-user --mount --propagation slave" {
		t.Errorf("a user's: %q", first)
	}
}

func TestMachine(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	if got := Machine(tree); got != tree {
		t.Errorf("not covered: %q", got)
	}
	inner := filepath.Join(tree, Outside, Outside)
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := Machine(tree); got != inner {
		t.Errorf("covered twice: %q, want %q", got, inner)
	}
	if got, want := Covered(tree, inner+"/emacs@1"), filepath.Join(inner, Outside, "emacs@1"); got != want {
		t.Errorf("covered once more: %q, want %q", got, want)
	}
}

// TestCommandError tells what is missing from what cannot be run.
func TestCommandError(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		exec.ErrNotFound: true, unix.ENOENT: true, fs.ErrNotExist: true, unix.EACCES: false, unix.ENOEXEC: false, unix.ELOOP: false,
	} {
		if got := (&CommandError{Name: "x", Err: err}).NotFound(); got != want {
			t.Errorf("%v: not found %v, want %v", err, got, want)
		}
	}
}
