package guest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Memory is what a process takes of this machine's memory, in bytes.
type Memory struct {
	RSS     int64 // all of its pages that are in memory
	PSS     int64 // the same, each page divided by the number of processes that have it
	Private int64 // pages that only it has
}

// MemoryOf reads what the process takes now (/proc/PID/smaps_rollup, proc(5)). The
// sum of PSS over guests is what they take together; with transparent huge pages
// it has the unused rest of each.
func MemoryOf(pid int) (Memory, error) {
	file := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	text, err := os.ReadFile(file)
	if err != nil {
		return Memory{}, err
	}
	m, err := parseRollup(string(text))
	if err != nil {
		return Memory{}, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// MappingOf reads what of the process's memory is a mapping of the file
// (/proc/PID/smaps, proc(5)).
func MappingOf(pid int, file string) (Memory, error) {
	smaps := fmt.Sprintf("/proc/%d/smaps", pid)
	text, err := os.ReadFile(smaps)
	if err != nil {
		return Memory{}, err
	}
	var sum Memory
	for _, mapping := range mappings(string(text), file) {
		m, err := parseRollup(mapping)
		if err != nil {
			return Memory{}, fmt.Errorf("%s: %w", smaps, err)
		}
		sum.RSS += m.RSS
		sum.PSS += m.PSS
		sum.Private += m.Private
	}
	return sum, nil
}

// mappings returns the sections of an smaps file that are about the file.
func mappings(text, file string) []string {
	var found []string
	var wanted bool
	for line := range strings.Lines(text) {
		// A section starts with a range of addresses, its other lines are "Key: value".
		if first, _, _ := strings.Cut(line, " "); !strings.HasSuffix(first, ":") {
			wanted = strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+file)
			if wanted {
				found = append(found, "")
			}
			continue
		}
		if wanted {
			found[len(found)-1] += line
		}
	}
	return found
}

func parseRollup(text string) (Memory, error) {
	var m Memory
	fields := map[string]*int64{"Rss": &m.RSS, "Pss": &m.PSS, "Private_Clean": nil, "Private_Dirty": nil}
	seen := 0
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		field, wanted := fields[key]
		if !wanted {
			continue
		}
		number, unit, _ := strings.Cut(strings.TrimSpace(value), " ")
		kilobytes, err := strconv.ParseInt(number, 10, 64)
		if err != nil || unit != "kB" {
			return Memory{}, fmt.Errorf("not a size: %q", line)
		}
		if field == nil {
			field = &m.Private
		}
		*field += kilobytes * 1024
		seen++
	}
	if seen != len(fields) {
		return Memory{}, fmt.Errorf("%d of %d values are there", seen, len(fields))
	}
	return m, nil
}
