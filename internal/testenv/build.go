package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// Binaries are the paths of the compiled commands.
type Binaries struct {
	Map     string // auto.levelfs
	UserMap string // auto.levelfs.user
	Helper  string // mount.levelfs
	Levelfs string // levelfs
}

// ModuleDir is the directory of the go.mod that the current directory belongs to.
func ModuleDir() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no go.mod in %q or above", dir)
		}
	}
}

// Build compiles the commands into dir as they are released: static, stripped,
// without paths of this machine.
func Build(ctx context.Context, dir string) (Binaries, error) {
	module, err := ModuleDir()
	if err != nil {
		return Binaries{}, err
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir+"/",
		"./cmd/auto.levelfs", "./cmd/mount.levelfs", "./cmd/levelfs")
	cmd.Dir = module
	cmd.Env = setenv(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return Binaries{}, fmt.Errorf("go build: %w\n%s", err, out)
	}
	if err := os.Symlink("auto.levelfs", filepath.Join(dir, "auto.levelfs.user")); err != nil {
		return Binaries{}, err
	}
	return Binaries{
		Map:     filepath.Join(dir, "auto.levelfs"),
		UserMap: filepath.Join(dir, "auto.levelfs.user"),
		Helper:  filepath.Join(dir, "mount.levelfs"),
		Levelfs: filepath.Join(dir, "levelfs"),
	}, nil
}

// built compiles once for all tests of a run.
var built = sync.OnceValues(func() (Binaries, error) {
	dir, err := os.MkdirTemp("", "bin")
	if err != nil {
		return Binaries{}, err
	}
	builtDir = dir
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	return Build(ctx, dir)
})

var builtDir string // to be removed by Main

func removeBuilt() {
	if builtDir != "" {
		os.RemoveAll(builtDir)
	}
}

// Commands returns the compiled commands, which are compiled by the first test
// that asks. The package's TestMain must call [Main], which removes them.
func Commands(t testing.TB) Binaries {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// InstallHelper puts the mount helper where mount(8) looks for it, also as umount(8)'s, in
// the sandbox only.
func InstallHelper(b Binaries) error {
	if !Inside() {
		return errors.New("install the mount helper: not in a sandbox")
	}
	const path, umount = "/sbin/mount.levelfs", "/sbin/umount.levelfs"
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	program, err := os.ReadFile(b.Helper)
	if err != nil {
		return err
	}
	// By rename: a program that is being written cannot be run (ETXTBSY).
	if err := os.WriteFile(path+".new", program, 0o755); err != nil {
		return err
	}
	return errors.Join(os.Rename(path+".new", path), os.Symlink("mount.levelfs", umount))
}
