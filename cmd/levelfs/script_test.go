package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

func TestMain(m *testing.M) {
	if os.Args[0] == testenv.SegmentWriter { // the commands write to it
		testenv.SegmentDriver()
	}
	testscript.Main(m, map[string]func(){"levelfs": main, workerName: main})
}

// TestScripts runs testdata/*.txtar, one topic a file, with LEVELFS_ROOT in the
// script's own directory.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			return testenv.SetUpScript(env)
		},
		Condition: func(cond string) (bool, error) {
			if cond != "views" {
				return false, fmt.Errorf("unknown condition %q", cond)
			}
			views, err := mounter.Views()
			return len(views) > 0, err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":    testenv.Exits,
			"tree":     tree,
			"envsubst": envsubst,
			"age":      age,
			"plug":     plug,
			"refuse":   refuse,
		},
	})
}

// age makes a file look as if it was last changed some time ago: age 2h FILE.
func age(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: age DURATION FILE")
	}
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	when := time.Now().Add(-d)
	ts.Check(os.Chtimes(ts.MkAbs(args[1]), when, when))
}

// plug makes devices of segments that somebody else attached: plug A:B...
func plug(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("usage: plug [A:B...]")
	}
	ts.Check(testenv.PlugSegments(ts.Getenv("WORK"), args...))
}

// refuse has the driver refuse what is asked of a segment: refuse SEGMENT ERRNO.
func refuse(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: refuse SEGMENT ERRNO")
	}
	errno, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(testenv.RefuseSegment(ts.Getenv("WORK"), args[0], syscall.Errno(errno)))
}

// tree lists the script's directory into a file outside of it, with what a change
// would change, under a name: tree NAME. A second listing under that name has to
// be the same.
func tree(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: tree NAME")
	}
	var list bytes.Buffer
	ts.Check(filepath.WalkDir(ts.Getenv("WORK"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&list, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
		return err
	}))
	key := "TREE_" + args[0]
	if before := ts.Getenv(key); before == "" {
		ts.Setenv(key, list.String())
	} else if before != list.String() {
		ts.Fatalf("the directory has changed; before:\n%safter:\n%s", before, list.String())
	}
}

// envsubst copies a file with variables replaced: envsubst FROM TO.
func envsubst(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: envsubst FROM TO")
	}
	to := ts.MkAbs(args[1])
	ts.Check(os.MkdirAll(filepath.Dir(to), 0o755))
	ts.Check(os.WriteFile(to, []byte(os.Expand(ts.ReadFile(args[0]), ts.Getenv)), 0o644))
}

// TestNoOutput is what a script cannot do: standard output that takes nothing.
func TestNoOutput(t *testing.T) {
	t.Setenv("LEVELFS_ROOT", t.TempDir())
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	var stderr bytes.Buffer
	dir := t.TempDir()
	for _, args := range [][]string{{"status", "--json"}, {"layer", "build", t.TempDir(), "-o", filepath.Join(dir, "a.erofs")}} {
		stderr.Reset()
		if got := run(args, nil, full, &stderr); got != exitFailed || !bytes.Contains(stderr.Bytes(), []byte("no space left")) {
			t.Errorf("%q: exit status %d, %q", args, got, stderr.String())
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("without its entry an image stays: %v, %v", left, err)
	}
}

// A deafWriter takes nothing that says that a change was made.
type deafWriter struct{}

func (deafWriter) Write(p []byte) (int, error) {
	if bytes.HasPrefix(p, []byte("done")) {
		return 0, syscall.EPIPE
	}
	return len(p), nil
}

// TestDeafReader: a change of several entries does not stop halfway because nobody reads
// on.
func TestDeafReader(t *testing.T) {
	root := t.TempDir()
	t.Setenv("LEVELFS_ROOT", root)
	inventory := filepath.Join(root, "etc/levelfs/inventory.d")
	if err := os.MkdirAll(inventory, 0o755); err != nil {
		t.Fatal(err)
	}
	layer := filepath.Join(root, "layer.ldif")
	if err := os.WriteFile(layer, []byte("dn: cn=a,dc=test\nobjectClass: levelfsLayer\ncn: a\nlevelfsFSType: erofs\n"+
		"levelfsDigest: sha256:"+strings.Repeat("1", 64)+"\nlevelfsImage: a.erofs\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	args := []string{"level", "publish", "emacs@1", "--layers-from", layer, "--create-component", "--in", "dc=test"}
	if got := run(args, nil, deafWriter{}, &stderr); got != exitFailed || !strings.Contains(stderr.String(), "broken pipe") {
		t.Errorf("exit status %d, %q", got, stderr.String())
	}
	text, err := os.ReadFile(filepath.Join(inventory, "levelfs.ldif"))
	if err != nil || !bytes.Contains(text, []byte("\ncn: emacs@1\n")) {
		t.Errorf("the level is missing: %q, %v", text, err)
	}
}

// TestFilesHint: files are no server that could be asked.
func TestFilesHint(t *testing.T) {
	t.Parallel()
	const dir = "/etc/levelfs/inventory.d"
	for want, err := range map[string]error{
		"see who has it: fuser -v " + dir: &ldapmap.UnavailableError{Source: dir, Err: context.DeadlineExceeded},
		"run it as root":                  &ldapmap.ConfigError{Source: dir, Err: fs.ErrPermission},
	} {
		if got := hintFor(err); got != want {
			t.Errorf("%v: hint %q, want %q", err, got, want)
		}
	}
}
