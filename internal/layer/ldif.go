package layer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/ldapmap"
)

// An Entry is what the inventory says about a layer besides what [Build] found out.
type Entry struct {
	Name string // ^[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}$
	// Base is the distinguished name (RFC 4514), of at least one part, below which the
	// entry goes, in ou=layers.
	Base string
	// Arch are the machine architectures that it is for, as uname -m prints them.
	Arch []string
	// Segment are the names of the z/VM segments that hold it, "A" or "A:B"; "": none.
	// See [segment.ParseNames].
	Segment string
	// Kind is on whose part it is: site, group, host or user, or "" for the vendor's.
	Kind string
}

// Check reports whether an inventory entry can be made for an image file of this name,
// so that it is known before a build. The image's last element has to match
// ^[A-Za-z0-9._+@~-]+$: no inventory accepts another.
func (e Entry) Check(image string) error {
	if !ldapmap.ValidLayer(e.Name) {
		return fmt.Errorf("layer name %q: want a letter or digit, then up to 63 of letters, digits and . _ + ~ -", e.Name)
	}
	if file := filepath.Base(image); file == "." || file == ".." || file == "/" || !ldapmap.PlainPath(file) {
		return fmt.Errorf("image name %q: want letters, digits and . _ + @ ~ -", file)
	}
	if e.Kind != "" && !slices.Contains(ldapmap.Kinds(), e.Kind) {
		return fmt.Errorf("kind %q: want one of %s", e.Kind, strings.Join(ldapmap.Kinds(), ", "))
	}
	for _, arch := range e.Arch {
		if strings.IndexFunc(arch, notArch) >= 0 || arch == "" {
			return fmt.Errorf("architecture %q: want a name as uname -m prints it, such as s390x", arch)
		}
	}
	if e.Segment != "" {
		if _, err := segment.ParseNames(e.Segment); err != nil {
			return err
		}
	}
	dn, err := ldap.ParseDN(e.Base)
	if err != nil {
		return fmt.Errorf("base %q: %w", e.Base, err)
	}
	if len(dn.RDNs) == 0 {
		return errors.New("base is empty")
	}
	if !utf8.ValidString(e.Base) {
		return fmt.Errorf("base %q: LDAP holds UTF-8 only", e.Base)
	}
	return nil
}

func notArch(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' }

// LDIF gives the inventory's entry for the layer, objectClass levelfsLayer, as
// LDIF content (RFC 2849): cn=NAME,ou=layers,BASE, ended by an empty line. It
// fails where [Entry.Check] does.
func (r Result) LDIF(e Entry) (string, error) {
	if err := e.Check(r.Path); err != nil {
		return "", err
	}
	if r.Digest == "" || r.UUID == "" {
		return "", errors.New("the result is not one of a finished build")
	}
	type line struct{ attr, value string }
	lines := []line{
		// Of the name's characters only + has a meaning in a DN.
		{"dn", "cn=" + strings.ReplaceAll(e.Name, "+", `\+`) + ",ou=layers," + e.Base},
		{"objectClass", "levelfsLayer"},
		{"cn", e.Name},
		{"levelfsDigest", r.Digest},
		{"levelfsSize", strconv.FormatInt(r.Size, 10)},
		{"levelfsFSType", r.FSType},
		{"levelfsUUID", r.UUID},
		{"levelfsImage", filepath.Base(r.Path)},
	}
	if r.Manifest != "" {
		lines = append(lines, line{"levelfsManifest", r.Manifest})
	}
	if e.Kind != "" && e.Kind != ldapmap.KindVendor {
		lines = append(lines, line{"levelfsKind", e.Kind})
	}
	for _, arch := range e.Arch {
		lines = append(lines, line{"levelfsArch", arch})
	}
	if e.Segment != "" {
		lines = append(lines, line{"levelfsSegment", strings.ToUpper(e.Segment)})
	}
	var b strings.Builder
	for _, l := range lines {
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
