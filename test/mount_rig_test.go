package test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// A rig is a machine for tests of the mount helper: one component, emacs, whose
// level the test chooses, and a look at all that a mount could leave behind.
type rig struct {
	*testenv.Machine
	t      *testing.T
	target string // a mount point
}

// newRig makes a machine. The test must be one that Require lets run.
func newRig(t *testing.T) *rig {
	t.Helper()
	testenv.Require(t, "root", "overlay", "erofs")
	m := testenv.NewMachine(t, "lnx01")
	return &rig{Machine: m, t: t, target: m.Mkdir("sw/emacs")}
}

// level makes emacs@NAME of the layers, topmost first, what the host runs.
func (r *rig) level(name string, layers ...testenv.Layer) {
	r.t.Helper()
	r.levelWith(testenv.Component{Name: "emacs", Default: name}, layers...)
}

// levelWith is level with more of the component given. Layers that are the site's lie above
// the level.
func (r *rig) levelWith(c testenv.Component, layers ...testenv.Layer) {
	r.t.Helper()
	level := testenv.Level{Name: c.Default}
	unique := make(map[string]testenv.Layer)
	for i, l := range layers {
		unique[l.Name] = l
		if l.Kind != "" {
			c.Customize = append(c.Customize, fmt.Sprintf("%s=%02d:%s", c.Name, i, l.Name))
			continue
		}
		level.Layers = append(level.Layers, l.Name)
	}
	c.Levels = []testenv.Level{level}
	inv := testenv.Inventory{Components: []testenv.Component{c}}
	for _, l := range unique {
		inv.Layers = append(inv.Layers, l)
	}
	r.WriteLDIF("emacs.ldif", inv.LDIF())
}

// mount mounts the view of emacs, or of what is given as its key, at the rig's
// target. The key names no level, so that the helper asks the map each time.
func (r *rig) mount(options ...string) {
	r.t.Helper()
	r.mountAt("emacs", r.target, options...)
}

func (r *rig) mountAt(spec, target string, options ...string) {
	r.t.Helper()
	if got := r.RunHelper(append([]string{spec, target}, options...)...); got.Exit != 0 || got.Stdout != "" || got.Stderr != "" {
		r.t.Fatalf("mount of %s: %v", spec, got)
	}
}

// umount unmounts as umount(8) does, and waits for the loop devices to go.
func (r *rig) umount(targets ...string) {
	r.t.Helper()
	for _, target := range targets {
		r.Umount(target)
	}
	r.wantNoLoops()
}

// loops are the loop devices over images of the Store.
func (r *rig) loops() map[string]string {
	r.t.Helper()
	loops, err := testenv.LoopDevices(r.Store.Dir)
	if err != nil {
		r.t.Fatal(err)
	}
	return loops
}

func (r *rig) wantNoLoops() {
	r.t.Helper()
	testenv.WaitFor(r.t, "free loop devices", func() error {
		if loops := r.loops(); len(loops) > 0 {
			return fmt.Errorf("%v", loops)
		}
		return nil
	})
}

// mountTable is every mount in this namespace, a line each.
func mountTable(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

// unchanged runs f and checks that mounts, loop devices and private layers are as
// before. A mount that should not be there is taken away, for the tests to come.
func (r *rig) unchanged(f func()) {
	r.t.Helper()
	private, loops := r.privateFiles(), r.loops()
	r.sameMounts(f)
	if now := r.privateFiles(); now != private {
		r.t.Errorf("private layers are now\n%sand were\n%s", now, private)
	}
	testenv.WaitFor(r.t, "loop devices as before", func() error {
		if now := r.loops(); !maps.Equal(now, loops) {
			return fmt.Errorf("they are %v, and were %v", now, loops)
		}
		return nil
	})
}

// sameMounts runs f and checks that the mounts are as before.
func (r *rig) sameMounts(f func()) {
	r.t.Helper()
	before := mountTable(r.t)
	f()
	now := mountTable(r.t)
	for _, line := range before {
		if !slices.Contains(now, line) {
			r.t.Errorf("mount gone: %s", line)
		}
	}
	for _, line := range slices.Backward(now) {
		if slices.Contains(before, line) {
			continue
		}
		r.t.Errorf("new mount: %s", line)
		point := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(strings.Fields(line)[4])
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			r.t.Error(err)
		}
	}
}

// refused runs the helper and checks that it refuses, with one line on stderr that
// has all of the words, and changes nothing.
func (r *rig) refused(exit int, args []string, words ...string) {
	r.t.Helper()
	r.unchanged(func() {
		r.t.Helper()
		r.wantRefusal(r.RunHelper(args...), exit, words...)
	})
}

func (r *rig) wantRefusal(got testenv.Result, exit int, words ...string) {
	r.t.Helper()
	line, ended := strings.CutSuffix(got.Stderr, "\n")
	if got.Exit != exit || got.Stdout != "" || !ended || strings.Contains(line, "\n") || !strings.HasPrefix(line, "mount.levelfs: ") {
		r.t.Errorf("%v; want exit %d and one line on stderr", got, exit)
	}
	for _, w := range words {
		if !strings.Contains(line, w) {
			r.t.Errorf("stderr %q: want %q in it", line, w)
		}
	}
}

