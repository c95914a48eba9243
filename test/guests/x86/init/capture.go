package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// attributes are the files of sysfs that package pmem looks at.
var attributes = []string{"dev", "size", "ro", "start", "dax", "partition"}

// capture prints the pmem part of sysfs, as below /sys/block: the tree that the tests
// of package pmem run on.
func capture() error {
	disks, err := filepath.Glob("/sys/block/pmem*")
	if err != nil {
		return err
	}
	for _, disk := range disks {
		// The slash has WalkDir go behind the link.
		err := filepath.WalkDir(disk+"/", func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || !slices.Contains(attributes, d.Name()) {
				return err
			}
			text, err := os.ReadFile(path)
			if err == nil {
				fmt.Printf("SYSFS %s = %s\n", filepath.Clean(path), strings.TrimSpace(string(text)))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
