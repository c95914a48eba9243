package ldapmap

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// entry makes an entry of "attribute: value" lines.
func entry(lines ...string) Entry {
	return source("", "dn: cn=x,ou=test\n"+strings.Join(lines, "\n")).entries[0]
}

// A decodeCase is one attribute value and what becomes of it.
type decodeCase struct {
	name  string
	lines []string
	attr  string // of the *InvalidError; "" if the entry is good
}

func checkInvalid(t *testing.T, err error, attr string) {
	t.Helper()
	if attr == "" {
		if err != nil {
			t.Errorf("refused: %v", err)
		}
		return
	}
	var invalid *InvalidError
	if !errors.As(err, &invalid) || invalid.DN != "cn=x,ou=test" || invalid.Attr != attr {
		t.Fatalf("got error %v, want an *InvalidError for %s in the entry", err, attr)
	}
	for _, fact := range []string{invalid.DN, attr, invalid.Want} {
		if fact == "" || !strings.Contains(err.Error(), fact) {
			t.Errorf("error %q does not say %q", err, fact)
		}
	}
}

func TestDecodeComponent(t *testing.T) {
	t.Parallel()
	for _, c := range []decodeCase{
		{"least", nil, ""},
		{"default", []string{"levelfsDefault: 29.4~rc1-1+x_y"}, ""},
		{"mount point", []string{"levelfsMountPoint: /opt/emacs-29@x"}, ""},
		{"ephemeral", []string{"levelfsPrivate: Ephemeral"}, ""},
		{"none", []string{"levelfsPrivate: none"}, ""},
		{"on stale", []string{"levelfsOnStale: Stop"}, ""},
		{"something else on stale", []string{"levelfsOnStale: refuse"}, "levelfsOnStale"},
		{"two on stale", []string{"levelfsOnStale: stop", "levelfsOnStale: warn"}, "levelfsOnStale"},
		{"default with its component", []string{"levelfsDefault: emacs@29"}, "levelfsDefault"},
		{"default with a slash", []string{"levelfsDefault: ../29"}, "levelfsDefault"},
		{"default with an option", []string{"levelfsDefault: 29,suid"}, "levelfsDefault"},
		{"long default", []string{"levelfsDefault: " + strings.Repeat("1", 65)}, "levelfsDefault"},
		{"relative mount point", []string{"levelfsMountPoint: opt/emacs"}, "levelfsMountPoint"},
		{"mount point with a blank", []string{"levelfsMountPoint: /opt/em acs"}, "levelfsMountPoint"},
		{"mount point above", []string{"levelfsMountPoint: /opt/../etc"}, "levelfsMountPoint"},
		{"mount point is the root", []string{"levelfsMountPoint: /"}, "levelfsMountPoint"},
		{"mount point with a quote", []string{`levelfsMountPoint: /opt/"x`}, "levelfsMountPoint"},
		{"mount point is a comment", []string{"levelfsMountPoint: #/opt"}, "levelfsMountPoint"},
		{"policy", []string{"levelfsPrivate: sometimes"}, "levelfsPrivate"},
		// An LDIF file has no schema that would refuse it, and nothing says which of
		// the two is meant.
		{"two defaults", []string{"levelfsDefault: 1", "levelfsDefault: 2"}, "levelfsDefault"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeComponent(entry(c.lines...), "emacs")
			checkInvalid(t, err, c.attr)
		})
	}
	got, err := decodeComponent(entry("levelfsDefault: 29.4-1", "levelfsMountPoint: /opt/emacs",
		"levelfsPrivate: EPHEMERAL", "levelfsOnStale: STOP", "description: The editor, für alle"), "emacs")
	want := Component{DN: "cn=x,ou=test", Name: "emacs", Default: "29.4-1", MountPoint: "/opt/emacs",
		Private: Ephemeral, OnStale: "stop", Description: "The editor, für alle"}
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	if got, err := decodeComponent(entry(), "emacs"); err != nil || got.Private != Persistent {
		t.Errorf("without a policy: %+v, %v; want persistent", got, err)
	}
}