// privateFiles describes all that is in the private layers, but not the lock files,
// which say who used them last, which levels they were under before, and what overlayfs
// keeps in work. A private layer in
// which there is nothing yet counts as none.
func (r *rig) privateFiles() string {
	r.t.Helper()
	base := r.Path("/var/lib/levelfs/private")
	var b strings.Builder
	err := filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(base, path)
		if err != nil {
			return err
		}
		parts := strings.Split(strings.Replace(rel, "user/", "user:", 1), "/") // host/emacs/upper/…, user/rob/emacs/upper/…
		if len(parts) < 3 {
			return nil
		}
		switch parts[2] {
		case "lock", "bases", "history", "level.before":
			return nil
		case "work", "work2":
			return filepath.SkipDir
		}
		if len(parts) == 3 && d.IsDir() {
			entries, err := os.ReadDir(path)
			if err != nil || len(entries) == 0 {
				return err
			}
		}
		b.WriteString(describe(r.t, path, rel))
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		r.t.Fatal(err)
	}
	return b.String()
}

// describe is everything about a file but its times, in a line.
func describe(t testing.TB, path, name string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("%s mode %o owner %d:%d", name, st.Mode, st.Uid, st.Gid)
	if filepath.Base(name) != "level" { // which is replaced, and put back
		line += fmt.Sprintf(" ino %d", st.Ino)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" %q", text)
	}
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		t.Fatal(err)
	}
	for attr := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if attr == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, attr, value)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" %s=%x", attr, value[:n])
	}
	return line + "\n"
}

// want checks what files below the target say.
func (r *rig) want(files map[string]string) {
	r.t.Helper()
	r.wantAt(r.target, files)
}

func (r *rig) wantAt(dir string, files map[string]string) {
	r.t.Helper()
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			r.t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func (r *rig) wantAbsent(names ...string) {
	r.t.Helper()
	for _, name := range names {
		if _, err := os.Lstat(filepath.Join(r.target, name)); !os.IsNotExist(err) {
			r.t.Errorf("%s: %v, want that it is not there", name, err)
		}
	}
}

func (r *rig) write(path, text string) {
	r.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

// image describes a file of the Store as a layer, by what is in it.
func (r *rig) image(name, fstype, file string) testenv.Layer {
	r.t.Helper()
	content, err := os.ReadFile(filepath.Join(r.Store.Dir, file))
	if err != nil {
		r.t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return testenv.Layer{
		Name: name, FSType: fstype, Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content)), Images: []string{file},
	}
}

// journaledExt4 makes an ext4 image with a journal, which mkfs.ext4 marks as clean,
// and then marks it as one that was not unmounted: the kernel would have to replay
// it, and cannot on a read-only device.
func (r *rig) journaledExt4(name string, files testenv.Files) testenv.Layer {
	r.t.Helper()
	tree := r.Mkdir("tree-" + name)
	for file, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(tree, file)), 0o755); err != nil {
			r.t.Fatal(err)
		}
		r.write(filepath.Join(tree, file), text)
	}
	file := name + ".ext4"
	path := filepath.Join(r.Store.Dir, file)
	out, err := exec.Command("/sbin/mkfs.ext4", "-q", "-F", "-b4096", "-J", "size=4", "-O", "has_journal,^metadata_csum", "-d", tree, path, "4096").CombinedOutput()
	if err != nil {
		r.t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	// s_feature_incompat of the superblock: EXT3_FEATURE_INCOMPAT_RECOVER.
	incompat := make([]byte, 1)
	if _, err := f.ReadAt(incompat, 1024+0x60); err != nil {
		r.t.Fatal(err)
	}
	incompat[0] |= 4
	if _, err := f.WriteAt(incompat, 1024+0x60); err != nil {
		r.t.Fatal(err)
	}
	return r.image(name, "ext4", file)
}

// viewLine is the mountinfo line of the view at the target, without what differs
// between any two mounts: mount and device numbers.
func viewLine(t testing.TB, target string) string {
	t.Helper()
	// As mangle() of fs/seq_file.c writes it.
	target = strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(target)
	for _, line := range slices.Backward(mountTable(t)) {
		fields := strings.Fields(line)
		if fields[4] == target {
			return strings.Join(fields[3:], " ")
		}
	}
	t.Fatalf("nothing is mounted at %s", target)
	return ""
}

// viewOptions are the options of the view at the target: the mount's and
// overlayfs's.
func viewOptions(t testing.TB, target string) []string {
	t.Helper()
	fields := strings.Fields(viewLine(t, target)) // root target options - type source options
	dash := slices.Index(fields, "-")
	return append(strings.Split(fields[2], ","), strings.Split(fields[dash+3], ",")...)
}
