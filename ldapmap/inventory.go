package ldapmap

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Object classes and attributes of packaging/schema, as they are sent. Decoding
// uses the same names in lower case.
const (
	classComponent = "levelfsComponent"
	classLevel     = "levelfsLevel"
	classLayer     = "levelfsLayer"
	classCaller    = "levelfsCaller"
	classProfile   = "levelfsProfile"

	// RFC 2307.
	classPosixGroup = "posixGroup"
	classNetgroup   = "nisNetgroup"

	attrAssignment = "levelfsAssignment"
	attrMandatory  = "levelfsMandatory"
	attrProfileRef = "levelfsProfileRef"
	attrCustomize  = "levelfsCustomize"
)

// A Component is a named piece of software delivered at one place.
type Component struct {
	DN          string        `json:"dn"`
	Name        string        `json:"name"`
	Default     string        `json:"default,omitempty"`    // level, or "" for none
	MountPoint  string        `json:"mountPoint,omitempty"` // absolute path for direct maps, or ""
	Private     PrivatePolicy `json:"private"`
	XIP         string        `json:"xip,omitempty"`     // auto, require or off, or ""; see [Layer]
	OnStale     string        `json:"onStale,omitempty"` // warn or stop, or "": the machine says
	Description string        `json:"description,omitempty"`
}

// PrivatePolicy says what becomes of what a caller writes into a component.
type PrivatePolicy string

// The private policies of a component.
const (
	Persistent PrivatePolicy = "persistent" // kept in the caller's private layer, for ever
	Ephemeral  PrivatePolicy = "ephemeral"  // kept in memory until the view is unmounted
	None       PrivatePolicy = "none"       // refused: the view is read-only
)

// A Level is one immutable version of a component.
type Level struct {
	DN     string   `json:"dn"`
	Name   string   `json:"name"`   // "emacs@29.4-1"
	Layers []string `json:"layers"` // layer names, topmost first
	State  string   `json:"state"`  // draft, test, released, retired
	// NotBefore and NotAfter bound when it may be run; zero: no bound.
	NotBefore time.Time `json:"notBefore,omitzero"`
	NotAfter  time.Time `json:"notAfter,omitzero"`
	Successor string    `json:"successor,omitempty"` // level to run instead of a retired one
	Seal      string    `json:"seal,omitempty"`      // of its layers, when it was released; see [Seal]
}

// A Layer is one read-only file system image.
type Layer struct {
	DN       string   `json:"dn"`
	Name     string   `json:"name"`
	FSType   string   `json:"fstype"`             // erofs, squashfs, ext4, or dir for a plain directory
	Digest   string   `json:"digest,omitempty"`   // "sha256:" and 64 hex digits of the image's bytes; none for dir
	Size     int64    `json:"size,omitempty"`     // bytes of the image; 0 if the inventory does not say
	UUID     string   `json:"uuid,omitempty"`     // file system UUID, canonical lower case, or ""
	Images   []string `json:"images"`             // locations; the first that is there is used
	Segments []string `json:"segments,omitempty"` // that hold it, each NAME or A:B; in the order of their names
	// XIP is what is wanted of execution in place from a segment or a pmem device: auto,
	// require or off. "" leaves it to the component, and that to the machine.
	XIP string `json:"xip,omitempty"`
	// Manifest is the digest of the list of the layer's files, "sha256:" and 64 hex
	// digits, or "".
	Manifest string `json:"manifest,omitempty"`
	Kind     string `json:"kind"` // on whose part it is: KindVendor and so on
}

func (e Entry) invalid(attr, value, want string) error {
	return &InvalidError{DN: e.DN, Attr: attr, Value: value, Want: want}
}

// single refuses more than one value where there can be one. A directory server
// does so by the schema; LDIF files have nobody who would.
func (e Entry) single(attrs ...string) error {
	for _, attr := range attrs {
		if values := e.Attrs[strings.ToLower(attr)]; len(values) > 1 {
			return e.invalid(attr, values[1], "one value")
		}
	}
	return nil
}

