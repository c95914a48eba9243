package ldifsource

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/memsource"
)

// newEntries is the file that new entries go to.
const newEntries = "levelfs.ldif"

// All implements [ldapmap.Store].
func (s *Source) All(ctx context.Context, terms []ldapmap.Term, attrs []string, progress func(int)) ([]ldapmap.Entry, error) {
	entries, err := s.Search(ctx, terms, attrs)
	if err == nil && progress != nil {
		progress(len(entries))
	}
	return entries, err
}

// Identity implements [ldapmap.Store]: the user of this process, and who became that
// user by sudo(8).
func (s *Source) Identity(context.Context) (string, error) {
	who := fmt.Sprintf("uid=%d", os.Getuid())
	if name := os.Getenv("SUDO_USER"); name != "" && ldapmap.ValidUser(name) {
		who += "(" + name + ")"
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	return who + "@" + host, nil
}

// Apply implements [ldapmap.Store]. The entry is changed in its file, of which every
// other line stays as it is; a new entry is appended to levelfs.ldif. The file is
// replaced at once and whole, under a lock on the directory.
func (s *Source) Apply(ctx context.Context, e ldapmap.Edit) error {
	unlock, err := lockDir(ctx, s.dir)
	if err != nil {
		return &ldapmap.UnavailableError{Source: s.dir, Err: err}
	}
	defer unlock()
	s.all = nil // the files are read again, also by the next search
	now := New(s.dir)
	if err := now.load(ctx); err != nil {
		return &ldapmap.ConfigError{Source: s.dir, Err: err}
	}
	conflict := func(format string, args ...any) error {
		return &ldapmap.ConflictError{Source: s.dir, DN: e.DN, Err: fmt.Errorf(format, args...)}
	}
	f, old, err := now.find(e.DN)
	switch {
	case err != nil:
		return err
	case e.Was == nil && f != nil:
		return conflict("it is there already, in %s", f.name)
	case e.Was != nil && f == nil:
		return conflict("it is gone")
	case e.Was != nil && !sameAttrs(old, *e.Was):
		return conflict("%s is not what it was", f.name)
	}
	want, err := memsource.Modify(ldapmap.Entry{DN: e.DN, Attrs: old.Attrs}, e.Mods)
	if err != nil {
		return &ldapmap.ConflictError{Source: s.dir, DN: e.DN, Err: err}
	}
	name, text := newEntries, []byte(nil)
	if f != nil {
		name = f.name
		text, err = rewrite(f.text, e)
	} else if e.Remove {
		return conflict("it is not there")
	} else {
		for _, other := range now.files {
			if other.name == newEntries {
				text = other.text
			}
		}
		text, err = appendEntry(text, e)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if e.Remove {
		err = verifyRemoved(text, f, e.DN)
	} else {
		err = verify(text, want)
	}
	if err != nil {
		return fmt.Errorf("%s: cannot be edited here, change it by hand: %w", name, err)
	}
	return replace(filepath.Join(s.dir, name), text)
}

// lockWait bounds the wait for another process that edits.
const lockWait = 10 * time.Second

// lockDir takes flock(2) on the directory. The lock goes with the process, however it
// ends.
func lockDir(ctx context.Context, dir string) (unlock func() error, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %q: %w", dir, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %q is held by another process: %w", dir, ctx.Err()), f.Close())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// find returns the file and the entry with the distinguished name, or no file.
func (s *Source) find(dn string) (*file, ldapmap.Entry, error) {
	for i := range s.files {
		e, ok, err := entryOf(s.files[i].entries, dn)
		if err != nil {
			return nil, e, err
		}
		if ok {
			return &s.files[i], e, nil
		}
	}
	return nil, ldapmap.Entry{}, nil
}

func sameAttrs(a, b ldapmap.Entry) bool { return reflect.DeepEqual(a.Attrs, b.Attrs) }

// verify reads the new text as a lookup would, and wants the entry to be in it as it
// should be, up to the order of values, which means nothing.
func verify(text []byte, want ldapmap.Entry) error {
	entries, err := parse(text)
	if err != nil {
		return err
	}
	got, ok, err := entryOf(entries, want.DN)
	if err != nil || !ok {
		return errors.Join(fmt.Errorf("entry %q would be lost", want.DN), err)
	}
	for _, attrs := range []map[string][]string{got.Attrs, want.Attrs} {
		for _, values := range attrs {
			slices.Sort(values)
		}
	}
	if !sameAttrs(got, want) {
		return fmt.Errorf("entry %q would become %q", got.DN, got.Attrs)
	}
	return nil
}

// verifyRemoved reads the new text as a lookup would, and wants all entries to be in
// it but the one.
func verifyRemoved(text []byte, f *file, dn string) error {
	entries, err := parse(text)
	if err != nil {
		return err
	}
	if _, ok, err := entryOf(entries, dn); err != nil || ok || len(entries) != len(f.entries)-1 {
		return errors.Join(fmt.Errorf("more or less than entry %q would go", dn), err)
	}
	return nil
}

// entryOf returns the entry with the distinguished name, if it is among the entries.
func entryOf(entries []ldapmap.Entry, dn string) (e ldapmap.Entry, ok bool, err error) {
	want, err := memsource.NormalDN(dn)
	if err != nil {
		return e, false, fmt.Errorf("dn %q: %w", dn, err)
	}
	for _, e := range entries {
		if got, err := memsource.NormalDN(e.DN); err == nil && got == want {
			return e, true, nil
		}
	}
	return e, false, nil
}

// rewrite makes the edit in the text of the file that has the entry.
func rewrite(text []byte, e ldapmap.Edit) ([]byte, error) {
	eol := lineEnd(text)
	records := splitRecords(string(text))
	for i, record := range records {
		entries, err := parse([]byte(strings.Join(record, "")))
		if err != nil {
			return nil, err
		}
		if _, ok, err := entryOf(entries, e.DN); err != nil || !ok {
			continue // another entry, comments, a version line
		}
		if e.Remove {
			records[i] = slices.DeleteFunc(record, func(line string) bool { return line[0] != '#' })
		} else if records[i], err = editRecord(record, e.Mods, eol); err != nil {
			return nil, err
		}
		return []byte(strings.Join(slices.Concat(records...), "")), nil
	}
	return nil, fmt.Errorf("entry %q was not found", e.DN)
}

// lineEnd is what ends the lines of the text.
func lineEnd(text []byte) string {
	if bytes.Contains(text, []byte("\r\n")) {
		return "\r\n"
	}
	return "\n"
}

// splitRecords cuts LDIF text into records, and those into logical lines: a line with
// the lines that continue it (RFC 2849, note 2). Empty lines belong to the record
// before them. Joined, they are the text again.
func splitRecords(text string) [][]string {
	records := [][]string{nil}
	ended := false
	for line := range strings.Lines(text) {
		last := &records[len(records)-1]
		switch empty := strings.TrimRight(line, "\r\n") == ""; {
		case empty:
			*last = append(*last, line)
			ended = true
		case ended:
			records = append(records, []string{line})
			ended = false
		case line[0] == ' ' && len(*last) > 0:
			(*last)[len(*last)-1] += line
		default:
			*last = append(*last, line)
		}
	}
	return records
}

// editRecord makes the modifications in the lines of one entry.
func editRecord(lines []string, mods []ldapmap.Mod, eol string) ([]string, error) {
	lines = slices.Clone(lines)
	// The last line of a file may lack its end.
	if last := len(lines) - 1; !strings.HasSuffix(lines[last], "\n") {
		lines[last] += eol
	}
	for _, m := range mods {
		if m.Op == ldapmap.ModDelete {
			left := m.Values
			lines = slices.DeleteFunc(lines, func(line string) bool {
				attr, value := readLine(line)
				if !strings.EqualFold(attr, m.Attr) {
					return false
				}
				at := slices.Index(left, value)
				if at >= 0 {
					left = slices.Concat(left[:at], left[at+1:])
				}
				return at >= 0 || len(m.Values) == 0
			})
			continue
		}
		end := len(lines)
		for end > 0 && strings.TrimRight(lines[end-1], "\r\n") == "" {
			end--
		}
		var added []string
		for _, v := range m.Values {
			line, err := writeLine(m.Attr, v)
			if err != nil {
				return nil, err
			}
			added = append(added, strings.ReplaceAll(line, "\n", eol))
		}
		lines = slices.Insert(lines, end, added...)
	}
	return lines, nil
}

// readLine reads one logical line as an attribute and its value; a line that is none
// gives no attribute.
func readLine(line string) (attr, value string) {
	entries, err := parse([]byte("dn: cn=line\n" + line))
	if err != nil || len(entries) != 1 || len(entries[0].Attrs) != 1 {
		return "", ""
	}
	for attr, values := range entries[0].Attrs {
		return attr, values[0]
	}
	return "", ""
}

// writeLine is the logical line of an attribute and its value, encoded and folded
// where RFC 2849 asks for it.
func writeLine(attr, value string) (string, error) {
	text, err := marshal(&ldap.Entry{DN: "cn=line", Attributes: []*ldap.EntryAttribute{ldap.NewEntryAttribute(attr, []string{value})}})
	_, line, _ := strings.Cut(text, "\n")
	return line, err
}

// appendEntry adds the entry that the edit makes at the end of a file.
func appendEntry(text []byte, e ldapmap.Edit) ([]byte, error) {
	entry := &ldap.Entry{DN: e.DN}
	for _, m := range e.Mods {
		entry.Attributes = append(entry.Attributes, ldap.NewEntryAttribute(m.Attr, m.Values))
	}
	added, err := marshal(entry)
	if err != nil {
		return nil, err
	}
	eol := lineEnd(text)
	if text = bytes.TrimRight(text, "\r\n"); len(text) > 0 {
		added = "\n\n" + added
	}
	return append(text, strings.ReplaceAll(added, "\n", eol)...), nil
}

func marshal(e *ldap.Entry) (string, error) {
	text, err := ldif.Marshal(&ldif.LDIF{Entries: []*ldif.Entry{{Entry: e}}})
	return strings.TrimRight(text, "\n") + "\n", err
}
