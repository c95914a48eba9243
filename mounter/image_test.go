package mounter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var uuidBytes = []byte{0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}

const uuidText = "00112233-4455-6677-8899-aabbccddeeff"

// superblock is an image of n zeros but for the parts.
func superblock(n int, parts map[int][]byte) []byte {
	b := make([]byte, n)
	for offset, part := range parts {
		copy(b[offset:], part)
	}
	return b
}

// Superblocks by the kernel's headers: fs/erofs/erofs_fs.h, fs/ext4/ext4.h,
// fs/squashfs/squashfs_fs.h.
var (
	erofsImage    = superblock(4096, map[int][]byte{1024: {0xe2, 0xe1, 0xf5, 0xe0}, 1024 + 0x30: uuidBytes})
	ext4Image     = superblock(4096, map[int][]byte{1024 + 0x38: {0x53, 0xef}, 1024 + 0x68: uuidBytes})
	squashfsImage = superblock(4096, map[int][]byte{0: []byte("hsqs")})
)

func TestProbe(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name         string
		image        []byte
		fstype, uuid string
		fails        string
	}{
		{"erofs", erofsImage, "erofs", uuidText, ""},
		{"erofs, no byte more than needed", erofsImage[:2048], "erofs", uuidText, ""},
		{"ext4", ext4Image, "ext4", uuidText, ""},
		{"squashfs", squashfsImage, "squashfs", "", ""},
		{"big-endian squashfs", superblock(4096, map[int][]byte{0: []byte("sqsh")}), "", "", "no erofs, squashfs or ext4"},
		{"zeros", make([]byte, 4096), "", "", "no erofs, squashfs or ext4"},
		{"text", bytes.Repeat([]byte("text "), 1000), "", "", "no erofs, squashfs or ext4"},
		{"empty", nil, "", "", "too short"},
		{"cut in the superblock", erofsImage[:2047], "", "", "too short"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fstype, uuid, err := Probe(bytes.NewReader(c.image))
			if c.fails != "" {
				if err == nil || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("error %v, want %q", err, c.fails)
				}
				return
			}
			if fstype != c.fstype || uuid != c.uuid || err != nil {
				t.Errorf("got %q, %q, %v; want %q, %q", fstype, uuid, err, c.fstype, c.uuid)
			}
		})
	}
}

func FuzzProbe(f *testing.F) {
	for _, seed := range [][]byte{erofsImage, ext4Image, squashfsImage, nil, []byte("hsqs")} {
		f.Add(seed)
	}
	canonical := regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	f.Fuzz(func(t *testing.T, image []byte) {
		fstype, uuid, err := Probe(bytes.NewReader(image))
		switch {
		case err != nil:
			if fstype != "" || uuid != "" {
				t.Errorf("%q and %q with error %v", fstype, uuid, err)
			}
		case fstype == "squashfs" && uuid == "":
		case (fstype == "erofs" || fstype == "ext4") && canonical.MatchString(uuid):
		default:
			t.Errorf("got %q, %q", fstype, uuid)
		}
	})
}

