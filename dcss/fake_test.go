package dcss

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tree makes a captured tree of sysfs in a directory.
func tree(t *testing.T, captured string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", captured))
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if path, target, is := strings.Cut(line, " -> "); is {
			link := filepath.Join(root, path)
			mkdir(t, filepath.Dir(link))
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
			continue
		}
		path, content, is := strings.Cut(line, " =")
		if !is {
			t.Fatalf("%s: %q", captured, line)
		}
		put(t, filepath.Join(root, path), strings.ReplaceAll(strings.TrimSpace(content), " ", "\n")+"\n")
	}
	return root
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, file, text string) {
	t.Helper()
	mkdir(t, filepath.Dir(file))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// plug makes the tree of a device, as the driver does.
func plug(t *testing.T, root string, minor int, segments ...string) {
	t.Helper()
	dir := filepath.Join(root, "sys/devices/dcssblk", segments[0])
	block := filepath.Join(dir, "block", fmt.Sprintf("dcssblk%d", minor))
	put(t, filepath.Join(dir, "shared"), "1\n")
	put(t, filepath.Join(dir, "save"), "0\n")
	put(t, filepath.Join(block, "dev"), fmt.Sprintf("254:%d\n", minor))
	put(t, filepath.Join(block, "size"), "2048\n")
	put(t, filepath.Join(block, "ro"), "1\n")
	put(t, filepath.Join(block, "queue/dax"), "1\n")
	put(t, filepath.Join(dir, "seglist"), strings.Join(segments, "\n")+"\n")
}

// A write is one that a fakeDriver has seen: the file's name below the driver's
// directory, and the text.
type write struct{ file, text string }

// A fakeDriver notes the writes down and answers with the errno.
type fakeDriver struct {
	*Driver
	root   string
	writes []write
	// react does what the driver would.
	react func(w write) error
}

func fake(t *testing.T, root string, react func(w write) error) *fakeDriver {
	t.Helper()
	f := &fakeDriver{Driver: NewFromRoot(root, t.TempDir(), "/nonexistent"), root: root, react: react}
	f.write = func(_ context.Context, file, text string, locks []*os.File) error {
		if len(locks) == 0 {
			t.Errorf("write of %q without a lock", text)
		}
		name, err := filepath.Rel(f.dir(), file)
		if err != nil {
			return err
		}
		w := write{name, text}
		f.writes = append(f.writes, w)
		return f.react(w)
	}
	return f
}

func answer(errno syscall.Errno) func(write) error {
	return func(write) error {
		if errno == 0 {
			return nil
		}
		return errno
	}
}
