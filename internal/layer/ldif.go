package layer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/ldapmap"
)

// CheckEntry reports whether an inventory entry can be made of a layer with this
// name, below this base, in an image file of this name, so that it is known
// before a build. The name must match ^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$, the
// image's last element ^[A-Za-z0-9._+@~-]+$ (no inventory accepts another), and
// base must be a distinguished name (RFC 4514) with at least one part.
func CheckEntry(name, base, image string) error {
	if !ldapmap.ValidLayer(name) {
		return fmt.Errorf("layer name %q: want a letter or digit, then up to 63 of letters, digits and . _ + ~ -", name)
	}
	if file := filepath.Base(image); file == "." || file == ".." || file == "/" || !ldapmap.PlainPath(file) {
		return fmt.Errorf("image name %q: want letters, digits and . _ + @ ~ -", file)
	}
	dn, err := ldap.ParseDN(base)
	if err != nil {
		return fmt.Errorf("base %q: %w", base, err)
	}
	if len(dn.RDNs) == 0 {
		return errors.New("base is empty")
	}
	if !utf8.ValidString(base) {
		return fmt.Errorf("base %q: LDAP holds UTF-8 only", base)
	}
	return nil
}

// LDIF gives the inventory's entry for the layer, objectClass levelfsLayer, as
// LDIF content (RFC 2849): cn=NAME,ou=layers,BASE, ended by an empty line. It
// fails where [CheckEntry] does.
func (r Result) LDIF(name, base string) (string, error) {
	if err := CheckEntry(name, base, r.Path); err != nil {
		return "", err
	}
	if r.Digest == "" || r.UUID == "" {
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
		{"levelfsImage", filepath.Base(r.Path)},
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
