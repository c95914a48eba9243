package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	erofs "github.com/erofs/go-erofs"
	"golang.org/x/sys/unix"
)

// specsHere is as much of the sample as the tests' user can make.
func specsHere() []spec {
	if os.Geteuid() == 0 {
		return rootSample()
	}
	return sample()
}

func TestResult(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, fewSample(), 1)
	r := built(t, dir)
	b, err := os.ReadFile(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	if want := "sha256:" + hex.EncodeToString(sum[:]); r.Digest != want {
		t.Errorf("digest %s, want %s", r.Digest, want)
	}
	if r.Size != int64(len(b)) || r.Size%(2<<20) != 0 || r.Size == 0 {
		t.Errorf("size %d of a file of %d bytes", r.Size, len(b))
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(r.UUID) {
		t.Errorf("UUID %s", r.UUID)
	}
	if r.FSType != "erofs" {
		t.Errorf("type %s", r.FSType)
	}
	names := 0
	for _, s := range fewSample() {
		if s.mode&unix.S_IFMT != unix.S_IFDIR {
			names++
		}
	}
	if r.Files != names {
		t.Errorf("%d files, want %d", r.Files, names)
	}
	st, err := os.Stat(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Mode() != 0o444 {
		t.Errorf("mode %v", st.Mode())
	}
}

func TestReproducible(t *testing.T) {
	for _, fstype := range []string{"erofs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			var last []byte
			var uuid string
			for i, name := range []string{"a", "somewhere/else"} {
				dir := filepath.Join(t.TempDir(), name)
				// Attributes are set, and files made, in another order.
				makeTree(t, dir, specsHere(), int64(i))
				if i == 1 {
					// Another link from outside the tree is not content.
					if err := os.Link(filepath.Join(dir, "one"), filepath.Join(t.TempDir(), "one")); err != nil {
						t.Fatal(err)
					}
				}
				r := builtAs(t, dir, fstype)
				b, err := os.ReadFile(r.Path)
				if err != nil {
					t.Fatal(err)
				}
				if i > 0 && (!bytes.Equal(b, last) || r.UUID != uuid) {
					t.Errorf("image of the same content differs: %s, %s", r.UUID, uuid)
				}
				last, uuid = b, r.UUID
			}
		})
	}
}

// Whatever the image keeps must show in its UUID: a segment is checked by it.
func TestUUIDFollowsContent(t *testing.T) {
	base := []spec{
		{path: "", mode: unix.S_IFDIR | 0o755},
		{path: "f", mode: unix.S_IFREG | 0o644, data: "data"},
		{path: "g", mode: unix.S_IFREG | 0o644, data: "more"},
		{path: "l", mode: unix.S_IFLNK, target: "f"},
		{path: "big", mode: unix.S_IFREG | 0o644, data: noise(1, 100000)},
	}
	change := map[string]func([]spec){
		"none":      func(s []spec) {},
		"data":      func(s []spec) { s[1].data = "Data" },
		"last byte": func(s []spec) { s[4].data = s[4].data[:99999] + "\x00" },
		"dedup":     func(s []spec) { s[2].data = "data" },
		"name":      func(s []spec) { s[1].path = "h" },
		"mode":      func(s []spec) { s[1].mode |= 0o111 },
		"dir mode":  func(s []spec) { s[0].mode = unix.S_IFDIR | 0o700 },
		"mtime":     func(s []spec) { s[1].mtime = baseTime.Add(1) },
		"target":    func(s []spec) { s[3].target = "g" },
		"xattr":     func(s []spec) { s[1].xattrs = map[string]string{"user.a": "1"} },
		"hard link": func(s []spec) { s[2] = spec{path: "g", mode: unix.S_IFREG, target: "f"} },
	}
	seen := map[string]string{}
	for name, f := range change {
		s := append([]spec(nil), base...)
		f(s)
		dir := t.TempDir()
		makeTree(t, dir, s, 0)
		for _, fstype := range []string{"erofs", "ext4"} {
			r := builtAs(t, dir, fstype)
			if other, ok := seen[r.UUID]; ok {
				t.Errorf("%s of %s and %s: same UUID", fstype, name, other)
			}
			seen[r.UUID] = fstype + " of " + name
		}
	}
}

