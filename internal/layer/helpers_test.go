package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// requireRoot skips the test without root, or fails it where root was promised.
func requireRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("LEVELFS_TEST_REQUIRE"), ","), "root") {
		t.Fatal("needs root, and LEVELFS_TEST_REQUIRE says there is")
	}
	t.Skip("needs root")
}

// spec is one file to make.
type spec struct {
	path   string
	mode   uint32 // with type
	data   string
	size   int64  // if not 0, a sparse file of this length with data at its end
	target string // symbolic link, or with S_IFREG a hard link
	rdev   uint64
	uid    int
	mtime  time.Time
	xattrs map[string]string
}

var baseTime = time.Date(2024, 2, 29, 12, 0, 0, 123456789, time.UTC)

// sample has one of everything that needs no privilege to make.
func sample() []spec {
	specs := fewSample()
	for i := range 3000 {
		specs = append(specs, spec{path: fmt.Sprintf("many/entry-number-%d", i), mode: unix.S_IFREG | 0o644, data: fmt.Sprint(i % 7)})
	}
	return specs
}

// fewSample is sample without the directory of many entries, which takes time.
func fewSample() []spec {
	reg := func(path, data string) spec { return spec{path: path, mode: unix.S_IFREG | 0o644, data: data} }
	deep := strings.TrimSuffix(strings.Repeat("d/", 500), "/")
	specs := []spec{
		{path: "", mode: unix.S_IFDIR | 0o751},
		reg("empty", ""),
		reg("one", "x"),
		reg("b4095", noise(1, 4095)),
		reg("b4096", noise(2, 4096)),
		reg("b4097", noise(3, 4097)),
		reg("dup/1", noise(4, 10000)),
		reg("dup/2", noise(4, 10000)),
		reg("dup/other-size", noise(4, 9999)),
		reg("large", noise(5, 3<<20+17)),
		reg("large2", noise(6, 2<<20)),
		reg("large3-dup", noise(5, 3<<20+17)),
		{path: "sparse", mode: unix.S_IFREG | 0o600, size: 1 << 20, data: "end"},
		{path: "hard/a", mode: unix.S_IFREG | 0o755, data: noise(7, 5000)},
		{path: "hard/b", mode: unix.S_IFREG, target: "hard/a"},
		{path: "z-hard", mode: unix.S_IFREG, target: "hard/a"},
		{path: "hard-empty", mode: unix.S_IFREG | 0o644},
		{path: "hard-empty2", mode: unix.S_IFREG, target: "hard-empty"},
		reg(deep+"/leaf", "deep"),
		reg("names/with space", "1"),
		reg("names/new\nline", "2"),
		reg("names/ünïcödé-\u65e5\u672c", "3"),
		reg("names/-", "4"),
		reg("names/!before-dot", "5"),
		reg("names/"+strings.Repeat("n", 255), "6"),
		reg("names/.hidden", "7"),
		{path: "emptydir", mode: unix.S_IFDIR | 0o700},
		{path: "sticky", mode: unix.S_IFDIR | unix.S_ISVTX | 0o777},
		{path: "setgid", mode: unix.S_IFDIR | unix.S_ISGID | 0o775},
		{path: "setuid", mode: unix.S_IFREG | unix.S_ISUID | 0o755, data: "#!"},
		{path: "noperm", mode: unix.S_IFREG | 0o400, data: "secret"},
		{path: "fifo", mode: unix.S_IFIFO | 0o640},
		{path: "link", mode: unix.S_IFLNK, target: "one"},
		{path: "link-dangling", mode: unix.S_IFLNK, target: "/no/such"},
		{path: "link-long", mode: unix.S_IFLNK, target: strings.Repeat("t", 4095)},
		{path: "link-3900", mode: unix.S_IFLNK, target: strings.Repeat("u", 3900)},
		{path: "link-4032", mode: unix.S_IFLNK, target: strings.Repeat("v", 4032)},
		{path: "link-4033", mode: unix.S_IFLNK, target: strings.Repeat("w", 4033)},
		{path: "old", mode: unix.S_IFREG | 0o644, data: "old", mtime: time.Unix(-86400, 5)},
		{path: "future", mode: unix.S_IFREG | 0o644, data: "new", mtime: time.Unix(1<<33, 0)},
		{path: "xattr", mode: unix.S_IFREG | 0o644, data: "x", xattrs: map[string]string{
			"user.b": "2", "user.a": "", "user.long": noise(8, 1000), "user." + strings.Repeat("n", 250): "v"}},
		{path: "xattr-dir", mode: unix.S_IFDIR | 0o755, xattrs: map[string]string{"user.dir": "yes"}},
		{path: "xattr-bigdir", mode: unix.S_IFDIR | 0o755, xattrs: map[string]string{"user.dir": noise(9, 3700)}},
	}
	for i := range 20 {
		specs = append(specs, reg(fmt.Sprintf("xattr-bigdir/%020d", i), "x"))
	}
	return specs
}

