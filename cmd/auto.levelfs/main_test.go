package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/levelfs/levelfs/internal/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"auto.levelfs": main, "auto.levelfs.user": main, "auto.levelfs.session": main})
}

// TestScripts runs testdata/*.txtar, with LEVELFS_ROOT in the script's own
// directory.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               testenv.SetUpScript,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":  testenv.Exits,
			"refuse": refuse,
			"tree":   tree,
		},
	})
}

// refuse is the other half of the map's contract: the key is refused with exit
// status 1, nothing on standard output, and one line on standard error that has
// the text: refuse [-as PROGRAM] TEXT [KEY...].
func refuse(ts *testscript.TestScript, neg bool, args []string) {
	program := "auto.levelfs"
	if len(args) > 1 && args[0] == "-as" {
		program, args = args[1], args[2:]
	}
	if neg || len(args) < 1 {
		ts.Fatalf("usage: refuse [-as PROGRAM] TEXT [KEY...]")
	}
	testenv.Exits(ts, false, append([]string{"1", program}, args[1:]...))
	if out := ts.ReadFile("stdout"); out != "" {
		ts.Fatalf("standard output %q", out)
	}
	line := ts.ReadFile("stderr")
	if !strings.HasPrefix(line, program+": ") || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") {
		ts.Fatalf("standard error is not one line: %q", line)
	}
	if !strings.Contains(line, args[0]) {
		ts.Fatalf("standard error %q does not say %q", line, args[0])
	}
}

// tree lists a directory into a file, with what a change would change: tree DIR FILE.
func tree(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: tree DIR FILE")
	}
	var list bytes.Buffer
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			fmt.Fprintln(&list, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
		return err
	}))
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), list.Bytes(), 0o600))
}

// TestNoOutput: an answer that could not be written is none.
func TestNoOutput(t *testing.T) {
	root := t.TempDir()
	t.Setenv("LEVELFS_ROOT", root)
	dir := filepath.Join(root, "etc/levelfs/inventory.d")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	const text = "dn: cn=vi,dc=test\nobjectClass: levelfsComponent\ncn: vi\nlevelfsDefault: 9\n\n" +
		"dn: cn=vi@9,dc=test\nobjectClass: levelfsLevel\ncn: vi@9\nlevelfsLayerRef: 00:vi\n\n" +
		"dn: cn=vi-layer,dc=test\nobjectClass: levelfsLayer\ncn: vi\nlevelfsFSType: dir\n"
	if err := os.WriteFile(filepath.Join(dir, "vi.ldif"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	if got := run([]string{"auto.levelfs", "vi"}, full{}, &stderr); got != 1 || stderr.String() != "auto.levelfs: no space left on device\n" {
		t.Errorf("exit status %d, %q", got, stderr.String())
	}
	// One write: automount must never see half a line.
	var stdout writes
	if got := run([]string{"auto.levelfs", "vi"}, &stdout, io.Discard); got != 0 || len(stdout) != 1 || stdout[0] != "-fstype=levelfs,rw :vi@9\n" {
		t.Errorf("exit status %d, %q", got, stdout)
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

type writes []string

func (w *writes) Write(p []byte) (int, error) { *w = append(*w, string(p)); return len(p), nil }

// TestSubmount: the users' tree's map is the program beside the one that automount
// runs by its path, or else beside the one that is configured.
func TestSubmount(t *testing.T) {
	root := t.TempDir()
	t.Setenv("LEVELFS_ROOT", root)
	here, there := filepath.Join(root, "here"), filepath.Join(root, "there")
	odd := filepath.Join(root, "it's odd")
	for _, dir := range []string{here, there, odd, filepath.Join(root, "etc/levelfs")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "auto.levelfs.user"), nil, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "etc/levelfs/levelfs.toml"), fmt.Appendf(nil, "map = %q\n", there+"/auto.levelfs"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, line, fails string }{
		{here + "/auto.levelfs", "-fstype=autofs program:" + here + "/auto.levelfs.user\n", ""},
		{"auto.levelfs", "-fstype=autofs program:" + there + "/auto.levelfs.user\n", ""},
		{"./auto.levelfs", "-fstype=autofs program:" + there + "/auto.levelfs.user\n", ""},
		{"/nonexistent/auto.levelfs", "", "no such file"},
		{odd + "/auto.levelfs", "", "is not only letters"},
	} {
		var stdout writes
		var stderr bytes.Buffer
		status := run([]string{c.program, "by-user"}, &stdout, &stderr)
		if c.fails != "" {
			if status != 1 || len(stdout) != 0 || !strings.Contains(stderr.String(), c.fails) {
				t.Errorf("%s: exit status %d, %q, %q", c.program, status, stdout, stderr.String())
			}
			continue
		}
		if status != 0 || len(stdout) != 1 || stdout[0] != c.line || stderr.Len() != 0 {
			t.Errorf("%s: exit status %d, %q, %q", c.program, status, stdout, stderr.String())
		}
	}
}
