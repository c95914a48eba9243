// Package view joins what the inventory says with what is on this machine: it
// turns a resolution into the request for a mount. The mount helper and the dry
// run use it alike, so that what one prints is what the other does.
package view

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// Options are what whoever mounts a view may choose.
type Options struct {
	ReadOnly bool     // the level as it was delivered: no private layer
	Flags    []string // mount flags by their mount(8) names
	User     string   // whose private layer; empty: the host's
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
// for first, and a *LocationError for each: a dry run shows both.
func Plan(c *config.Config, r *ldapmap.Resolution, target string, o Options) (*mounter.Plan, error) {
	request := mounter.Request{
		Name:     r.Level.Name,
		Target:   target,
		Released: r.Level.State == "released",
		Flags:    o.Flags,
		Run:      c.RunDir(),
		Cache:    c.CacheDir(),
	}
	if !o.ReadOnly {
		switch r.Component.Private {
		case ldapmap.Persistent:
			owner := "host"
			if o.User != "" {
				owner = filepath.Join("user", o.User)
			}
			request.Private = &mounter.Private{Dir: filepath.Join(c.PrivateDir(), owner, r.Component.Name)}
		case ldapmap.Ephemeral:
			request.Private = &mounter.Private{Ephemeral: true}
		}
	}
	var missing []error
	for _, l := range r.Layers {
		layer, err := locate(c, l)
		if err != nil {
			missing = append(missing, err)
		}
		request.Layers = append(request.Layers, layer)
	}
	plan, err := mounter.Build(request)
	return plan, errors.Join(append(missing, err)...)
}

// locate finds a layer's image or directory below the configured directories.
func locate(c *config.Config, l ldapmap.Layer) (mounter.Layer, error) {
	layer := mounter.Layer{Name: l.Name, FSType: l.FSType, Digest: l.Digest, Size: l.Size, UUID: l.UUID}
	dirs, key := c.Images, "images"
	if l.FSType == "dir" {
		dirs, key = c.Directories, "directories"
	}
	refuse := func(format string, args ...any) (mounter.Layer, error) {
		return layer, &LocationError{Layer: l.Name, Reason: fmt.Sprintf(format, args...)}
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
				return layer, nil
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
