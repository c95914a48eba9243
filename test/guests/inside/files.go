package inside

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Files calls do with each regular file below dir that has content. It is an error
// if there is none: nothing would be proven by it.
func Files(dir string, do func(path string) error) error {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() == 0 {
			return err
		}
		n++
		return do(path)
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("no files below %q", dir)
	}
	return err
}

// Same makes sure that the tree got has all files of the tree want, with their
// content.
func Same(want, got string) error {
	return Files(want, func(path string) error {
		name, err := filepath.Rel(want, path)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(got, name))
		if err == nil && !bytes.Equal(a, b) {
			err = fmt.Errorf("%q differs", name)
		}
		return err
	})
}

// Touch maps each file below dir and reads a byte of each of its pages. It returns
// the size of the files.
func Touch(dir string) (size int64, err error) {
	err = Files(dir, func(path string) error {
		n, err := touch(path)
		size += n
		return err
	})
	return size, err
}

func touch(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, &fs.PathError{Op: "mmap", Path: path, Err: err}
	}
	defer unix.Munmap(mapped)
	for i := 0; i < len(mapped); i += os.Getpagesize() {
		load(&mapped[i])
	}
	return info.Size(), nil
}
