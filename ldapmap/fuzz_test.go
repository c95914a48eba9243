package ldapmap

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// What decoding lets through goes into paths, mount options and map lines. These are
// the whitelists once more, written independently of the code.
var (
	goodName   = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9._+~-]{0,63}\z`)
	goodPath   = regexp.MustCompile(`\A[A-Za-z0-9/._+@~-]+\z`)
	goodDigest = regexp.MustCompile(`\Asha256:[0-9a-f]{64}\z`)
	goodUUID   = regexp.MustCompile(`\A[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\z`)
	goodDCSS   = regexp.MustCompile(`\A[A-Za-z0-9][A-Za-z0-9$#@]{0,7}(:[A-Za-z0-9][A-Za-z0-9$#@]{0,7})*\z`)
)

// values makes an entry of "attribute: value" records, separated by NUL: a value may
// have newlines in it, as LDAP's may.
func values(text string) Entry {
	e := Entry{DN: "cn=x,ou=test", Attrs: make(map[string][]string)}
	for record := range strings.SplitSeq(text, "\x00") {
		attr, value, _ := strings.Cut(record, ": ")
		attr = strings.ToLower(attr)
		e.Attrs[attr] = append(e.Attrs[attr], value)
	}
	return e
}

// isGoodPath reports whether a path can be used as it is.
func isGoodPath(p string) bool {
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return false
		}
	}
	return len(p) <= 1024 && goodPath.MatchString(p)
}

func FuzzDecodeLayer(f *testing.F) {
	sha := "levelfsDigest: sha256:" + strings.Repeat("a", 64)
	f.Add("levelfsFSType: erofs\x00" + sha + "\x00levelfsImage: a/b.erofs\x00levelfsSegment: EMACS294:EMACS295\x00levelfsSize: 4096")
	f.Add("levelfsFSType: dir\x00levelfsImage: /srv/x")
	f.Add("levelfsFSType: ext4\x00" + sha + "\x00levelfsUUID: 2b6a51c4-90f3-4d1e-8a77-c05d3e9b1f62\x00levelfsImage: ../x\nlevelfsImage: y")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := decodeLayer(values(text), "x")
		if err != nil {
			return
		}
		switch l.FSType {
		case "erofs", "squashfs", "ext4":
			if !goodDigest.MatchString(l.Digest) {
				t.Errorf("digest %q", l.Digest)
			}
		case "dir":
			if l.Digest != "" {
				t.Errorf("digest %q", l.Digest)
			}
		default:
			t.Errorf("file system %q", l.FSType)
		}
		switch l.Kind {
		case "vendor", "site", "group", "host", "user":
		default:
			t.Errorf("kind %q", l.Kind)
		}
		if l.UUID != "" && !goodUUID.MatchString(l.UUID) || l.Size < 0 {
			t.Errorf("UUID %q, size %d", l.UUID, l.Size)
		}
		for _, image := range l.Images {
			if !isGoodPath(image) {
				t.Errorf("image %q", image)
			}
		}
		for _, segment := range l.Segments {
			if !goodDCSS.MatchString(segment) {
				t.Errorf("segment %q", segment)
			}
		}
	})
}

func FuzzDecodeLevel(f *testing.F) {
	f.Add("levelfsLayerRef: 00:emacs-29.4\x00levelfsLayerRef: 10:common\x00levelfsState: released\x00levelfsSuccessor: 30.1-1")
	f.Add("levelfsLayerRef: 0:a\x00levelfsNotBefore: 20260101000000Z\x00levelfsNotAfter: 2027010100+0100")
	f.Add("levelfsLayerRef: -1:a\nb")
	f.Fuzz(func(t *testing.T, text string) {
		e := values(text)
		l, err := decodeLevel(e, "x")
		if err != nil {
			return
		}
		seen := make(map[string]bool)
		for _, layer := range l.Layers {
			if !goodName.MatchString(layer) || seen[layer] {
				t.Errorf("layer %q", layer)
			}
			seen[layer] = true
		}
		if len(l.Layers) == 0 || len(l.Layers) != len(e.Attrs["levelfslayerref"]) {
			t.Errorf("%d layers of %q", len(l.Layers), e.Attrs["levelfslayerref"])
		}
		if l.Successor != "" && !goodName.MatchString(l.Successor) {
			t.Errorf("successor %q", l.Successor)
		}
		switch l.State {
		case "draft", "test", "released", "retired":
		default:
			t.Errorf("state %q", l.State)
		}
	})
}

