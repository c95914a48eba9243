package dcss

import (
	"fmt"
	"strings"
)

// maxName is the length of a segment's name in CP, and in the driver.
const maxName = 8

// A NameError is a name that no segment can have, or a list that no device can.
type NameError struct {
	Name   string
	Reason string
}

func (e *NameError) Error() string {
	return fmt.Sprintf("segment name %q: %s", e.Name, e.Reason)
}

// ParseName returns the name as CP knows it, in upper case. A name has 1 to 8 of
// the letters, digits and national characters that CP takes for the names of
// saved segments, $ # @ _ + and -; the error is a *[NameError].
func ParseName(name string) (string, error) {
	if name == "" {
		return "", &NameError{name, "is empty"}
	}
	if len(name) > maxName {
		return "", &NameError{name, "is longer than 8 characters"}
	}
	for _, c := range []byte(name) {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("$#@_+-", c) >= 0:
		default:
			return "", &NameError{name, fmt.Sprintf("holds %q", c)}
		}
	}
	return strings.ToUpper(name), nil
}

// ParseNames parses the names of the segments of one device, "A:B" in the driver's
// notation. At least one is needed, and none may be there twice: the driver would
// load it twice before it refuses.
func ParseNames(names ...string) ([]string, error) {
	if len(names) == 0 {
		return nil, &NameError{"", "no segment is named"}
	}
	seen := make(map[string]bool)
	var parsed []string
	for _, name := range names {
		n, err := ParseName(name)
		if err != nil {
			return nil, err
		}
		if seen[n] {
			return nil, &NameError{name, "is there twice"}
		}
		seen[n] = true
		parsed = append(parsed, n)
	}
	return parsed, nil
}

func join(names []string) string { return strings.Join(names, ":") }
