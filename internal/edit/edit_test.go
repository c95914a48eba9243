package edit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/fleet"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// load makes an inventory of LDIF texts, one a source. Of names that begin with
// "server:" the source is one on which no hosts are made.
func load(t *testing.T, texts ...string) Inventory {
	t.Helper()
	var stores []ldapmap.Store
	var inv Inventory
	for _, text := range texts {
		text, server := strings.CutPrefix(text, "server:")
		inv.Files = append(inv.Files, !server)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "all.ldif"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		stores = append(stores, ldifsource.New(dir))
	}
	f, err := fleet.LoadMore(t.Context(), stores, []ldapmap.Term{{{{Attr: "objectClass", Op: ldapmap.Present}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	inv.Fleet = f
	return inv
}

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

func small() testenv.Inventory {
	level := func(name, state string) testenv.Level {
		return testenv.Level{Name: name, State: state, Layers: []string{"base"}}
	}
	return testenv.Inventory{
		Components: []testenv.Component{
			{Name: "emacs", Default: "1", Levels: []testenv.Level{level("1", "released"), level("2", ""), level("3", "test"), level("0", "retired")}},
			{Name: "vi", Levels: []testenv.Level{level("1", "released")}},
		},
		Layers:   []testenv.Layer{{Name: "base", FSType: "erofs", Digest: digest, Images: []string{"base.erofs"}}, {Name: "none", FSType: "dir"}},
		Profiles: []testenv.Caller{{Name: "a", Profiles: []string{"b"}, Assign: []string{"vi=1"}}, {Name: "b", Assign: []string{"emacs=2"}}, {Name: "free"}},
		Hosts: []testenv.Caller{
			{Name: "lnx01.example.org", Assign: []string{"emacs=2", "vi=1"}}, {Name: "lnx02", Profiles: []string{"A"}},
			{Name: "twin.x"}, {Name: "twin.y"}, {Name: "ann"}, {Name: "torn", Assign: []string{"emacs=1", "emacs=2"}},
		},
		Groups: []testenv.Caller{{Name: "g", Members: []string{"lnx02"}}},
	}
}

const people = `
dn: uid=ann,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: ann

dn: cn=plain,ou=groups,dc=example,dc=org
objectClass: posixGroup
cn: plain
memberUid: ann
levelfsAssignment: vi=1

dn: cn=net,ou=groups,dc=example,dc=org
objectClass: nisNetgroup
cn: net
nisNetgroupTriple: (twin.x,,)
`

// central is what a second source has that the first, with small, has not.
const central = `
dn: cn=lnx09.example.org,ou=machines,dc=central
objectClass: device
cn: lnx09.example.org

dn: cn=lnx02,ou=machines,dc=central
objectClass: device
cn: lnx02
`

func key(s string) ldapmap.Key {
	k, err := ldapmap.ParseKey(s)
	if err != nil {
		panic(err)
	}
	return k
}

func caller(s string) Caller {
	c, err := ParseCaller(s)
	if err != nil {
		panic(err)
	}
	return c
}

// describe writes steps down: source, entry, the record's words, and the modifications.
func describe(steps []Step) string {
	var lines []string
	for _, s := range steps {
		rdn, _, _ := strings.Cut(s.DN, ",")
		line := fmt.Sprintf("%d %s %s %s %s:", s.Source, rdn, s.Verb, orDash(s.Old), orDash(s.New))
		if s.Was == nil {
			line = "new " + line
		}
		if s.Remove {
			line += " removed"
		}
		for _, m := range s.Mods {
			op := map[ldapmap.ModOp]string{ldapmap.ModAdd: "+", ldapmap.ModDelete: "-"}[m.Op]
			line += " " + op + strings.TrimPrefix(m.Attr, "levelfs") + "=" + strings.Join(m.Values, "|")
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func TestAssign(t *testing.T) {
	one := func(c string, levels ...string) Assign {
		a := Assign{Caller: caller(c)}
		for _, l := range levels {
			a.Levels = append(a.Levels, key(l))
		}
		return a
	}
	mandatory := func(a Assign) Assign { a.Mandatory = true; return a }
	where := func(a Assign, w Where) Assign { a.Where = w; return a }
	for _, c := range []struct {
		name   string
		wanted Intention
		want   string // steps, or "error: " and a part of it
	}{
		{"replaced", one("host:lnx01.example.org", "emacs@1"), "0 cn=lnx01.example.org assign emacs=2 emacs=1: -Assignment=emacs=2 +Assignment=emacs=1"},
		{"by the short name", one("lnx01", "emacs@1"), "0 cn=lnx01.example.org assign emacs=2 emacs=1: -Assignment=emacs=2 +Assignment=emacs=1"},
		{"by the full name", one("lnx02.example.org", "emacs@1"), "0 cn=lnx02 assign - emacs=1: +Assignment=emacs=1"},
		{"in capitals", one("host:LNX02", "emacs@1"), "0 cn=lnx02 assign - emacs=1: +Assignment=emacs=1"},
		{"so already", one("lnx01", "emacs@2"), ""},
		{"two components", one("lnx01", "emacs@1", "vi@1"), "0 cn=lnx01.example.org assign emacs=2 emacs=1: -Assignment=emacs=2 +Assignment=emacs=1"},
		{"out of two", one("torn", "emacs@2"), "0 cn=torn assign emacs=1 -: -Assignment=emacs=1"},
		{"one component twice", one("lnx01", "emacs@1", "emacs@2"), "error: two levels of"},
		{"mandatory", mandatory(one("lnx01", "emacs@1")), "0 cn=lnx01.example.org assign-mandatory - emacs=1: +Mandatory=emacs=1"},
		{"test by the host itself", one("lnx01", "emacs@3"), "0 cn=lnx01.example.org assign emacs=2 emacs=3: -Assignment=emacs=2 +Assignment=emacs=3"},
		{"test by a profile", one("profile:B", "emacs@3"), "0 cn=b assign emacs=2 emacs=3: -Assignment=emacs=2 +Assignment=emacs=3"},
		{"test by a group", one("group:g", "emacs@3"), "error: is in state test: a group"},
		{"test by default", one("default", "emacs@3"), "error: is in state test: a default"},
		{"retired", one("lnx01", "emacs@0"), "error: is retired"},
		{"no level", one("lnx01", "emacs@9"), `error: no level "emacs@9"`},
		{"user", one("user:ann", "emacs@1"), "0 uid=ann assign - emacs=1: +objectClass=levelfsCaller +Assignment=emacs=1"},
		{"group that is no caller yet", one("plain", "emacs@1"), "0 cn=plain assign - emacs=1: +objectClass=levelfsCaller +Assignment=emacs=1"},
		{"netgroup", one("group:net", "emacs@2"), "0 cn=net assign - emacs=2: +objectClass=levelfsCaller +Assignment=emacs=2"},
		{"default", one("default", "emacs@2"), "0 cn=emacs assign emacs=1 emacs=2: -Default=1 +Default=2"},
		{"first default", one("default", "vi@1"), "0 cn=vi assign - vi=1: +Default=1"},
		{"default so already", one("default", "emacs@1"), ""},
		{"mandatory default", mandatory(one("default", "emacs@1")), "error: cannot be mandatory"},
		{"default of nothing", one("default", "gcc@1"), `error: no component "gcc"`},
		{"host or user", one("ann", "emacs@1"), `error: "ann" can be host:ann or user:ann`},
		{"two hosts", one("twin", "emacs@1"), `error: "twin" can be cn=twin.x`},
		{"nobody", one("nosuch", "emacs@1"), `error: no host, user, group or profile "nosuch"`},
		{"no user", one("user:nosuch", "emacs@1"), `error: no user "nosuch"`},
		{"new host", one("host:new", "emacs@1"), "new 0 cn=new assign - emacs=1: +objectClass=device|levelfsCaller +cn=new +Assignment=emacs=1"},
		{"new host in a place", where(one("host:new", "emacs@1"), Where{In: "ou=there,dc=test"}), "new 0 cn=new assign - emacs=1: +objectClass=device|levelfsCaller +cn=new +Assignment=emacs=1"},
		{"new host in no place", where(one("host:new", "emacs@1"), Where{In: "there"}), `error: dn "there" is none`},

		{"unassign", Unassign{Caller: caller("lnx01"), Components: []string{"emacs"}}, "0 cn=lnx01.example.org unassign emacs=2 -: -Assignment=emacs=2"},
		{"unassign both", Unassign{Caller: caller("torn"), Components: []string{"emacs"}}, "0 cn=torn unassign emacs=1,emacs=2 -: -Assignment=emacs=1|emacs=2"},
		{"unassign nothing", Unassign{Caller: caller("lnx02"), Components: []string{"emacs"}}, ""},
		{"unassign what is not mandatory", Unassign{Caller: caller("lnx01"), Components: []string{"emacs"}, Mandatory: true}, ""},
		{"unassign of a new host", Unassign{Caller: caller("host:new"), Components: []string{"emacs"}}, ""},
		{"unassign default", Unassign{Caller: caller("default"), Components: []string{"emacs"}}, "0 cn=emacs unassign emacs=1 -: -Default=1"},
		{"unassign no default", Unassign{Caller: caller("default"), Components: []string{"vi"}}, ""},

		{"include", Include{Caller: caller("lnx01"), Profile: "b"}, "0 cn=lnx01.example.org include - b: +ProfileRef=b"},
		{"include so already", Include{Caller: caller("lnx02"), Profile: "a"}, ""},
		{"include in a profile", Include{Caller: caller("profile:free"), Profile: "a"}, "0 cn=free include - a: +ProfileRef=a"},
		{"include a loop", Include{Caller: caller("profile:b"), Profile: "A"}, "error: loop: b -> A -> b"},
		{"include itself", Include{Caller: caller("profile:free"), Profile: "free"}, "error: loop: free -> free"},
		{"include nothing", Include{Caller: caller("lnx01"), Profile: "nosuch"}, `error: no profile "nosuch"`},
		{"include by a group", Include{Caller: caller("group:plain"), Profile: "b"}, "0 cn=plain include - b: +objectClass=levelfsCaller +ProfileRef=b"},
		{"exclude", Exclude{Caller: caller("lnx02"), Profile: "a"}, "0 cn=lnx02 exclude A -: -ProfileRef=A"},
		{"exclude nothing", Exclude{Caller: caller("lnx01"), Profile: "a"}, ""},

		{"profile", NewProfile{Name: "new", Description: "x"}, "new 0 cn=new create - new: +objectClass=levelfsProfile +cn=new +description=x"},
		{"profile that is there", NewProfile{Name: "FREE"}, `error: profile "FREE" is there already`},
		{"profile of no name", NewProfile{Name: "a b"}, "error: profile name"},
		{"delete", DeleteProfile{Name: "free"}, "0 cn=free delete free -: removed"},
		{"delete what is included", DeleteProfile{Name: "b"}, `error: profile "b" is included by profile:a`},
		{"delete what a host has", DeleteProfile{Name: "a"}, `error: profile "a" is included by host:lnx02`},
		{"delete nothing", DeleteProfile{Name: "nosuch"}, `error: no profile "nosuch"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkSteps(t, load(t, small().LDIF()+people), c.wanted, c.want)
		})
	}
}

// checkSteps compares the steps, and makes them in memory.
func checkSteps(t *testing.T, inv Inventory, wanted Intention, want string) {
	t.Helper()
	steps, err := wanted.Steps(inv)
	if part, ok := strings.CutPrefix(want, "error: "); ok {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%v, want %q", err, part)
		}
		return
	}
	if got := describe(steps); err != nil || got != want {
		t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
	}
	for _, s := range steps {
		if inv, err = inv.With(s); err != nil {
			t.Errorf("the step cannot be made: %v", err)
		}
	}
}

// TestSources: which of two sources a change is made in.
func TestSources(t *testing.T) {
	inv := load(t, small().LDIF()+people, "server:"+central)
	assign := func(c string, w Where) Assign {
		return Assign{Caller: caller(c), Levels: []ldapmap.Key{key("emacs@2")}, Where: w}
	}
	for _, c := range []struct {
		name   string
		wanted Intention
		want   string
	}{
		{"only the first has it", assign("user:ann", Where{}), "0 uid=ann assign - emacs=2: +objectClass=levelfsCaller +Assignment=emacs=2"},
		{"only the last has it", assign("lnx09", Where{}), "1 cn=lnx09.example.org assign - emacs=2: +objectClass=levelfsCaller +Assignment=emacs=2"},
		{"both have it", assign("lnx02", Where{}), "error: is in more than one source"},
		{"both, the first", assign("lnx02", Where{Local: true}), "0 cn=lnx02 assign - emacs=2: +Assignment=emacs=2"},
		{"both, the last", assign("lnx02", Where{Central: true}), "1 cn=lnx02 assign - emacs=2: +objectClass=levelfsCaller +Assignment=emacs=2"},
		{"none has it", assign("host:new", Where{}), "error: is in none of the sources"},
		{"overridden", assign("lnx09", Where{Local: true}), "new 0 cn=lnx09.example.org assign - emacs=2: +objectClass=device|levelfsCaller +cn=lnx09.example.org +Assignment=emacs=2"},
		{"no hosts are made on a server", assign("host:new", Where{Central: true}), `error: no host "new" in inventory`},
		{"but where it is said", assign("host:new", Where{Central: true, In: "dc=central"}), "new 1 cn=new assign - emacs=2: +objectClass=device|levelfsCaller +cn=new +Assignment=emacs=2"},
		{"user of the other", assign("user:ann", Where{Central: true}), `error: no user "ann" in inventory`},
		{"default", assign("default", Where{}), "0 cn=emacs assign emacs=1 emacs=2: -Default=1 +Default=2"},
		{"default of the other", assign("default", Where{Central: true}), `error: no component "emacs" in inventory`},
		{"profile", NewProfile{Name: "new"}, "error: is in none of the sources"},
		{"profile on the server", NewProfile{Name: "new", Where: Where{Central: true}}, "error: has no profile beside which"},
		{"profile in a place", NewProfile{Name: "new", Where: Where{Central: true, In: "dc=central"}}, "new 1 cn=new create - new: +objectClass=levelfsProfile +cn=new"},
	} {
		t.Run(c.name, func(t *testing.T) { checkSteps(t, inv, c.wanted, c.want) })
	}
	steps, err := assign("lnx09", Where{Local: true}).Steps(inv)
	if err != nil || steps[0].DN != "cn=lnx09.example.org,ou=machines,dc=central" {
		t.Errorf("an override is at %v, %v; want the DN of what it overrides", steps, err)
	}
	// A file that is empty yet takes the others' tree.
	empty := load(t, "", "server:"+central)
	steps, err = Assign{Caller: caller("host:new"), Where: Where{Local: true}, Levels: nil}.Steps(empty)
	if err != nil || len(steps) != 0 {
		t.Errorf("nothing to assign: %v, %v", steps, err)
	}
}

func layerEntry(name, sum string) ldapmap.Entry {
	return ldapmap.Entry{DN: "cn=" + name + ",ou=layers," + testenv.BaseDN, Attrs: map[string][]string{
		"objectclass": {"levelfsLayer"}, "cn": {name}, "levelfsfstype": {"erofs"}, "levelfsdigest": {sum}, "levelfsimage": {"image.erofs"},
	}}
}

func TestLevels(t *testing.T) {
	other := "sha256:" + strings.Repeat("2", 64)
	publish := func(k string, more func(*Publish), layers ...string) Publish {
		p := Publish{Key: key(k), Layers: layers, State: "test"}
		if more != nil {
			more(&p)
		}
		return p
	}
	seal := ldapmap.Seal("emacs@3", []ldapmap.Layer{{Name: "base", FSType: "erofs", Digest: digest}})
	for _, c := range []struct {
		name   string
		wanted Intention
		want   string
	}{
		{"publish", publish("emacs@4", func(p *Publish) {
			p.Packages, p.Description = []string{"emacs-4-1.s390x"}, "x"
			p.NotAfter = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		}, "none", "base"),
			"new 0 cn=emacs@4 publish - test: +objectClass=levelfsLevel +cn=emacs@4 +State=test +LayerRef=10:none|20:base +Package=emacs-4-1.s390x +NotAfter=20300102030405Z +description=x"},
		{"publish with layers", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{layerEntry("new", other), layerEntry("base", digest)} }),
			"new 0 cn=new publish - new: +objectClass=levelfsLayer +cn=new +FSType=erofs +Digest=" + other + " +Image=image.erofs\n" +
				"new 0 cn=emacs@4 publish - test: +objectClass=levelfsLevel +cn=emacs@4 +State=test +LayerRef=10:new|20:base"},
		{"named layers first", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{layerEntry("new", other)} }, "base", "new"),
			"new 0 cn=new publish - new: +objectClass=levelfsLayer +cn=new +FSType=erofs +Digest=" + other + " +Image=image.erofs\n" +
				"new 0 cn=emacs@4 publish - test: +objectClass=levelfsLevel +cn=emacs@4 +State=test +LayerRef=10:base|20:new"},
		{"publish a component", publish("gcc@1", func(p *Publish) { p.Create, p.Private, p.MountPoint = true, "none", "/opt/gcc" }, "base"),
			"new 0 cn=gcc create - gcc: +objectClass=levelfsComponent +cn=gcc +MountPoint=/opt/gcc +Private=none\n" +
				"new 0 cn=gcc@1 publish - test: +objectClass=levelfsLevel +cn=gcc@1 +State=test +LayerRef=10:base"},
		{"plus in a name", publish("g++@1", func(p *Publish) { p.Create = true }, "base"),
			`new 0 cn=g\+\+ create - g++: +objectClass=levelfsComponent +cn=g++` + "\n" + `new 0 cn=g\+\+@1 publish - test: +objectClass=levelfsLevel +cn=g++@1 +State=test +LayerRef=10:base`},
		{"publish in no component", publish("gcc@1", nil, "base"), `error: no component "gcc"`},
		{"component with a bad policy", publish("gcc@1", func(p *Publish) { p.Create, p.Private = true, "sometimes" }, "base"), "error: levelfsPrivate"},
		{"policy of a component that is there", publish("emacs@4", func(p *Publish) { p.Create, p.Private = true, "none" }, "base"), "error: not changed"},
		{"publish again", publish("emacs@1", nil, "base"), `error: level "emacs@1" is there already`},
		{"publish no layer", publish("emacs@4", nil, "nosuch"), `error: no layer "nosuch"`},
		{"publish without layers", publish("emacs@4", nil), "error: 0 layers"},
		{"publish a layer twice", publish("emacs@4", nil, "base", "base"), "error: each layer once"},
		{"layer with another image", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{layerEntry("base", other)} }), `error: layer "base" is there with another image`},
		{"layer in capitals", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{layerEntry("BASE", digest)} }), "error: is there with another image"},
		{"layer that is none", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{{DN: "cn=x", Attrs: map[string][]string{"cn": {"x"}}}} }), "error: is no layer"},
		{"layer that comes twice", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{layerEntry("n", other), layerEntry("n", other)} }), "error: comes twice"},
		{"layer of a bad name", publish("emacs@4", func(p *Publish) { p.NewLayers = []ldapmap.Entry{layerEntry("../n", other)} }), "error: want a layer name"},
		{"publish released", publish("emacs@4", func(p *Publish) { p.State = "released" }, "base"), "error: draft or test"},

		{"release", Release{Key: key("emacs@3")}, "0 cn=emacs@3 release test released: -State=test +State=released +Seal=" + seal},
		{"release without a seal", Release{Key: key("vi@1")}, "0 cn=vi@1 release released released: +Seal=" + ldapmap.Seal("vi@1", []ldapmap.Layer{{Name: "base", FSType: "erofs", Digest: digest}})},
		{"release what is retired", Release{Key: key("emacs@0")}, "error: is retired: it cannot be released"},
		{"release nothing", Release{Key: key("emacs@9")}, `error: no level "emacs@9"`},
		{"retire", Retire{Key: key("emacs@1"), Successor: "2"}, "0 cn=emacs@1 retire released retired: -State=released +State=retired +Successor=2"},
		{"retire without", Retire{Key: key("emacs@2")}, "0 cn=emacs@2 retire released retired: +State=retired"},
		{"retired already", Retire{Key: key("emacs@0")}, ""},
		{"successor later", Retire{Key: key("emacs@0"), Successor: "1"}, "0 cn=emacs@0 retire retired retired: +Successor=1"},
		{"its own successor", Retire{Key: key("emacs@1"), Successor: "1"}, "error: cannot succeed itself"},
		{"no successor", Retire{Key: key("emacs@1"), Successor: "9"}, `error: no level "emacs@9"`},
		{"retired successor", Retire{Key: key("emacs@1"), Successor: "0"}, `error: level "emacs@0" is retired`},
	} {
		t.Run(c.name, func(t *testing.T) { checkSteps(t, load(t, small().LDIF()), c.wanted, c.want) })
	}
}

// TestRelease: what is not fit to be mounted is not released.
func TestRelease(t *testing.T) {
	inv := small()
	for name, layers := range map[string][]string{"gone": {"nosuch"}, "noimage": {"none"}, "none": nil} {
		inv.Components[0].Levels = append(inv.Components[0].Levels, testenv.Level{Name: name, State: "test", Layers: layers})
	}
	text := inv.LDIF()
	for name, want := range map[string]string{"gone": `no layer "nosuch"`, "noimage": "no image", "none": "levelfsLayerRef"} {
		checkSteps(t, load(t, text), Release{Key: key("emacs@" + name)}, "error: "+want)
	}
	// A window that begins later is no reason; one that is over is.
	window := func(attr, value string) Inventory {
		return load(t, strings.Replace(text, "cn: emacs@3\n", "cn: emacs@3\n"+attr+": "+value+"\n", 1))
	}
	if steps, err := (Release{Key: key("emacs@3")}).Steps(window("levelfsNotBefore", "20990101000000Z")); err != nil || len(steps) != 1 {
		t.Errorf("%v, %v", steps, err)
	}
	checkSteps(t, window("levelfsNotAfter", "20000101000000Z"), Release{Key: key("emacs@3")}, "error: may not be run after")
	// Once it is released, there is nothing to do.
	done := load(t, small().LDIF())
	steps, err := Release{Key: key("emacs@3")}.Steps(done)
	if err != nil {
		t.Fatal(err)
	}
	if done, err = done.With(steps[0]); err != nil {
		t.Fatal(err)
	}
	checkSteps(t, done, Release{Key: key("emacs@3")}, "")
}

func TestLook(t *testing.T) {
	inv := load(t, small().LDIF()+people)
	for _, c := range []struct {
		name   string
		wanted []Intention
		counts []string
		lost   int
	}{
		{"profile", []Intention{Assign{Caller: caller("profile:b"), Levels: []ldapmap.Key{key("emacs@1")}}}, []string{"1 host changes from emacs@2 to emacs@1"}, 0},
		{"default away", []Intention{Unassign{Caller: caller("default"), Components: []string{"emacs"}}},
			[]string{"3 hosts would be left without a level of emacs, now emacs@1: nothing assigns one"}, 3},
		{"retire", []Intention{Retire{Key: key("emacs@2")}}, []string{`2 hosts would be left without a level of emacs, now emacs@2: level "emacs@2" is retired`}, 2},
		{"retire after a move", []Intention{
			Assign{Caller: caller("profile:b"), Levels: []ldapmap.Key{key("emacs@1")}},
			Assign{Caller: caller("lnx01"), Levels: []ldapmap.Key{key("emacs@1")}},
			Retire{Key: key("emacs@2")},
		}, []string{"2 hosts change from emacs@2 to emacs@1"}, 0},
		{"released and given", []Intention{Release{Key: key("emacs@3")}, Assign{Caller: caller("default"), Levels: []ldapmap.Key{key("emacs@3")}}},
			[]string{"3 hosts change from emacs@1 to emacs@3"}, 0},
		{"a user's first rule", []Intention{Assign{Caller: caller("user:ann"), Levels: []ldapmap.Key{key("emacs@2")}}},
			[]string{"1 user changes from the host's level of emacs to emacs@2"}, 0},
		{"a group becomes a caller", []Intention{Assign{Caller: caller("group:plain"), Levels: []ldapmap.Key{key("emacs@2")}}},
			[]string{"1 user changes from the host's level of emacs to emacs@2", "1 user changes from the host's level of vi to vi@1"}, 0},
		{"a netgroup becomes a caller", []Intention{Assign{Caller: caller("net"), Levels: []ldapmap.Key{key("emacs@2")}}},
			[]string{"1 host changes from emacs@1 to emacs@2"}, 0},
		{"a component more", []Intention{Publish{Key: key("gcc@1"), Layers: []string{"base"}, State: "test", Create: true}}, nil, 0},
		{"nothing", []Intention{Assign{Caller: caller("lnx01"), Levels: []ldapmap.Key{key("emacs@2")}}}, nil, 0},
		{"ambiguity resolved", []Intention{Assign{Caller: caller("torn"), Levels: []ldapmap.Key{key("emacs@2")}}}, []string{"1 host gets emacs@2, without a level of it now"}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Look(t.Context(), inv, c.wanted, nil)
			if err != nil {
				t.Fatal(err)
			}
			var counts []string
			for _, n := range p.Counts() {
				counts = append(counts, n.String())
			}
			if !slices.Equal(counts, c.counts) || len(p.Lost()) != c.lost {
				t.Errorf("got %q, %d lost\nwant %q, %d", counts, len(p.Lost()), c.counts, c.lost)
			}
		})
	}
	// A user's last rule: back to the host's level is no loss.
	with, err := Look(t.Context(), inv, []Intention{Assign{Caller: caller("user:ann"), Levels: []ldapmap.Key{key("vi@1")}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err := Look(t.Context(), with.After, []Intention{Unassign{Caller: caller("user:ann"), Components: []string{"vi"}}}, nil)
	if err != nil || len(p.Lost()) != 0 || len(p.Counts()) != 1 || p.Counts()[0].String() != "1 user changes from vi@1 to the host's level" {
		t.Errorf("%v, %v, %v", p.Lost(), p.Counts(), err)
	}
	if _, err := Look(t.Context(), inv, []Intention{Release{Key: key("emacs@9")}}, nil); err == nil {
		t.Error("no error")
	}
}

// TestAssigner: where to change what a caller runs.
func TestAssigner(t *testing.T) {
	inv := load(t, small().LDIF()+people)
	for host, want := range map[string]string{"lnx01.example.org": "host:lnx01.example.org", "lnx02": "profile:b", "ann": "default"} {
		a, _ := inv.Ask(t.Context(), fleet.Caller{Host: host}, "emacs")
		c, ok := Assigner(inv.Fleet, a.Rule)
		if !ok || c.String() != want {
			t.Errorf("%s: %v, %v; want %s", host, c, ok, want)
		}
	}
	if c, ok := Assigner(inv.Fleet, ldapmap.Rule{Source: "elsewhere", DN: "cn=x"}); ok {
		t.Errorf("%v", c)
	}
}

func TestParseCaller(t *testing.T) {
	for _, s := range []string{"host:lnx01.example.org", "user:rob", "group:test guests", "profile:base", "default", "lnx01"} {
		if c, err := ParseCaller(s); err != nil || c.String() != s {
			t.Errorf("%q: %q, %v", s, c, err)
		}
	}
	for _, s := range []string{"", "host:", "host:lnx*", "user:../x", "cow:x", "profile:a b", "group:a,b", "a=b", "default:x", "group:a\nb", ":x"} {
		if c, err := ParseCaller(s); err == nil {
			t.Errorf("%q: %v", s, c)
		}
	}
	var notFound *ldapmap.NotFoundError
	if _, err := (Assign{Caller: caller("group:nosuch")}).Steps(load(t, small().LDIF())); !errors.As(err, &notFound) || notFound.What != Group {
		t.Errorf("%v", err)
	}
}
