package test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestMountLayerKinds mounts views of one layer of each kind, and of all of them.
func TestMountLayerKinds(t *testing.T) {
	r := newRig(t)
	testenv.Require(t, "squashfs", "ext4")
	files := func(kind string) testenv.Files {
		return testenv.Files{"from": kind, "only/" + kind: kind, "dir/" + kind: kind}
	}
	layers := []testenv.Layer{
		r.Store.Erofs("erofs", files("erofs")),
		r.Store.Squashfs("squashfs", files("squashfs")),
		r.Store.Ext4("ext4", files("ext4")),
		r.journaledExt4("journal", files("journal")),
		r.Store.Built("built", files("built")),
		r.Store.Directory("directory", files("directory")),
	}
	all := map[string]string{"from": "erofs"} // the topmost layer's
	for i, l := range layers {
		all["dir/"+l.Name], all["only/"+l.Name] = l.Name, l.Name
		for _, private := range []string{"persistent", "ephemeral", "none"} {
			t.Run(l.Name+"/"+private, func(t *testing.T) {
				sub := *r
				sub.t = t
				sub.sameMounts(func() {
					sub.levelWith(testenv.Component{Name: "emacs", Default: fmt.Sprint(i), Private: private}, l)
					sub.mount()
					sub.want(map[string]string{"from": l.Name, "dir/" + l.Name: l.Name})
					sub.umount(sub.target)
				})
			})
		}
	}
	r.level("all", layers...)
	r.mount()
	r.want(all)
	if loops := r.loops(); len(loops) != 5 {
		t.Errorf("loop devices %v, want one for each of 5 images", loops)
	}
	r.umount(r.target)
}

// TestMountMany takes as many layers as the kernel allows, and not one more.
func TestMountMany(t *testing.T) {
	r := newRig(t)
	var layers []testenv.Layer
	for i := range 501 {
		name := fmt.Sprintf("d%03d", i)
		layers = append(layers, r.Store.Directory(name, testenv.Files{name: name, "top": name}))
	}
	r.level("500", layers[:500]...)
	r.mount()
	r.want(map[string]string{"d000": "d000", "d499": "d499", "top": "d000"})
	r.umount(r.target)
	r.level("501", layers...)
	r.refused(32, []string{"emacs", r.target}, "501 layers, but overlayfs takes at most 500")
}

// TestMountManyImages takes many loop devices at once.
func TestMountManyImages(t *testing.T) {
	r := newRig(t)
	const n = 120
	// One image, and copies that differ in their UUID, which mkfs would take longer
	// for.
	first := r.Store.Erofs("i000", testenv.Files{"top": "i"})
	content, err := os.ReadFile(filepath.Join(r.Store.Dir, first.Images[0]))
	if err != nil {
		t.Fatal(err)
	}
	layers := make([]testenv.Layer, n)
	for i := range layers {
		name := fmt.Sprintf("i%03d", i)
		copied := bytes.Clone(content)
		copied[1024+0x30] = byte(i)
		// Without a checksum of the superblock: EROFS_FEATURE_COMPAT_SB_CHKSUM.
		copied[1024+8] &^= 1
		r.write(filepath.Join(r.Store.Dir, name+".erofs"), string(copied))
		layers[i] = r.image(name, "erofs", name+".erofs")
	}
	r.level("1", layers...)
	r.mount()
	r.want(map[string]string{"top": "i"})
	if loops := r.loops(); len(loops) != n {
		t.Errorf("%d loop devices, want %d", len(loops), n)
	}
	r.umount(r.target)
}