func decodeComponent(e Entry, name string) (Component, error) {
	if err := e.single("levelfsDefault", "levelfsMountPoint", "levelfsPrivate", "levelfsXIP", "levelfsOnStale"); err != nil {
		return Component{}, err
	}
	c := Component{
		DN:          e.DN,
		Name:        name,
		Default:     e.First("levelfsdefault"),
		MountPoint:  e.First("levelfsmountpoint"),
		Private:     PrivatePolicy(strings.ToLower(e.First("levelfsprivate"))),
		XIP:         strings.ToLower(e.First("levelfsxip")),
		OnStale:     strings.ToLower(e.First("levelfsonstale")),
		Description: e.First("description"),
	}
	if !validXIP(c.XIP) {
		return c, e.invalid("levelfsXIP", c.XIP, wantXIP)
	}
	if c.OnStale != "" && c.OnStale != "warn" && c.OnStale != "stop" {
		return c, e.invalid("levelfsOnStale", c.OnStale, "warn or stop")
	}
	if c.Default != "" && !validLevel(c.Default) {
		return c, e.invalid("levelfsDefault", c.Default, "a level name such as 29.4-1")
	}
	if c.MountPoint != "" && (!validPath(c.MountPoint) || c.MountPoint[0] != '/') {
		return c, e.invalid("levelfsMountPoint", c.MountPoint, "an absolute path of letters, digits and /._+@~-")
	}
	for _, v := range e.Attrs[strings.ToLower(attrCustomize)] {
		if custom, ok := ParseCustomization(v); !ok || custom.Component != name {
			return c, e.invalid(attrCustomize, v, name+"=NN:LAYER, as it is the component's own entry")
		}
	}
	switch c.Private {
	case "":
		c.Private = Persistent
	case Persistent, Ephemeral, None:
	default:
		return c, e.invalid("levelfsPrivate", string(c.Private), "persistent, ephemeral or none")
	}
	return c, nil
}

