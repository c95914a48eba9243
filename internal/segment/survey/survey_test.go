package survey

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/segment"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

func load(t *testing.T, text string) *fleet.Fleet {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "all.ldif"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := fleet.Load(t.Context(), []ldapmap.Store{ldifsource.New(dir)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func component(name string, levels ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "dn: cn=%s,dc=x\nobjectClass: levelfsComponent\ncn: %s\n\n", name, name)
	for _, l := range levels {
		level, rest, _ := strings.Cut(l, " ")
		fmt.Fprintf(&b, "dn: cn=%s@%s,cn=%s,dc=x\nobjectClass: levelfsLevel\ncn: %s@%s\n", name, level, name, name, level)
		for i, layer := range strings.Fields(rest) {
			if state, ok := strings.CutPrefix(layer, "="); ok {
				fmt.Fprintf(&b, "levelfsState: %s\n", state)
				continue
			}
			fmt.Fprintf(&b, "levelfsLayerRef: %d:%s\n", i, layer)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func entry(dn, class, name string, lines ...string) string {
	attr, _, _ := strings.Cut(dn, "=")
	return fmt.Sprintf("dn: %s,dc=x\nobjectClass: %s\nobjectClass: levelfsCaller\n%s: %s\n%s\n\n", dn, class, attr, name, strings.Join(lines, "\n"))
}

func layerEntry(name string, lines ...string) string {
	lines = append([]string{"levelfsDigest: sha256:" + strings.Repeat("1", 64)}, lines...)
	return fmt.Sprintf("dn: cn=%s,dc=x\nobjectClass: levelfsLayer\ncn: %s\nlevelfsSize: 2097152\n%s\n\n", name, name, strings.Join(lines, "\n"))
}

func names(layers []segment.Layer) string {
	var list []string
	for _, l := range layers {
		list = append(list, l.Name+"="+strings.Join(l.Levels, ","))
	}
	return strings.Join(list, " ")
}

// Three components that run, of which vi runs nowhere with gcc; one that nobody runs;
// and a level of each state.
var surveyed = component("emacs", "1 e1 base", "2 e2 base", "3 e3 =test", "4 e4", "5 e5 =retired") +
	component("vi", "1 v1") + component("gcc", "1 g1 base2") + component("jdk", "1 j1 =test") + component("old", "1 sq") +
	layerEntry("e1", "levelfsFSType: erofs", "levelfsImage: e1.erofs", "levelfsSegment: e1:E1B", "levelfsRange: E1:1000000-10001FF", "levelfsRange: E1B:1000200-10003FF") +
	layerEntry("e2", "levelfsFSType: ext4") + layerEntry("e3", "levelfsFSType: erofs") + layerEntry("e4", "levelfsFSType: erofs") +
	layerEntry("e5", "levelfsFSType: erofs") + layerEntry("v1", "levelfsFSType: erofs") + layerEntry("g1", "levelfsFSType: erofs") +
	layerEntry("j1", "levelfsFSType: erofs") + layerEntry("base", "levelfsFSType: erofs") + layerEntry("base2", "levelfsFSType: erofs") +
	layerEntry("sq", "levelfsFSType: squashfs") +
	entry("cn=lnx01", "device", "lnx01", "levelfsAssignment: emacs=1", "levelfsAssignment: vi=1") +
	entry("cn=lnx02", "device", "lnx02", "levelfsAssignment: emacs=2", "levelfsAssignment: gcc=1") +
	entry("cn=srv01", "device", "srv01", "levelfsAssignment: old=1", "levelfsAssignment: gcc=1", "levelfsAssignment: emacs=5")

// TestSurveyCustomized: layers above levels are used with all that the component's are, if
// somebody runs it.
func TestSurveyCustomized(t *testing.T) {
	text := strings.Replace(surveyed, "cn: emacs\n\n", "cn: emacs\nlevelfsCustomize: emacs=50:site\n\n", 1) +
		layerEntry("site", "levelfsFSType: erofs", "levelfsKind: site") + layerEntry("own", "levelfsFSType: erofs", "levelfsKind: host") +
		entry("cn=lnx03", "device", "lnx03", "levelfsCustomize: vi=1:own")
	for _, test := range []struct {
		query Query
		want  string
	}{
		{Query{}, "base=emacs@1,emacs@2 base2=gcc@1 e1=emacs@1 e2=emacs@2 g1=gcc@1 own=above vi site=above emacs v1=vi@1"},
		{Query{Components: []string{"vi"}}, "own=above vi v1=vi@1"},
		{Query{Hosts: "srv*"}, "base2=gcc@1 g1=gcc@1"},
	} {
		r, err := Of(t.Context(), load(t, text), test.query, nil)
		if err != nil || names(r.Layers) != test.want {
			t.Errorf("%+v: %q, %v; want %q", test.query, names(r.Layers), err, test.want)
		}
		if test.query.Hosts == "" && len(test.query.Components) == 0 && (!r.Together("site", "g1") || r.Together("own", "g1") || r.Together("v1", "g1")) {
			t.Error("together")
		}
	}
	if _, err := Of(t.Context(), load(t, surveyed+entry("cn=lnx03", "device", "lnx03", "levelfsCustomize: vi=1:none")), Query{}, nil); err == nil {
		t.Error("a layer that is not there is passed over")
	}
}

func TestSurvey(t *testing.T) {
	f := load(t, surveyed)
	for _, test := range []struct {
		name  string
		query Query
		want  string
	}{
		{"all", Query{}, "base=emacs@1,emacs@2 base2=gcc@1 e1=emacs@1 e2=emacs@2 g1=gcc@1 v1=vi@1"},
		{"hosts", Query{Hosts: "srv*"}, "base2=gcc@1 g1=gcc@1"},
		{"component", Query{Components: []string{"emacs"}}, "base=emacs@1,emacs@2 e1=emacs@1 e2=emacs@2"},
		{"test", Query{States: []string{"test"}, Components: []string{"emacs", "jdk"}}, "base=emacs@1,emacs@2 e1=emacs@1 e2=emacs@2 e3=emacs@3 j1=jdk@1"},
		{"released", Query{States: []string{"released"}, Components: []string{"emacs"}}, "base=emacs@1,emacs@2 e1=emacs@1 e2=emacs@2 e4=emacs@4"},
	} {
		s, err := Of(t.Context(), f, test.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(s.Layers); got != test.want {
			t.Errorf("%s: %s\nwant %s", test.name, got, test.want)
		}
		if len(s.Layers)+len(s.Others) != 11 || len(s.Unknown) > 0 {
			t.Errorf("%s: others %s, unknown %v", test.name, names(s.Others), s.Unknown)
		}
	}
	s, err := Of(t.Context(), f, Query{States: []string{"test"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Skipped) != 1 || s.Skipped[0].Layer != "sq" {
		t.Errorf("skipped %v", s.Skipped)
	}
	i := slices.IndexFunc(s.Layers, func(l segment.Layer) bool { return l.Name == "e1" })
	if l := s.Layers[i]; l.Image != "e1.erofs" || l.Size != 2<<20 || fmt.Sprint(l.Devices, l.Segments) != "[[E1 E1B]] [E1:1000000-10001FF E1B:1000200-10003FF]" {
		t.Errorf("%+v", l)
	}
	for pair, want := range map[string]bool{
		"e1 e2": true, "e1 v1": true, "e2 g1": true, // of one component; of one host
		"e1 g1": true,                  // lnx02 may be switched to the other level of emacs
		"v1 g1": false, "g1 v1": false, // of no host
		"v1 base": true, "v1 base2": false, "e3 v1": true,
		"j1 v1": true, "j1 g1": true, // nobody has it yet: anybody may
		"e5 e1": false, "e4 v1": false, // of no level that is in use
	} {
		a, b, _ := strings.Cut(pair, " ")
		if s.Together(a, b) != want {
			t.Errorf("together %s: want %v", pair, want)
		}
	}
}

// Users run their levels on any host.
func TestSurveyUsers(t *testing.T) {
	f := load(t, surveyed+entry("uid=ann", "inetOrgPerson", "ann", "levelfsAssignment: vi=1"))
	s, err := Of(t.Context(), f, Query{Hosts: "srv*"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := names(s.Layers); got != "base2=gcc@1 g1=gcc@1 v1=vi@1" || !s.Together("v1", "g1") || !s.Together("g1", "v1") {
		t.Errorf("%s, together %v", got, s.Together("v1", "g1"))
	}
}

func TestSurveyErrors(t *testing.T) {
	f := load(t, surveyed)
	var notFound *ldapmap.NotFoundError
	if _, err := Of(t.Context(), f, Query{Components: []string{"nope"}}, nil); !errors.As(err, &notFound) || notFound.Name != "nope" {
		t.Errorf("%v", err)
	}
	if _, err := Of(t.Context(), f, Query{Hosts: "["}, nil); err == nil {
		t.Error("no error for a pattern that is none")
	}
	f = load(t, surveyed+component("bad", "1 missing =test"))
	if _, err := Of(t.Context(), f, Query{States: []string{"test"}}, nil); !errors.As(err, &notFound) || notFound.Name != "missing" {
		t.Errorf("%v", err)
	}
	for _, line := range []string{"levelfsRange: X:2-1", "levelfsRange: 1-2", "levelfsSegment: A::B", "levelfsImage: a b", "levelfsRange: X:1-2\nlevelfsRange: x:3-4"} {
		var invalid *ldapmap.InvalidError
		f = load(t, surveyed+layerEntry("bad", "levelfsFSType: erofs", line))
		if _, err := Of(t.Context(), f, Query{}, nil); !errors.As(err, &invalid) {
			t.Errorf("%q: %v", line, err)
		}
	}
	// Of who gets two answers at once it is not known which it runs.
	f = load(t, surveyed+entry("cn=lnx03", "device", "lnx03", "levelfsAssignment: emacs=1", "levelfsAssignment: emacs=2"))
	s, err := Of(t.Context(), f, Query{}, nil)
	if err != nil || len(s.Unknown) != 1 || s.Unknown[0].Caller.Host != "lnx03" || s.Unknown[0].Component != "emacs" {
		t.Errorf("%v, %v", s.Unknown, err)
	}
}