// writeImage writes an image and describes it as a layer.
func writeImage(t *testing.T, content []byte) Layer {
	t.Helper()
	sum := sha256.Sum256(content)
	l := Layer{
		Name: "a", FSType: "erofs", Digest: "sha256:" + hex.EncodeToString(sum[:]), Size: int64(len(content)),
		UUID: uuidText, Dir: t.TempDir(), Path: "a.erofs",
	}
	if err := os.WriteFile(l.File(), content, 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

func TestCheckImage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(t *testing.T, l *Layer)
		want   string // "" if it is the layer
	}{
		{"right", func(*testing.T, *Layer) {}, ""},
		{"size not known", func(_ *testing.T, l *Layer) { l.Size = 0 }, ""},
		{"uuid not known", func(_ *testing.T, l *Layer) { l.UUID = "" }, ""},
		{"size", func(_ *testing.T, l *Layer) { l.Size++ }, `layer "a": image "DIR/a.erofs": size is 4096 bytes, but the inventory says 4097`},
		{"fstype", func(_ *testing.T, l *Layer) { l.FSType = "ext4" }, "fstype is erofs, but the inventory says ext4"},
		{"uuid", func(_ *testing.T, l *Layer) { l.UUID = "f" + uuidText[1:] }, "uuid is " + uuidText + ", but the inventory says f0112233"},
		{"digest", func(_ *testing.T, l *Layer) { l.Digest = digest("0") }, "but the inventory says sha256:0000"},
		{"truncated", func(t *testing.T, l *Layer) {
			if err := os.Truncate(l.File(), 1000); err != nil {
				t.Fatal(err)
			}
			l.Size = 0
		}, "too short for a file system"},
		{"missing", func(_ *testing.T, l *Layer) { l.Path = "b.erofs" }, `layer "a": `},
		{"directory", func(_ *testing.T, l *Layer) { l.Path = "." }, "is no regular file"},
		{"above", func(t *testing.T, l *Layer) {
			sub := filepath.Join(l.Dir, "sub")
			if err := os.Mkdir(sub, 0o700); err != nil {
				t.Fatal(err)
			}
			l.Dir, l.Path = sub, "../a.erofs"
		}, "escapes"},
		{"absolute", func(_ *testing.T, l *Layer) { l.Path = l.File() }, "escapes"},
		{"link that leads out", func(t *testing.T, l *Layer) {
			sub := filepath.Join(l.Dir, "sub")
			if err := errors.Join(os.Mkdir(sub, 0o700), os.Symlink(l.File(), filepath.Join(sub, "link"))); err != nil {
				t.Fatal(err)
			}
			l.Dir, l.Path = sub, "link"
		}, "escapes"},
		{"link that stays inside", func(t *testing.T, l *Layer) {
			if err := os.Symlink(l.Path, filepath.Join(l.Dir, "link")); err != nil {
				t.Fatal(err)
			}
			l.Path = "link"
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := writeImage(t, erofsImage)
			c.change(t, &l)
			cache := t.TempDir()
			f, err := new(Applier).checkImage(context.Background(), l, cache)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				f.Close()
				return
			}
			if err == nil {
				f.Close()
			}
			if want := strings.ReplaceAll(c.want, "DIR", l.Dir); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
			if stamps, err := os.ReadDir(filepath.Join(cache, "verified")); len(stamps) != 0 {
				t.Errorf("it left a stamp: %v, %v", stamps, err)
			}
		})
	}
}

// TestCheckImageOnce checks that an image is read in full once, and again when it
// has changed or the stamp is not whole.
func TestCheckImageOnce(t *testing.T) {
	t.Parallel()
	l := writeImage(t, erofsImage)
	cache := t.TempDir()
	ended, cancel := context.WithCancel(context.Background())
	cancel() // hash does not start with it: that is how to see whether it ran
	hashed := func() bool {
		t.Helper()
		f, err := new(Applier).checkImage(ended, l, cache)
		if err == nil {
			f.Close()
			return false
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		return true
	}
	verify := func() {
		t.Helper()
		f, err := new(Applier).checkImage(context.Background(), l, cache)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if !hashed() {
		t.Fatal("the first check did not read the image")
	}
	verify()
	if hashed() {
		t.Error("it was read again though nothing had changed")
	}
	stamp := filepath.Join(cache, "verified", strings.TrimPrefix(l.Digest, "sha256:"))
	whole, err := os.ReadFile(stamp)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole { // a crash while it was written
		if err := os.WriteFile(stamp, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if !hashed() {
			t.Errorf("a stamp cut to %d bytes was trusted", n)
		}
	}
	verify()
	// Another inode of the same content, size and modification time.
	info, err := os.Stat(l.File())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(l.File()+".2", erofsImage, 0o600),
		os.Chtimes(l.File()+".2", info.ModTime(), info.ModTime()), os.Rename(l.File()+".2", l.File())); err != nil {
		t.Fatal(err)
	}
	if !hashed() {
		t.Error("another file under the name was trusted")
	}
	verify()
	// Bytes changed in place and the modification time set back: the change time
	// gives it away.
	f, err := os.OpenFile(l.File(), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte("changed"), 3000)
	if err := errors.Join(err, f.Close(), os.Chtimes(l.File(), info.ModTime(), info.ModTime())); err != nil {
		t.Fatal(err)
	}
	var mismatch *MismatchError
	if _, err := new(Applier).checkImage(context.Background(), l, cache); !errors.As(err, &mismatch) || mismatch.What != "digest" {
		t.Errorf("changed in place: %v, want a digest that differs", err)
	}
}

// TestHash checks the digest over more than one buffer, and that it stops.
func TestHash(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	content = append(content, "and a bit"...)
	name := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sum := sha256.Sum256(content)
	size := int64(len(content))
	if got, err := hash(context.Background(), f, size); err != nil || got != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("got %s, %v", got, err)
	}
	// A device may be larger than the image in it, and must not be smaller.
	sum = sha256.Sum256(content[:size-9])
	if got, err := hash(context.Background(), io.NewSectionReader(f, 0, size), size-9); err != nil || got != "sha256:"+hex.EncodeToString(sum[:]) {
		t.Errorf("the first bytes: %s, %v", got, err)
	}
	if _, err := hash(context.Background(), io.NewSectionReader(f, 0, size), size+1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("one byte too few: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := hash(ctx, f, size); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