// time reads a generalizedTime (RFC 4517, section 3.3.13), the zero time if the
// entry has none.
func (e Entry) time(attr string) (time.Time, error) {
	value := e.First(strings.ToLower(attr))
	if value == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{"20060102150405Z0700", "200601021504Z0700", "2006010215Z0700"} {
		if t, err := time.Parse(layout, value); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, e.invalid(attr, value, "a generalizedTime such as 20270101000000Z")
}

func decodeLevel(e Entry, name string) (Level, error) {
	if err := e.single("levelfsState", "levelfsNotBefore", "levelfsNotAfter", "levelfsSuccessor", "levelfsSeal"); err != nil {
		return Level{}, err
	}
	l := Level{DN: e.DN, Name: name, State: strings.ToLower(e.First("levelfsstate")), Successor: e.First("levelfssuccessor"),
		Seal: strings.ToLower(e.First("levelfsseal"))}
	var err error
	if l.NotBefore, err = e.time("levelfsNotBefore"); err != nil {
		return l, err
	}
	if l.NotAfter, err = e.time("levelfsNotAfter"); err != nil {
		return l, err
	}
	if l.Successor != "" && !validLevel(l.Successor) {
		return l, e.invalid("levelfsSuccessor", l.Successor, "a level name such as 29.4-1")
	}
	if l.Seal != "" && !validDigest(l.Seal) {
		return l, e.invalid("levelfsSeal", l.Seal, "sha256: and 64 hexadecimal digits")
	}
	switch l.State {
	case "":
		l.State = "released"
	case "draft", "test", "released", "retired":
	default:
		return l, e.invalid("levelfsState", l.State, "draft, test, released or retired")
	}
	refs := e.Attrs["levelfslayerref"]
	if len(refs) == 0 {
		return l, e.invalid("levelfsLayerRef", "", "at least one NN:layer")
	}
	order := make(map[int]string, len(refs))
	seen := make(map[string]bool, len(refs))
	var ranks []int
	for _, ref := range refs {
		num, layer, ok := strings.Cut(ref, ":")
		n, err := strconv.Atoi(num)
		if !ok || err != nil || n < 0 || !ValidLayer(layer) {
			return l, e.invalid("levelfsLayerRef", ref, "NN:layer")
		}
		if other, dup := order[n]; dup {
			return l, e.invalid("levelfsLayerRef", ref, "an order number of its own: "+strconv.Quote(other)+" has it too")
		}
		if seen[layer] {
			return l, e.invalid("levelfsLayerRef", ref, "each layer once")
		}
		order[n], seen[layer] = layer, true
		ranks = append(ranks, n)
	}
	sort.Ints(ranks)
	for _, n := range ranks {
		l.Layers = append(l.Layers, order[n])
	}
	return l, nil
}

func decodeLayer(e Entry, name string) (Layer, error) {
	if err := e.single("levelfsFSType", "levelfsDigest", "levelfsUUID", "levelfsSize", "levelfsXIP", "levelfsManifest", "levelfsKind"); err != nil {
		return Layer{}, err
	}
	l := Layer{
		DN:       e.DN,
		Name:     name,
		FSType:   strings.ToLower(e.First("levelfsfstype")),
		Digest:   strings.ToLower(e.First("levelfsdigest")),
		UUID:     strings.ToLower(e.First("levelfsuuid")),
		Images:   slices.Sorted(slices.Values(e.Attrs["levelfsimage"])), // LDAP values have no order
		Segments: slices.Sorted(slices.Values(e.Attrs["levelfssegment"])),
		XIP:      strings.ToLower(e.First("levelfsxip")),
		Manifest: strings.ToLower(e.First("levelfsmanifest")),
	}
	if l.Kind = strings.ToLower(e.First("levelfskind")); l.Kind == "" {
		l.Kind = KindVendor
	}
	if !slices.Contains(Kinds(), l.Kind) {
		return l, e.invalid("levelfsKind", l.Kind, wantKind)
	}
	if l.Manifest != "" && !validDigest(l.Manifest) {
		return l, e.invalid("levelfsManifest", l.Manifest, "sha256: and 64 hexadecimal digits")
	}
	if !validXIP(l.XIP) {
		return l, e.invalid("levelfsXIP", l.XIP, wantXIP)
	}
	switch l.FSType {
	case "erofs", "squashfs", "ext4":
		if !validDigest(l.Digest) {
			return l, e.invalid("levelfsDigest", l.Digest, "sha256: and 64 hexadecimal digits")
		}
	case "dir":
		if l.Digest != "" {
			return l, e.invalid("levelfsDigest", l.Digest, "no digest on a plain directory: nothing checks it")
		}
	default:
		return l, e.invalid("levelfsFSType", l.FSType, "erofs, squashfs, ext4 or dir")
	}
	if s := e.First("levelfssize"); s != "" {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n <= 0 {
			return l, e.invalid("levelfsSize", s, "a number of bytes")
		}
		l.Size = n
	}
	if l.UUID != "" && !validUUID(l.UUID) {
		return l, e.invalid("levelfsUUID", l.UUID, "a UUID in its canonical form")
	}
	for _, image := range l.Images {
		if !validPath(image) {
			return l, e.invalid("levelfsImage", image, "a path of letters, digits and /._+@~-")
		}
	}
	for _, segment := range l.Segments {
		for name := range strings.SplitSeq(segment, ":") {
			if len(name) > 8 || !validName(name, "$#@") {
				return l, e.invalid("levelfsSegment", segment, "DCSS names of 1 to 8 characters, joined by a colon")
			}
		}
	}
	return l, nil
}

const wantXIP = "auto, require or off"

func validXIP(s string) bool { return s == "" || s == "auto" || s == "require" || s == "off" }

func validDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && len(hex) == 64 && lowerHex(hex)
}

func validUUID(s string) bool {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	return lowerHex(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
}

func lowerHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
