package manifest_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vbatts/go-mtree"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/manifest"
)

// strangeTree makes a directory with names and targets that need escapes.
func strangeTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a": "1", "a b": "2", "a#b": "3", "a=b": "4", `a\b`: "5", "ä": "6", "a\nb": "7",
		"d/x": "8", "d.e/y": "", "d/sub/[z]*?": "9", "d-": "10",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("to here = there", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, text string) ([]*manifest.Entry, error) {
	t.Helper()
	var all []*manifest.Entry
	r := manifest.NewReader(strings.NewReader(text))
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, e)
	}
}

// TestRoundTrip: what is written is read again, in the order of Compare.
func TestRoundTrip(t *testing.T) {
	dir := strangeTree(t)
	var text bytes.Buffer
	if err := manifest.Make(t.Context(), dir, &text); err != nil {
		t.Fatal(err)
	}
	all, err := read(t, text.String())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(all, func(a, b *manifest.Entry) int { return manifest.Compare(a.Path, b.Path) }) {
		t.Errorf("not sorted:\n%s", text.String())
	}
	var again bytes.Buffer
	w := manifest.NewWriter(&again)
	seen := make(map[string]bool)
	for _, e := range all {
		seen[e.Path] = true
		if err := w.Write(e); err != nil {
			t.Fatal(err)
		}
		want, err := manifest.Stat(dir, e.Path)
		if err != nil {
			t.Fatal(err)
		}
		if want.Mode != e.Mode || want.Size != e.Size || want.Target != e.Target || !want.Time.Equal(e.Time) {
			t.Errorf("%q: %+v, want %+v", e.Path, e, want)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if again.String() != text.String() {
		t.Errorf("read and written again:\n%swas:\n%s", again.String(), text.String())
	}
	for _, name := range []string{".", "a\nb", `a\b`, "d/sub/[z]*?", "d.e/y"} {
		if !seen[name] {
			t.Errorf("no %q", name)
		}
	}
}

// TestGoMtree: an independent reader finds the tree to be what the manifest says, and
// finds a change.
func TestGoMtree(t *testing.T) {
	dir := strangeTree(t)
	var text bytes.Buffer
	if err := manifest.Make(t.Context(), dir, &text); err != nil {
		t.Fatal(err)
	}
	check := func() []mtree.InodeDelta {
		t.Helper()
		h, err := mtree.ParseSpec(bytes.NewReader(text.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		deltas, err := mtree.Check(dir, h, []mtree.Keyword{"type", "mode", "uid", "gid", "link", "sha256digest"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return deltas
	}
	if deltas := check(); len(deltas) > 0 {
		t.Errorf("%v\n%s", deltas, text.String())
	}
	if err := os.WriteFile(filepath.Join(dir, "d/x"), []byte("0"), 0o640); err != nil {
		t.Fatal(err)
	}
	if deltas := check(); len(deltas) != 1 || deltas[0].Path() != "d/x" {
		t.Errorf("%v, want d/x", deltas)
	}
}

func TestRefused(t *testing.T) {
	const head, tail = "#mtree v2.0\n", "# complete\n"
	for _, c := range []struct{ text, want string }{
		{head + "./a type=file\n", "cut short"},
		{head + "./b type=file\n./a type=file\n" + tail, `"a" comes after "b"`},
		{head + "./a type=file\n./a type=file\n" + tail, "comes after"},
		{head + "a type=file\n" + tail, "begins with ./"},
		{head + "./a/../b type=file\n" + tail, "clean relative path"},
		{head + "./. type=file\n" + tail, "clean relative path"},
		{head + "./a mode=0644\n" + tail, "no type"},
		{head + "./a type=door\n" + tail, "unknown type"},
		{head + "./a type=file mode=9\n" + tail, "invalid syntax"},
		{head + "./a type=file size=x\n" + tail, "invalid syntax"},
		{head + `./a\7 type=file` + "\n" + tail, "cut short"},
		{head + "./a type=char device=1\n" + tail, "MAJOR"},
		{head + "./a type=file flags=none\n" + tail, "unknown keyword"},
	} {
		if _, err := read(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.text, err, c.want)
		}
	}
	short := filepath.Join(t.TempDir(), "short")
	if err := os.WriteFile(short, []byte(head+"./a type=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Open(short); !errors.Is(err, manifest.ErrIncomplete) {
		t.Error(err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add("#mtree v2.0\n. type=dir mode=0755\n./a\\040b type=file size=1 xattr.user.x=eA==\n# complete\n")
	f.Fuzz(func(t *testing.T, text string) {
		all, err := read(t, text)
		if err != nil {
			return
		}
		var out bytes.Buffer
		w := manifest.NewWriter(&out)
		for _, e := range all {
			if err := w.Write(e); err != nil {
				t.Fatal(err)
			}
		}
	})
}
