package diff

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/manifest"
	"github.com/levelfs/levelfs/mounter"
)

// Verdict says what a private file is.
type Verdict string

// The verdicts. Those from Stale on ask for a decision.
const (
	New       Verdict = "new"       // there is no shared file of that name
	Identical Verdict = "identical" // as the shared file is now
	Override  Verdict = "override"  // differs, and the shared file is what it was
	Deleted   Verdict = "deleted"   // the shared file was deleted, and is what it was
	Moot      Verdict = "moot"      // deleted, and the shared file is gone as well

	Stale         Verdict = "stale"          // the shared file has changed, come or gone since
	TypeConflict  Verdict = "type-conflict"  // one is a directory or the like, and the other is not
	StaleDeletion Verdict = "stale-deletion" // deleted, and what is there now is another
	HidesNew      Verdict = "hides-new"      // a private directory hides shared files that have changed or come
	Unknown       Verdict = "unknown"        // it differs, and what it came from is not known
)

// Settled reports whether the verdict asks for no decision.
func (v Verdict) Settled() bool {
	switch v {
	case New, Identical, Override, Deleted, Moot:
		return true
	}
	return false
}

// Evidence says how it is known what a private file came from.
type Evidence string

// The kinds of evidence, the strongest first.
const (
	ByAdoption Evidence = "adopted" // somebody has accepted a level (levelfs adopt)
	ByOrigin   Evidence = "origin"  // by overlayfs's note, and the record of levels
	ByBirth    Evidence = "birth"   // by the time of the inode's making, and the record of levels
)

// A Shared is a shared file that takes part in a comparison.
type Shared struct {
	Level  string        `json:"level"`
	Layer  string        `json:"layer,omitempty"` // "" if the level has no such file
	Type   manifest.Type `json:"type,omitempty"`
	Digest string        `json:"digest,omitempty"` // of a regular file
}

// A Finding is what was found out about one private file.
type Finding struct {
	Path    string        `json:"path"`
	Verdict Verdict       `json:"verdict"`
	Type    manifest.Type `json:"type"`              // of the private file; char for a whiteout
	Differs []string      `json:"differs,omitempty"` // from the shared file now: type, content, mode, owner, attributes
	Changed []string      `json:"changed,omitempty"` // of the shared file since: the same words, or come, gone
	Base    *Shared       `json:"base,omitempty"`    // what it came from; nil if it is not known
	By      Evidence      `json:"by,omitempty"`      // how that is known
	Now     *Shared       `json:"now"`
	// Hidden are shared files below a directory that is hidden as a whole, which have
	// changed or come since: how many, and the first of them.
	Hidden      int      `json:"hidden,omitempty"`
	HiddenPaths []string `json:"hiddenPaths,omitempty"`
	Why         string   `json:"why,omitempty"` // the base is not known, or the layer that is the origin has no such name
}

// hiddenNamed is how many hidden files a finding names.
const hiddenNamed = 5

// A Request is what to compare.
type Request struct {
	Upper string         // the private layer's upper directory
	Bases []mounter.Base // the levels that it was under, oldest first, the present one last
	Now   mounter.Base   // the level to compare with
	Owner *mounter.Owner // whose root's files in the layers are in the view, or nil
	// Adopted is the level that was accepted for a path, by [Record].
	Adopted map[string]string
	// Open opens a layer's list of files.
	Open func(mounter.BaseLayer) (Stream, error)
}

// Record names a level with its layers: a level that is not released yet may have others
// under the same name.
func Record(b mounter.Base) string {
	var s strings.Builder
	s.WriteString(b.Level)
	for _, l := range b.Layers {
		fmt.Fprintf(&s, " %s:%s", l.Name, strings.TrimPrefix(l.Digest, "sha256:"))
	}
	return s.String()
}

// Run calls found for every private file, in the order of the tree; a directory that hides
// shared ones comes after what is in it. Directories that only hold private files and are
// as the shared ones are left out. An error of found ends it.
func Run(ctx context.Context, r Request, found func(*Finding) error) (err error) {
	d := &differ{Request: r, found: found, stacks: make(map[string]*opened)}
	defer func() {
		for _, o := range d.stacks {
			if o.stack != nil {
				err = errors.Join(err, o.stack.close())
			}
		}
		if d.now != nil {
			err = errors.Join(err, d.now.close())
		}
	}()
	if d.now, err = d.open(r.Now); err != nil {
		return err
	}
	if err := manifest.Walk(ctx, r.Upper, func(e *manifest.Entry) error { return d.private(ctx, e) }); err != nil {
		return err
	}
	if err := d.passShared(""); err != nil {
		return err
	}
	return d.endRegions("")
}