// TestMountRefusals: each is an error of one line that names the thing, and nothing
// has changed: not the mounts, not the loop devices, not the private layer that was
// there.
func TestMountRefusals(t *testing.T) {
	r := newRig(t)
	testenv.Require(t, "squashfs")
	good := r.Store.Erofs("good", testenv.Files{"file": "delivered", "dir/x": ""})
	r.level("good", good)
	r.mount()
	r.write(r.target+"/file", "mine")
	r.write(r.target+"/private", "mine")
	if err := os.Remove(r.target + "/dir/x"); err != nil {
		t.Fatal(err)
	}
	r.umount(r.target)

	outside := r.Path("outside")
	store := r.Store.Dir
	squash := r.Store.Squashfs("squash", testenv.Files{"s": ""})
	second := r.Store.Erofs("second", testenv.Files{"second": ""})
	for _, link := range [][2]string{
		{filepath.Join(store, good.Images[0]), outside}, // a hard link
		{outside, filepath.Join(store, "link.erofs")},   // and symbolic ones
		{r.Root, filepath.Join(store, "dirlink")},
	} {
		var err error
		if link[1] == outside {
			err = os.Link(link[0], link[1])
		} else {
			err = os.Symlink(link[0], link[1])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	content, err := os.ReadFile(filepath.Join(store, second.Images[0]))
	if err != nil {
		t.Fatal(err)
	}
	r.write(filepath.Join(store, "short.erofs"), string(content[:len(content)-512]))
	r.write(filepath.Join(store, "tiny.erofs"), string(content[:1500]))
	r.write(filepath.Join(store, "text.erofs"), strings.Repeat("no file system\n", 1000))
	// The right superblock and digest, and nothing behind it.
	hollow := append(bytes.Clone(content[:2048]), make([]byte, 2048)...)
	for i := 1024 + 0x0e; i < 1024+0x30; i++ {
		hollow[i] = 0xff // root inode, sizes, block addresses
	}
	r.write(filepath.Join(store, "hollow.erofs"), string(hollow))
	r.Store.Directory("tree", testenv.Files{"sub/f": ""})
	if err := unix.Mkfifo(filepath.Join(store, "fifo.erofs"), 0o600); err != nil {
		t.Fatal(err)
	}

	with := func(l testenv.Layer, change func(l *testenv.Layer)) testenv.Layer {
		l.Name = "bad"
		change(&l)
		return l
	}
	at := func(image string) func(l *testenv.Layer) {
		return func(l *testenv.Layer) { l.Images = []string{image} }
	}
	dir := func(image string) testenv.Layer {
		return testenv.Layer{Name: "bad", FSType: "dir", Images: []string{image}}
	}
	for _, c := range []struct {
		name   string
		layers []testenv.Layer
		words  []string
	}{
		{"same layer twice", []testenv.Layer{good, good}, []string{"emacs@bad", "good", "once"}},
		{"one image under two names", []testenv.Layer{good, with(good, func(*testenv.Layer) {})},
			[]string{`"good"`, `"bad"`, "same content"}},
		{"missing", []testenv.Layer{good, with(second, at("missing.erofs"))}, []string{`"bad"`, "not on this machine", "missing.erofs"}},
		{"truncated", []testenv.Layer{good, with(second, at("short.erofs"))}, []string{`"bad"`, "short.erofs", "size"}},
		{"truncated, size not known", []testenv.Layer{good, with(second, func(l *testenv.Layer) { at("short.erofs")(l); l.Size = 0 })},
			[]string{`"bad"`, "short.erofs", "digest"}},
		{"truncated in its superblock", []testenv.Layer{good, with(second, func(l *testenv.Layer) { at("tiny.erofs")(l); l.Size = 0 })},
			[]string{`"bad"`, "tiny.erofs", "too short"}},
		{"no file system", []testenv.Layer{good, with(second, func(l *testenv.Layer) { at("text.erofs")(l); l.Size = 0 })},
			[]string{`"bad"`, "text.erofs", "no erofs, squashfs or ext4"}},
		{"hollow", []testenv.Layer{good, func() testenv.Layer { return r.image("bad", "erofs", "hollow.erofs") }()},
			[]string{"hollow.erofs", "damaged"}},
		{"wrong digest", []testenv.Layer{good, with(second, func(l *testenv.Layer) { l.Digest = "sha256:" + strings.Repeat("0", 64) })},
			[]string{`"bad"`, "digest", second.Digest}},
		{"wrong UUID", []testenv.Layer{good, with(second, func(l *testenv.Layer) { l.UUID = good.UUID })},
			[]string{`"bad"`, "uuid", good.UUID, second.UUID}},
		{"wrong file system", []testenv.Layer{good, with(squash, func(l *testenv.Layer) { l.FSType = "erofs" })},
			[]string{`"bad"`, "fstype is squashfs", "erofs"}},
		{"unknown file system", []testenv.Layer{good, with(second, func(l *testenv.Layer) { l.FSType = "btrfs" })},
			[]string{"btrfs", "cn=bad"}},
		{"outside", []testenv.Layer{good, with(second, at(outside))}, []string{`"bad"`, outside, "lies outside"}},
		{"link that leads outside", []testenv.Layer{good, with(second, at("link.erofs"))}, []string{`"bad"`, "link.erofs", "escapes"}},
		{"directory link that leads outside", []testenv.Layer{good, with(second, at("dirlink/outside"))}, []string{`"bad"`, "dirlink/outside", "escapes"}},
		{"fifo as image", []testenv.Layer{good, with(second, at("fifo.erofs"))}, []string{`"bad"`, "fifo.erofs"}},
		{"directory as image", []testenv.Layer{good, with(second, at("tree"))}, []string{`"bad"`, "tree", "no regular file"}},
		{"file as directory", []testenv.Layer{good, dir("second.erofs")}, []string{"second.erofs"}},
		{"fifo as directory", []testenv.Layer{good, dir("fifo.erofs")}, []string{"fifo.erofs"}},
		{"missing directory", []testenv.Layer{good, dir("nowhere")}, []string{`"bad"`, "nowhere"}},
		{"directory link that leads outside as directory", []testenv.Layer{good, dir("dirlink")}, []string{"dirlink", "escapes"}},
		{"directory in a directory", []testenv.Layer{good, {Name: "outer", FSType: "dir", Images: []string{"tree"}}, dir("tree/sub")},
			[]string{"two layers are one directory, or one lies in the other"}},
		{"directory twice", []testenv.Layer{good, {Name: "outer", FSType: "dir", Images: []string{"tree"}}, dir("tree")},
			[]string{`"outer"`, `"bad"`, "same content"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			sub.level("bad", c.layers...)
			sub.unchanged(func() {
				got, ended := sub.helperWithin(10*time.Second, "emacs", sub.target)
				if !ended {
					t.Fatal("the helper hangs")
				}
				sub.wantRefusal(got, 32, c.words...)
			})
		})
	}
	// And the private layer still works.
	r.level("good", good)
	r.mount()
	r.want(map[string]string{"file": "mine", "private": "mine"})
	r.wantAbsent("dir/x")
	r.umount(r.target)
}

// helperWithin runs the helper and reports whether it ends within the limit.
func (r *rig) helperWithin(limit time.Duration, args ...string) (testenv.Result, bool) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, r.Helper, args...)
	cmd.Env = r.Env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var failed *exec.ExitError
	if err != nil && !errors.As(err, &failed) {
		r.t.Fatal(err)
	}
	return testenv.Result{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}, ctx.Err() == nil
}
