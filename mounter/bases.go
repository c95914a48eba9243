package mounter

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Base is a level that a private layer was under on this machine, with the layers that
// it had then: what files of the private layer may have been copied up from.
type Base struct {
	Level  string      `json:"level"` // "emacs@29.4-1"
	Since  time.Time   `json:"since"`
	Layers []BaseLayer `json:"layers"` // topmost first
}

// A BaseLayer is one layer of a Base. Digest and UUID are empty where there is none.
type BaseLayer struct {
	Name   string `json:"name"`
	Digest string `json:"digest,omitempty"`
	UUID   string `json:"uuid,omitempty"` // of the file system, which overlayfs notes on what it copies up
	Kind   string `json:"kind,omitempty"` // of a layer that was added above the level; see [Layer]
}

// Above are the names of the layers that were added above the level, topmost first.
func (b Base) Above() []string {
	var names []string
	for _, l := range b.Layers {
		if l.Kind != "" {
			names = append(names, l.Name)
		}
	}
	return names
}

// The private layer's file bases has what its file level said before each change,
// oldest first, each after a line that says since when. Where that is what it has of an
// earlier time, it says "same N" instead, counted from 0: levels that come and go take a
// line each time.
func (p *Private) bases() string { return filepath.Join(p.Dir, "bases") }

// keepBase adds what the file level says to the file bases, before it is replaced. What
// is written after it has a sync of its own, so that the base of a file that was copied
// up is never lost.
func (p *Private) keepBase() error {
	info, err := os.Stat(p.level())
	if err != nil {
		return err
	}
	record, err := os.ReadFile(p.level())
	if err != nil {
		return err
	}
	kept, err := os.ReadFile(p.bases())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entry, entries := string(record), splitBases(string(kept))
	if n := slices.Index(entries, entry); n >= 0 {
		entry = fmt.Sprintf("same %d\n", n)
	}
	if last := len(entries) - 1; last >= 0 && (entries[last] == string(record) || entries[last] == entry) {
		return nil // a change that was taken back, or not carried out
	}
	return writeDurably(p.bases(), fmt.Sprintf("%ssince %s\n%s", kept, info.ModTime().UTC().Format(time.RFC3339Nano), entry))
}

// splitBases are the texts between the lines that say since when.
func splitBases(text string) []string {
	var entries []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "since ") {
			entries = append(entries, "")
		} else if last := len(entries) - 1; last >= 0 {
			entries[last] += line
		}
	}
	return entries
}

// Bases returns the levels that the private layer in dir was under, oldest first; the
// last is the one that it is under. It is empty for a private layer that was never
// mounted.
func Bases(dir string) ([]Base, error) {
	p := &Private{Dir: dir}
	kept, err := os.ReadFile(p.bases())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	bases, err := parseBases(string(kept))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", p.bases(), err)
	}
	info, err := os.Stat(p.level())
	if errors.Is(err, fs.ErrNotExist) {
		return bases, nil
	}
	if err != nil {
		return nil, err
	}
	record, err := os.ReadFile(p.level())
	if err != nil {
		return nil, err
	}
	now, err := parseBases(fmt.Sprintf("since %s\n%s", info.ModTime().UTC().Format(time.RFC3339Nano), record))
	if err != nil {
		return nil, fmt.Errorf("%q: %w", p.level(), err)
	}
	return append(bases, now...), nil
}

func parseBases(text string) ([]Base, error) {
	var bases []Base
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		last := len(bases) - 1
		switch {
		case len(words) == 2 && words[0] == "since":
			since, err := time.Parse(time.RFC3339Nano, words[1])
			if err != nil {
				return nil, err
			}
			bases = append(bases, Base{Since: since})
		case len(words) == 2 && words[0] == "level" && last >= 0:
			bases[last].Level = words[1]
		case len(words) == 2 && words[0] == "same" && last >= 0:
			n, err := strconv.Atoi(words[1])
			if err != nil || n < 0 || n >= last {
				return nil, fmt.Errorf("%q is no line of a record", strings.TrimSuffix(line, "\n"))
			}
			bases[last].Level, bases[last].Layers = bases[n].Level, slices.Clone(bases[n].Layers)
		case len(words) == 4 && words[0] == "layer" && last >= 0:
			bases[last].Layers = append(bases[last].Layers, BaseLayer{Name: words[1], Digest: orEmpty(words[2]), UUID: orEmpty(words[3])})
		case len(words) == 5 && words[0] == "above" && last >= 0:
			bases[last].Layers = append(bases[last].Layers, BaseLayer{Name: words[2], Digest: orEmpty(words[3]), UUID: orEmpty(words[4]), Kind: words[1]})
		default:
			return nil, fmt.Errorf("%q is no line of a record", strings.TrimSuffix(line, "\n"))
		}
	}
	return bases, nil
}

func orEmpty(word string) string {
	if word == "-" {
		return ""
	}
	return word
}
