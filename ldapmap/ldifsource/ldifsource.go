// Package ldifsource is an inventory in a directory of LDIF files (RFC 2849):
// the embedded default, which needs no server.
//
// Every file named *.ldif in the directory is read, in the order of their names,
// at each first search: the files are small, and what an editor saved is what
// the next lookup sees. Only plain entries are accepted, no change records, so
// that the files can be loaded into a directory server as they are. Package
// memsource says how attributes compare.
//
// When not to use it: for more than some thousands of entries. It reads them all
// for every lookup.
package ldifsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-ldap/ldif"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

// maxFile is the largest LDIF file that is read, in bytes.
const maxFile = 64 << 20

// Source reads one directory.
type Source struct {
	dir   string
	files []file            // as they were read
	all   *memsource.Source // their entries; nil: not read yet
}

// A file is one LDIF file.
type file struct {
	name    string // in the directory
	text    []byte
	entries []ldapmap.Entry
}

// New returns the Source for a directory. It does not touch it.
func New(dir string) *Source { return &Source{dir: dir} }

// Name is the directory.
func (s *Source) Name() string { return s.dir }

// Close does nothing: no file stays open.
func (s *Source) Close() error { return nil }

// Search implements [ldapmap.Source].
func (s *Source) Search(ctx context.Context, terms []ldapmap.Term, attrs []string) ([]ldapmap.Entry, error) {
	if s.all == nil {
		if err := s.load(ctx); ctx.Err() != nil {
			return nil, &ldapmap.UnavailableError{Source: s.dir, Err: ctx.Err()}
		} else if err != nil {
			return nil, &ldapmap.ConfigError{Source: s.dir, Err: err}
		}
	}
	return s.all.Search(ctx, terms, attrs)
}

// load reads the directory.
func (s *Source) load(ctx context.Context) error {
	dir, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.files = nil
	var all []ldapmap.Entry
	from := make(map[string]string) // normalised DN -> file
	for _, d := range dir {
		if !strings.HasSuffix(d.Name(), ".ldif") || strings.HasPrefix(d.Name(), ".") {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		f := file{name: d.Name()}
		if f.text, err = readFile(filepath.Join(s.dir, f.name)); err == nil {
			f.entries, err = parse(f.text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		for _, e := range f.entries {
			dn, err := memsource.NormalDN(e.DN)
			if err != nil {
				return fmt.Errorf("%s: dn %q: %w", f.name, e.DN, err)
			}
			if other, dup := from[dn]; dup {
				return fmt.Errorf("%s: dn %q is in %s already", f.name, e.DN, other)
			}
			from[dn] = f.name
		}
		s.files = append(s.files, f)
		all = append(all, f.entries...)
	}
	s.all = memsource.New(s.dir, all)
	return nil
}

// readFile returns the text of a regular file of a sensible size.
func readFile(path string) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("no regular file")
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("larger than %d bytes", maxFile)
	}
	text := make([]byte, info.Size())
	n, err := f.ReadAt(text, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return text[:n], nil
}

// parse reads the entries of one file.
func parse(text []byte) ([]ldapmap.Entry, error) {
	if err := refuseURLs(text); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		return nil, errors.New("it begins with a byte order mark, which LDIF has none of")
	}
	var doc ldif.LDIF
	if err := ldif.Unmarshal(bytes.NewReader(text), &doc); err != nil {
		return nil, err
	}
	entries := make([]ldapmap.Entry, 0, len(doc.Entries))
	for _, record := range doc.Entries {
		if record.Entry == nil {
			return nil, errors.New("a change record (changetype:) where an entry is expected")
		}
		e := ldapmap.Entry{DN: record.Entry.DN, Attrs: make(map[string][]string, len(record.Entry.Attributes))}
		for _, a := range record.Entry.Attributes {
			name := strings.ToLower(a.Name)
			// A line of blanks continues the line before it and ends no entry: what two
			// entries say would be taken for one's.
			if name == "dn" || name == "changetype" {
				return nil, fmt.Errorf("entry %q: a line %q within it: want an empty line, without blanks, between entries", e.DN, a.Name+": "+a.Values[0])
			}
			e.Attrs[name] = append(e.Attrs[name], a.Values...)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// refuseURLs refuses values that are given as URLs ("attribute:< file:///…"): the
// library would read any file of the machine into the inventory.
func refuseURLs(text []byte) error {
	var unfolded strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if continued, ok := strings.CutPrefix(line, " "); ok {
			unfolded.WriteString(continued)
		} else {
			unfolded.WriteString("\n" + line)
		}
	}
	for line := range strings.Lines(unfolded.String()) {
		if attr, value, ok := strings.Cut(line, ":"); ok && strings.HasPrefix(value, "<") && !strings.HasPrefix(attr, "#") {
			return fmt.Errorf("%s: a value by URL (:<) is not read", attr)
		}
	}
	return nil
}