// go-erofs reads the image back: it shares no code with what wrote it.
func TestReadBack(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, sample(), 1)
	r := built(t, dir)
	f, err := os.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	want := files(t, dir)
	seen := 0
	blocks := map[string]int64{}
	err = fs.WalkDir(img, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		seen++
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*erofs.Stat)
		w, ok := want[strings.TrimPrefix("/"+p, "/.")]
		if p != "." {
			w, ok = want["/"+p]
		}
		if !ok {
			t.Errorf("%q: not in the source", p)
			return nil
		}
		if st.UID != w.UID || st.GID != w.GID || st.Nlink != int(w.Nlink) || int64(st.Mtime) != w.Mtime.Sec || int64(st.MtimeNs) != w.Mtime.Nsec {
			t.Errorf("%q: %+v, want %+v", p, st, w)
		}
		if !info.Mode().IsRegular() {
			return nil
		}
		if st.InodeLayout != layoutFlatPlain {
			t.Errorf("%q: layout %d: the kernel would not execute it in place", p, st.InodeLayout)
		}
		got, err := fs.ReadFile(img, p)
		if err != nil {
			return err
		}
		src, err := os.ReadFile(filepath.Join(dir, p))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, src) {
			t.Errorf("%q: contents differ", p)
		}
		if len(src) > 0 {
			dr := info.(interface{ DataRange() []erofs.DataRange }).DataRange()
			if len(dr) != 1 || dr[0].Offset%blockSize != 0 || dr[0].Size != int64(len(src)) {
				t.Errorf("%q: lies at %v", p, dr)
				return nil
			}
			blocks[p] = dr[0].Offset
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen != len(want) {
		t.Errorf("%d names, want %d", seen, len(want))
	}
	for _, same := range [][2]string{{"dup/1", "dup/2"}, {"hard/a", "z-hard"}, {"large", "large3-dup"}} {
		if a, b := blocks[same[0]], blocks[same[1]]; a != b || a == 0 {
			t.Errorf("%v: data at %d and %d, want them once", same, a, b)
		}
	}
	if blocks["dup/1"] == blocks["dup/other-size"] {
		t.Error("different contents share blocks")
	}
}

// Large files lie where DAX can map them with huge pages, but not at any price.
func TestAlignment(t *testing.T) {
	dir := t.TempDir()
	sparse := func(path string, size int64) spec {
		return spec{path: path, mode: unix.S_IFREG | 0o644, size: size, data: path}
	}
	makeTree(t, dir, []spec{
		sparse("a-small", 5000), sparse("b-large", 17<<20), sparse("c-large", 17<<20+1),
		sparse("d-small", 1<<20), sparse("e-small", 1<<20-5000), sparse("f-medium", 2<<20+1), sparse("g-medium", 3<<20),
	}, 0)
	r := built(t, dir)
	f, err := os.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]bool{"b-large": true, "c-large": true, "g-medium": false} {
		info, err := fs.Stat(img, p)
		if err != nil {
			t.Fatal(err)
		}
		off := info.(interface{ DataRange() []erofs.DataRange }).DataRange()[0].Offset
		if (off%imageUnit == 0) != want {
			t.Errorf("%q lies at %d", p, off)
		}
	}
	// 41 MiB and two pages; alignment may cost an eighth.
	if r.Size > 46<<20 {
		t.Errorf("image of %d bytes", r.Size)
	}
}

func TestFsck(t *testing.T) {
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		if strings.Contains(os.Getenv("LEVELFS_TEST_REQUIRE"), "all") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	makeTree(t, dir, specsHere(), 1)
	r := built(t, dir)
	if out, err := exec.Command(fsck, "--extract", r.Path).CombinedOutput(); err != nil {
		t.Errorf("fsck.erofs: %v\n%s", err, out)
	}
}

func TestEmptyTree(t *testing.T) {
	r := built(t, t.TempDir())
	if r.Size != 2<<20 || r.Files != 0 {
		t.Errorf("%+v", r)
	}
	f, err := os.Open(r.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	img, err := erofs.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	if names, err := fs.ReadDir(img, "."); err != nil || len(names) != 0 {
		t.Errorf("%v, %v", names, err)
	}
}

func TestProgress(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, fewSample(), 1)
	var last, sum int64
	_, err := Build(context.Background(), dir, filepath.Join(t.TempDir(), "i"), BuildOptions{Progress: func(done, total int64) {
		if done <= last || done > total {
			t.Errorf("done %d after %d of %d", done, last, total)
		}
		last, sum = done, total
	}})
	if err != nil {
		t.Fatal(err)
	}
	if last != sum || sum < 8<<20 {
		t.Errorf("ended at %d of %d", last, sum)
	}
}

