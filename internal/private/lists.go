package private

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/mounter"
)

// RemoveLists removes the lists of files in the cache that were made before a time and are
// of no layer that a private layer of this machine is or was over, and returns their paths;
// with dryRun it only does that. Those of former levels stay, since the image that they were
// made of may be gone. If one private layer does not tell what it was over, all stay.
func RemoveLists(c *config.Config, before time.Time, dryRun bool) ([]string, error) {
	entries, err := os.ReadDir(c.ListDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	needed, err := bases(c)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, err
		}
		if !info.Mode().IsRegular() || len(e.Name()) != 64 || needed["sha256:"+e.Name()] || !info.ModTime().Before(before) {
			continue
		}
		path := filepath.Join(c.ListDir(), e.Name())
		if !dryRun {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return removed, err
			}
		}
		removed = append(removed, path)
	}
	return removed, nil
}

// bases are the digests of all layers that private layers of this machine are or were over.
func bases(c *config.Config) (map[string]bool, error) {
	digests := make(map[string]bool)
	for _, pattern := range []string{"host/*", "user/*/*", "run/*/*"} {
		dirs, err := filepath.Glob(filepath.Join(c.PrivateDir(), pattern))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			bases, err := mounter.Bases(dir)
			if err != nil {
				return nil, err
			}
			for _, b := range bases {
				for _, l := range b.Layers {
					digests[strings.ToLower(l.Digest)] = true
				}
			}
		}
	}
	return digests, nil
}
