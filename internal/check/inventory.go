package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/cache"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
	"github.com/levelfs/levelfs/ldapmap/memsource"
	"github.com/levelfs/levelfs/mounter"
)

// chunk is how many components one search asks for by name: fewer than a server returns
// at once.
const chunk = 100

// inventory asks what is wanted, looks whether it is there, and whose the private layers
// are.
func (g *gatherer) inventory(ctx context.Context) {
	private, err := Try(ctx, g.limit, func(context.Context) ([]Private, error) { return privateLayers(g.Config) })
	if err != nil {
		g.unchecked("private layers", err)
	}
	private = slices.DeleteFunc(private, func(p Private) bool { return !g.about(p.Component, "") })
	askers := g.askers()
	asked, err := Try(ctx, g.limit, func(ctx context.Context) (answers, error) { return ask(ctx, g.Config, g.Keys, askers, private) })
	if err != nil {
		g.unchecked(WhatInventory, err)
	}
	g.Wants, g.Clocks = asked.wants, asked.clocks
	g.Private = asked.private
	if asked.private == nil {
		g.Private = private // without what only the inventory knows
	}
	g.accounts(ctx)
	g.sizes(ctx)

	wants, mounted := g.Wants, g.mounted
	all := g.options.All
	found, err := Try(ctx, g.limit, func(ctx context.Context) (found, error) { return locate(ctx, g.Config, wants, mounted, all) })
	if err != nil {
		g.unchecked("layer images", err)
	} else {
		g.Wants, g.Images, g.Lists = found.wants, found.images, found.lists
	}
	g.Down = down(g.Config, g.Views, g.options.Now())
}

// askers are whose levels the mounted views and the keys ask for.
func (g *gatherer) askers() []Asker {
	var askers []Asker
	for _, v := range g.Views {
		askers = append(askers, v.Asker)
	}
	for _, k := range g.Keys {
		askers = append(askers, Asker{Component: k.Component, Level: k.Level})
	}
	return askers
}

// answers are what the inventory says.
type answers struct {
	wants   []Want
	private []Private
	clocks  []Clock
}

// ask asks the inventory for each asker, and for all components that the host's own
// entries, groups and profiles speak of.
func ask(ctx context.Context, c *config.Config, keys []ldapmap.Key, askers []Asker, private []Private) (answers, error) {
	host, err := c.Hostname()
	if err != nil {
		return answers{}, err
	}
	inv, err := inventory.Open(c)
	if err != nil {
		return answers{}, err
	}
	defer inv.Close()
	if err := index(ctx, inv); err != nil {
		return answers{}, err
	}
	if len(keys) == 0 {
		survey, err := inv.Survey(ctx, host, "")
		if err != nil {
			return answers{}, err
		}
		for _, v := range survey.Verdicts {
			askers = append(askers, Asker{Component: v.Component})
		}
	}
	var a answers
	seen := make(map[Asker]bool)
	for _, who := range askers {
		if seen[who] {
			continue
		}
		seen[who] = true
		w := Want{Asker: who}
		r, err := inv.Resolve(ctx, who.query(host))
		var down *ldapmap.UnavailableError
		if errors.As(err, &down) || ctx.Err() != nil {
			return answers{}, errors.Join(err, ctx.Err())
		}
		if w.Err = err; err == nil {
			w.Level, w.Above = r.Level.Name, view.Above(r)
			w.resolution = r
		}
		a.wants = append(a.wants, w)
	}
	if a.private, err = strangers(ctx, inv, private); err != nil {
		return a, err
	}
	if len(keys) == 0 {
		a.clocks = clocks(ctx, inv)
	}
	return a, nil
}

// clocks asks each directory server, by one search, when it was last written to. One that
// does not say so, or not to us, is none of them: nothing follows from that.
func clocks(ctx context.Context, inv *inventory.Inventory) []Clock {
	var found []Clock
	for _, s := range inv.Sources {
		server, ok := s.(*ldapsource.Source)
		if !ok {
			continue
		}
		if written, err := server.Written(ctx); err == nil && !written.IsZero() {
			found = append(found, Clock{Source: s.Name(), Written: written})
		}
	}
	return found
}

// index makes many lookups in files quick. Files that cannot be read are reported by the
// lookup.
func index(ctx context.Context, inv *inventory.Inventory) error {
	for i, s := range inv.Sources {
		files, ok := s.(*ldifsource.Source)
		if !ok {
			continue
		}
		terms, attrs := ldapmap.Everything()
		entries, err := files.All(ctx, terms, attrs, nil)
		if err != nil {
			return err
		}
		indexed := memsource.New(s.Name(), entries)
		if err := indexed.Index(); err != nil {
			return &ldapmap.ConfigError{Source: s.Name(), Err: err}
		}
		inv.Sources[i] = indexed
	}
	return nil
}