func FuzzDecodeComponent(f *testing.F) {
	f.Add("levelfsDefault: 29.4-1\x00levelfsMountPoint: /opt/emacs\x00levelfsPrivate: Ephemeral")
	f.Add("levelfsMountPoint: /opt/../etc")
	f.Add("levelfsDefault: 1\n2")
	f.Add("levelfsCustomize: x=10:x-site\x00levelfsCustomize: y=10:y-site")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := decodeComponent(values(text), "x")
		if err != nil {
			return
		}
		if c.Default != "" && !goodName.MatchString(c.Default) {
			t.Errorf("default %q", c.Default)
		}
		if m := c.MountPoint; m != "" && (!isGoodPath(m) || m[0] != '/') {
			t.Errorf("mount point %q", m)
		}
		custom, invalid := values(text).Customizations()
		if len(invalid) > 0 || slices.ContainsFunc(custom, func(c Customization) bool { return c.Component != "x" }) {
			t.Errorf("customizations %q", custom)
		}
		if c.Private != Persistent && c.Private != Ephemeral && c.Private != None {
			t.Errorf("private policy %q", c.Private)
		}
	})
}

// FuzzAssignments: an assignment of the component is a level's name or an error, and
// others are nobody's business.
func FuzzAssignments(f *testing.F) {
	f.Add("levelfsAssignment: emacs=29.4-1\x00levelfsAssignment: vi=../../etc")
	f.Add("levelfsMandatory: emacs=29.4-1\nx")
	f.Add("levelfsAssignment: emacs=\x00levelfsAssignment: =emacs")
	f.Fuzz(func(t *testing.T, text string) {
		e := values(text)
		all, invalid := e.Assignments()
		if len(all)+len(invalid) != len(e.Attrs["levelfsassignment"])+len(e.Attrs["levelfsmandatory"]) {
			t.Errorf("%d assignments and %d that are none", len(all), len(invalid))
		}
		for _, a := range all {
			if !validComponent(a.Component) || !goodName.MatchString(a.Level) {
				t.Errorf("assignment %q", a)
			}
		}
		found, err := (&lookup{query: Query{Key: Key{Component: "emacs"}}}).assignments(e)
		if err != nil {
			return
		}
		ours := 0
		for _, v := range append(e.Attrs["levelfsassignment"], e.Attrs["levelfsmandatory"]...) {
			if v == "emacs" || strings.HasPrefix(v, "emacs=") {
				ours++
			}
		}
		if len(found) != ours {
			t.Errorf("%d assignments of %d", len(found), ours)
		}
		for _, a := range found {
			if !goodName.MatchString(a.Level) {
				t.Errorf("level %q", a.Level)
			}
		}
	})
}

// FuzzCustomizations: what passes goes into a mount option, and is written as it was read
// but for the number's zeros.
func FuzzCustomizations(f *testing.F) {
	f.Add("levelfsCustomize: emacs=10:emacs-site\x00levelfsCustomize: vi=+1:x")
	f.Add("levelfsCustomize: emacs=10:a,ro\x00levelfsCustomize: emacs=10:a:b")
	f.Add("levelfsCustomize: emacs=99999999999999999999:a\x00levelfsCustomize: emacs=:a\nb")
	f.Fuzz(func(t *testing.T, text string) {
		e := values(text)
		all, invalid := e.Customizations()
		if len(all)+len(invalid) != len(e.Attrs["levelfscustomize"]) {
			t.Errorf("%d customizations and %d that are none", len(all), len(invalid))
		}
		for _, c := range all {
			if !validComponent(c.Component) || !goodName.MatchString(c.Layer) || c.Order < 0 || c.Order > 65535 {
				t.Errorf("customization %q", c)
			}
			if again, ok := ParseCustomization(c.String()); !ok || again != c {
				t.Errorf("%q is %q", c, again)
			}
		}
		for _, component := range []string{"", "emacs"} {
			found, _ := e.customizations(component)
			for _, c := range found {
				if !goodName.MatchString(c.Layer) || component != "" && c.Component != component {
					t.Errorf("customization %q of %q", c, component)
				}
			}
		}
	})
}
