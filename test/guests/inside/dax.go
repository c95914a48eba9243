package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

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

// NotDAX returns the regular files below dir, symbolic links excluded, that are not
// executed in place, and how many there are in all.
func NotDAX(dir string) (without []string, files int, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() == 0 {
			return err
		}
		files++
		dax, err := DAX(path)
		if err == nil && !dax {
			without = append(without, path)
		}
		return err
	})
	return without, files, err
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
	touched := mapped[0]
	address, err := physical(mapped)
	runtime.KeepAlive(touched)
	return address, err
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

// Meminfo returns a value of /proc/meminfo in bytes.
func Meminfo(key string) (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name != key {
			continue
		}
		var kilobytes int64
		_, err := fmt.Sscanf(strings.TrimSpace(value), "%d kB", &kilobytes)
		return kilobytes * 1024, err
	}
	return 0, errors.New("no " + key + " in /proc/meminfo")
}

// Ranges are ranges of physical addresses, from the first to the last byte.
type Ranges [][2]uint64

// Hold tells whether the address is in one of them.
func (r Ranges) Hold(address uint64) bool {
	for _, one := range r {
		if one[0] <= address && address <= one[1] {
			return true
		}
	}
	return false
}

// PhysicalRanges returns the ranges of /proc/iomem whose description starts with one
// of the words, in which devices like pmem are.
func PhysicalRanges(words ...string) (Ranges, error) {
	text, err := os.ReadFile("/proc/iomem")
	if err != nil {
		return nil, err
	}
	var found Ranges
	for line := range strings.Lines(string(text)) {
		span, description, _ := strings.Cut(strings.TrimSpace(line), " : ")
		var one [2]uint64
		if _, err := fmt.Sscanf(span, "%x-%x", &one[0], &one[1]); err != nil {
			return nil, fmt.Errorf("/proc/iomem: %q: %w", line, err)
		}
		for _, word := range words {
			if strings.HasPrefix(description, word) {
				found = append(found, one)
				break
			}
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("/proc/iomem has none of %q: %s", words, text)
	}
	return found, nil
}