// strangers marks the private layers of components that no source has.
func strangers(ctx context.Context, inv *inventory.Inventory, private []Private) ([]Private, error) {
	var names []string
	for _, p := range private {
		names = append(names, p.Component)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	known := make(map[string]bool)
	for some := range slices.Chunk(names, chunk) {
		var any ldapmap.Condition
		for _, name := range some {
			any = append(any, ldapmap.Test{Attr: "cn", Value: name})
		}
		term := ldapmap.Term{{{Attr: "objectClass", Value: "levelfsComponent"}}, any}
		for _, s := range inv.Sources {
			entries, err := s.Search(ctx, []ldapmap.Term{term}, []string{"objectClass", "cn"})
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				for _, name := range e.Attrs["cn"] {
					known[name] = true
				}
			}
		}
	}
	marked := make([]Private, 0, len(private))
	for _, p := range private {
		p.NoComponent = !known[p.Component]
		marked = append(marked, p)
	}
	return marked, nil
}

// privateLayers lists them as [view.PrivateDir] names them.
func privateLayers(c *config.Config) ([]Private, error) {
	var all []Private
	add := func(user, dir string) error {
		components, err := readDir(dir)
		for _, name := range components {
			p := Private{User: user, Component: name, Dir: filepath.Join(dir, name)}
			p.Unfinished = append(p.Unfinished, unfinished(p.Dir)...)
			all = append(all, p)
		}
		return err
	}
	if err := add("", filepath.Join(c.PrivateDir(), "host")); err != nil {
		return nil, err
	}
	users, err := readDir(filepath.Join(c.PrivateDir(), "user"))
	if err != nil {
		return nil, err
	}
	for _, user := range users {
		if err := add(user, filepath.Join(c.PrivateDir(), "user", user)); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// settled is how old something unfinished is that nobody is at any more: a helper waits
// half a minute for a lock at most.
const settled = time.Minute

// unfinished are the names that a mount gives to what is not complete yet.
func unfinished(dir string) []string {
	var names []string
	for _, name := range []string{"upper.new", "level.new"} {
		info, err := os.Lstat(filepath.Join(dir, name))
		if err == nil && time.Since(info.ModTime()) > settled {
			names = append(names, name)
		}
	}
	return names
}

// readDir are the directories in a directory, which may not be there.
func readDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// accounts marks the private layers of users whom this machine does not know.
func (g *gatherer) accounts(ctx context.Context) {
	unknown := make(map[string]bool)
	var failed error
	for i := range g.Private {
		user := g.Private[i].User
		if user == "" || failed != nil {
			continue
		}
		if _, asked := unknown[user]; !asked {
			var none *account.UnknownError
			_, err := Try(ctx, g.limit, func(ctx context.Context) (account.Account, error) { return account.Lookup(ctx, user) })
			if unknown[user] = errors.As(err, &none); err != nil && none == nil {
				failed = err // once is enough to wait
			}
		}
		g.Private[i].NoAccount = unknown[user]
	}
	if failed != nil {
		g.unchecked("accounts of users with private layers", failed)
	}
}

// sizesTime bounds adding up the private layers, unless everything is to be read: what
// watches machines wants an answer soon, and does without a size rather than without that.
const sizesTime = 2 * time.Second

// sizes adds up the private layers, one after the other as far as the time goes.
func (g *gatherer) sizes(ctx context.Context) {
	for i := range g.Private {
		g.Private[i].Bytes = -1
	}
	if !g.options.Sizes {
		return
	}
	limit := sizesTime
	if g.options.All {
		limit = g.limit
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	g.PrivateBytes = 0
	for i := range g.Private {
		dir := g.Private[i].Dir
		bytes, err := Try(ctx, limit, func(ctx context.Context) (int64, error) { return treeBytes(ctx, dir) })
		if err != nil {
			g.PrivateBytes = -1
			return
		}
		g.Private[i].Bytes = bytes
		g.PrivateBytes += bytes
	}
}

// treeBytes is what the files below a directory take on their disk, those with several
// names once.
func treeBytes(ctx context.Context, dir string) (total int64, err error) {
	type file struct{ dev, ino uint64 }
	linked := make(map[file]bool)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since
		}
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if f := (file{uint64(st.Dev), st.Ino}); st.Nlink > 1 && !d.IsDir() {
			if linked[f] {
				return nil
			}
			linked[f] = true
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}

// found is what of the levels is on this machine.
type found struct {
	wants  []Want
	images []Image
	lists  []List
}

// locate looks for the layers of the levels, and into their images and lists of files; if
// all is to be read, into the whole of these lists.
func locate(ctx context.Context, c *config.Config, wants []Want, mounted []*ldapmap.Resolution, all bool) (found, error) {
	var f found
	looked := make(map[string]bool) // image files, lists
	lists := func(r *ldapmap.Resolution) error {
		for _, l := range slices.Concat(r.Above, r.Layers) {
			if l.Manifest == "" || looked[l.Manifest] {
				continue
			}
			looked[l.Manifest] = true
			at, err := view.LocateList(c, l)
			if err != nil {
				continue // it need not be there
			}
			if err := readList(ctx, at, l.Manifest, all); err != nil {
				f.lists = append(f.lists, List{Path: at.File(), Level: r.Level.Name, Err: err})
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		return nil
	}
	look := func(level string, layers []mounter.Layer) error {
		for _, l := range layers {
			if l.FSType == "dir" || l.Path == "" || looked[l.File()+l.Digest] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			looked[l.File()+l.Digest] = true
			if err := quick(l); !errors.Is(err, fs.ErrNotExist) {
				f.images = append(f.images, Image{Layer: l, Level: level, Err: err})
			}
		}
		return nil
	}
	plan := func(r *ldapmap.Resolution) ([]mounter.Layer, error) {
		p, err := view.Plan(ctx, c, r, filepath.Join(c.Tree, r.Component.Name), view.Options{ReadOnly: true})
		if p == nil {
			return nil, err
		}
		return p.Layers, err
	}
	for _, w := range wants {
		if w.resolution != nil {
			w.Layers, w.Missing = plan(w.resolution)
			if err := errors.Join(look(w.Level, w.Layers), lists(w.resolution)); err != nil {
				return f, err
			}
		}
		f.wants = append(f.wants, w)
	}
	for _, r := range mounted {
		layers, _ := plan(r) // that it is missing matters only where it is wanted
		if err := errors.Join(look(r.Level.Name, layers), lists(r)); err != nil {
			return f, err
		}
	}
	return f, nil
}

// readList looks whether a list of files is whole, by its beginning and its end, or by its
// digest.
func readList(ctx context.Context, at mounter.Layer, digest string, all bool) error {
	f, _, err := open(at)
	if err != nil {
		return err
	}
	if all {
		got, err := manifest.DigestOf(ctx, f)
		if err == nil && got != digest {
			err = fmt.Errorf("its digest is %s, and not %s", got, digest)
		}
		return errors.Join(err, f.Close())
	}
	list, err := manifest.OpenFile(f)
	if err != nil {
		return err
	}
	if _, err = list.Next(); errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, list.Close())
}

// quick compares an image's size and superblock with the layer.
func quick(l mounter.Layer) error {
	f, size, err := open(l)
	if err != nil {
		return err
	}
	defer f.Close()
	mismatch := func(what, got, want string) error {
		return &mounter.MismatchError{Layer: l.Name, Image: l.File(), What: what, Got: got, Want: want}
	}
	if l.Size != 0 && size != l.Size {
		return mismatch("size", fmt.Sprintf("%d bytes", size), fmt.Sprintf("%d", l.Size))
	}
	fstype, uuid, err := mounter.Probe(f)
	switch {
	case err != nil:
		return err
	case fstype != l.FSType:
		return mismatch("fstype", fstype, l.FSType)
	case l.UUID != "" && uuid != l.UUID:
		return mismatch("uuid", uuid, l.UUID)
	}
	return nil
}

// open opens a layer's image as a mount would.
func open(l mounter.Layer) (f *os.File, size int64, err error) {
	root, err := os.OpenRoot(l.Dir)
	if err != nil {
		return nil, 0, err
	}
	defer root.Close()
	// O_NONBLOCK: opening a FIFO would wait for a writer.
	f, err = root.OpenFile(l.Path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("is no regular file")
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// down reads the note that no server answered, and how old the answers are that the
// mounted components live on.
func down(c *config.Config, views []View, now time.Time) Down {
	store := cache.Cache{Dir: c.CacheDir()}
	var d Down
	var noted bool
	if d.Why, d.Since, noted = store.Down(time.Duration(math.MaxInt64), c.Changed()); !noted {
		return Down{}
	}
	host, err := c.Hostname()
	if err != nil {
		return d
	}
	for _, v := range views {
		if v.Level != "" || v.User != "" {
			continue
		}
		_, when, err := store.Answer(host, v.Component)
		if err == nil && (d.Oldest.IsZero() || when.Before(d.Oldest)) {
			d.Oldest, d.Answer = when, v.Component
		}
	}
	return d
}
