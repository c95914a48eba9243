package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"

	"github.com/cavaliergopher/cpio"
)

// An Archive is an initramfs in the making. Directories are made as they are needed.
type Archive struct {
	buf bytes.Buffer
	w   *cpio.Writer
	err error

	dirs     map[string]bool
	programs map[string]bool // see Program
}

// NewArchive returns an empty archive.
func NewArchive() *Archive {
	a := &Archive{dirs: map[string]bool{".": true, "/": true}, programs: make(map[string]bool)}
	a.w = cpio.NewWriter(&a.buf)
	return a
}

// add writes an entry. The first error stays, and [Archive.WriteFile] returns it.
func (a *Archive) add(name string, mode cpio.FileMode, content []byte) {
	a.Dir(path.Dir(name))
	if a.err != nil {
		return
	}
	header := &cpio.Header{Name: strings.TrimPrefix(name, "/"), Mode: mode, Size: int64(len(content)), Links: 1}
	if a.err = a.w.WriteHeader(header); a.err == nil {
		_, a.err = a.w.Write(content)
	}
}

// Dir adds a directory and those above it.
func (a *Archive) Dir(name string) {
	name = path.Clean(name)
	if a.dirs[name] {
		return
	}
	a.dirs[name] = true
	a.add(name, cpio.TypeDir|0o755, nil)
}

// Link adds a symbolic link.
func (a *Archive) Link(name, target string) {
	a.add(name, cpio.TypeSymlink|0o777, []byte(target))
}

// File adds a file with that content.
func (a *Archive) File(name string, mode fs.FileMode, content []byte) {
	a.add(name, cpio.TypeReg|cpio.FileMode(mode.Perm()), content)
}

// Copy adds a copy of a file of this machine.
func (a *Archive) Copy(name, from string, mode fs.FileMode) {
	content, err := os.ReadFile(from)
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	a.File(name, mode, content)
}

// Tree adds copies of the directories and regular files below a directory of this
// machine.
func (a *Archive) Tree(name, from string) {
	err := filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			a.Dir(path.Join(name, rel))
		case d.Type().IsRegular():
			a.Copy(path.Join(name, rel), file, info.Mode())
		}
		return nil
	})
	a.err = errors.Join(a.err, err)
}

// Modules adds the tree's kernel modules, and a list in which order package inside
// is to load them. Those that are part of the kernel are left out of both.
func (a *Archive) Modules(tree *Tree, names ...string) {
	dir := filepath.Join(tree.Dir, "lib/modules", tree.Release)
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if module, is := strings.CutSuffix(filepath.Base(file), ".ko"); is {
			found[strings.ReplaceAll(module, "-", "_")] = file
		}
		return err
	})
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	builtin, err := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil {
		a.err = errors.Join(a.err, err)
		return
	}
	var order strings.Builder
	for _, name := range names {
		file := found[name]
		if file == "" {
			plain := strings.ReplaceAll(string(builtin), "-", "_")
			if !strings.Contains(plain, "/"+name+".ko\n") {
				a.err = errors.Join(a.err, fmt.Errorf("no module %q in %q", name, dir))
			}
			continue
		}
		a.Copy("/modules/"+name+".ko", file, 0o644)
		fmt.Fprintln(&order, name)
	}
	a.File("/modules/order", 0o644, []byte(order.String()))
}

// WriteFile writes the archive to a file.
func (a *Archive) WriteFile(file string) error {
	if err := errors.Join(a.err, a.w.Close()); err != nil {
		return fmt.Errorf("initramfs: %w", err)
	}
	return os.WriteFile(file, a.buf.Bytes(), 0o644)
}

// Build compiles a package of this module for a guest, statically.
func Build(ctx context.Context, architecture, pkg, output string) error {
	flags := "-ldflags=-s -w"
	if architecture == "s390x" {
		// Go's default is where the kernel has its code, in an address space of its own there.
		// The breakpoints that package cp has in that are of any address space: programs would
		// stop at them some ten thousand times, each for milliseconds.
		flags += " -T 0x10001000"
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", flags, "-o", output, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+architecture)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s for %s: %w\n%s", pkg, architecture, err, out)
	}
	return nil
}
