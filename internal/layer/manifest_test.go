package layer

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/levelfs/levelfs/internal/manifest"
)

// TestManifest: what Build notes while it copies is what the tree holds, and is beside
// the image under the digest that the result names.
func TestManifest(t *testing.T) {
	for _, fstype := range []string{"erofs", "ext4"} {
		dir := t.TempDir()
		makeTree(t, dir, sample(), 1)
		if err := os.WriteFile(filepath.Join(dir, "empty file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		image := filepath.Join(t.TempDir(), "image")
		r, err := Build(t.Context(), dir, image, BuildOptions{FSType: fstype})
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(image + ManifestSuffix)
		if err != nil {
			t.Fatal(err)
		}
		var want bytes.Buffer
		if err := manifest.Make(t.Context(), dir, &want); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s: the manifest is\n%s\nwant\n%s", fstype, got, want.Bytes())
		}
		if digest, err := manifest.Digest(t.Context(), image+ManifestSuffix); err != nil || digest != r.Manifest {
			t.Errorf("%s: digest %s, %v; the result says %s", fstype, digest, err, r.Manifest)
		}
	}
}

// TestManifestInTheWay: one that a killed build left is used if it is the same, and
// refused otherwise.
func TestManifestInTheWay(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, sample(), 1)
	out := t.TempDir()
	image := filepath.Join(out, "image")
	r, err := Build(t.Context(), dir, image, BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	if again, err := Build(t.Context(), dir, image, BuildOptions{}); err != nil || again != r {
		t.Errorf("%+v, %v; want %+v", again, err, r)
	}
	other := filepath.Join(out, "other")
	if err := os.WriteFile(other+ManifestSuffix, []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(t.Context(), dir, other, BuildOptions{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("%v, want that it exists", err)
	}
	if _, err := os.Lstat(other); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the image is there: %v", err)
	}
}