// refused checks that a build fails for the reason, names the path, and leaves
// the directory of the image as it was.
func refused(t *testing.T, ctx context.Context, dir, image string, o BuildOptions, reason error, name string) {
	t.Helper()
	before, _ := os.ReadDir(filepath.Dir(image))
	_, err := Build(ctx, dir, image, o)
	if !errors.Is(err, reason) {
		t.Fatalf("error %v, want one that is %v", err, reason)
	}
	if !strings.Contains(err.Error(), name) {
		t.Errorf("error %q does not name %q", err, name)
	}
	after, _ := os.ReadDir(filepath.Dir(image))
	if len(after) != len(before) {
		t.Errorf("left behind: %v", after)
	}
}

func TestRefuses(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	makeTree(t, dir, []spec{{path: "sub/f", mode: unix.S_IFREG | 0o644, data: "f"}}, 0)
	image := filepath.Join(t.TempDir(), "image.erofs")

	t.Run("not a directory", func(t *testing.T) {
		p := filepath.Join(dir, "sub/f")
		refused(t, ctx, p, image, BuildOptions{}, unix.ENOTDIR, p)
	})
	t.Run("missing directory", func(t *testing.T) {
		refused(t, ctx, dir+"/none", image, BuildOptions{}, fs.ErrNotExist, dir+"/none")
	})
	t.Run("missing place", func(t *testing.T) {
		refused(t, ctx, dir, dir+"-none/image", BuildOptions{}, fs.ErrNotExist, dir+"-none")
	})
	t.Run("unreadable", func(t *testing.T) {
		image := image
		p := t.TempDir()
		makeTree(t, p, []spec{{path: "closed", mode: unix.S_IFDIR}}, 0)
		if os.Geteuid() == 0 {
			// Root can read everything; a thread with another fsuid cannot
			// (setfsuid(2)).
			for _, d := range []string{filepath.Dir(p), p} {
				if err := os.Chmod(d, 0o777); err != nil {
					t.Fatal(err)
				}
			}
			image = filepath.Join(filepath.Dir(p), "image")
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			defer unix.SetfsuidRetUid(0)
			if _, err := unix.SetfsuidRetUid(65534); err != nil {
				t.Fatal(err)
			}
		}
		refused(t, ctx, p, image, BuildOptions{}, fs.ErrPermission, "closed")
	})
	t.Run("inside", func(t *testing.T) {
		refused(t, ctx, dir, dir+"/image", BuildOptions{}, ErrInside, dir)
		refused(t, ctx, dir, dir+"/sub/image", BuildOptions{}, ErrInside, dir+"/sub")
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		refused(t, ctx, dir, link+"/sub/image", BuildOptions{}, ErrInside, dir+"/sub")
		refused(t, ctx, link, dir+"/sub/image", BuildOptions{}, ErrInside, link+"/sub")
	})
	t.Run("socket", func(t *testing.T) {
		p := t.TempDir()
		l, err := net.Listen("unix", p+"/sock")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		refused(t, ctx, p, image, BuildOptions{}, ErrSocket, p+"/sock")
	})
	t.Run("canceled before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		cancel()
		refused(t, ctx, dir, image, BuildOptions{}, context.Canceled, image)
	})
	t.Run("canceled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		refused(t, ctx, dir, image, BuildOptions{Progress: func(int64, int64) { cancel() }}, context.Canceled, image)
	})
	t.Run("no name", func(t *testing.T) {
		if _, err := Build(ctx, dir, "", BuildOptions{}); err == nil {
			t.Error("no error")
		}
	})
}

func TestNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, []spec{{path: "f", mode: unix.S_IFREG | 0o644, data: "f"}}, 0)
	image := filepath.Join(t.TempDir(), "image")

	// Not there when Build looks, there when it is done.
	late := BuildOptions{Progress: func(int64, int64) { os.WriteFile(image, []byte("other"), 0o600) }}
	if _, err := Build(context.Background(), dir, image, late); !errors.Is(err, fs.ErrExist) {
		t.Errorf("error %v", err)
	}
	refused(t, context.Background(), dir, image, BuildOptions{}, fs.ErrExist, image)
	if b, err := os.ReadFile(image); err != nil || string(b) != "other" {
		t.Errorf("%q, %v", b, err)
	}
	if e, _ := os.ReadDir(filepath.Dir(image)); len(e) != 1 {
		t.Errorf("left behind: %v", e)
	}
	dangling := filepath.Join(t.TempDir(), "image")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	refused(t, context.Background(), dir, dangling, BuildOptions{}, fs.ErrExist, dangling)
}

