package private

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/mounter"
)

func (l *Layer) adoptedFile() string { return filepath.Join(l.Dir, "adopted") }

// adopted reads which level was accepted for which path: a line each, the quoted path and
// the record of the level.
func (l *Layer) adopted() (map[string]string, error) {
	text, err := os.ReadFile(l.adoptedFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	adopted := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		quoted, err := strconv.QuotedPrefix(line)
		record, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), quoted+" ")
		if err != nil || !ok {
			return nil, fmt.Errorf("%q: %q is no line of it", l.adoptedFile(), line)
		}
		path, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, err
		}
		adopted[path] = record
	}
	return adopted, nil
}

// adopt notes the record for the paths, or, if it is "", forgets what was noted for them
// and for all below them. The caller has the lock.
func (l *Layer) adopt(paths []string, record string) error {
	adopted, err := l.adopted()
	if err != nil {
		return err
	}
	before := len(adopted)
	for _, p := range paths {
		for other := range adopted {
			if other == p || manifest.Inside(other, p) && record == "" {
				delete(adopted, other)
			}
		}
		if record != "" {
			adopted[p] = record
		}
	}
	if record == "" && len(adopted) == before {
		return nil
	}
	var text strings.Builder
	names := make([]string, 0, len(adopted))
	for p := range adopted {
		names = append(names, p)
	}
	slices.SortFunc(names, manifest.Compare)
	for _, p := range names {
		fmt.Fprintf(&text, "%s %s\n", strconv.Quote(p), adopted[p])
	}
	return mounter.WriteRecord(l.adoptedFile(), text.String())
}

// unfinished is a merged file that has not its place yet.
func (l *Layer) unfinished() string { return filepath.Join(l.Dir, "merge.new") }

func (l *Layer) hold(ctx context.Context) (*os.File, error) {
	return mounter.Hold(ctx, l.Dir, l.config.RunDir())
}

// Mine accepts the shared file of a level as the base of the private one, which stays:
// that of the present level, or of one that is to come. It is done beside the private
// files, so that a view may use them.
func (l *Layer) Mine(ctx context.Context, path string, level mounter.Base) error {
	paths, err := clean([]string{path})
	if err != nil {
		return err
	}
	lock, err := mounter.Lock(ctx, l.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	dir, name, err := l.parent(paths[0])
	if err != nil {
		return err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "lstat", Path: filepath.Join(l.upper(), paths[0]), Err: err}
	}
	return l.adopt(paths, diff.Record(level))
}

// A MergeError is a file that cannot be merged. Nothing was changed.
type MergeError struct{ Path, Reason string }

func (e *MergeError) Error() string { return fmt.Sprintf("%q cannot be merged: %s", e.Path, e.Reason) }

// Merge brings what has changed in the shared file into the private one, by git
// merge-file(1). The private file as it was stays in a backup. The error is a *[MergeError]
// if there are conflicts, if it is no text, or if the images of both levels are not here.
func (l *Layer) Merge(ctx context.Context, path string) (moved Moved, err error) {
	paths, err := clean([]string{path})
	if err != nil {
		return moved, err
	}
	path = paths[0]
	refuse := func(format string, args ...any) (Moved, error) {
		return moved, &MergeError{path, fmt.Sprintf(format, args...)}
	}
	lock, err := l.hold(ctx)
	if err != nil {
		return moved, err
	}
	defer lock.Close()
	// Of one name each, under the lock: what a killed one has left goes with the next.
	scratch := filepath.Join(l.Dir, "merge")
	if err := errors.Join(os.RemoveAll(scratch), os.RemoveAll(l.unfinished())); err != nil {
		return moved, err
	}
	var f *diff.Finding
	if err := l.Diff(ctx, l.Now(), func(one *diff.Finding) error {
		if one.Path == path {
			f = one
		}
		return nil
	}); err != nil {
		return moved, err
	}
	switch {
	case f == nil:
		return refuse("it is no private file that differs")
	case f.Verdict == diff.Unknown:
		return refuse("what it came from is not known: %s", f.Why)
	case f.Verdict != diff.Stale:
		return refuse("it is not stale but %q", f.Verdict)
	case f.Type != manifest.File || f.Base.Type != manifest.File || f.Now.Type != manifest.File:
		return refuse("want three regular files")
	}
	git, err := exec.LookPath("git")
	if err != nil {
		return refuse("it takes git merge-file: %v", err)
	}
	if err := os.Mkdir(scratch, 0o700); err != nil {
		return moved, err
	}
	defer os.RemoveAll(scratch)
	base, theirs, mine := filepath.Join(scratch, "base"), filepath.Join(scratch, "theirs"), filepath.Join(scratch, "mine")
	if err := errors.Join(l.extract(ctx, f.Base, path, base), l.extract(ctx, f.Now, path, theirs)); err != nil {
		return refuse("%v", err)
	}
	dir, name, err := l.parent(path)
	if err != nil {
		return moved, err
	}
	defer dir.Close()
	private := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	if err := copyFile(private, mine); err != nil {
		return moved, err
	}
	merged, err := merge(ctx, git, mine, base, theirs)
	if err != nil {
		return refuse("%v", err)
	}
	b := l.newBackup(time.Now())
	if err := b.fits(l.Dir); err != nil {
		return moved, err
	}
	if err := b.make("merge", l.Now().Level, paths); err != nil {
		return moved, err
	}
	moved = Moved{path, b.file(path)}
	return moved, errors.Join(l.exchange(b, dir, path, merged), l.adopt(paths, diff.Record(l.Now())))
}

