package layer

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Images by the tools that people have. Each is made of the same three files, of which
// one is empty and one has whole blocks.
func TestCheckXIP(t *testing.T) {
	text := strings.Repeat("to be compressed ", 1000)
	specs := []spec{
		{path: "empty", mode: unix.S_IFREG | 0o644},
		{path: "blocks", mode: unix.S_IFREG | 0o644, data: text[:8192]},
		{path: "dir/tail", mode: unix.S_IFREG | 0o644, data: text[:50]},
		{path: "dir/hard", mode: unix.S_IFREG, target: "dir/tail"},
	}
	for _, test := range []struct {
		name  string
		cmd   string // what makes the image $IMG of the directory $DIR
		kinds map[ProblemKind]int
	}{
		{"erofs", "mkfs.erofs $IMG $DIR", map[ProblemKind]int{InlineTails: 1, BadSize: 0}},
		{"erofs-padded", "mkfs.erofs $IMG $DIR && truncate -s %2M $IMG", map[ProblemKind]int{InlineTails: 1}},
		{"erofs-plain", "mkfs.erofs -Enoinline_data $IMG $DIR && truncate -s %2M $IMG", nil},
		{"erofs-chunks", "mkfs.erofs --chunksize=4096 $IMG $DIR && truncate -s %2M $IMG", nil},
		{"erofs-lz4", "mkfs.erofs -zlz4hc $IMG $DIR && truncate -s %2M $IMG", map[ProblemKind]int{Compressed: 1, InlineTails: 1}},
		{"erofs-torn", "mkfs.erofs -Enoinline_data $IMG $DIR && truncate -s 4096 $IMG", map[ProblemKind]int{Truncated: 0, BadSize: 0}},
		{"squashfs", "mksquashfs $DIR $IMG -quiet", map[ProblemKind]int{NeverXIP: 0}},
		{"ext4", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -d $DIR $IMG", nil},
		{"ext4-64bit-nojournal", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -O 64bit,^has_journal -d $DIR $IMG", nil},
		{"ext2", "truncate -s 16M $IMG && mkfs.ext2 -q -b 4096 -I 128 -d $DIR $IMG", nil},
		{"ext4-1k", "truncate -s 16M $IMG && mkfs.ext4 -q -b 1024 -d $DIR $IMG", map[ProblemKind]int{BadBlocks: 0}},
		{"ext4-inline", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -O inline_data -d $DIR $IMG", map[ProblemKind]int{InlineTails: 1}},
		{"ext4-odd", "truncate -s 17M $IMG && mkfs.ext4 -q -b 4096 -d $DIR $IMG", map[ProblemKind]int{BadSize: 0}},
		{"ext4-torn", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -d $DIR $IMG && truncate -s 8M $IMG", map[ProblemKind]int{Truncated: 0}},
		{"ext4-recover", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -d $DIR $IMG && debugfs -w -R 'feature needs_recovery' $IMG", map[ProblemKind]int{Journal: 0}},
		{"ext4-dirty", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -d $DIR $IMG && debugfs -w -R 'ssv state 0' $IMG", map[ProblemKind]int{Journal: 0}},
		{"ext4-flags", "truncate -s 16M $IMG && mkfs.ext4 -q -b 4096 -d $DIR $IMG && debugfs -w -R 'sif /blocks flags 0x84800' $IMG", map[ProblemKind]int{Encrypted: 1, Journal: 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			tool, _, _ := strings.Cut(strings.TrimPrefix(test.cmd, "truncate -s 16M $IMG && "), " ")
			requireTool(t, tool)
			dir := t.TempDir()
			makeTree(t, dir, specs, 1)
			image := filepath.Join(t.TempDir(), "image")
			cmd := exec.Command("sh", "-ec", test.cmd)
			cmd.Env = append(os.Environ(), "IMG="+image, "DIR="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			r, err := CheckXIP(image)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range r.Problems {
				if want, ok := test.kinds[p.Kind]; p.Text == "" || !ok || want > 0 && p.Files != 0 && p.Files != want {
					t.Errorf("problem %+v", p)
				}
			}
			for kind, files := range test.kinds {
				if !slices.ContainsFunc(r.Problems, func(p Problem) bool { return p.Kind == kind && p.Files == files }) {
					t.Errorf("no problem %q with %d files among %+v", kind, files, r.Problems)
				}
			}
			if r.Fit() != (len(test.kinds) == 0) || r.Image != image || !strings.HasPrefix(test.name, r.FSType) && test.name != "ext2" {
				t.Errorf("report %+v", r)
			}
			if _, torn := test.kinds[Truncated]; r.Files != 2 && !torn && r.FSType != "squashfs" {
				t.Errorf("%d files with data, want 2", r.Files)
			}
		})
	}
}

func requireTool(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("LEVELFS_TEST_REQUIRE"), ","), "all") {
		t.Fatalf("needs %s, and LEVELFS_TEST_REQUIRE says there is", tool)
	}
	t.Skipf("needs %s", tool)
}

func TestCheckXIPUnknown(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "short": "hsqs", "text": strings.Repeat("x", 1<<16)} {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := CheckXIP(file); !errors.Is(err, ErrUnknownImage) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := CheckXIP(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := CheckXIP(dir); err == nil {
		t.Error("a directory is no image")
	}
}

// What is built with a limit, or with a check that fails, leaves nothing.
func TestBuildLimits(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, []spec{{path: "f", mode: unix.S_IFREG | 0o644, size: 5 << 20, data: "end"}}, 0)
	image := filepath.Join(t.TempDir(), "image")
	for _, fstype := range []string{"erofs", "ext4"} {
		_, err := Build(context.Background(), dir, image, BuildOptions{FSType: fstype, MaxSize: 4 << 20})
		var size *SizeError
		if !errors.As(err, &size) || size.Max != 4<<20 || size.Size <= 5<<20 || size.Size%(2<<20) != 0 {
			t.Errorf("%s: %v", fstype, err)
		}
	}
	if list, err := os.ReadDir(filepath.Dir(image)); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// A damaged image gives an error or a report, and neither a panic nor an endless loop.
func FuzzCheckXIP(f *testing.F) {
	dir := f.TempDir()
	makeTree(f, dir, []spec{
		{path: "d/e", mode: unix.S_IFREG | 0o644, data: "x", xattrs: map[string]string{"user.a": "1"}},
		{path: "l", mode: unix.S_IFLNK, target: "d"},
	}, 0)
	var images [][]byte
	for _, fstype := range []string{"erofs", "ext4"} {
		b, err := os.ReadFile(builtAs(f, dir, fstype).Path)
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
	}
	f.Add(0, uint32(1024+16), uint64(0))
	f.Add(0, uint32(1024+40), uint64(1<<63))
	f.Add(0, uint32(8192+64), uint64(1<<40))
	f.Add(1, uint32(1024+40), uint64(1))
	f.Add(1, uint32(4096+8), uint64(1<<31))
	f.Fuzz(func(t *testing.T, which int, at uint32, value uint64) {
		b := slices.Clone(images[which&1])
		binary.LittleEndian.PutUint64(b[int(at)%(len(b)-8):], value)
		r, err := checkXIP(readerAt(b), int64(len(b)))
		if err == nil && r.FSType == "" {
			t.Error("neither a report nor an error")
		}
	})
}

type readerAt []byte

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > int64(len(r)) {
		return 0, errors.New("beyond the end")
	}
	return copy(p, r[off:]), nil
}

// An image that is being built has no name, so that a killed build leaves none.
func TestNoNameBeforeTheEnd(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	makeTree(t, dir, []spec{{path: "f", mode: unix.S_IFREG | 0o644, data: "x"}}, 0)
	var during []os.DirEntry
	var err error
	_, buildErr := Build(context.Background(), dir, filepath.Join(out, "image"), BuildOptions{Progress: func(int64, int64) {
		during, err = os.ReadDir(out)
	}})
	if buildErr != nil || err != nil || len(during) > 0 {
		t.Errorf("%v, %v, %v", during, err, buildErr)
	}
}
