package private

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/diff"
	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// A Layer is the private layer of a component: the host's or a user's.
type Layer struct {
	Component string
	User      string // "": the host's
	Dir       string
	Bases     []mounter.Base // levels that it was under, the present one last
	Owner     *mounter.Owner // whose it is, for a user's
	// Known are the inventory's layers by digest, or by name if they have none: where the
	// files and the images of the bases may be.
	Known map[string]ldapmap.Layer
	// Reading has a comparison write nothing: a list of files that is not in the cache is
	// read where it lies, and none is made of an image.
	Reading bool

	config *config.Config
}

// A NoneError is a caller who has no private layer of a component, since nothing of it was
// ever mounted for him writable.
type NoneError struct{ Component, User, Dir string }

func (e *NoneError) Error() string {
	if e.User == "" {
		return fmt.Sprintf("this host has no private layer of %q: there is no %q", e.Component, e.Dir)
	}
	return fmt.Sprintf("user %q has no private layer of %q: there is no %q", e.User, e.Component, e.Dir)
}

// Open finds a private layer.
func Open(c *config.Config, component, user string) (*Layer, error) {
	l := &Layer{
		Component: component, User: user, Dir: view.PrivateDir(c, user, component),
		Known: make(map[string]ldapmap.Layer), config: c,
	}
	var st unix.Stat_t
	err := unix.Lstat(l.upper(), &st)
	if errors.Is(err, unix.ENOENT) {
		return nil, &NoneError{component, user, l.Dir}
	}
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: l.upper(), Err: err}
	}
	if user != "" {
		l.Owner = &mounter.Owner{UID: st.Uid, GID: st.Gid}
	}
	if l.Bases, err = mounter.Bases(l.Dir); err != nil {
		return nil, err
	}
	if len(l.Bases) == 0 || l.Now().Level == "" { // a record that was cut off names none
		return nil, fmt.Errorf("private layer %q: nothing says which level it was under", l.Dir)
	}
	return l, nil
}

func (l *Layer) upper() string { return mounter.Upper(l.Dir) }

// Now is the level that the private layer is under, or was last.
func (l *Layer) Now() mounter.Base { return l.Bases[len(l.Bases)-1] }

// Learn adds what the inventory says of layers.
func (l *Layer) Learn(layers []ldapmap.Layer) {
	for _, k := range layers {
		l.Known[key(k.Name, k.Digest)] = k
	}
}

// Recall learns what this machine's cache says of the layers that the private layer was
// over.
func (l *Layer) Recall() {
	store := cache.Cache{Dir: l.config.CacheDir()}
	for _, b := range l.Bases {
		if l.Knows(b) {
			continue
		}
		if r, _, err := store.Level(b.Level); err == nil {
			l.Learn(r.Layers)
		}
		for _, name := range b.Above() {
			if layers, _, err := store.Above([]string{name}); err == nil {
				l.Learn(layers)
			}
		}
	}
}

// Knows reports whether the inventory has told of all of the base's layers.
func (l *Layer) Knows(b mounter.Base) bool {
	for _, b := range b.Layers {
		if _, ok := l.Known[key(b.Name, b.Digest)]; !ok {
			return false
		}
	}
	return true
}

func key(name, digest string) string {
	if digest == "" {
		return name
	}
	return digest
}

// Base is a level of the inventory, with what lies above it, as a comparison wants it.
func Base(r *ldapmap.Resolution) mounter.Base {
	b := mounter.Base{Level: r.Level.Name}
	for _, l := range r.Above {
		b.Layers = append(b.Layers, mounter.BaseLayer{Name: l.Name, Digest: l.Digest, UUID: l.UUID, Kind: l.Kind})
	}
	for _, l := range r.Layers {
		b.Layers = append(b.Layers, mounter.BaseLayer{Name: l.Name, Digest: l.Digest, UUID: l.UUID})
	}
	return b
}

// Diff compares the private layer with a level; see [diff.Run].
func (l *Layer) Diff(ctx context.Context, now mounter.Base, found func(*diff.Finding) error) error {
	adopted, err := l.adopted()
	if err != nil {
		return err
	}
	return diff.Run(ctx, diff.Request{
		Upper: l.upper(), Bases: l.Bases, Now: now, Owner: l.Owner, Adopted: adopted,
		Open: func(b mounter.BaseLayer) (diff.Stream, error) { return l.manifest(ctx, b) },
	}, found)
}

// A MissingError is a layer of which there is neither a list of files nor an image here.
type MissingError struct {
	Layer string
	Err   error // what was tried last
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("neither a list of the files of layer %q nor its image is here: %v", e.Layer, e.Err)
}

func (e *MissingError) Unwrap() error { return e.Err }

// manifest opens the list of a layer's files: from the cache, else the one that lies
// beside the image, if it is what the inventory says, else one that is made of the image,
// after that was checked. A directory is listed each time.
func (l *Layer) manifest(ctx context.Context, b mounter.BaseLayer) (*manifest.Reader, error) {
	known, ok := l.Known[key(b.Name, b.Digest)]
	var cached string
	if b.Digest != "" {
		cached = filepath.Join(l.config.ListDir(), strings.TrimPrefix(b.Digest, "sha256:"))
		r, err := manifest.Open(cached)
		if err == nil || !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, manifest.ErrIncomplete) {
			return r, err
		}
	}
	if !ok {
		return nil, &MissingError{b.Name, errors.New("the inventory does not know it any more")}
	}
	beside, err := l.beside(ctx, known)
	switch {
	case err == nil && l.Reading:
		return manifest.OpenFile(beside)
	case l.Reading:
		return nil, &MissingError{b.Name, err}
	case err == nil:
		defer beside.Close()
		return l.keep(cached, func(out io.Writer) error {
			_, err := io.Copy(out, beside)
			return err
		})
	}
	at, locateErr := view.Locate(l.config, known)
	if locateErr != nil {
		return nil, &MissingError{b.Name, errors.Join(err, locateErr)}
	}
	return l.keep(cached, func(out io.Writer) error {
		return new(mounter.Applier).Inspect(ctx, at, l.config.RunDir(), l.config.CacheDir(), func(dir string) error {
			return manifest.Make(ctx, dir, out)
		})
	})
}

// beside opens the list beside the image, if it has the digest that the inventory says.
func (l *Layer) beside(ctx context.Context, known ldapmap.Layer) (*os.File, error) {
	if known.Manifest == "" {
		return nil, errors.New("the inventory has no levelfsManifest of it")
	}
	at, err := view.LocateList(l.config, known)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(at.Dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(at.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	digest, err := manifest.DigestOf(ctx, f)
	if err == nil && digest != known.Manifest {
		err = fmt.Errorf("%q: its digest is %s, but the inventory says %s", at.File(), digest, known.Manifest)
	}
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// keep makes a list of files and opens it: in the cache under the name, or, if that is
// empty, in a file without a name.
func (l *Layer) keep(name string, write func(io.Writer) error) (*manifest.Reader, error) {
	dir := l.config.ListDir()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(dir, ".*.new")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // it is gone if it got its name
	if err := errors.Join(write(f), f.Close()); err != nil {
		return nil, err
	}
	if name == "" {
		return manifest.Open(f.Name())
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return nil, err
	}
	return manifest.Open(name)
}