func TestDecodeLevel(t *testing.T) {
	t.Parallel()
	for _, c := range []decodeCase{
		{"least", []string{"levelfsLayerRef: 0:a"}, ""},
		{"tilde", []string{"levelfsLayerRef: 00:emacs-31~rc1"}, ""},
		{"draft", []string{"levelfsLayerRef: 0:a", "levelfsState: DRAFT"}, ""},
		{"retired", []string{"levelfsLayerRef: 0:a", "levelfsState: retired"}, ""},
		{"no layers", nil, "levelfsLayerRef"},
		{"no order", []string{"levelfsLayerRef: a"}, "levelfsLayerRef"},
		{"empty order", []string{"levelfsLayerRef: :a"}, "levelfsLayerRef"},
		{"no layer", []string{"levelfsLayerRef: 00:"}, "levelfsLayerRef"},
		{"negative", []string{"levelfsLayerRef: -1:a"}, "levelfsLayerRef"},
		{"hexadecimal", []string{"levelfsLayerRef: 0x1:a"}, "levelfsLayerRef"},
		{"too large", []string{"levelfsLayerRef: 99999999999999999999:a"}, "levelfsLayerRef"},
		{"layer with a slash", []string{"levelfsLayerRef: 00:../a"}, "levelfsLayerRef"},
		{"layer with a colon", []string{"levelfsLayerRef: 00:a:b"}, "levelfsLayerRef"},
		{"layer with a comma", []string{"levelfsLayerRef: 00:a,b"}, "levelfsLayerRef"},
		{"one number twice", []string{"levelfsLayerRef: 0:a", "levelfsLayerRef: 00:b"}, "levelfsLayerRef"},
		{"one layer twice", []string{"levelfsLayerRef: 0:a", "levelfsLayerRef: 1:a"}, "levelfsLayerRef"},
		{"two states", []string{"levelfsLayerRef: 0:a", "levelfsState: draft", "levelfsState: released"}, "levelfsState"},
		{"state", []string{"levelfsLayerRef: 0:a", "levelfsState: shipped"}, "levelfsState"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeLevel(entry(c.lines...), "emacs@1")
			checkInvalid(t, err, c.attr)
		})
	}
	// The numbers are numbers: as text, 10 would come before 9.
	got, err := decodeLevel(entry("levelfsLayerRef: 10:c", "levelfsLayerRef: 9:b", "levelfsLayerRef: 00:a"), "emacs@1")
	want := Level{DN: "cn=x,ou=test", Name: "emacs@1", Layers: []string{"a", "b", "c"}, State: "released"}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestDecodeLayer(t *testing.T) {
	t.Parallel()
	digest := "levelfsDigest: sha256:" + strings.Repeat("0a", 32)
	image := func(lines ...string) []string {
		return append([]string{"levelfsFSType: erofs", digest}, lines...)
	}
	for _, c := range []decodeCase{
		{"least", image(), ""},
		{"dir", []string{"levelfsFSType: dir"}, ""},
		{"squashfs", []string{"levelfsFSType: SquashFS", digest}, ""},
		{"ext4", []string{"levelfsFSType: ext4", digest}, ""},
		{"digest in upper case", []string{"levelfsFSType: erofs", strings.ToUpper(digest)}, ""},
		{"segments", image("levelfsSegment: EMACS294", "levelfsSegment: A$#@1:B2"), ""},
		{"no type", []string{digest}, "levelfsFSType"},
		{"another type", []string{"levelfsFSType: xfs", digest}, "levelfsFSType"},
		{"type with an option", []string{"levelfsFSType: ext4,suid", digest}, "levelfsFSType"},
		{"no digest", []string{"levelfsFSType: erofs"}, "levelfsDigest"},
		{"another hash", []string{"levelfsFSType: erofs", "levelfsDigest: md5:" + strings.Repeat("0", 64)}, "levelfsDigest"},
		{"short digest", []string{"levelfsFSType: erofs", "levelfsDigest: sha256:" + strings.Repeat("0", 63)}, "levelfsDigest"},
		{"long digest", []string{"levelfsFSType: erofs", "levelfsDigest: sha256:" + strings.Repeat("0", 65)}, "levelfsDigest"},
		{"digest with a slash", []string{"levelfsFSType: erofs", "levelfsDigest: sha256:" + strings.Repeat("0", 63) + "/"}, "levelfsDigest"},
		{"dir with a digest", []string{"levelfsFSType: dir", digest}, "levelfsDigest"},
		{"two digests", image(digest), "levelfsDigest"},
		{"size", image("levelfsSize: big"), "levelfsSize"},
		{"no size", image("levelfsSize: 0"), "levelfsSize"},
		{"negative size", image("levelfsSize: -1"), "levelfsSize"},
		{"size beyond 64 bits", image("levelfsSize: 9223372036854775808"), "levelfsSize"},
		{"UUID", image("levelfsUUID: 2b6a51c4-90f3-4d1e-8a77"), "levelfsUUID"},
		{"UUID without dashes", image("levelfsUUID: 2b6a51c490f34d1e8a77c05d3e9b1f62"), "levelfsUUID"},
		{"UUID in braces", image("levelfsUUID: {2b6a51c4-90f3-4d1e-8a77-c05d3e9b1f6}"), "levelfsUUID"},
		{"UUID of no digits", image("levelfsUUID: 2b6a51c4-90f3-4d1e-8a77-c05d3e9b1f6g"), "levelfsUUID"},
		{"image above", image("levelfsImage: ../x"), "levelfsImage"},
		{"image with a blank", image("levelfsImage: a b"), "levelfsImage"},
		{"second image", image("levelfsImage: a", "levelfsImage: b:c"), "levelfsImage"},
		{"kind", image("levelfsKind: Site"), ""},
		{"unknown kind", image("levelfsKind: department"), "levelfsKind"},
		{"two kinds", image("levelfsKind: site", "levelfsKind: host"), "levelfsKind"},
		{"long segment", image("levelfsSegment: EMACS2941"), "levelfsSegment"},
		{"empty segment", image("levelfsSegment: A::B"), "levelfsSegment"},
		{"segment with a slash", image("levelfsSegment: A/B"), "levelfsSegment"},
		{"segment starts with a sign", image("levelfsSegment: $A"), "levelfsSegment"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := decodeLayer(entry(c.lines...), "base")
			checkInvalid(t, err, c.attr)
		})
	}
	got, err := decodeLayer(entry("levelfsFSType: EROFS", "levelfsDigest: SHA256:"+strings.Repeat("0A", 32), "levelfsSize: 4096",
		"levelfsUUID: 2B6A51C4-90F3-4D1E-8A77-C05D3E9B1F62", "levelfsImage: b.erofs", "levelfsImage: /a/a.erofs"), "base")
	want := Layer{DN: "cn=x,ou=test", Name: "base", FSType: "erofs", Digest: "sha256:" + strings.Repeat("0a", 32), Size: 4096,
		UUID: "2b6a51c4-90f3-4d1e-8a77-c05d3e9b1f62", Images: []string{"/a/a.erofs", "b.erofs"}, Kind: KindVendor}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

// TestDecodeKeepsEntry guards against a decoder that sorts the entry's own values.
func TestDecodeKeepsEntry(t *testing.T) {
	t.Parallel()
	e := entry("levelfsFSType: dir", "levelfsImage: b", "levelfsImage: a")
	if _, err := decodeLayer(e, "base"); err != nil {
		t.Fatal(err)
	}
	if got := e.Attrs["levelfsimage"]; !reflect.DeepEqual(got, []string{"b", "a"}) {
		t.Errorf("the entry is changed: %q", got)
	}
}

func TestEntry(t *testing.T) {
	t.Parallel()
	e := entry("objectClass: top", "objectClass: LevelfsLayer", "cn: a", "cn: b")
	if !e.Is("levelfsLayer") || !e.Is("TOP") || e.Is("levelfsLevel") {
		t.Errorf("classes of %+v", e)
	}
	if e.First("cn") != "a" || e.First("sn") != "" {
		t.Errorf("first values of %+v", e)
	}
}
