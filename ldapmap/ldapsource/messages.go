package ldapsource

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"

	"github.com/go-ldap/ldap/v3"
)

// A limit is what a server may deliver over one connection. go-ldap decodes
// whatever comes: an element of two bytes takes some hundred in memory, and a
// value is copied once for each level of nesting above it.
type limit struct {
	value    int // bytes of one value or name
	message  int // bytes of one message
	elements int // BER elements of one message: names, values and what holds them

	// Of all messages together; 0: no limit.
	totalBytes, totalElements int
}

// lookupLimit is some ten times what a lookup of 2000 entries needs.
func lookupLimit() *limit {
	return &limit{value: 64 << 10, message: 1 << 20, elements: 20_000, totalBytes: 8 << 20, totalElements: 400_000}
}

// storeLimit is for reading an inventory as a whole, as people do and mounts do not.
func storeLimit() *limit { return &limit{value: 4 << 20, message: 16 << 20, elements: 1 << 20} }

// maxDepth is how deep elements may nest. A value in a search result is at the sixth
// level, the fields of a control's value at the fifth.
const maxDepth = 10

// maxControls is how long the controls of one message may be, in bytes. go-ldap
// decodes what is in their values, too, to whatever depth.
const maxControls = 16 << 10

// messages is a connection that hands on whole LDAP messages (RFC 4511, section
// 5.1), after it has looked at their shape: an outermost SEQUENCE, definite lengths
// that fit into each other, and all of it within the limit.
type messages struct {
	net.Conn
	in    *bufio.Reader
	limit atomic.Pointer[limit]
	ended atomic.Pointer[error] // why nothing more was handed on

	message         []byte // the last one
	unread          []byte // its rest
	bytes, elements int    // so far
}

func newMessages(c net.Conn, l *limit) *messages {
	m := &messages{Conn: c, in: bufio.NewReader(c)}
	m.limit.Store(l)
	return m
}

func (m *messages) Read(p []byte) (int, error) {
	if len(m.unread) == 0 {
		if err := m.next(); err != nil {
			m.ended.CompareAndSwap(nil, &err)
			return 0, err
		}
	}
	n := copy(p, m.unread)
	m.unread = m.unread[n:]
	return n, nil
}

// next reads one message.
func (m *messages) next() error {
	header, err := m.in.Peek(2)
	if err != nil {
		return err
	}
	// Length octets beyond the first: at most four, as everybody sends (RFC 4511
	// sets no limit, and a message has to fit its own anyway).
	size := 2
	if header[1] > 0x80 {
		if size += int(header[1] & 0x7f); size > 6 {
			return errShape
		}
		if header, err = m.in.Peek(size); err != nil {
			return err
		}
	}
	const sequence = 0x30
	length, _, err := berLength(header[1:])
	if err != nil || header[0] != sequence {
		return errShape
	}
	limit := m.limit.Load()
	if length > limit.message {
		return fmt.Errorf("a message of %d bytes, more than %d", length, limit.message)
	}
	if m.bytes += size + length; limit.totalBytes > 0 && m.bytes > limit.totalBytes {
		return fmt.Errorf("more than %d bytes", limit.totalBytes)
	}
	if size += length; cap(m.message) < size {
		m.message = make([]byte, size)
	}
	m.message = m.message[:size]
	if _, err := io.ReadFull(m.in, m.message); err != nil {
		return err
	}
	left := limit.elements
	if err := limit.checkShape(m.message, maxDepth, &left); err != nil {
		return err
	}
	if err := checkControls(m.message); err != nil {
		return err
	}
	if m.elements += limit.elements - left; limit.totalElements > 0 && m.elements > limit.totalElements {
		return fmt.Errorf("more than %d values", limit.totalElements)
	}
	m.unread = m.message
	return nil
}

var errShape = errors.New("no LDAP message")

// checkShape walks through elements that follow each other.
func (l *limit) checkShape(b []byte, depth int, left *int) error {
	const constructed, longTag = 0x20, 0x1f
	for len(b) > 0 {
		if *left--; *left < 0 {
			return errors.New("a message of too many values")
		}
		tag := b[0]
		length, content, err := berLength(b[1:])
		if err != nil || length > len(content) || tag&longTag == longTag { // LDAP has no such tags
			return errShape
		}
		if tag&constructed != 0 {
			if depth == 0 {
				return errors.New("a message nested too deep")
			}
			if err := l.checkShape(content[:length], depth-1, left); err != nil {
				return err
			}
		} else if length > l.value {
			return fmt.Errorf("a value of %d bytes, more than %d", length, l.value)
		}
		b = content[length:]
	}
	return nil
}

// checkControls looks at the third part of a message whose shape is good, and at the
// second if it is an intermediate response, which go-ldap takes for a control.
func checkControls(message []byte) error {
	const intermediate = 0x60 | ldap.ApplicationIntermediateResponse
	_, parts, _ := berLength(message[1:])
	for n := 0; len(parts) > 0; n++ {
		length, content, _ := berLength(parts[1:])
		if (n >= 2 || n == 1 && parts[0] == intermediate) && length > maxControls {
			return fmt.Errorf("controls of %d bytes, more than %d", length, maxControls)
		}
		parts = content[length:]
	}
	return nil
}

// berLength reads the length octets at the start of b and returns what follows
// them. LDAP has definite lengths only.
func berLength(b []byte) (length int, content []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errShape
	}
	first, b := b[0], b[1:]
	if first < 0x80 {
		return int(first), b, nil
	}
	octets := int(first & 0x7f)
	if octets == 0 || octets > 4 || octets > len(b) {
		return 0, nil, errShape
	}
	var n int64
	for _, octet := range b[:octets] {
		n = n<<8 | int64(octet)
	}
	const most = 1<<31 - 1 // int has 32 bits on some machines
	if n > most {
		n = most // longer than any message may be
	}
	return int(n), b[octets:], nil
}
