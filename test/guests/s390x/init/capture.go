package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// attributes are the files of the driver's part of sysfs that package dcss or a
// person looks at. The others change by themselves.
var attributes = []string{"add", "remove", "seglist", "shared", "save", "dev", "size", "ro", "dax", "logical_block_size"}

// capture prints the driver's part of sysfs, which is the tree that the tests of
// package dcss run on: a file's text, a link's target.
func capture() error {
	blocks, err := filepath.Glob("/sys/block/dcssblk*")
	if err != nil {
		return err
	}
	for _, block := range blocks {
		target, err := os.Readlink(block)
		if err != nil {
			return err
		}
		fmt.Printf("SYSFS %s -> %s\n", block, target)
	}
	return filepath.WalkDir("/sys/devices/dcssblk", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !slices.Contains(attributes, d.Name()) {
			return err
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EACCES) {
			text, err = nil, nil // for writing only
		}
		if err == nil {
			fmt.Printf("SYSFS %s = %s\n", path, strings.TrimSpace(strings.ReplaceAll(string(text), "\n", " ")))
		}
		return err
	})
}
