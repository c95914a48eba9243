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

// prune removes the oldest files until the rest is within the limit: what was asked
// for longest ago is missed least. Only what this package writes counts; the marks of
// images that were found to be right are not many, and expensive to get again.
func (c Cache) prune() error {
	type file struct {
		path string
		size int64
		when time.Time
	}
	var files []file
	var total int64
	for _, dir := range []string{"levels", "answers", "trees"} {
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
			return err
		}
	}
	if total <= c.Limit {
		return nil
	}
	slices.SortFunc(files, func(a, b file) int { return cmp.Or(a.when.Compare(b.when), cmp.Compare(a.path, b.path)) })
	// The last one is what was just written.
	for _, f := range files[:len(files)-1] {
		if total <= c.Limit {
			return nil
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= f.size
	}
	return nil
}
