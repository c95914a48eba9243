package ldapmap

import (
	"fmt"
	"path"
	"strings"
)

// maxName is the longest component, level, layer or profile name, in bytes.
const maxName = 64

// A Key names a component, or one level of it: "emacs" or "emacs@29.4-1".
type Key struct {
	Component string `json:"component"`
	Level     string `json:"level,omitempty"` // empty: the caller's level
}

// ParseKey reads a key as automount, mount(8) or a person gives it. It accepts
// only what matches
//
//	^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}(@[A-Za-z0-9][A-Za-z0-9._+~-]{0,63})?$
//
// so that a key can stand in a path, a mount option or a map line as it is.
// Anything else is a *KeyError. It does no input or output.
func ParseKey(s string) (Key, error) {
	component, level, explicit := strings.Cut(s, "@")
	if !validComponent(component) || explicit && !validLevel(level) {
		return Key{}, &KeyError{Key: s}
	}
	return Key{Component: component, Level: level}, nil
}

// String is the inverse of ParseKey. A level's full name is its key.
func (k Key) String() string {
	if k.Level == "" {
		return k.Component
	}
	return k.Component + "@" + k.Level
}

// A KeyError is a key that ParseKey refuses.
type KeyError struct{ Key string }

func (e *KeyError) Error() string {
	key := e.Key
	if len(key) > 80 {
		key = key[:80] + "…"
	}
	return fmt.Sprintf("invalid key %q: want COMPONENT or COMPONENT@LEVEL", key)
}

func validComponent(s string) bool { return validName(s, "._+-") }
func validLevel(s string) bool     { return validName(s, "._+~-") }
func validProfile(s string) bool   { return validName(s, "._+-") }

// ValidLayer reports whether s can be the name of a layer: 1 to 64 ASCII letters,
// digits and ._+~-, of which the first is a letter or a digit.
func ValidLayer(s string) bool { return validName(s, "._+~-") }

// validName reports whether s is 1 to 64 bytes of ASCII letters, digits and the
// punctuation given, and starts with a letter or a digit.
func validName(s, punctuation string) bool {
	if s == "" || len(s) > maxName || !alphanumeric(s[0]) {
		return false
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && strings.IndexByte(punctuation, s[i]) < 0 {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// validPath reports whether s can stand in a mount option, a map line and an
// fstab field without quoting, and names a place below the directory it is
// relative to (or an absolute one): no "..", no empty element, no byte outside
// a small set.
func validPath(s string) bool {
	if s == "" || s == "/" || s == "." || len(s) > 1024 || path.Clean(s) != s || s == ".." || strings.HasPrefix(s, "../") {
		return false
	}
	return PlainPath(s)
}

// PlainPath reports whether s has only letters, digits and /._+@~-, so that it can
// stand in a mount option, in mountinfo and in a map without quoting: overlayfs,
// the kernel's lists and autofs each have an escape of their own.
func PlainPath(s string) bool {
	for i := range len(s) {
		if !alphanumeric(s[i]) && strings.IndexByte("/._+@~-", s[i]) < 0 {
			return false
		}
	}
	return true
}

// ValidUser reports whether s can be looked up as a user: 1 to 64 letters, digits
// and ._- of which the first is a letter or a digit.
func ValidUser(s string) bool { return validName(s, "._-") }

// ValidHost reports whether s can be looked up as a host: an RFC 1123 name,
// with underscores tolerated because real networks have them.
func ValidHost(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if len(label) > 63 || !validName(label, "_-") {
			return false
		}
	}
	return true
}

// ValidProfile reports whether s can be the name of a profile: 1 to 64 ASCII letters,
// digits and ._+-, of which the first is a letter or a digit.
func ValidProfile(s string) bool { return validProfile(s) }

// SameHost reports whether two names are one host's: the same, or where one of the two
// has a domain and the other has none, the same without it.
func SameHost(a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	shortA, _, fullA := strings.Cut(a, ".")
	shortB, _, fullB := strings.Cut(b, ".")
	return fullA != fullB && strings.EqualFold(shortA, shortB)
}