// rootSample adds what only root can make.
func rootSample() []spec {
	// Version 2: u:user:rw-, u:70000:r--, mask.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\x70\x11\x01\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x04\x00\xff\xff\xff\xff"
	caps := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	return append(sample(), []spec{
		{path: "root/whiteout", mode: unix.S_IFCHR},
		{path: "root/null", mode: unix.S_IFCHR | 0o666, rdev: unix.Mkdev(1, 3)},
		{path: "root/big-minor", mode: unix.S_IFBLK | 0o660, rdev: unix.Mkdev(4095, 1<<20-1)},
		{path: "root/uid", mode: unix.S_IFREG | 0o644, data: "u", uid: 3000000000},
		{path: "root/uid-dir", mode: unix.S_IFDIR | 0o755, uid: 70000},
		{path: "root/uid-link", mode: unix.S_IFLNK, target: "uid", uid: 70001, xattrs: map[string]string{"trusted.link": "l"}},
		{path: "root/suid", mode: unix.S_IFREG | unix.S_ISUID | unix.S_ISGID | 0o755, data: "s", uid: 70000},
		{path: "root/opaque", mode: unix.S_IFDIR | 0o755, xattrs: map[string]string{"trusted.overlay.opaque": "y"}},
		{path: "root/capable", mode: unix.S_IFREG | 0o755, data: "c", xattrs: map[string]string{"security.capability": caps}},
		{path: "root/acl", mode: unix.S_IFREG | 0o644, data: "a", xattrs: map[string]string{"system.posix_acl_access": acl}},
		{path: "root/acl-dir", mode: unix.S_IFDIR | 0o755, xattrs: map[string]string{"system.posix_acl_default": acl}},
		{path: "root/bytes-\xff\xfe", mode: unix.S_IFREG | 0o644, data: "not UTF-8"},
	}...)
}

// noise gives n bytes that do not repeat, the same for the same seed.
func noise(seed int64, n int) string {
	b := make([]byte, n)
	rand.New(rand.NewSource(seed)).Read(b)
	return string(b)
}

// makeTree makes the files in dir, in an order that depends on seed.
func makeTree(t testing.TB, dir string, specs []spec, seed int64) {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	specs = slices.Clone(specs)
	rand.New(rand.NewSource(seed)).Shuffle(len(specs), func(i, j int) { specs[i], specs[j] = specs[j], specs[i] })
	hard := func(s spec) bool { return s.mode&unix.S_IFMT == unix.S_IFREG && s.target != "" }
	dirs := map[string]bool{}
	for _, s := range specs {
		p := filepath.Join(dir, s.path)
		parent := filepath.Dir(p)
		if s.mode&unix.S_IFMT == unix.S_IFDIR {
			parent = p
		}
		check(os.MkdirAll(parent, 0o755))
		for ; len(parent) > len(dir); parent = filepath.Dir(parent) {
			dirs[parent] = true
		}
		if hard(s) {
			continue
		}
		switch s.mode & unix.S_IFMT {
		case unix.S_IFREG:
			check(os.WriteFile(p, nil, 0o600))
			f, err := os.OpenFile(p, os.O_WRONLY, 0)
			check(err)
			_, err = f.WriteAt([]byte(s.data), max(0, s.size-int64(len(s.data))))
			check(err)
			check(f.Close())
		case unix.S_IFLNK:
			check(os.Symlink(s.target, p))
		case unix.S_IFIFO, unix.S_IFCHR, unix.S_IFBLK:
			check(unix.Mknod(p, s.mode, int(s.rdev)))
		}
	}
	for _, s := range specs {
		if hard(s) {
			check(os.Link(filepath.Join(dir, s.target), filepath.Join(dir, s.path)))
		}
	}
	setTime := func(p string, tm time.Time) {
		if tm.IsZero() {
			tm = baseTime
		}
		ts := []unix.Timespec{unix.NsecToTimespec(tm.UnixNano()), unix.NsecToTimespec(tm.UnixNano())}
		check(unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW))
	}
	for _, s := range specs {
		if hard(s) {
			continue
		}
		p := filepath.Join(dir, s.path)
		delete(dirs, p)
		if s.uid != 0 {
			check(os.Lchown(p, s.uid, s.uid))
		}
		for k, v := range s.xattrs {
			check(unix.Lsetxattr(p, k, []byte(v), 0))
		}
		if s.mode&unix.S_IFMT != unix.S_IFLNK && s.xattrs["system.posix_acl_access"] == "" {
			check(unix.Chmod(p, s.mode&0o7777))
		}
		setTime(p, s.mtime)
	}
	for d := range dirs {
		check(os.Chmod(d, 0o755))
		setTime(d, time.Time{})
	}
}

