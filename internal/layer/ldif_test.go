package layer

import (
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
)

var sampleResult = Result{
	Path:   "/srv/images/emacs.erofs",
	Digest: "sha256:" + strings.Repeat("0a", 32),
	Size:   4194304,
	UUID:   "6ba7b810-9dad-81d1-80b4-00c04fd430c8",
	FSType: "erofs",
	Files:  3,
}

func TestLDIF(t *testing.T) {
	got, err := sampleResult.LDIF(Entry{Name: "emacs-29.4+x", Base: "dc=example,dc=com", Arch: []string{"s390x"}, Segment: "emacs29a:EMACS29B"})
	if err != nil {
		t.Fatal(err)
	}
	want := `dn: cn=emacs-29.4\+x,ou=layers,dc=example,dc=com
objectClass: levelfsLayer
cn: emacs-29.4+x
levelfsDigest: sha256:` + strings.Repeat("0a", 32) + `
levelfsSize: 4194304
levelfsFSType: erofs
levelfsUUID: 6ba7b810-9dad-81d1-80b4-00c04fd430c8
levelfsImage: emacs.erofs
levelfsArch: s390x
levelfsSegment: EMACS29A:EMACS29B

`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestLDIFRefuses(t *testing.T) {
	for _, c := range []struct{ name, base, path string }{
		{"", "dc=x", "i"},
		{"a@b", "dc=x", "i"},
		{"-a", "dc=x", "i"},
		{"a\n", "dc=x", "i"},
		{"a,b", "dc=x", "i"},
		{strings.Repeat("a", 65), "dc=x", "i"},
		{"a", "", "i"},
		{"a", "nonsense", "i"},
		{"a", "dc=\xff", "i"},
		{"a", "dc=x", "/i/\xff"},
		{"a", "dc=x", ""},
	} {
		r := sampleResult
		r.Path = c.path
		if got, err := r.LDIF(Entry{Name: c.name, Base: c.base}); err == nil {
			t.Errorf("%+v: no error, got %q", c, got)
		}
	}
}

func TestEntryRefuses(t *testing.T) {
	for _, e := range []Entry{
		{Segment: "TOOLONGNAME"}, {Segment: "A:"}, {Segment: "A:A"}, {Segment: "A B"},
		{Arch: []string{""}}, {Arch: []string{"S390X\n"}}, {Arch: []string{"s390x", "a,b"}},
	} {
		e.Name, e.Base = "a", "dc=x"
		if err := e.Check("image"); err == nil {
			t.Errorf("%+v: no error", e)
		}
	}
}

// Whatever LDIF accepts, a reader gets the same values back and nothing more.
func FuzzLDIF(f *testing.F) {
	f.Add("emacs", "dc=example,dc=com", "emacs.erofs")
	f.Add("a+b", "o=Zürich\\, AG,c=CH", " -:<ü\n.erofs ")
	f.Fuzz(func(t *testing.T, name, base, image string) {
		r := sampleResult
		r.Path = "/x/" + strings.ReplaceAll(image, "/", "")
		if image == "" || strings.Trim(image, "/") == "" {
			return
		}
		text, err := r.LDIF(Entry{Name: name, Base: base})
		if err != nil {
			return
		}
		l, err := ldif.Parse(text)
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if len(l.Entries) != 1 {
			t.Fatalf("%d entries in\n%s", len(l.Entries), text)
		}
		e := l.Entries[0].Entry
		if e == nil || e.GetAttributeValue("cn") != name || len(e.Attributes) != 7 {
			t.Fatalf("entry %+v from\n%s", e, text)
		}
		if got, want := e.GetAttributeValue("levelfsImage"), strings.ReplaceAll(image, "/", ""); got != want && want != "." && want != ".." {
			t.Errorf("image %q, want %q", got, want)
		}
		want, err := ldap.ParseDN(base)
		if err != nil {
			t.Fatal(err)
		}
		dn, err := ldap.ParseDN(e.DN)
		if err != nil || len(dn.RDNs) != len(want.RDNs)+2 || dn.RDNs[0].Attributes[0].Value != name || !want.AncestorOf(dn) {
			t.Errorf("dn %q, %v", e.DN, err)
		}
	})
}