type differ struct {
	Request
	found   func(*Finding) error
	now     *stack
	stacks  map[string]*opened // by Record
	regions []*region          // outermost first
}

// An opened is a level's stack, or why there is none.
type opened struct {
	stack *stack
	err   error
}

// A region is a private file that hides all that is below its name in the shared levels.
type region struct {
	path    string
	finding *Finding
	comparison
}

// A comparison is what decides about one private file.
type comparison struct {
	private     *manifest.Entry
	was, shared *item   // what it came from, and what is there now; nil: no such file
	base        *origin // of was
	known       bool    // was is
	same        bool    // the private file is as the shared one
}

func (d *differ) open(b mounter.Base) (*stack, error) {
	var streams []Stream
	for _, l := range b.Layers {
		s, err := d.Open(l)
		if err != nil {
			for _, s := range streams {
				err = errors.Join(err, s.Close())
			}
			return nil, err
		}
		streams = append(streams, s)
	}
	return newStack(streams)
}

// at is what a former level had at the path.
func (d *differ) at(o *origin, path string) (*item, error) {
	if o.base == nil {
		return nil, errors.New(o.why)
	}
	key := Record(*o.base)
	s := d.stacks[key]
	if s == nil {
		s = new(opened)
		s.stack, s.err = d.open(*o.base)
		d.stacks[key] = s
	}
	if s.err != nil {
		return nil, s.err
	}
	return s.stack.seek(path)
}

// private takes the next private file.
func (d *differ) private(ctx context.Context, e *manifest.Entry) error {
	if e.Path == "." { // made for the view, and not copied up
		return nil
	}
	if err := d.passShared(e.Path); err != nil {
		return err
	}
	if err := d.endRegions(e.Path); err != nil {
		return err
	}
	c := comparison{private: e}
	var err error
	if c.shared, err = d.now.seek(e.Path); err != nil {
		return err
	}
	if c.shared != nil {
		if err := d.now.next(); err != nil {
			return err
		}
	}
	if c.base, err = d.origin(e); err != nil {
		return err
	}
	was, notKnown := d.at(c.base, e.Path)
	c.was, c.known = was, notKnown == nil
	f := &Finding{Path: e.Path, Type: e.Type, Now: shared(d.Now, c.shared)}
	switch {
	case !c.known:
		f.Why = notKnown.Error()
	default:
		f.Base, f.By, f.Changed = shared(*c.base.base, was), c.base.by, changed(was, c.shared)
		if c.base.by == ByOrigin && (was == nil || c.base.base.Layers[was.layer].UUID != c.base.uuid) {
			f.Why = "copied up under another name, and renamed"
		}
	}
	if c.shared != nil && !e.Whiteout() {
		if f.Differs, err = d.differs(ctx, e, c.shared.Entry); err != nil {
			return err
		}
		c.same = len(f.Differs) == 0
	}
	if e.Type != manifest.Dir && (isDir(c.shared) || isDir(was)) || e.Opaque() && isDir(c.shared) {
		d.regions = append(d.regions, &region{path: e.Path, finding: f, comparison: c})
		return nil
	}
	if e.Type == manifest.Dir {
		// It only holds private files.
		if c.same {
			return nil
		}
		if c.shared == nil && was != nil {
			if differs, err := d.differs(ctx, e, was.Entry); err != nil || len(differs) == 0 {
				return err
			}
		}
	}
	f.Verdict = c.verdict(f)
	return d.found(f)
}

func isDir(i *item) bool { return i != nil && i.Type == manifest.Dir }

func shared(b mounter.Base, i *item) *Shared {
	s := &Shared{Level: b.Level}
	if i != nil {
		s.Layer, s.Type, s.Digest = b.Layers[i.layer].Name, i.Type, i.Digest
	}
	return s
}

func (c *comparison) verdict(f *Finding) Verdict {
	stale := len(f.Changed) > 0 || f.Hidden > 0
	if c.private.Whiteout() {
		switch {
		case c.shared == nil:
			return Moot
		case !c.known:
			return Unknown
		case stale:
			return StaleDeletion
		}
		return Deleted
	}
	switch {
	case c.shared == nil && c.was != nil:
		return Stale // gone
	case c.shared == nil && !c.known && originUUID(c.private) != "":
		return Unknown
	case c.shared == nil:
		return New
	case c.same && !c.private.Opaque():
		return Identical
	case !c.known:
		return Unknown
	case !stale:
		return Override
	case c.private.Type != c.shared.Type:
		return TypeConflict
	case f.Hidden > 0:
		return HidesNew
	}
	return Stale
}

