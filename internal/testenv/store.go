package testenv

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/levelfs/levelfs/internal/layer"
)

// A Store is a directory of layer images.
type Store struct {
	Dir string
	t   testing.TB
}

// NewStore makes a directory of images that goes with the test.
func NewStore(t testing.TB) *Store {
	t.Helper()
	return &Store{Dir: shortDir(t, "st"), t: t}
}

// Files is a tree of regular files: path -> content. Programs (ELF, #!) can be
// executed.
type Files map[string]string

// Erofs makes an image by mkfs.erofs, which is small: some blocks of 4 KiB.
func (s *Store) Erofs(name string, files Files) Layer {
	s.t.Helper()
	id := uuid.NewString()
	return s.make(Layer{Name: name, FSType: "erofs", UUID: id}, files, func(tree, image string) *exec.Cmd {
		return exec.Command("mkfs.erofs", "--quiet", "-Enoinline_data", "-U"+id, "-T0", image, tree)
	})
}

// Squashfs makes an image by mksquashfs.
func (s *Store) Squashfs(name string, files Files) Layer {
	s.t.Helper()
	return s.make(Layer{Name: name, FSType: "squashfs"}, files, func(tree, image string) *exec.Cmd {
		return exec.Command("mksquashfs", tree, image, "-noappend", "-quiet", "-no-progress", "-all-root", "-processors", "1")
	})
}

// Ext4 makes an image of 4 MiB by mkfs.ext4.
func (s *Store) Ext4(name string, files Files) Layer {
	s.t.Helper()
	id := uuid.NewString()
	return s.make(Layer{Name: name, FSType: "ext4", UUID: id}, files, func(tree, image string) *exec.Cmd {
		return exec.Command("mkfs.ext4", "-q", "-F", "-b4096", "-U"+id, "-O^has_journal,^resize_inode", "-m0", "-d"+tree, image, "1024")
	})
}

// Built makes an image as "levelfs layer build" does, 2 MiB at least.
func (s *Store) Built(name string, files Files) Layer {
	s.t.Helper()
	tree := s.tree(files)
	defer os.RemoveAll(tree)
	r, err := layer.Build(context.Background(), tree, filepath.Join(s.Dir, name+".erofs"), layer.BuildOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return Layer{Name: name, FSType: r.FSType, Digest: r.Digest, UUID: r.UUID, Size: r.Size, Images: []string{name + ".erofs"}, Manifest: r.Manifest}
}

// Directory makes a layer that is a plain directory. It takes the Store's
// directory among the configured "directories" to use it.
func (s *Store) Directory(name string, files Files) Layer {
	s.t.Helper()
	tree := s.tree(files)
	if err := os.Rename(tree, filepath.Join(s.Dir, name)); err != nil {
		s.t.Fatal(err)
	}
	return Layer{Name: name, FSType: "dir", Images: []string{name}}
}

// make runs the command and describes the image.
func (s *Store) make(l Layer, files Files, command func(tree, image string) *exec.Cmd) Layer {
	s.t.Helper()
	tree := s.tree(files)
	defer os.RemoveAll(tree)
	l.Images = []string{l.Name + "." + l.FSType}
	image := filepath.Join(s.Dir, l.Images[0])
	cmd := command(tree, image)
	path, err := lookPath(cmd.Args[0])
	if err != nil {
		s.t.Fatal(err)
	}
	cmd.Path, cmd.Err = path, nil
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	content, err := os.ReadFile(image)
	if err != nil {
		s.t.Fatal(err)
	}
	digest := sha256.Sum256(content)
	l.Digest, l.Size = "sha256:"+hex.EncodeToString(digest[:]), int64(len(content))
	return l
}

// tree writes the files to a new directory.
func (s *Store) tree(files Files) string {
	s.t.Helper()
	tree, err := os.MkdirTemp(s.Dir, ".tree")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(tree, 0o755); err != nil {
		s.t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "\x7fELF") || strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			s.t.Fatal(err)
		}
	}
	return tree
}

// shortDir is t.TempDir with a short path whatever the name of the test: socket
// addresses have 108 bytes, and mount options one page.
func shortDir(t testing.TB, prefix string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
