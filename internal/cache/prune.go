package cache

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// block is what a file takes at least: most of them have some dozens of bytes.
const block = 4096

// A file is one that this package wrote.
type file struct {
	path string
	size int64
	when time.Time
}

// files are what counts for the limit: the marks of images that were found to be right
// are not many, and expensive to get again.
func (c Cache) files() (files []file, total int64, err error) {
	for _, dir := range []string{"levels", "layers", "answers", "trees"} {
		err := filepath.WalkDir(filepath.Join(c.Dir, dir), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // another map is at it
			}
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			size := (info.Size() + block - 1) / block * block
			files = append(files, file{path, size, info.ModTime()})
			total += size
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(a.when.Compare(b.when), cmp.Compare(a.path, b.path)) })
	return files, total, nil
}

// prune removes the oldest files until the rest is within the limit: what was asked
// for longest ago is missed least.
func (c Cache) prune() error {
	files, total, err := c.files()
	if err != nil || total <= c.Limit {
		return err
	}
	// The last one is what was just written.
	for _, f := range files[:len(files)-1] {
		if total <= c.Limit {
			return nil
		}
		if err := remove(f.path); err != nil {
			return err
		}
		total -= f.size
	}
	return nil
}

// Collect removes what was not asked for since a time, as nobody is served from it any
// more, and then the oldest of the rest until that is within the limit. The definitions of
// the mounted levels stay. It returns the paths; with dryRun that is all.
func (c Cache) Collect(since time.Time, mounted map[string]bool, dryRun bool) ([]string, error) {
	files, total, err := c.files()
	if err != nil {
		return nil, err
	}
	keep := make(map[string]bool)
	for level := range mounted {
		keep[c.levelFile(level)] = true
	}
	var removed []string
	for _, f := range files {
		if keep[f.path] {
			continue
		}
		if !f.when.Before(since) && (c.Limit == 0 || total <= c.Limit) {
			break
		}
		if !dryRun {
			if err := remove(f.path); err != nil {
				return removed, err
			}
		}
		removed = append(removed, f.path)
		total -= f.size
	}
	return removed, nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
