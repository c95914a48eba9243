package guest

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// Program adds a program or library of the tree, with the libraries that it needs,
// under the names that they have there.
func (a *Archive) Program(tree *Tree, name string) {
	if err := a.program(tree, name); err != nil {
		a.err = errors.Join(a.err, fmt.Errorf("program %q: %w", name, err))
	}
}

func (a *Archive) program(tree *Tree, name string) error {
	if a.programs[name] {
		return nil
	}
	a.programs[name] = true
	file, err := tree.resolve(name)
	if err != nil {
		return err
	}
	a.Copy(name, file, 0o755)
	binary, err := elf.Open(file)
	if err != nil {
		return err
	}
	defer binary.Close()
	interpreter, err := interpreterOf(binary)
	if err != nil {
		return err
	}
	if interpreter != "" {
		if err := a.program(tree, interpreter); err != nil {
			return err
		}
	}
	libraries, err := binary.ImportedLibraries()
	if err != nil {
		return err
	}
	for _, library := range libraries {
		found, err := tree.library(library)
		if err != nil {
			return err
		}
		if err := a.program(tree, found); err != nil {
			return err
		}
	}
	return nil
}

// interpreterOf is the program's dynamic linker, or "" for a library.
func interpreterOf(binary *elf.File) (string, error) {
	for _, p := range binary.Progs {
		if p.Type == elf.PT_INTERP {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err != nil {
				return "", err
			}
			return strings.TrimRight(string(name), "\x00"), nil
		}
	}
	return "", nil
}

// library finds a library in the directories where Debian's dynamic linker looks
// without a cache, and returns its name in the tree.
func (t *Tree) library(name string) (string, error) {
	for _, dirs := range []string{"lib/*-linux-gnu", "usr/lib/*-linux-gnu", "lib", "usr/lib"} {
		found, err := filepath.Glob(filepath.Join(t.Dir, dirs, name))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return strings.TrimPrefix(found[0], t.Dir), nil
		}
	}
	return "", fmt.Errorf("library %q: %w", name, fs.ErrNotExist)
}

// resolve returns the file that the name is in the tree: links are within it, even
// absolute ones.
func (t *Tree) resolve(name string) (string, error) {
	for range 8 {
		file := filepath.Join(t.Dir, name)
		target, err := os.Readlink(file)
		if err != nil {
			return file, nil // no link; if it is nothing at all, whoever reads it says so
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		name = path.Clean("/" + target)
	}
	return "", fmt.Errorf("%q: too many links", name)
}

// Automount adds the tree's automount(8) and mount(8), and what they read. The tree
// has to have the packages autofs and mount.
func (a *Archive) Automount(tree *Tree) {
	for _, name := range []string{"/usr/sbin/automount", "/bin/mount", "/bin/umount"} {
		a.Program(tree, name)
	}
	// Its modules, which it opens by name, some of them for nothing.
	modules, err := filepath.Glob(filepath.Join(tree.Dir, "usr/lib/*-linux-gnu/autofs/*.so"))
	if err != nil || len(modules) == 0 {
		a.err = errors.Join(a.err, err, fmt.Errorf("no automount modules in %q", tree.Dir))
	}
	for _, module := range modules {
		a.Program(tree, strings.TrimPrefix(module, tree.Dir))
	}
	a.File("/etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nautomount: files\n"))
	a.File("/etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/sh\n"))
	a.File("/etc/group", 0o644, []byte("root:x:0:\n"))
	a.Link("/var/run", "../run")
}

// Levelfs compiles the commands for the architecture and adds them where they are
// installed. The directory dir is for the work.
func (a *Archive) Levelfs(ctx context.Context, architecture, dir string) error {
	for name, installed := range map[string]string{
		"auto.levelfs": "/usr/libexec/levelfs", "mount.levelfs": "/sbin", "levelfs": "/usr/bin",
	} {
		program := filepath.Join(dir, architecture+"-"+name)
		if err := Build(ctx, architecture, "github.com/levelfs/levelfs/cmd/"+name, program); err != nil {
			return err
		}
		a.Copy(path.Join(installed, name), program, 0o755)
	}
	return nil
}
