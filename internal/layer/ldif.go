package layer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
)

// LDIF gives the inventory's entry for the layer, objectClass levelfsLayer, as
// LDIF content (RFC 2849): cn=NAME,ou=layers,BASE, ended by an empty line.
//
// The name must match ^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$ and base must be a
// distinguished name (RFC 4514) with at least one part. The entry names the image
// by its base name, which LDAP can hold only if it is UTF-8.
func (r Result) LDIF(name, base string) (string, error) {
	// Compiled here: LDIF is called once in a run, and other commands that import
	// the package should not pay for it at start.
	if !regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\z`).MatchString(name) {
		return "", fmt.Errorf("layer name %q: want a letter or digit, then up to 63 of letters, digits and . _ + -", name)
	}
	dn, err := ldap.ParseDN(base)
	if err != nil {
		return "", fmt.Errorf("base %q: %w", base, err)
	}
	if len(dn.RDNs) == 0 {
		return "", errors.New("base is empty")
	}
	image := filepath.Base(r.Path)
	if !utf8.ValidString(image) || !utf8.ValidString(base) {
		return "", fmt.Errorf("image %q, base %q: LDAP holds UTF-8 only", image, base)
	}
	if r.Path == "" || r.Digest == "" || r.UUID == "" {
		return "", errors.New("the result is not one of a finished build")
	}
	var b strings.Builder
	for _, l := range [...]struct{ attr, value string }{
		// Of the name's characters only + has a meaning in a DN.
		{"dn", "cn=" + strings.ReplaceAll(name, "+", `\+`) + ",ou=layers," + base},
		{"objectClass", "levelfsLayer"},
		{"cn", name},
		{"levelfsDigest", r.Digest},
		{"levelfsSize", strconv.FormatInt(r.Size, 10)},
		{"levelfsFSType", r.FSType},
		{"levelfsUUID", r.UUID},
		{"levelfsImage", image},
	} {
		b.WriteString(l.attr)
		if safeString(l.value) {
			b.WriteString(": " + l.value + "\n")
		} else {
			b.WriteString(":: " + base64.StdEncoding.EncodeToString([]byte(l.value)) + "\n")
		}
	}
	b.WriteByte('\n')
	return b.String(), nil
}

// safeString tells whether LDIF can hold s as it is: RFC 2849, SAFE-STRING, and
// its advice (note 8) to encode what ends in a space.
func safeString(s string) bool {
	for i := range len(s) {
		if c := s[i]; c == 0 || c == '\n' || c == '\r' || c >= 0x80 {
			return false
		}
	}
	return s == "" || !strings.ContainsRune(" :<", rune(s[0])) && s[len(s)-1] != ' '
}
