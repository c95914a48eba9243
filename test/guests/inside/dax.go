package inside

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// DAX tells whether the kernel executes the file in place, which it says by statx(2)
// and nowhere else: mount options are no proof.
func DAX(path string) (bool, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BASIC_STATS, &st)
	if err != nil {
		return false, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_DAX == 0 {
		return false, fmt.Errorf("%q: this kernel cannot tell DAX by statx", path)
	}
	return st.Attributes&unix.STATX_ATTR_DAX != 0, nil
}

// NotDAX returns the files below dir, as [Files] has them, that are not executed in
// place, and how many there are in all.
func NotDAX(dir string) (without []string, files int, err error) {
	err = Files(dir, func(path string) error {
		files++
		dax, err := DAX(path)
		if err == nil && !dax {
			without = append(without, path)
		}
		return err
	})
	return without, files, err
}

// InPlace makes sure that all files below dir are executed in place, and that the
// first page of each is in one of the ranges.
func InPlace(dir string, ranges Ranges) error {
	without, files, err := NotDAX(dir)
	if err != nil {
		return err
	}
	if len(without) > 0 {
		return fmt.Errorf("without DAX, of %d files: %q", files, without)
	}
	return Files(dir, func(path string) error {
		address, err := Physical(path)
		if err == nil && !ranges.Hold(address) {
			err = fmt.Errorf("page of %q is at %#x, which is in none of %x", path, address, ranges)
		}
		return err
	})
}

// Physical maps the file, touches its first page and returns that page's physical
// address (Documentation/admin-guide/mm/pagemap.rst). It needs root.
func Physical(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := os.Getpagesize()
	mapped, err := unix.Mmap(int(f.Fd()), 0, page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, &fs.PathError{Op: "mmap", Path: path, Err: err}
	}
	defer unix.Munmap(mapped)
	load(&mapped[0])
	return physical(mapped)
}

// presentBit of an entry in pagemap; the page frame number is in the low 55 bits.
const presentBit = 1 << 63

func physical(mapped []byte) (uint64, error) {
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return 0, err
	}
	defer pagemap.Close()
	page := uint64(os.Getpagesize())
	var entry [8]byte
	if _, err := pagemap.ReadAt(entry[:], int64(addressOf(mapped)/page*8)); err != nil {
		return 0, err
	}
	e := binary.NativeEndian.Uint64(entry[:])
	frame := e & (1<<55 - 1)
	if e&presentBit == 0 || frame == 0 {
		return 0, fmt.Errorf("pagemap entry %#x is of no page", e)
	}
	return frame * page, nil
}
