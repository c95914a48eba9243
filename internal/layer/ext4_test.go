package layer

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// e2fsck shares no code with what wrote the image.
func TestExt4Fsck(t *testing.T) {
	if _, err := exec.LookPath("e2fsck"); err != nil {
		if slices.Contains(strings.Split(os.Getenv("LEVELFS_TEST_REQUIRE"), ","), "all") {
			t.Fatal("needs e2fsck, and LEVELFS_TEST_REQUIRE says there is")
		}
		t.Skip("needs e2fsck")
	}
	check := func(name, image string) {
		t.Helper()
		if out, err := exec.Command("e2fsck", "-f", "-n", image).CombinedOutput(); err != nil {
			t.Errorf("%s: e2fsck: %v\n%s", name, err, out)
		}
	}
	for name, specs := range map[string][]spec{
		"sample": specsHere(),
		"empty":  nil,
		"groups": {{path: "large", mode: unix.S_IFREG | 0o644, size: 140 << 20, data: "end"}, {path: "small", mode: unix.S_IFREG | 0o644, data: "x"}},
	} {
		dir := t.TempDir()
		makeTree(t, dir, specs, 1)
		check(name, builtAs(t, dir, "ext4").Path)
	}

	// More inodes than one group has, and more directories than an inode can count,
	// need not be made to be written.
	root := &node{mode: unix.S_IFDIR | 0o755, nlink: 2}
	root.entries = []dirent{{".", root}, {"..", root}}
	tree := &tree{root: root, nodes: []*node{root}}
	for i := range 70000 {
		n := &node{mode: unix.S_IFDIR | 0o755, nlink: 2}
		n.entries = []dirent{{".", n}, {"..", root}}
		root.entries = append(root.entries, dirent{fmt.Sprint("d", i), n})
		root.nlink++
		tree.nodes = append(tree.nodes, n)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := writeTree(context.Background(), f, tree, BuildOptions{FSType: "ext4"}); err != nil {
		t.Fatal(err)
	}
	check("inodes", f.Name())
}

// Files of 512 MiB and more have extents outside of their inodes.
func TestExt4Extents(t *testing.T) {
	n := &node{mode: unix.S_IFREG | 0o644, size: 500*ext4MaxExtent*blockSize + 1, nlink: 1}
	i, err := newExt4Inode(n, 11)
	if err != nil {
		t.Fatal(err)
	}
	i.start, i.leaf = 1000, 900
	if i.leaves != 2 {
		t.Fatalf("%d leaves", i.leaves)
	}
	le := binary.LittleEndian
	root := i.extentRoot()
	if len(root) > 60 || le.Uint16(root[2:]) != 2 || le.Uint16(root[6:]) != 1 {
		t.Fatalf("root % x", root)
	}
	next := int64(0)
	for l, leaf := range i.extentLeaves() {
		index := root[12+12*l:]
		if int64(le.Uint32(index)) != next || int64(le.Uint32(index[4:])) != i.leaf+int64(l) {
			t.Errorf("index %d: % x", l, index[:12])
		}
		count := int(le.Uint16(leaf[2:]))
		if len(leaf) > blockSize || count > int(le.Uint16(leaf[4:])) || len(leaf) != 12+12*count {
			t.Fatalf("leaf %d: %d bytes for %d extents", l, len(leaf), count)
		}
		for e := leaf[12:]; len(e) > 0; e = e[12:] {
			if int64(le.Uint32(e)) != next || int64(le.Uint32(e[8:])) != i.start+next {
				t.Fatalf("extent at %d: % x", next, e[:12])
			}
			next += int64(le.Uint16(e[4:]))
		}
	}
	if next != i.blocks {
		t.Errorf("%d blocks of %d", next, i.blocks)
	}
}

func TestExt4Refuses(t *testing.T) {
	acl := xattr{index: 2, value: []byte{1, 0, 0, 0}}
	for name, n := range map[string]*node{
		"far future": {mode: unix.S_IFREG, nlink: 1, mtime: 1 << 34},
		"far past":   {mode: unix.S_IFREG, nlink: 1, mtime: -1<<31 - 1},
		"links":      {mode: unix.S_IFREG, nlink: ext4MaxLinks + 1},
		"size":       {mode: unix.S_IFREG, nlink: 1, size: 1 << 40},
		"attributes": {mode: unix.S_IFREG, nlink: 1, attrs: []xattr{{1, "a", make([]byte, 3000)}, {1, "b", make([]byte, 3000)}}},
		"list":       {mode: unix.S_IFREG, nlink: 1, attrs: []xattr{acl}},
	} {
		if _, err := newExt4Inode(n, 11); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	dir := t.TempDir()
	image := filepath.Join(t.TempDir(), "image")
	if _, err := Build(context.Background(), dir, image, BuildOptions{FSType: "xfs"}); err == nil {
		t.Error("no error for a file system that is not written")
	}
	if list, err := os.ReadDir(filepath.Dir(image)); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}
