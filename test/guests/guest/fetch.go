package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// release is Debian 12: its 6.1 kernel is what package cp knows.
	release = "bookworm"
	mirror  = "http://deb.debian.org/debian"
	updates = "http://deb.debian.org/debian-security"
	keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
)

// A Tree is Debian packages unpacked, a kernel among them.
type Tree struct {
	Dir     string // the root of the packages' files
	Kernel  string // path of vmlinuz
	Release string // of the kernel, as uname(1) prints it
}

// CacheDir is where the packages are kept: levelfs-guests in $XDG_CACHE_HOME, or in
// /var/cache for root, or in ~/.cache. Remove it to have them fetched anew.
func CacheDir() (string, error) {
	if os.Getenv("XDG_CACHE_HOME") == "" && os.Geteuid() == 0 {
		return "/var/cache/levelfs-guests", nil
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "levelfs-guests"), err
}

// Fetch returns the tree of the kernel that the Debian package kernel depends on
// ("linux-image-s390x"), and of the other packages with all that they depend on, all
// for the architecture. It fetches them if they are not in the cache. Their files
// are there, but nothing is configured: no maintainer script has run.
//
// They are fetched by apt-get with a configuration, lists and state of its own, so
// that signatures are checked as usual and nothing of the machine's is read or
// written but its proxies.
func Fetch(ctx context.Context, architecture, kernel string, packages ...string) (*Tree, error) {
	dir, err := cached(ctx, architecture, append([]string{kernel}, packages...), func(apt *apt) error {
		image, err := apt.dependency(ctx, kernel)
		if err != nil {
			return err
		}
		// The kernel alone: what it depends on is for a machine that has to boot from disk.
		if _, err := apt.run(ctx, "apt-get", "-q", "download", image); err != nil {
			return err
		}
		install := []string{"-q", "-y", "--download-only", "--no-install-recommends", "install"}
		_, err = apt.run(ctx, "apt-get", append(install, packages...)...)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("fetch %s for %s: %w", kernel, architecture, err)
	}
	return openTree(dir)
}

// FetchFiles returns a directory with the files of the packages, without what they
// depend on. It fetches them as [Fetch] does.
func FetchFiles(ctx context.Context, architecture string, packages ...string) (string, error) {
	dir, err := cached(ctx, architecture, packages, func(apt *apt) error {
		_, err := apt.run(ctx, "apt-get", append([]string{"-q", "download"}, packages...)...)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("fetch packages for %s: %w", architecture, err)
	}
	return dir, nil
}

// cached returns the directory of that content in the cache. If it is not there
// download gets the packages, in apt's directory, and they are unpacked.
func cached(ctx context.Context, architecture string, content []string, download func(*apt) error) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, strings.Join(append([]string{release, architecture}, content...), "_"))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err = fetch(ctx, dir, architecture, download)
		if err != nil {
			return "", err
		}
	}
	return dir, nil
}

// openTree finds the kernel in the tree.
func openTree(dir string) (*Tree, error) {
	kernels, err := filepath.Glob(filepath.Join(dir, "boot/vmlinuz-*"))
	if err != nil {
		return nil, err
	}
	if len(kernels) != 1 {
		return nil, fmt.Errorf("%d kernels in %q", len(kernels), dir)
	}
	return &Tree{
		Dir:     dir,
		Kernel:  kernels[0],
		Release: strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-"),
	}, nil
}

// fetch makes the directory. It appears under its name when it is complete.
func fetch(ctx context.Context, dir, architecture string, download func(*apt) error) (err error) {
	work, err := os.MkdirTemp(filepath.Dir(dir), ".fetch-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	apt, err := newApt(ctx, filepath.Join(work, "apt"), architecture)
	if err != nil {
		return err
	}
	if _, err := apt.run(ctx, "apt-get", "-q", "update"); err != nil {
		return err
	}
	if err := download(apt); err != nil {
		return err
	}
	var debs []string
	for _, where := range []string{"*.deb", "cache/archives/*.deb"} {
		found, err := filepath.Glob(filepath.Join(apt.dir, where))
		if err != nil {
			return err
		}
		debs = append(debs, found...)
	}
	tree := filepath.Join(work, "tree")
	for _, deb := range debs {
		if _, err := apt.run(ctx, "dpkg-deb", "--extract", deb, tree); err != nil {
			return err
		}
	}
	return os.Rename(tree, dir)
}

// An apt is apt-get with a private configuration, in a directory that it works in.
type apt struct{ dir string }

func newApt(ctx context.Context, dir, architecture string) (*apt, error) {
	for _, d := range []string{
		"etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "etc/auth.conf.d", "etc/trusted.gpg.d",
		"state/lists/partial", "cache/archives/partial", "log",
	} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	// All that is asked of the machine's own configuration is how to get out.
	acquire, err := exec.CommandContext(ctx, "apt-config", "dump", "--format", "%F \"%v\";%n", "Acquire::http", "Acquire::https").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config: %w", err)
	}
	configuration := fmt.Sprintf(`Dir %[1]q;
Dir::State "state";
Dir::State::status "%[1]s/state/status";
Dir::Cache "cache";
Dir::Etc "etc";
Dir::Log "log";
APT::Architecture %[2]q;
APT::Architectures { %[2]q; };
APT::Sandbox::User "";
Acquire::Languages "none";
`, dir, architecture)
	sources := fmt.Sprintf("deb [signed-by=%[1]s] %[2]s %[3]s main\ndeb [signed-by=%[1]s] %[4]s %[3]s-security main\n",
		keyring, mirror, release, updates)
	for file, text := range map[string]string{
		"apt.conf":         string(acquire) + configuration,
		"etc/sources.list": sources,
		"state/status":     "",
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return &apt{dir: dir}, nil
}

func (a *apt) run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = a.dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+filepath.Join(a.dir, "apt.conf"), "LC_ALL=C")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), nil
}

// kernelPackage is what a metapackage like linux-image-s390x depends on.
var kernelPackage = regexp.MustCompile(`(?m)^ *Depends: (linux-image-[0-9][a-z0-9.+-]*)$`)

// dependency is the package of the kernel that the metapackage stands for now.
func (a *apt) dependency(ctx context.Context, metapackage string) (string, error) {
	out, err := a.run(ctx, "apt-cache", "depends", metapackage)
	if err != nil {
		return "", err
	}
	match := kernelPackage.FindStringSubmatch(out)
	if match == nil {
		return "", fmt.Errorf("%s depends on no kernel: %q", metapackage, out)
	}
	return match[1], nil
}