func TestChanges(t *testing.T) {
	for name, change := range map[string]func(p string) error{
		"grows":    func(p string) error { return os.WriteFile(p, []byte("longer than before"), 0o644) },
		"shrinks":  func(p string) error { return os.Truncate(p, 1) },
		"rewrite":  func(p string) error { return os.Chtimes(p, time.Time{}, time.Unix(1, 0)) },
		"replaced": func(p string) error { return errors.Join(os.Rename(p+"2", p)) },
		"fifo":     func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			makeTree(t, dir, []spec{
				{path: "1", mode: unix.S_IFREG | 0o644, data: "first"},
				{path: "victim", mode: unix.S_IFREG | 0o644, data: "victim"},
				{path: "victim2", mode: unix.S_IFREG | 0o644, data: "victim"},
			}, 0)
			once := func(done, _ int64) {
				if done == 5 {
					if err := change(filepath.Join(dir, "victim")); err != nil {
						t.Error(err)
					}
				}
			}
			refused(t, context.Background(), dir, filepath.Join(t.TempDir(), "image"), BuildOptions{Progress: once}, ErrChanged, dir+"/victim")
		})
	}
	t.Run("shrinks while it is read", func(t *testing.T) {
		dir := t.TempDir()
		p := filepath.Join(dir, "large")
		makeTree(t, dir, []spec{{path: "large", mode: unix.S_IFREG | 0o644, data: noise(1, 3<<20)}}, 0)
		o := BuildOptions{Progress: func(int64, int64) { os.Truncate(p, 1<<20+1) }}
		refused(t, context.Background(), dir, filepath.Join(t.TempDir(), "image"), o, ErrChanged, p)
	})
}

// What overlayfs notes about an upper directory names inodes of this machine.
func TestHostOnlyXattrs(t *testing.T) {
	requireRoot(t)
	specs := []spec{{path: "f", mode: unix.S_IFREG | 0o644, data: "f"}}
	plain, noted := t.TempDir(), t.TempDir()
	makeTree(t, plain, specs, 0)
	specs[0].xattrs = map[string]string{"trusted.overlay.origin": "\x00\xfb", "trusted.overlay.impure": "y"}
	makeTree(t, noted, specs, 0)
	// The roots' times are those of the moment.
	for _, d := range []string{plain, noted} {
		if err := os.Chtimes(d, baseTime, baseTime); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := built(t, plain), built(t, noted); a.Digest != b.Digest {
		t.Errorf("%s, %s", a.Digest, b.Digest)
	}
}

func FuzzBuild(f *testing.F) {
	f.Add("name", "target", []byte("data"), uint16(0o644), int64(0))
	f.Add(strings.Repeat("n", 255), strings.Repeat("t", 4095), bytes.Repeat([]byte{1}, 4097), uint16(0o7777), int64(-1))
	f.Fuzz(func(t *testing.T, name, target string, data []byte, mode uint16, mtime int64) {
		dir := t.TempDir()
		p := filepath.Join(dir, "d", name)
		if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
			t.Fatal(err)
		}
		if name == "l" || strings.Contains(name, "/") || !fs.ValidPath(name) || name == "." || os.WriteFile(p, data, 0o644) != nil ||
			os.Symlink(target, filepath.Join(dir, "d/l")) != nil || os.Chtimes(p, time.Time{}, time.Unix(mtime, 0)) != nil ||
			unix.Chmod(p, uint32(mode&0o7777)|0o400) != nil {
			t.Skip()
		}
		r := built(t, dir)
		img, err := os.Open(r.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer img.Close()
		fsys, err := erofs.Open(img)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := fs.ReadFile(fsys, "d/"+name); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v; want %d", len(got), err, len(data))
		}
		if got, err := fsys.(interface{ ReadLink(string) (string, error) }).ReadLink("d/l"); err != nil || got != target {
			t.Errorf("link %q, %v", got, err)
		}
	})
}
