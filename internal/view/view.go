// Package view joins what the inventory says with what is on this machine: it
// turns a resolution into the request for a mount. The mount helper and the dry
// run use it alike, so that what one prints is what the other does.
package view

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// Options are what whoever mounts a view may choose.
type Options struct {
	ReadOnly bool     // the level as it was delivered: no private layer
	Flags    []string // mount flags by their mount(8) names
	User     string   // whose private layer; empty: the host's
	// Account is the user's, if whoever asks knows it. Otherwise it is looked up.
	Account *account.Account
	// Replaces is the mounted view whose place the new one takes, with its mount flags, or
	// nil.
	Replaces *mounter.View
	Discard  bool // replace it even if what is in its private layer is lost
	// Private takes the place of the private layer that the component's policy gives, if
	// that gives one.
	Private *mounter.Private
	Also    []string // more mount points
}

// A LocationError is a layer whose image is not on this machine, or is where it
// must not be.
type LocationError struct {
	Layer  string
	Reason string
}

func (e *LocationError) Error() string { return fmt.Sprintf("layer %q: %s", e.Layer, e.Reason) }

// Plan plans the view of a resolved level at a target. Without an image for some
// layer it still returns a plan, with the place where the image would be looked
// for first, and a *LocationError for each: a dry run shows both. Likewise for a user
// without an account.
func Plan(ctx context.Context, c *config.Config, r *ldapmap.Resolution, target string, o Options) (*mounter.Plan, error) {
	request := mounter.Request{
		Name:     r.Level.Name,
		Target:   target,
		Also:     o.Also,
		Released: r.Level.State == "released",
		Replaces: o.Replaces,
		Discard:  o.Discard,
		Flags:    o.Flags,
		Run:      c.RunDir(),
		Cache:    c.CacheDir(),
	}
	if o.Replaces != nil {
		request.Flags = o.Replaces.Flags()
	}
	var missing []error
	if !o.ReadOnly {
		var err error
		if request.Private, err = private(ctx, c, r.Component, o); err != nil {
			missing = append(missing, err)
		}
	}
	// What belongs to a user must not give rights to others who use it.
	if o.User != "" && !slices.Contains(request.Flags, "nosuid") {
		request.Flags = append(slices.Clone(request.Flags), "nosuid")
	}
	shared := newMemory(c)
	for _, l := range slices.Concat(r.Above, r.Layers) {
		layer, err := locate(c, shared, r.Component, l)
		if err != nil {
			missing = append(missing, err)
		}
		request.Layers = append(request.Layers, layer)
	}
	plan, err := mounter.Build(request)
	return plan, errors.Join(append(missing, err)...)
}

// private is the private layer that the component's policy gives the caller.
func private(ctx context.Context, c *config.Config, component ldapmap.Component, o Options) (*mounter.Private, error) {
	var p *mounter.Private
	switch component.Private {
	case ldapmap.Persistent:
		p = &mounter.Private{Dir: PrivateDir(c, o.User, component.Name)}
	case ldapmap.Ephemeral:
		p = &mounter.Private{Ephemeral: true}
	default:
		return nil, nil
	}
	if o.Private != nil {
		return o.Private, nil
	}
	if o.User == "" {
		return p, nil
	}
	a, err := o.account(ctx, p.Dir)
	if err != nil {
		return p, err
	}
	if a.UID == 0 && o.User != "root" {
		return p, fmt.Errorf("user %q has uid 0 on this machine: only root may", o.User)
	}
	p.Owner = &mounter.Owner{UID: a.UID, GID: a.GID}
	return p, nil
}

// account is the user's: as given, or as /etc/passwd has it. Where it is not in
// there, the owner of the private layer that the user has already is authoritative:
// so only the first mount has to ask the machine's name service, which may depend on
// servers.
func (o Options) account(ctx context.Context, private string) (account.Account, error) {
	if o.Account != nil {
		return *o.Account, nil
	}
	a, err := account.Local(o.User)
	var unknown *account.UnknownError
	if !errors.As(err, &unknown) {
		return a, err
	}
	var st unix.Stat_t
	if private != "" && unix.Lstat(mounter.Upper(private), &st) == nil {
		return account.Account{UID: st.Uid, GID: st.Gid}, nil
	}
	return account.Lookup(ctx, o.User)
}

// PrivateDir is where the private layer of a component lies: the user's, or, if user
// is empty, the host's.
func PrivateDir(c *config.Config, user, component string) string {
	if user == "" {
		return filepath.Join(c.PrivateDir(), "host", component)
	}
	return filepath.Join(c.PrivateDir(), "user", user, component)
}