// differs tells in what the private file is another than the shared one. Its bytes are
// read only if nothing else tells that they are others.
func (d *differ) differs(ctx context.Context, private, shared *manifest.Entry) ([]string, error) {
	mine := *private
	if mine.Type == manifest.File && shared.Type == manifest.File && mine.Size == shared.Size {
		var err error
		if mine.Digest, err = manifest.Digest(ctx, filepath.Join(d.Upper, mine.Path)); err != nil {
			return nil, err
		}
	}
	theirs := *shared
	if d.Owner != nil {
		// What is root's in the layer is his in the view, if the kernel could map it; and
		// so are the ids within some attributes.
		if theirs.UID == 0 && mine.UID == d.Owner.UID {
			theirs.UID = mine.UID
		}
		if theirs.GID == 0 && mine.GID == d.Owner.GID {
			theirs.GID = mine.GID
		}
		mine.Xattrs, theirs.Xattrs = withoutIDs(mine.Xattrs), withoutIDs(theirs.Xattrs)
	}
	return aspects(&mine, &theirs), nil
}

// changed tells in what a shared file has changed.
func changed(was, now *item) []string {
	switch {
	case was == nil && now == nil:
		return nil
	case was == nil:
		return []string{"come"}
	case now == nil:
		return []string{"gone"}
	}
	return aspects(was.Entry, now.Entry)
}

// aspects are in what two files differ. Times do not count.
func aspects(a, b *manifest.Entry) []string {
	var list []string
	if a.Type != b.Type {
		return []string{"type"}
	}
	if a.Size != b.Size || a.Digest != b.Digest || a.Target != b.Target || a.Major != b.Major || a.Minor != b.Minor {
		list = append(list, "content")
	}
	if a.Mode != b.Mode {
		list = append(list, "mode")
	}
	if a.UID != b.UID || a.GID != b.GID {
		list = append(list, "owner")
	}
	if !slices.Equal(own(a.Xattrs), own(b.Xattrs)) {
		list = append(list, "attributes")
	}
	return list
}

// own leaves out what overlayfs notes, and what a machine's security policy sets.
func own(list []manifest.Xattr) []manifest.Xattr {
	return without(list, func(name string) bool {
		return strings.HasPrefix(name, "trusted.overlay.") || manifest.HostOnly(name) ||
			name == "security.selinux" || name == "security.ima" || name == "security.evm"
	})
}

// withoutIDs leaves out what contains uids and gids.
func withoutIDs(list []manifest.Xattr) []manifest.Xattr {
	return without(list, func(name string) bool {
		return strings.HasPrefix(name, "system.posix_acl_") || name == "security.capability"
	})
}

func without(list []manifest.Xattr, drop func(name string) bool) []manifest.Xattr {
	var rest []manifest.Xattr
	for _, x := range list {
		if !drop(x.Name) {
			rest = append(rest, x)
		}
	}
	return rest
}

// passShared takes the shared files before the private one, or all if path is "". They
// are seen, unless a region hides them.
func (d *differ) passShared(path string) error {
	for d.now.now != nil && (path == "" || manifest.Compare(d.now.now.Path, path) < 0) {
		shared := d.now.now
		if err := d.endRegions(shared.Path); err != nil {
			return err
		}
		if n := len(d.regions); n > 0 && manifest.Inside(shared.Path, d.regions[n-1].path) {
			if err := d.hide(d.regions[n-1], shared); err != nil {
				return err
			}
		}
		if err := d.now.next(); err != nil {
			return err
		}
	}
	return nil
}

// hide counts a hidden shared file if it has changed or come.
func (d *differ) hide(r *region, shared *item) error {
	was, notKnown := d.at(r.base, shared.Path)
	if notKnown != nil || len(changed(was, shared)) == 0 {
		return nil
	}
	r.finding.Hidden++
	if len(r.finding.HiddenPaths) < hiddenNamed {
		r.finding.HiddenPaths = append(r.finding.HiddenPaths, shared.Path)
	}
	return nil
}

// endRegions reports the regions that the path is not in: all if it is "".
func (d *differ) endRegions(path string) error {
	for n := len(d.regions); n > 0; n = len(d.regions) {
		r := d.regions[n-1]
		if path != "" && (path == r.path || manifest.Inside(path, r.path)) {
			return nil
		}
		d.regions = d.regions[:n-1]
		r.finding.Verdict = r.verdict(r.finding)
		if err := d.found(r.finding); err != nil {
			return err
		}
	}
	return nil
}
