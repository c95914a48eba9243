package pmem

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree makes the captured tree in a directory, with device nodes that are files and
// hold what the fake probe reads.
func tree(t *testing.T, content map[string]string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/linux-6.1.sysfs")
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	for line := range strings.Lines(string(text)) {
		path, value, is := strings.Cut(strings.TrimSuffix(line, "\n"), " = ")
		if !is {
			t.Fatalf("%q", line)
		}
		put(t, filepath.Join(root, path), value+"\n")
		if filepath.Base(path) == "dev" {
			node := filepath.Base(filepath.Dir(path))
			put(t, filepath.Join(root, "dev", node), content[node])
		}
	}
	return root
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// probe reads "TYPE UUID".
func probe(r io.ReaderAt) (fstype, uuid string, err error) {
	text, err := io.ReadAll(io.NewSectionReader(r, 0, 100))
	if err != nil {
		return "", "", err
	}
	fstype, uuid, found := strings.Cut(string(text), " ")
	if !found {
		return "", "", errors.New("no file system")
	}
	return fstype, uuid, nil
}

var content = map[string]string{
	"pmem0": "erofs u0", "pmem1": "ext4 u1", "pmem2": "partition-table", "pmem2p1": "erofs u2", "pmem2p2": "squashfs ",
}

func TestList(t *testing.T) {
	got, err := NewFromRoot(tree(t, content), probe).List()
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{
		{"pmem0", "pmem0", 259, 0, 0, 16 << 20, false, true, "erofs", "u0"},
		{"pmem1", "pmem1", 259, 1, 0, 8 << 20, false, true, "ext4", "u1"},
		{"pmem2", "pmem2", 259, 2, 0, 6 << 20, false, true, "", ""},
		{"pmem2p1", "pmem2", 259, 3, 2 << 20, 2 << 20, false, true, "erofs", "u2"},
		{"pmem2p2", "pmem2", 259, 4, 4 << 20, 2 << 20, false, true, "squashfs", ""},
	}
	if !slices.Equal(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestFind(t *testing.T) {
	d := NewFromRoot(tree(t, content), probe)
	for uuid, node := range map[string]string{"u0": "pmem0", "u1": "pmem1", "u2": "pmem2p1"} {
		if got, err := d.Find(uuid); err != nil || got.Node != node || got.Path() != "/dev/"+node {
			t.Errorf("%q is on %+v, %v, want %q", uuid, got, err, node)
		}
	}
	for _, uuid := range []string{"u3", ""} {
		if got, err := d.Find(uuid); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %+v, %v", uuid, got, err)
		}
	}
	twice := map[string]string{"pmem0": "erofs u", "pmem2p2": "erofs u"}
	var duplicate *DuplicateError
	if got, err := NewFromRoot(tree(t, twice), probe).Find("u"); !errors.As(err, &duplicate) || !slices.Equal(duplicate.Nodes, []string{"pmem0", "pmem2p2"}) {
		t.Errorf("twice: %+v, %v", got, err)
	}
}

// TestListOther has devices that are none of ours, and one that goes.
func TestListOther(t *testing.T) {
	root := tree(t, content)
	for _, name := range []string{"sda", "pmem", "pmem0s", "pmem1x", "xpmem1", "pmem0p1"} {
		put(t, filepath.Join(root, "sys/block", name, "dev"), "8:0\n")
	}
	put(t, filepath.Join(root, "sys/block/pmem3/dev"), "259:9\n") // no other file any more
	put(t, filepath.Join(root, "sys/block/pmem0/pmem0power/dev"), "259:9\n")
	if got, err := NewFromRoot(root, probe).List(); err != nil || len(got) != 5 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := NewFromRoot(t.TempDir(), probe).List(); err != nil || len(got) != 0 {
		t.Errorf("no sysfs: %+v, %v", got, err)
	}
}

func TestListFails(t *testing.T) {
	for file, text := range map[string]string{
		"dev": "259\n", "size": "-1\n", "ro": "no\n", "queue/dax": "\n",
	} {
		root := tree(t, content)
		put(t, filepath.Join(root, "sys/block/pmem1", file), text)
		if got, err := NewFromRoot(root, probe).List(); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s holds %q: %+v, %v", file, text, got, err)
		}
	}
	root := tree(t, content)
	node := filepath.Join(root, "dev/pmem1")
	if err := errors.Join(os.Remove(node), os.Symlink("pmem1", node)); err != nil {
		t.Fatal(err)
	}
	if got, err := NewFromRoot(root, probe).List(); err == nil {
		t.Errorf("node that cannot be opened: %+v", got)
	}
}

func TestCheckSize(t *testing.T) {
	for size, good := range map[int64]bool{2 << 20: true, 480 << 20: true, 3 << 20: false, 443215872: false, 0: false, -2 << 20: false} {
		var wrong *SizeError
		if err := CheckSize(size); (err == nil) != good || !good && !errors.As(err, &wrong) {
			t.Errorf("%d: %v", size, err)
		}
	}
}

func TestSetReadOnlyFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	put(t, file, "")
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := SetReadOnly(f); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("no device: %v", err)
	}
}

func FuzzNumbers(f *testing.F) {
	for _, text := range []string{"0\n", "32768\n", "-1\n", "9223372036854775807\n", "259:2\n", "259:\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if n, err := parseNumber(text); err == nil && (n < 0 || n*sector < 0) {
			t.Errorf("%q is %d", text, n)
		}
		if _, _, err := parseDev(text); err == nil && strings.Count(text, ":") != 1 {
			t.Errorf("%q is a device number", text)
		}
	})
}
