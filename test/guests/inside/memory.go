package inside

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

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
