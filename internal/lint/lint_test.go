package lint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// load makes an inventory of LDIF texts, one a source.
func load(t testing.TB, texts ...string) *fleet.Fleet {
	t.Helper()
	var stores []ldapmap.Store
	for _, text := range texts {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "all.ldif"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stores = append(stores, ldifsource.New(dir))
	}
	f, err := fleet.Load(t.Context(), stores, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// run returns the findings as "CODE OBJECT", and checks what holds for each.
func run(t *testing.T, texts ...string) (short []string, findings []finding.Finding) {
	t.Helper()
	findings, err := Run(t.Context(), load(t, texts...), Options{Tree: "/sw"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		if f.Severity == "" || f.Object == "" || f.Text == "" || f.Fix == "" || strings.Contains(f.Text+f.Fix, "%!") {
			t.Errorf("incomplete: %+v", f)
		}
		short = append(short, string(f.Code)+" "+f.Object)
	}
	return short, findings
}

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	digestC = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
)

// healthy is an inventory without a finding: every kind of entry and of rule is in it,
// and two segments of 2 MiB one behind the other.
func healthy() string {
	seal := func(level, layer, digest string) string {
		return ldapmap.Seal(level, []ldapmap.Layer{{Name: layer, FSType: "erofs", Digest: digest}})
	}
	return strings.NewReplacer("SEAL1", seal("emacs@1", "a", digestA), "SEAL2", seal("emacs@2", "b", digestB),
		"SEALV", seal("vi@1", "c", digestC), "DIGESTA", digestA, "DIGESTB", digestB, "DIGESTC", digestC).Replace(`
dn: cn=emacs,dc=x
objectClass: levelfsComponent
cn: emacs
levelfsDefault: 1
levelfsMountPoint: /opt/emacs
levelfsCustomize: emacs=50:s

dn: cn=emacs@1,cn=emacs,dc=x
objectClass: levelfsLevel
cn: emacs@1
levelfsLayerRef: 00:a
levelfsSuccessor: 2
levelfsNotBefore: 20200101000000Z
levelfsSeal: SEAL1

dn: cn=emacs@2,cn=emacs,dc=x
objectClass: levelfsLevel
cn: emacs@2
levelfsLayerRef: 00:b
levelfsState: released
levelfsSeal: SEAL2

dn: cn=vi,dc=x
objectClass: levelfsComponent
cn: vi

dn: cn=vi@1,cn=vi,dc=x
objectClass: levelfsLevel
cn: vi@1
levelfsLayerRef: 00:c
levelfsSeal: SEALV

dn: cn=a,dc=x
objectClass: levelfsLayer
cn: a
levelfsFSType: erofs
levelfsDigest: DIGESTA
levelfsSize: 2097152
levelfsSegment: SEGA
levelfsRange: SEGA:20000-201FF

dn: cn=b,dc=x
objectClass: levelfsLayer
cn: b
levelfsFSType: erofs
levelfsDigest: DIGESTB
levelfsImage: b.erofs

dn: cn=c,dc=x
objectClass: levelfsLayer
cn: c
levelfsFSType: erofs
levelfsDigest: DIGESTC
levelfsSize: 2097152
levelfsSegment: SEGC
levelfsRange: segc:20200-203ff

dn: cn=s,dc=x
objectClass: levelfsLayer
cn: s
levelfsKind: site
levelfsFSType: dir
levelfsImage: s

dn: cn=t,dc=x
objectClass: levelfsLayer
cn: t
levelfsKind: group
levelfsFSType: dir
levelfsImage: t

dn: cn=u,dc=x
objectClass: levelfsLayer
cn: u
levelfsKind: host
levelfsFSType: dir
levelfsImage: u

dn: cn=inner,dc=x
objectClass: levelfsProfile
cn: inner
levelfsAssignment: emacs=2
levelfsCustomize: vi=50:s
levelfsCustomize: vi=50:u

dn: cn=outer,dc=x
objectClass: levelfsProfile
cn: outer
levelfsProfileRef: Inner

dn: cn=h1,ou=hosts,dc=x
objectClass: device
objectClass: levelfsCaller
cn: h1
levelfsAssignment: emacs=1
levelfsProfileRef: outer

dn: cn=h2,ou=hosts,dc=x
objectClass: device
objectClass: levelfsCaller
cn: h2
levelfsProfileRef: outer

dn: cn=printer 1,ou=hosts,dc=x
objectClass: device
cn: printer 1

dn: cn=g,ou=groups,dc=x
objectClass: groupOfNames
objectClass: levelfsCaller
cn: g
member: cn=h1, ou=Hosts, dc=x
member: cn=scanner,ou=devices,dc=x
levelfsMandatory: vi=1
levelfsCustomize: emacs=10:t

dn: cn=n,ou=groups,dc=x
objectClass: nisNetgroup
objectClass: levelfsCaller
cn: n
nisNetgroupTriple: (h9,,)
memberNisNetgroup: n
levelfsAssignment: emacs=2

dn: cn=p,ou=groups,dc=x
objectClass: posixGroup
objectClass: levelfsCaller
cn: p
gidNumber: 7
memberUid: eve
levelfsAssignment: emacs=1

dn: uid=ann,ou=people,dc=x
objectClass: posixAccount
objectClass: levelfsCaller
uid: ann
cn: Ann
levelfsAssignment: emacs=2
`)
}

func TestHealthy(t *testing.T) {
	for name, texts := range map[string][]string{
		"one source": {healthy()}, "no entries": {"\n"},
		"local override": {caller("dn: cn=h1,ou=hosts,dc=x", "device", "levelfsAssignment: emacs=2"), strings.Replace(healthy(), "levelfsAssignment: emacs=1\nlevelfsProfileRef", "levelfsProfileRef", 1)},
	} {
		if got, findings := run(t, texts...); len(got) > 0 {
			t.Errorf("%s: %+v", name, findings)
		}
	}
}

// caller is the entry of a caller, by its dn line.
func caller(dn, class string, lines ...string) string {
	return entryText(dn, append([]string{"objectClass: " + class, "objectClass: levelfsCaller"}, lines...)...)
}

func entryText(dn string, lines ...string) string {
	rdn, _, _ := strings.Cut(strings.TrimPrefix(dn, "dn: "), ",")
	return "\n" + strings.Join(append([]string{dn, strings.Replace(rdn, "=", ": ", 1)}, lines...), "\n") + "\n"
}

// inSegment is the edit that puts a layer of the kind, one that is a directory, into a segment.
func inSegment(kind, layer, pages string) []string {
	segment := "SEG" + strings.ToUpper(layer)
	before := "cn: " + layer + "\nlevelfsKind: " + kind + "\n"
	return []string{before + "levelfsFSType: dir\nlevelfsImage: " + layer + "\n", before + inPages(segment, pages)}
}

// userLayer is the layer "w" of kind user in a segment.
func userLayer(pages string) string {
	return entryText("dn: cn=w,dc=x", "objectClass: levelfsLayer", "levelfsKind: user", inPages("SEGW", pages))
}

// inPages are the values of a layer in a segment.
func inPages(segment, pages string) string {
	return fmt.Sprintf("levelfsFSType: erofs\nlevelfsDigest: sha256:%064x\nlevelfsSegment: %s\nlevelfsRange: %[2]s:%s\n", segment, segment, pages)
}

// A fault is a healthy inventory with a change, and what is found then.
type fault struct {
	name string
	edit []string // old and new text, in pairs
	add  string
	last string   // a second source
	want []string // exactly
	text string   // in the first one
}

func faults() []fault {
	const (
		h1, h2 = "cn=h1,ou=hosts,dc=x", "cn=h2,ou=hosts,dc=x"
		g      = "cn=g,ou=groups,dc=x"
		level1 = "cn=emacs@1,cn=emacs,dc=x"
		level2 = "cn=emacs@2,cn=emacs,dc=x"
	)
	group := func(lines ...string) string { return caller("dn: cn=g2,ou=groups,dc=x", "groupOfNames", lines...) }
	var nest, deepNames string
	for i := range 10 {
		next := fmt.Sprintf("levelfsProfileRef: deep%d", i+1)
		if i == 9 {
			next = "levelfsAssignment: vi=1"
		}
		nest += entryText(fmt.Sprintf("dn: cn=deep%d,dc=x", i), "objectClass: levelfsProfile", next)
	}
	deepNames = `more than 8 deep: ["deep9"]`
	return []fault{
		{"component of an assignment", nil, caller("dn: cn=h3,ou=hosts,dc=x", "device", "levelfsAssignment: ed=1"), "",
			[]string{"LV101 cn=h3,ou=hosts,dc=x"}, `"levelfsAssignment: ed=1" is about a component that is not there`},
		{"level of an assignment", []string{"levelfsMandatory: vi=1", "levelfsMandatory: vi=2"}, "", "",
			[]string{"LV102 " + g}, `"levelfsMandatory: vi=2" names a level that is not there`},
		{"default", []string{"levelfsDefault: 1", "levelfsDefault: 3"}, "", "", []string{"LV102 cn=emacs,dc=x"}, `no level "emacs@3"`},
		{"profile", []string{"levelfsProfileRef: Inner", "levelfsProfileRef: Inner\nlevelfsProfileRef: none"}, "", "",
			[]string{"LV103 cn=outer,dc=x"}, `"none"`},
		{"layer of a level", []string{"levelfsLayerRef: 00:b", "levelfsLayerRef: 00:b\nlevelfsLayerRef: 01:bb"}, "", "",
			[]string{"LV104 " + level2}, `layer "bb"`},
		{"successor", []string{"levelfsSuccessor: 2", "levelfsSuccessor: 3"}, "", "", []string{"LV105 " + level1}, `"emacs@3"`},
		{"component of a level", nil, entryText("dn: cn=ed@1,dc=x", "objectClass: levelfsLevel", "levelfsLayerRef: 0:a", "levelfsState: test"), "",
			[]string{"LV106 cn=ed@1,dc=x"}, `"ed"`},
		{"member", []string{"member: cn=h1", "member: cn=h1\\,x,ou=hosts,dc=x\nmember: cn=h1"}, "", "", []string{"LV107 " + g}, "cn=h1"},
		{"value", []string{"levelfsDefault: 1", "levelfsDefault: a b"}, "", "", []string{"LV110 cn=emacs,dc=x"}, `"a b"`},
		{"level's value", []string{"levelfsState: released", "levelfsState: ready"}, "", "", []string{"LV110 " + level2}, `"ready"`},
		{"layer's value", []string{"levelfsImage: b.erofs", "levelfsImage: ../b"}, "", "", []string{"LV110 cn=b,dc=x"}, `"../b"`},
		{"digest", []string{"levelfsDigest: " + digestB + "\n", ""}, "", "", []string{"LV110 cn=b,dc=x"}, "levelfsDigest"},
		{"range", []string{"levelfsRange: SEGA:20000-201FF", "levelfsRange: SEGA:201FF-20000"}, "", "", []string{"LV110 cn=a,dc=x"}, "ends before it begins"},
		{"assignment", []string{"levelfsMandatory: vi=1", "levelfsMandatory: vi=1\nlevelfsAssignment: vi"}, "", "", []string{"LV110 " + g}, `"vi"`},
		{"reference", []string{"levelfsMandatory: vi=1", "levelfsMandatory: vi=1\nlevelfsProfileRef: a/b"}, "", "", []string{"LV110 " + g}, `"a/b"`},
		{"host name", nil, caller("dn: cn=h 3,ou=hosts,dc=x", "device", "levelfsAssignment: vi=1"), "", []string{"LV110 cn=h 3,ou=hosts,dc=x"}, "a host name"},
		{"name", []string{"objectClass: levelfsComponent\ncn: vi", "objectClass: levelfsComponent\ncn: vi\ncn: emacs"}, "", "",
			[]string{"LV111 cn=vi,dc=x"}, `"cn=emacs,dc=x"`},
		{"profile's name", nil, entryText("dn: cn=INNER,ou=more,dc=x", "objectClass: levelfsProfile"), "", []string{"LV111 cn=INNER,ou=more,dc=x"}, "cn=inner"},
		{"case", nil, entryText("dn: cn=Emacs,ou=more,dc=x", "objectClass: levelfsComponent"), "", []string{"LV112 cn=Emacs,ou=more,dc=x"}, "case only"},
		{"host twice", nil, caller("dn: cn=H1,ou=more,dc=x", "device"), "", []string{"LV113 cn=H1,ou=more,dc=x"}, h1},
		{"misspelled", []string{"levelfsMandatory: vi=1", "levelfsMandatory: vi=1\nlevelfsMandatori: ed=1"}, "", "", []string{"LV114 " + g}, `"levelfsmandatori"`},
		{"attribute with an option", []string{"levelfsMandatory: vi=1", "levelfsMandatory: vi=1\nlevelfsAssignment;x: ed=1"}, "", "", []string{"LV114 " + g}, `"levelfsassignment;x"`},
		{"class", []string{"levelfsMandatory: vi=1", "levelfsMandatory: vi=1\nobjectClass: levelfsCallers"}, "", "", []string{"LV114 " + g}, `"levelfscallers"`},
		{"user twice", nil, "\ndn: cn=a,ou=people,dc=x\nobjectClass: posixAccount\ncn: Ann\nuid: ann\n", "", []string{"LV113 cn=a,ou=people,dc=x"}, "uid=ann"},

		{"two answers", nil, group("member: "+h1, "member: "+h2, "levelfsAssignment: vi=9") +
			caller("dn: cn=g3,ou=groups,dc=x", "groupOfNames", "member: "+h1, "member: "+h2, "levelfsAssignment: vi=1"), "",
			[]string{"LV102 cn=g2,ou=groups,dc=x", "LV120 cn=g3,ou=groups,dc=x"}, "vi=9"},
		{"two answers on one entry", []string{"levelfsAssignment: emacs=1\nlevelfsProfileRef", "levelfsAssignment: emacs=1\nlevelfsAssignment: emacs=2\nlevelfsProfileRef"}, "", "",
			[]string{"LV120 " + h1}, "host:h1 does not get it"},
		{"loop", []string{"cn: inner\n", "cn: inner\nlevelfsProfileRef: OUTER\n"}, "", "", []string{"LV121 cn=outer,dc=x"}, "inner -> outer -> inner"},
		{"loop of one", []string{"cn: inner\n", "cn: inner\nlevelfsProfileRef: inner\n"}, "", "", []string{"LV121 cn=inner,dc=x"}, "inner -> inner"},
		{"nesting", nil, nest + caller("dn: cn=h3,ou=hosts,dc=x", "device", "levelfsProfileRef: deep0"), "", []string{"LV122 host:h3"}, deepNames},

		{"retired", []string{"levelfsState: released", "levelfsState: retired"}, "", "",
			// by an own entry, a profile and a netgroup
			[]string{"LV130 " + level2, "LV130 " + level2, "LV130 " + level2}, `level "emacs@2" is retired; `},
		{"retired default", []string{"levelfsNotBefore: 20200101000000Z", "levelfsState: retired", "levelfsAssignment: emacs=1\nlevelfsProfileRef", "levelfsProfileRef", "levelfsAssignment: emacs=1", "levelfsAssignment: emacs=2"}, "", "",
			[]string{"LV130 " + level1}, "it is the component's default"},
		{"expired", []string{"levelfsLayerRef: 00:c", "levelfsLayerRef: 00:c\nlevelfsNotAfter: 20200101000000Z"}, "", "",
			[]string{"LV131 cn=vi@1,cn=vi,dc=x"}, "after 2020-01-01T00:00:00Z; host:h1 is assigned it by the host's group"},
		{"too early", []string{"levelfsLayerRef: 00:c", "levelfsLayerRef: 00:c\nlevelfsNotBefore: 21200101000000Z"}, "", "",
			[]string{"LV132 cn=vi@1,cn=vi,dc=x"}, "before 2120-01-01T00:00:00Z"},
		{"draft by a group", []string{"levelfsLayerRef: 00:c", "levelfsLayerRef: 00:c\nlevelfsState: draft"}, "", "",
			[]string{"LV133 cn=vi@1,cn=vi,dc=x"}, "only the host's group names it"},

		{"image", []string{"levelfsImage: b.erofs\n", ""}, "", "", []string{"LV140 cn=b,dc=x"}, `"b"`},
		{"directory", []string{"levelfsFSType: erofs\nlevelfsDigest: " + digestB, "levelfsFSType: dir",
			"levelfsSeal: " + ldapmap.Seal("emacs@2", []ldapmap.Layer{{Name: "b", FSType: "erofs", Digest: digestB}}),
			"levelfsSeal: " + ldapmap.Seal("emacs@2", []ldapmap.Layer{{Name: "b", FSType: "dir"}})}, "", "",
			[]string{"LV141 " + level2}, "plain directory"},
		{"two names", nil, entryText("dn: cn=bb,dc=x", "objectClass: levelfsLayer", "levelfsFSType: erofs", "levelfsDigest: "+digestB, "levelfsImage: bb"), "",
			[]string{"LV142 cn=bb,dc=x"}, `"b" and "bb"`},

		{"segment of two", []string{"levelfsImage: b.erofs", "levelfsSegment: sega"}, "", "", []string{"LV150 cn=b,dc=x"}, `layer "a"`},
		// h1 runs emacs@1 and vi@1; a megabyte is 100 pages.
		{"overlap", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20180-2037f", "levelfsSize: 2097152", "levelfsSize: 1"}, "", "",
			[]string{"LV151 cn=c,dc=x", "LV155 cn=c,dc=x"}, `segments "SEGA" (20000-201FF) of layer "a" and "SEGC" (20180-2037F) of layer "c" overlap, and host:h1 loads both`},
		{"overlap of a megabyte", []string{"SEGA:20000-201FF", "SEGA:20000-20201"}, "", "",
			[]string{"LV151 cn=c,dc=x", "LV155 cn=a,dc=x"}, "host:h1"},
		{"overlap with a default", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20000-201ff", "levelfsAssignment: emacs=1\nlevelfsProfileRef: outer\n", ""}, "", "",
			[]string{"LV151 cn=c,dc=x"}, "host:h1"},
		{"overlap apart", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20000-201ff", "levelfsAssignment: emacs=1\nlevelfsProfileRef: outer\n", "levelfsAssignment: emacs=2\n"}, "", "",
			[]string{"LV152 cn=c,dc=x"}, "overlap"},
		{"overlap that is refused", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20000-201ff", "levelfsAssignment: emacs=1\nlevelfsProfileRef", "levelfsAssignment: emacs=1\nlevelfsAssignment: emacs=2\nlevelfsProfileRef"}, "", "",
			[]string{"LV120 " + h1, "LV152 cn=c,dc=x"}, "host:h1 does not get it"},
		{"overlap of a group's layer", inSegment("group", "t", "20200-203FF"), "", "", []string{"LV151 cn=t,dc=x"},
			`segments "SEGC" (20200-203FF) of layer "c" and "SEGT" (20200-203FF) of layer "t" overlap, and host:h1 loads both`},
		{"overlap of the site's layer", inSegment("site", "s", "20200-203FF"), "", "", []string{"LV151 cn=s,dc=x"}, "and host:h1 loads both"},
		{"overlap of a profile's layer", inSegment("host", "u", "20000-201FF"), "", "", []string{"LV151 cn=u,dc=x"}, "and host:h1 loads both"},
		{"overlap of two layers above levels", slices.Concat(inSegment("site", "s", "20400-205FF"), inSegment("group", "t", "20400-205FF")), "", "",
			[]string{"LV151 cn=t,dc=x"}, "and host:h1 loads both"},
		{"overlap with a layer of others", slices.Concat(inSegment("group", "t", "20400-205FF"), []string{"levelfsImage: b.erofs", "levelfsSegment: SEGB\nlevelfsRange: SEGB:20400-205FF"}), "", "",
			[]string{"LV152 cn=t,dc=x"}, "overlap"},
		{"overlap of a layer that is refused", append(inSegment("group", "t", "20200-203FF"), "emacs=10:t\n", "emacs=10:t\nlevelfsCustomize: emacs=10:t2\n"),
			entryText("dn: cn=t2,dc=x", "objectClass: levelfsLayer", "levelfsKind: group", "levelfsFSType: dir", "levelfsImage: t2"), "",
			[]string{"LV176 " + g, "LV152 cn=t,dc=x"}, "the same number 10"},
		{"overlap below a layer that is refused", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20000-201ff", "emacs=10:t\n", "emacs=10:u\n"}, "", "",
			[]string{"LV174 " + g, "LV152 cn=c,dc=x", "LV177 cn=t,dc=x"}, "kind host"},
		{"overlap of a user's layer", []string{"cn: Ann\n", "cn: Ann\nlevelfsCustomize: emacs=1:w\n", "levelfsImage: b.erofs", "levelfsSegment: SEGB\nlevelfsRange: SEGB:20400-205FF"}, userLayer("20400-205FF"), "",
			[]string{"LV151 cn=w,dc=x"}, "and user:ann loads both"},
		{"overlap of a user's layer above a host's level", []string{"cn: Ann\n", "cn: Ann\nlevelfsCustomize: vi=1:w\n"}, userLayer("20200-203FF"), "",
			[]string{"LV151 cn=w,dc=x"}, "and user:ann loads both"},
		{"overlap of a user's layer above what no host runs", []string{"cn: Ann\n", "cn: Ann\nlevelfsCustomize: vi=1:w\n", "levelfsMandatory: vi=1\n", ""}, userLayer("20200-203FF"), "",
			[]string{"LV152 cn=w,dc=x"}, "overlap"},
		{"range of nothing", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20200-203ff\nlevelfsRange: SEGD:1-2"}, "", "",
			[]string{"LV153 cn=c,dc=x"}, "SEGD"},
		{"too small", []string{"levelfsSize: 2097152\nlevelfsSegment: SEGC", "levelfsSize: 2097153\nlevelfsSegment: SEGC"}, "", "",
			[]string{"LV154 cn=c,dc=x"}, "has 2097152 bytes"},
		{"not aligned", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20300-204ff"}, "", "", []string{"LV155 cn=c,dc=x"}, "page 20300"},
		{"not as long", []string{"levelfsRange: segc:20200-203ff", "levelfsRange: segc:20200-204ff"}, "", "", []string{"LV155 cn=c,dc=x"}, "300 pages"},
		{"gap", []string{"levelfsSegment: SEGC\nlevelfsRange: segc:20200-203ff", "levelfsSegment: SEGC:SEGD\nlevelfsRange: SEGD:20600-207ff\nlevelfsRange: segc:20200-203ff"}, "", "",
			[]string{"LV156 cn=c,dc=x"}, "no pages between 203FF and 20600"},

		{"seal", []string{"levelfsDigest: " + digestB, "levelfsDigest: " + strings.Replace(digestB, "b", "0", 1)}, "", "",
			[]string{"LV160 " + level2}, "b (erofs, " + strings.Replace(digestB, "b", "0", 1) + ")"},
		{"no seal", []string{"levelfsSeal: " + ldapmap.Seal("emacs@2", []ldapmap.Layer{{Name: "b", FSType: "erofs", Digest: digestB}}) + "\n", ""}, "", "",
			[]string{"LV161 " + level2}, "emacs@2"},

		{"nobody's group", nil, group("member: cn=x,ou=devices,dc=x", "levelfsProfileRef: inner"), "", []string{"LV170 cn=g2,ou=groups,dc=x"}, "no host or user"},
		{"nobody's profile", nil, entryText("dn: cn=p,dc=x", "objectClass: levelfsProfile", "levelfsAssignment: vi=1"), "", []string{"LV171 cn=p,dc=x"}, `"p"`},
		{"always beaten", []string{"objectClass: posixGroup", "objectClass: groupOfNames", "memberUid: eve", "member: " + h1}, "", "",
			[]string{"LV172 cn=p,ou=groups,dc=x"}, `"levelfsAssignment: emacs=1" decides for nobody: for host:h1 a more specific rule answered: "levelfsAssignment: emacs=1" of "` + h1 + `" in `},
		{"beaten by the centre", nil, "", caller("dn: "+h1, "device", "levelfsMandatory: emacs=2"), []string{"LV172 " + h1},
			`a mandatory rule answered: "levelfsMandatory: emacs=2"`},

		{"component of a customisation", []string{"levelfsCustomize: emacs=10:t", "levelfsCustomize: emacs=10:t\nlevelfsCustomize: ed=10:t"}, "", "",
			[]string{"LV101 " + g}, `"levelfsCustomize: ed=10:t" is about a component that is not there`},
		{"customisation", []string{"levelfsCustomize: emacs=10:t", "levelfsCustomize: emacs=10:t\nlevelfsCustomize: emacs=t"}, "", "",
			[]string{"LV110 " + g}, `"emacs=t"`},
		{"customisation of another component", []string{"levelfsCustomize: emacs=50:s", "levelfsCustomize: emacs=50:s\nlevelfsCustomize: vi=50:s"}, "", "",
			[]string{"LV110 cn=emacs,dc=x"}, "emacs=NN:LAYER"},
		{"kind", []string{"levelfsKind: group", "levelfsKind: department"}, "", "", []string{"LV110 cn=t,dc=x"}, `"department"`},
		{"layer of a customisation", []string{"levelfsCustomize: emacs=10:t", "levelfsCustomize: emacs=10:t\nlevelfsCustomize: emacs=20:none"}, "", "",
			[]string{"LV173 " + g}, `"levelfsCustomize: emacs=20:none" names a layer that is not there`},
		{"kind of a customisation", []string{"levelfsCustomize: emacs=10:t", "levelfsCustomize: emacs=10:t\nlevelfsCustomize: emacs=20:u"}, "", "",
			[]string{"LV174 " + g}, "the layer is of kind host, and the entry takes those of kind group"},
		{"vendor's layer as a customisation", []string{"levelfsCustomize: emacs=50:s", "levelfsCustomize: emacs=50:s\nlevelfsCustomize: emacs=60:c"}, "", "",
			[]string{"LV174 cn=emacs,dc=x"}, "of kind vendor"},
		{"kind of a profile's customisation", nil, group("member: "+h2, "levelfsProfileRef: own") +
			entryText("dn: cn=own,dc=x", "objectClass: levelfsProfile", "levelfsCustomize: emacs=20:u"), "",
			[]string{"LV174 cn=own,dc=x"}, `host:h2 gets no layers above "emacs"`},
		{"customisation layer in a level", nil, entryText("dn: cn=emacs@3,cn=emacs,dc=x", "objectClass: levelfsLevel", "levelfsLayerRef: 00:s", "levelfsState: test"), "",
			[]string{"LV175 cn=emacs@3,cn=emacs,dc=x"}, `layer "s", which is of kind site`},
		{"numbers on one entry", []string{"levelfsCustomize: emacs=10:t", "levelfsCustomize: emacs=10:t\nlevelfsCustomize: emacs=10:t2"},
			entryText("dn: cn=t2,dc=x", "objectClass: levelfsLayer", "levelfsKind: group", "levelfsFSType: dir", "levelfsImage: t2"), "",
			[]string{"LV176 " + g}, `have the same number 10`},
		{"numbers on two entries", nil, group("member: "+h1, "levelfsCustomize: emacs=10:t2") +
			entryText("dn: cn=t2,dc=x", "objectClass: levelfsLayer", "levelfsKind: group", "levelfsFSType: dir", "levelfsImage: t2"), "",
			[]string{"LV176 " + g}, `host:h1 gets no layers above "emacs": two layers above "emacs" at rank "host's group" with the number 10: "t" by "` + g + `" and "t2" by "cn=g2,ou=groups,dc=x"`},
		{"customisation of nobody", nil, entryText("dn: cn=t2,dc=x", "objectClass: levelfsLayer", "levelfsKind: group", "levelfsFSType: dir", "levelfsImage: t2"), "",
			[]string{"LV177 cn=t2,dc=x"}, "above no level"},

		{"place", []string{"objectClass: levelfsComponent\ncn: vi", "objectClass: levelfsComponent\ncn: vi\nlevelfsMountPoint: /opt/emacs"}, "", "",
			[]string{"LV180 cn=vi,dc=x"}, "the same mount point"},
		{"place within", []string{"objectClass: levelfsComponent\ncn: vi", "objectClass: levelfsComponent\ncn: vi\nlevelfsMountPoint: /opt/emacs/a/vi"}, "", "",
			[]string{"LV180 cn=vi,dc=x"}, `lies within "/opt/emacs" of "emacs"`},
		{"by-user", nil, entryText("dn: cn=by-user,dc=x", "objectClass: levelfsComponent"), "", []string{"LV181 cn=by-user,dc=x"}, "by-user"},
		{"tree", []string{"levelfsMountPoint: /opt/emacs", "levelfsMountPoint: /sw/emacs"}, "", "", []string{"LV182 cn=emacs,dc=x"}, `"/sw"`},

		{"roll-out that agrees", nil, rollout("2", "running", "inner"), "", nil, ""},
		{"roll-out that is over", nil, rollout("9", "aborted", "nosuch", "levelfsRingAt: 0\n", ""), "", nil, ""},
		{"roll-out of no level", nil, rollout("9", "paused", "inner"), "", []string{"LV183 " + roll, "LV184 " + roll}, `"emacs@9" that is not there`},
		{"roll-out of a retired level", []string{"levelfsState: released", "levelfsState: retired", "levelfsAssignment: emacs=2", "levelfsAssignment: emacs=1"}, rollout("2", "running", "outer"), "",
			[]string{"LV183 " + roll, "LV184 " + roll}, "is retired"},
		{"roll-out to no profile", nil, rollout("2", "running", "nosuch"), "", []string{"LV183 " + roll}, `"nosuch"`},
		{"roll-out that was interrupted", nil, rollout("1", "running", "inner"), "", []string{"LV184 " + roll}, "does not assign it"},
		{"abort that was interrupted", nil, rollout("2", "aborted", "inner"), "", []string{"LV184 " + roll}, "has emacs@2 still"},
		{"roll-out that cannot be read", nil, rollout("2", "running", "inner", "levelfsRing: 00:inner", "levelfsRing: inner"), "", []string{"LV110 " + roll}, "levelfsRing"},
	}
}

const roll = "cn=rollout,cn=emacs,dc=x"

// rollout is a roll-out at its one ring, with replacements in pairs.
func rollout(level, state, profile string, edit ...string) string {
	return strings.NewReplacer(edit...).Replace(entryText("dn: "+roll, "objectClass: levelfsRollout", "levelfsRolloutLevel: emacs@"+level,
		"levelfsRolloutState: "+state, "levelfsRing: 00:"+profile, "levelfsRingAt: 0", "levelfsRingBefore: 00:emacs=1"))
}

// TestConfused: a lookup takes the profile that it met first, which is not the first
// entry of that name. That there are two is found, and no other rule pays for it.
func TestConfused(t *testing.T) {
	got, findings := run(t, healthy()+
		entryText("dn: cn=x1,dc=x", "cn: twin", "objectClass: levelfsProfile", "levelfsAssignment: emacs=1")+
		entryText("dn: cn=x2,dc=x", "cn: twin", "objectClass: levelfsProfile", "levelfsAssignment: vi=1")+
		entryText("dn: cn=v,dc=x", "objectClass: levelfsProfile", "levelfsProfileRef: twin", "levelfsAssignment: vi=2")+
		caller("dn: cn=h3,ou=hosts,dc=x", "device", "levelfsProfileRef: v", "levelfsProfileRef: x2"))
	want := []string{"LV102 cn=v,dc=x", "LV111 cn=x2,dc=x", "LV120 cn=v,dc=x"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q: %+v", got, want, findings)
	}
}

// TestFaults makes one fault after the other. Whatever is found is wanted, so that each
// also shows the silence of all other checks; and no code is without a fault.
func TestFaults(t *testing.T) {
	seen := make(map[finding.Code]bool)
	for _, c := range faults() {
		t.Run(c.name, func(t *testing.T) {
			text := healthy()
			for i := 0; i < len(c.edit); i += 2 {
				if !strings.Contains(text, c.edit[i]) {
					t.Fatalf("nothing to edit: %q", c.edit[i])
				}
				text = strings.ReplaceAll(text, c.edit[i], c.edit[i+1])
			}
			texts := []string{text + c.add}
			if c.last != "" {
				texts = append(texts, c.last)
			}
			got, findings := run(t, texts...)
			if !slices.Equal(got, c.want) {
				t.Fatalf("got %q, want %q: %+v", got, c.want, findings)
			}
			if len(findings) > 0 && !strings.Contains(findings[0].Text, c.text) {
				t.Errorf("%q, want %q", findings[0].Text, c.text)
			}
			for _, f := range findings {
				seen[f.Code] = true
			}
		})
	}
	for _, k := range finding.Kinds() {
		if strings.HasPrefix(string(k.Code), "LV1") && !seen[k.Code] {
			t.Errorf("no fault is found as %s: %s", k.Code, k.Title)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, load(t, healthy()), Options{}, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