// merge runs git merge-file, which does not need a repository.
func merge(ctx context.Context, git, mine, base, theirs string) ([]byte, error) {
	var out, diag bytes.Buffer
	cmd := exec.CommandContext(ctx, git, "merge-file", "-p", mine, base, theirs)
	cmd.Stdout, cmd.Stderr = &out, &diag
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CEILING_DIRECTORIES=/", "LC_ALL=C")
	cmd.Dir = filepath.Dir(mine)
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 && exit.ExitCode() < 128 {
		return nil, fmt.Errorf("%d conflicts", exit.ExitCode())
	}
	if err != nil {
		return nil, fmt.Errorf("git merge-file: %w: %s", err, strings.TrimSpace(diag.String()))
	}
	return out.Bytes(), nil
}

// extract copies a shared file out of its layer's image, and makes sure that it is the one
// that was compared.
func (l *Layer) extract(ctx context.Context, s *diff.Shared, path, to string) error {
	for _, b := range append(slices.Clone(l.Bases), l.Now()) {
		i := slices.IndexFunc(b.Layers, func(b mounter.BaseLayer) bool { return b.Name == s.Layer })
		if b.Level != s.Level || i < 0 {
			continue
		}
		known, ok := l.Known[key(b.Layers[i].Name, b.Layers[i].Digest)]
		if !ok {
			return &MissingError{s.Layer, errors.New("the inventory does not know it any more")}
		}
		at, err := view.Locate(l.config, known)
		if err != nil {
			return err
		}
		err = new(mounter.Applier).Inspect(ctx, at, l.config.RunDir(), l.config.CacheDir(), func(dir string) error {
			return copyFile(filepath.Join(dir, path), to)
		})
		if err != nil {
			return err
		}
		digest, err := manifest.Digest(ctx, to)
		if err == nil && digest != s.Digest {
			err = fmt.Errorf("layer %q: %q has the digest %s, and was listed with %s", s.Layer, path, digest, s.Digest)
		}
		return err
	}
	return fmt.Errorf("no record has layer %q in level %s", s.Layer, s.Level)
}

// exchange puts the merged content in the private file's place. The private file gets its
// second name, in the backup, before: it is never without one.
func (l *Layer) exchange(b *backup, dir *os.File, path string, merged []byte) error {
	name := filepath.Base(path)
	private := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), name)
	before, err := manifest.Stat(filepath.Dir(private), name)
	if err != nil {
		return err
	}
	unfinished := l.unfinished()
	if err := l.write(unfinished, before, merged); err != nil {
		return errors.Join(err, os.Remove(unfinished))
	}
	to, err := b.parent(path)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := unix.Linkat(int(dir.Fd()), name, int(to.Fd()), name, 0); err != nil {
		return &os.LinkError{Op: "link", Old: private, New: b.file(path), Err: err}
	}
	if err := to.Sync(); err != nil {
		return err
	}
	if err := unix.Renameat(unix.AT_FDCWD, unfinished, int(dir.Fd()), name); err != nil {
		return &os.LinkError{Op: "rename", Old: unfinished, New: private, Err: err}
	}
	return dir.Sync()
}

// write makes a file with the owner, the mode and the attributes of another, but without
// what overlayfs noted on that, reads it back and compares.
func (l *Layer) write(name string, like *manifest.Entry, content []byte) error {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(content); err != nil {
		return err
	}
	fd := int(f.Fd())
	if err := errors.Join(unix.Fchown(fd, int(like.UID), int(like.GID)), unix.Fchmod(fd, like.Mode)); err != nil {
		return err
	}
	for _, x := range like.Xattrs {
		if strings.HasPrefix(x.Name, "trusted.overlay.") {
			continue
		}
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil {
			return fmt.Errorf("extended attribute %q: %w", x.Name, err)
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	back := make([]byte, len(content)+1)
	if n, err := f.ReadAt(back, 0); !errors.Is(err, io.EOF) || !bytes.Equal(back[:n], content) {
		return errors.Join(fmt.Errorf("%q: what was written is not there", name), err)
	}
	return nil
}

func copyFile(from, to string) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