// built makes an erofs image of dir in a new directory.
func built(t testing.TB, dir string) Result {
	t.Helper()
	return builtAs(t, dir, "erofs")
}

// builtAs makes an image of dir in a new directory, and checks it.
func builtAs(t testing.TB, dir, fstype string) Result {
	t.Helper()
	r, err := Build(context.Background(), dir, filepath.Join(t.TempDir(), "image."+fstype), BuildOptions{FSType: fstype, XIP: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// file is all that an image must keep of one name.
type file struct {
	Mode, UID, GID, Nlink uint32
	Size                  int64
	Mtime                 unix.Timespec
	Rdev                  uint64
	Target                string
	Xattrs                string
	Same                  string // the first name, in order, of the same regular file
}

// files describes the tree below dir as the kernel shows it.
func files(t *testing.T, dir string) map[string]file {
	t.Helper()
	out := map[string]file{}
	first := map[fileID]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, dir)
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		f := file{Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Mtime: st.Mtim, Rdev: uint64(st.Rdev), Nlink: 1}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			f.Size, f.Nlink = st.Size, uint32(st.Nlink)
			if _, ok := first[idOf(&st)]; !ok {
				first[idOf(&st)] = rel
			}
			f.Same = first[idOf(&st)]
		case unix.S_IFDIR:
			f.Nlink = uint32(st.Nlink)
		case unix.S_IFLNK:
			if f.Target, err = os.Readlink(p); err != nil {
				return err
			}
		}
		attrs, err := readXattrs(p, true)
		if err != nil {
			return err
		}
		b, err := encodeXattrs(attrs)
		if err != nil {
			return err
		}
		f.Xattrs = string(b)
		out[rel] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sameTrees fails the test unless both trees hold the same, contents included.
func sameTrees(t *testing.T, want, got string) {
	t.Helper()
	w, g := files(t, want), files(t, got)
	for _, p := range slices.Sorted(maps.Keys(w)) {
		if g[p] != w[p] {
			t.Errorf("%q:\n got %+v\nwant %+v", p, g[p], w[p])
		}
		if w[p].Mode&unix.S_IFMT != unix.S_IFREG {
			continue
		}
		if err := sameData(filepath.Join(want, p), filepath.Join(got, p)); err != nil {
			t.Error(err)
		}
	}
	if len(g) != len(w) {
		t.Errorf("%d names, want %d", len(g), len(w))
	}
}

func sameData(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	ba, bb := make([]byte, 1<<16), make([]byte, 1<<16)
	for {
		na, erra := io.ReadFull(fa, ba)
		nb, errb := io.ReadFull(fb, bb)
		if erra != errb || !bytes.Equal(ba[:na], bb[:nb]) {
			return fmt.Errorf("%q: contents differ (%v, %v)", b, erra, errb)
		}
		if erra != nil {
			return nil
		}
	}
}
