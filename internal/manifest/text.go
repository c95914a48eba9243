package manifest

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

const (
	signature = "#mtree v2.0\n"
	complete  = "# complete\n"
	maxLine   = 1 << 20 // a name of 4 KiB and attributes of 64 KiB, encoded
)

// A Writer writes a manifest.
type Writer struct {
	w    *bufio.Writer
	last string
	line []byte
}

// NewWriter starts a manifest.
func NewWriter(w io.Writer) *Writer {
	b := bufio.NewWriterSize(w, 1<<16)
	b.WriteString(signature)
	return &Writer{w: b}
}

// Write adds an entry. Entries are given in the order of [Compare].
func (w *Writer) Write(e *Entry) error {
	if w.last != "" && Compare(w.last, e.Path) >= 0 {
		return fmt.Errorf("manifest: %q comes after %q", e.Path, w.last)
	}
	w.last = e.Path
	w.line = appendLine(w.line[:0], e)
	_, err := w.w.Write(w.line)
	return err
}

// Close ends the manifest.
func (w *Writer) Close() error {
	w.w.WriteString(complete)
	return w.w.Flush()
}

func appendLine(b []byte, e *Entry) []byte {
	if e.Path == "." {
		b = append(b, '.')
	} else {
		b = appendEscaped(append(b, "./"...), e.Path)
	}
	b = append(append(b, " type="...), e.Type...)
	b = fmt.Appendf(b, " mode=%04o uid=%d gid=%d", e.Mode, e.UID, e.GID)
	if !e.Time.IsZero() {
		b = fmt.Appendf(b, " time=%d.%09d", e.Time.Unix(), e.Time.Nanosecond())
	}
	switch e.Type {
	case File:
		b = strconv.AppendInt(append(b, " size="...), e.Size, 10)
		b = append(append(b, " sha256digest="...), strings.TrimPrefix(e.Digest, "sha256:")...)
	case Link:
		b = appendEscaped(append(b, " link="...), e.Target)
	case Char, Block:
		b = fmt.Appendf(b, " device=linux,%d,%d", e.Major, e.Minor)
	}
	for _, x := range e.Xattrs {
		b = append(b, " xattr."...)
		for i, part := range strings.Split(x.Name, "=") {
			if i > 0 {
				b = append(b, `\075`...)
			}
			b = appendEscaped(b, part)
		}
		b = append(b, '=')
		b = base64.StdEncoding.AppendEncode(b, []byte(x.Value))
	}
	return append(b, '\n')
}

// appendEscaped writes what would end a word, or begin a pattern or a comment, as three
// octal digits after a backslash (vis(3)).
func appendEscaped(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c >= 0x7f, strings.IndexByte(`\#*?[`, c) >= 0:
			b = append(b, '\\', '0'+c>>6, '0'+c>>3&7, '0'+c&7)
		default:
			b = append(b, c)
		}
	}
	return b
}

func unescape(s string) (string, error) {
	if strings.IndexByte(s, '\\') < 0 {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i+3 >= len(s) {
			return "", fmt.Errorf("%q: cut short", s)
		}
		c, err := strconv.ParseUint(s[i+1:i+4], 8, 8)
		if err != nil {
			return "", err
		}
		b.WriteByte(byte(c))
		i += 3
	}
	return b.String(), nil
}

// ErrIncomplete is a manifest without its end.
var ErrIncomplete = errors.New("manifest: it was cut short")

// A Reader reads a manifest as [Writer] writes it, entry by entry.
type Reader struct {
	s    *bufio.Scanner
	c    io.Closer
	name string
	n    int // line
	last string
	done bool
}

// Open opens a manifest file, and looks whether it is whole.
func Open(name string) (*Reader, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return OpenFile(f)
}

// OpenFile is Open of a file that was opened; closing the Reader closes it.
func OpenFile(f *os.File) (*Reader, error) {
	name := f.Name()
	tail := make([]byte, len(complete))
	if info, err := f.Stat(); err != nil || info.Size() < int64(len(tail)) {
		return nil, errors.Join(fmt.Errorf("%q: %w", name, ErrIncomplete), err, f.Close())
	} else if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil || string(tail) != complete {
		return nil, errors.Join(fmt.Errorf("%q: %w", name, ErrIncomplete), err, f.Close())
	}
	r := NewReader(f)
	r.c, r.name = f, name
	return r, nil
}