// UserOf is the user whose view it is, or "" if it is the host's: by its private
// layer, or, if it has none, by its place in the users' tree.
func UserOf(c *config.Config, v mounter.View) string {
	for _, place := range []struct{ path, below string }{
		{v.Upper, filepath.Join(c.PrivateDir(), "user")},
		{v.Target, c.UsersTree()},
	} {
		if rest, ok := strings.CutPrefix(place.path, place.below+"/"); ok {
			if user, _, _ := strings.Cut(rest, "/"); ldapmap.ValidUser(user) {
				return user
			}
		}
	}
	return ""
}

// Above are the contents of the layers that go above the level, topmost first, as
// [mounter.View.Above] has them of a mounted view.
func Above(r *ldapmap.Resolution) []string {
	var above []string
	for _, l := range r.Above {
		above = append(above, describe(l).Content())
	}
	return above
}

// Pinned reports whether the view's level was asked for by name: such a view is
// read-only and lies under that name.
func Pinned(v mounter.View) bool { return v.ReadOnly && filepath.Base(v.Target) == v.Name }

// Sample is how many files of a view are asked, where not all are, whether they are
// executed in place.
const Sample = 256

// Prove asks the kernel whether up to that many files of a view at the target, 0 being
// all, are executed in place, those left out that its private layer has. It waits for as long as the file system
// does: a caller that must not gives it a goroutine of its own.
func Prove(ctx context.Context, target, upper string, files int) (mounter.Proof, error) {
	return mounter.ProveSome(ctx, target, files, func(path string) bool {
		if upper == "" {
			return false
		}
		_, err := os.Lstat(filepath.Join(upper, path))
		return err == nil // the caller's own
	})
}

// Locate finds where the image file of a layer, or its directory, is on this machine. It
// is a *[LocationError] if it is not.
func Locate(c *config.Config, l ldapmap.Layer) (mounter.Layer, error) {
	layer := describe(l)
	return layer, locateFile(c, l, &layer)
}

// describe is what the inventory says of a layer, as a plan has it.
func describe(l ldapmap.Layer) mounter.Layer {
	layer := mounter.Layer{Name: l.Name, FSType: l.FSType, Digest: l.Digest, Size: l.Size, UUID: l.UUID}
	if l.Kind != ldapmap.KindVendor {
		layer.Kind = l.Kind
	}
	return layer
}

// LocateList finds where the list of a layer's files is on this machine: beside the image,
// under its name and ".mtree". It is a *[LocationError] if it is not.
func LocateList(c *config.Config, l ldapmap.Layer) (mounter.Layer, error) {
	list := l
	list.Images = nil
	for _, image := range l.Images {
		list.Images = append(list.Images, image+".mtree")
	}
	return Locate(c, list)
}

// locate finds where a layer can be had on this machine: in shared memory, or as an
// image file or a directory below the configured directories.
func locate(c *config.Config, shared *memory, component ldapmap.Component, l ldapmap.Layer) (mounter.Layer, error) {
	layer := describe(l)
	if l.FSType == "dir" {
		return layer, locateFile(c, l, &layer)
	}
	layer.XIP = wish(c, component, l)
	layer.Devices, layer.Why = shared.devices(l, layer.XIP)
	if layer.XIP == mounter.XIPRequire && len(layer.Devices) == 0 {
		return layer, errors.Join(&LocationError{Layer: l.Name, Reason: "execution in place is required, but " + layer.Why}, locateFile(c, l, &layer))
	}
	err := locateFile(c, l, &layer)
	if err != nil && len(layer.Devices) > 0 {
		layer.Dir, layer.Path = "", "" // it is there without its file
		return layer, nil
	}
	return layer, err
}

// locateFile finds a layer's image or directory below the configured directories.
func locateFile(c *config.Config, l ldapmap.Layer, layer *mounter.Layer) error {
	dirs, key := c.Images, "images"
	if l.FSType == "dir" {
		dirs, key = c.Directories, "directories"
	}
	refuse := func(format string, args ...any) error {
		return &LocationError{Layer: l.Name, Reason: fmt.Sprintf(format, args...)}
	}
	if len(l.Images) == 0 {
		return refuse("the inventory names no image of it (levelfsImage)")
	}
	var tried []string
	for _, image := range l.Images {
		for _, dir := range dirs {
			path := image
			if filepath.IsAbs(image) {
				rel, inside := strings.CutPrefix(image, dir+"/")
				if !inside {
					continue
				}
				path = rel
			}
			if len(tried) == 0 {
				layer.Dir, layer.Path = dir, path
			}
			_, err := os.Stat(filepath.Join(dir, path))
			if err == nil {
				layer.Dir, layer.Path = dir, path
				return nil
			}
			if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
				return refuse("%v", err)
			}
			tried = append(tried, filepath.Join(dir, path))
		}
	}
	if len(tried) == 0 {
		return refuse("%q lies outside the configured directories (%s in levelfs.toml: %q)", l.Images[0], key, dirs)
	}
	return refuse("not on this machine: tried %s", strings.Join(slices.Compact(tried), ", "))
}