// NewReader reads a manifest from r.
func NewReader(r io.Reader) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 1<<16), maxLine)
	return &Reader{s: s, name: "manifest"}
}

// Close closes the file of a Reader that [Open] made.
func (r *Reader) Close() error {
	if r.c == nil {
		return nil
	}
	return r.c.Close()
}

// Next returns the next entry, or io.EOF after the last.
func (r *Reader) Next() (*Entry, error) {
	for !r.done && r.s.Scan() {
		r.n++
		line := r.s.Text()
		switch {
		case line+"\n" == complete:
			r.done = true
			continue
		case line == "" || line[0] == '#':
			continue
		}
		e, err := parseLine(line)
		if err == nil && r.last != "" && Compare(r.last, e.Path) >= 0 {
			err = fmt.Errorf("%q comes after %q", e.Path, r.last)
		}
		if err != nil {
			return nil, fmt.Errorf("%q: line %d: %w", r.name, r.n, err)
		}
		r.last = e.Path
		return e, nil
	}
	if err := r.s.Err(); err != nil {
		return nil, fmt.Errorf("%q: line %d: %w", r.name, r.n+1, err)
	}
	if !r.done {
		return nil, fmt.Errorf("%q: %w", r.name, ErrIncomplete)
	}
	return nil, io.EOF
}

func parseLine(line string) (*Entry, error) {
	name, rest, _ := strings.Cut(line, " ")
	e := new(Entry)
	var err error
	if name == "." {
		e.Path = "."
	} else if below, ok := strings.CutPrefix(name, "./"); !ok || below == "" {
		return nil, fmt.Errorf("%q: want a path that begins with ./", name)
	} else if e.Path, err = unescape(below); err != nil {
		return nil, err
	} else if e.Path == "." || path.Clean("/"+e.Path) != "/"+e.Path || strings.IndexByte(e.Path, 0) >= 0 {
		return nil, fmt.Errorf("%q: want a clean relative path", e.Path)
	}
	for rest != "" {
		var word string
		word, rest, _ = strings.Cut(rest, " ")
		key, value, _ := strings.Cut(word, "=")
		if err := e.set(key, value); err != nil {
			return nil, fmt.Errorf("%q: %s: %w", e.Path, key, err)
		}
	}
	if e.Type == "" {
		return nil, fmt.Errorf("%q: no type", e.Path)
	}
	return e, nil
}

func (e *Entry) set(key, value string) (err error) {
	number := func(base int) uint32 {
		n, parseErr := strconv.ParseUint(value, base, 32)
		err = parseErr
		return uint32(n)
	}
	switch key {
	case "type":
		switch e.Type = Type(value); e.Type {
		case File, Dir, Link, Char, Block, FIFO, Socket:
		default:
			return fmt.Errorf("unknown type %q", value)
		}
	case "mode":
		e.Mode = number(8)
	case "uid":
		e.UID = number(10)
	case "gid":
		e.GID = number(10)
	case "time":
		seconds, fraction, _ := strings.Cut(value, ".")
		var s, ns int64
		if s, err = strconv.ParseInt(seconds, 10, 64); err == nil && fraction != "" {
			ns, err = strconv.ParseInt(fraction, 10, 64)
		}
		e.Time = time.Unix(s, ns)
	case "size":
		e.Size, err = strconv.ParseInt(value, 10, 64)
	case "sha256digest":
		if value != "" {
			e.Digest = "sha256:" + value
		}
	case "link":
		e.Target, err = unescape(value)
	case "device":
		if _, err = fmt.Sscanf(value, "linux,%d,%d", &e.Major, &e.Minor); err != nil {
			return fmt.Errorf("%q: want linux,MAJOR,MINOR", value)
		}
	default:
		name, ok := strings.CutPrefix(key, "xattr.")
		if !ok {
			return errors.New("unknown keyword")
		}
		if name, err = unescape(name); err != nil {
			return err
		}
		text, decodeErr := base64.StdEncoding.DecodeString(value)
		e.Xattrs = append(e.Xattrs, Xattr{name, string(text)})
		err = decodeErr
	}
	return err
}
