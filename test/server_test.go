package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
	"github.com/levelfs/levelfs/ldapmap/ldifsource"
)

// The reader of packaging/schema/access-389.ldif.
const (
	readerDN       = testenv.ReaderDN
	readerPassword = "change-this-password"
)

// people are users, and groups of all kinds, in an inventory of emacs 29.4-1 to
// 31~rc1. Names are spelled as people spell them.
const people = `
dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: uid=rob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: levelfsCaller
uid: rob
cn: Rob
sn: Example
userPassword: of-rob
levelfsAssignment: emacs=31~rc1

dn: uid=ann,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
uid: ann
cn: Ann
sn: Example
uidNumber: 1001
gidNumber: 1001
homeDirectory: /home/ann
userPassword: of-ann

dn: uid=bob,ou=people,dc=example,dc=org
objectClass: account
objectClass: posixAccount
uid: bob
cn: Bob
uidNumber: 1002
gidNumber: 2002
homeDirectory: /home/bob
userPassword: of-bob

dn: uid=eve,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: eve
cn: Eve
sn: Example
userPassword: of-eve

dn: cn=eds,ou=groups,dc=example,dc=org
objectClass: groupOfUniqueNames
objectClass: levelfsCaller
cn: eds
uniqueMember: UID=Eve, OU=People, DC=Example, DC=Org
uniqueMember: cn=lnx03,ou=hosts,dc=example,dc=org
levelfsAssignment: emacs=30.1-1
levelfsCustomize: emacs=20:emacs-eds

dn: cn=anns,ou=groups,dc=example,dc=org
objectClass: posixGroup
objectClass: levelfsCaller
cn: anns
gidNumber: 2001
memberUid: ann
levelfsProfileRef: old
levelfsCustomize: emacs=30:emacs-anns
levelfsCustomize: gcc=30:gcc-anns

dn: cn=bobs,ou=groups,dc=example,dc=org
objectClass: posixGroup
objectClass: levelfsCaller
cn: bobs
gidNumber: 2002
levelfsAssignment: emacs=30.1-1
levelfsCustomize: emacs=30:emacs-bobs

dn: cn=net,ou=groups,dc=example,dc=org
objectClass: nisNetgroup
objectClass: levelfsCaller
cn: net
nisNetgroupTriple: (lnx05,,)
memberNisNetgroup: inner
levelfsAssignment: emacs=31~rc1
levelfsCustomize: emacs=20:emacs-net

dn: cn=inner,ou=groups,dc=example,dc=org
objectClass: nisNetgroup
cn: inner
nisNetgroupTriple: (lnx06.example.org,,)

dn: cn=levelfs-operators,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: levelfs-operators
member: uid=ann,ou=people,dc=example,dc=org

dn: cn=levelfs-publishers,ou=groups,dc=example,dc=org
objectClass: groupOfNames
cn: levelfs-publishers
member: uid=bob,ou=people,dc=example,dc=org
`

// serverInventory has every way for a caller to come to a level.
func serverInventory() testenv.Inventory {
	inv := busyInventory()
	inv.Hosts = append(inv.Hosts,
		testenv.Caller{Name: "lnx03.example.org"},
		testenv.Caller{Name: "lnx03"},
		testenv.Caller{Name: "lnx04.example.org", Profiles: []string{"ring1"}},
		testenv.Caller{Name: "lnx05"}, testenv.Caller{Name: "lnx06"},
		testenv.Caller{Name: "torn", Profiles: []string{"old", "editors"}},
		testenv.Caller{Name: "lost", Profiles: []string{"nosuch"}},
		testenv.Caller{Name: "drafty", Assign: []string{"gcc=14"}},
		testenv.Caller{Name: "retiring", Assign: []string{"gcc=12"}},
		// Two layers with one number, and one of another kind.
		testenv.Caller{Name: "clashing", Customize: []string{"emacs=10:emacs-lnx03", "emacs=10:emacs-lnx04"}},
		testenv.Caller{Name: "crooked", Profiles: []string{"crooked"}},
	)
	inv.Hosts[1].Customize = []string{"emacs=10:emacs-lnx03"}
	for name, kind := range map[string]string{"emacs-site": "site", "emacs-ring": "site", "emacs-lnx03": "host", "emacs-lnx04": "host",
		"emacs-eds": "group", "emacs-anns": "group", "gcc-anns": "group", "emacs-bobs": "group", "emacs-net": "group"} {
		inv.Layers = append(inv.Layers, fakeLayer(name).As(kind))
	}
	inv.Components[0].Customize = []string{"emacs=50:emacs-site"}
	inv.Profiles[0].Customize = []string{"emacs=40:emacs-ring", "emacs=40:emacs-lnx04"}
	inv.Profiles = append(inv.Profiles,
		testenv.Caller{Name: "ring1", Profiles: []string{"ring2"}},
		testenv.Caller{Name: "ring2", Profiles: []string{"ring1"}, Assign: []string{"emacs=30.1-1"}},
		testenv.Caller{Name: "crooked", Customize: []string{"emacs=10:emacs-eds"}},
	)
	gcc := component("gcc", "13", "12", "13", "14")
	for i, state := range []string{"retired", "released", "draft"} {
		gcc.Levels[i].State = state
		inv.Layers = append(inv.Layers, fakeLayer(gcc.Levels[i].Layers[0]))
	}
	nightly := component("nightly", "0", "0")
	for n := range 60 {
		l := nightly.Levels[0]
		l.Name = fmt.Sprintf("1-%d", n)
		nightly.Levels = append(nightly.Levels, l)
	}
	inv.Layers = append(inv.Layers, fakeLayer("nightly-0"))
	inv.Components = append(inv.Components, gcc, nightly)
	// 389 Directory Server looks at a few candidates one by one, index or not: more
	// than a few of each kind.
	for n := range 20 {
		inv.Components = append(inv.Components, component(fmt.Sprintf("c%d", n), "0"))
		inv.Hosts = append(inv.Hosts, testenv.Caller{Name: fmt.Sprintf("h%d", n)})
	}
	for n := range 60 {
		inv.Profiles = append(inv.Profiles, testenv.Caller{Name: fmt.Sprintf("p%d", n), Assign: []string{"emacs=29.4-1"}})
	}
	return inv
}

// serverLDIF is serverInventory with the people, an owner, a mandatory level, a host that
// is no caller and one that can bind.
func serverLDIF() string {
	text := serverInventory().LDIF() + people
	text = strings.Replace(text, "dn: "+testenv.ComponentDN("gcc")+"\n", "dn: "+testenv.ComponentDN("gcc")+
		"\nowner: uid=eve,ou=people,dc=example,dc=org\n", 1)
	return text + `
dn: cn=forced,ou=hosts,dc=example,dc=org
objectClass: device
objectClass: levelfsCaller
cn: forced
levelfsAssignment: emacs=29.4-1
levelfsMandatory: emacs=31~rc1

dn: cn=plain,ou=hosts,dc=example,dc=org
objectClass: device
cn: plain

dn: cn=self,ou=hosts,dc=example,dc=org
objectClass: device
objectClass: simpleSecurityObject
objectClass: levelfsCaller
cn: self
userPassword: of-self
`
}

// A server is a directory server with that inventory, and how to ask it.
type server struct {
	name      string
	slapd     *testenv.Slapd
	searches  func() (int, error)
	unindexed func() ([]string, error)
	config    ldapsource.Config // as the reader
	password  string            // the reader's
}

// startDS389 starts a 389 Directory Server with the text's entries and the access
// that the project recommends.
func startDS389(t *testing.T, text string) *testenv.DS389 {
	t.Helper()
	testenv.Require(t, "root", "ds389")
	dir, err := os.MkdirTemp("", "ds")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d, err := testenv.StartDS389(t.Context(), dir, schemaDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := d.Add(text); err != nil {
		t.Fatal(err)
	}
	access, err := os.ReadFile(filepath.Join(schemaDir, "access-389.ldif"))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(string(access)); err != nil {
		t.Fatal(err)
	}
	return d
}

// startServers starts one of each.
func startServers(t *testing.T) []server {
	t.Helper()
	text := serverLDIF()
	d := startDS389(t, text)
	s := startSlapd(t, testenv.SlapdOptions{LogLevel: "stats,filter"}, testenv.Inventory{})
	rest := text[strings.Index(text, "dn: cn="):] // startSlapd has added the containers
	if err := s.Add(rest); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Restrict(), s.Load("access-roles.ldif")); err != nil {
		t.Fatal(err)
	}
	return []server{
		{"OpenLDAP", s, s.Searches, s.Unindexed, ldapsource.Config{
			URIs: []string{s.URI}, Base: s.Base, BindDN: readerDN, PasswordFile: secret(t, s.RootPW),
		}, s.RootPW},
		{"389 Directory Server", d.Slapd, d.Searches, d.Unindexed, ldapsource.Config{
			URIs: []string{d.URI}, Base: d.Base, BindDN: readerDN, PasswordFile: secret(t, readerPassword),
		}, readerPassword},
	}
}

// secret is a file with a password.
func secret(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newSource(t *testing.T, c ldapsource.Config) *ldapsource.Source {
	t.Helper()
	s, err := ldapsource.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// answer is what a lookup finds, and why, without the name of the source.
func answer(t *testing.T, s ldapmap.Source, q ldapmap.Query) string {
	t.Helper()
	r := ldapmap.Resolver{Sources: []ldapmap.Source{s}}
	res, err := r.Resolve(t.Context(), q)
	slices.SortStableFunc(res.Trail, func(a, b ldapmap.Rule) int { return strings.Compare(a.Rank+a.DN, b.Rank+b.DN) })
	text, jsonErr := json.MarshalIndent(res, "", "  ")
	if jsonErr != nil {
		t.Fatal(jsonErr)
	}
	return strings.ReplaceAll(fmt.Sprintf("%s\nerror: %v", text, err), s.Name(), "SOURCE")
}

// treeAnswer is what a user has on lnx01, each component as a lookup of it alone says.
func treeAnswer(t *testing.T, s ldapmap.Source, user string) string {
	t.Helper()
	r := ldapmap.Resolver{Sources: []ldapmap.Source{s}}
	entries, known, err := r.Tree(t.Context(), "lnx01", user)
	if err != nil || len(entries) == 0 {
		t.Fatalf("%s: tree of %s: %v, %v", s.Name(), user, entries, err)
	}
	text := fmt.Sprintf("known %v\n", known)
	for _, e := range entries {
		single, err := r.Resolve(t.Context(), ldapmap.Query{Key: ldapmap.Key{Component: e.Component}, Host: "lnx01", User: user})
		if fmt.Sprint(err) != fmt.Sprint(e.Err) || err == nil && (single.Key() != e.Resolution.Key() || len(single.Layers) != len(e.Resolution.Layers) ||
			!reflect.DeepEqual(single.Above, e.Resolution.Above)) {
			t.Errorf("%s: %s of %s: alone %+v, %v; in the tree %+v, %v", s.Name(), e.Component, user, single, err, e.Resolution, e.Err)
		}
		if e.Err != nil {
			text += e.Err.Error() + "\n"
			continue
		}
		text += e.Resolution.Level.Name
		for _, l := range e.Resolution.Above {
			text += " " + l.Name
		}
		text += "\n"
	}
	return strings.ReplaceAll(text, s.Name(), "SOURCE")
}

// questions are of hosts alone, of users on one host, and of one user on each host.
func questions(t *testing.T) []ldapmap.Query {
	t.Helper()
	hosts := []string{
		"lnx01", "LNX01", "lnx01.example.org", "lnx02", "lnx03", "lnx03.example.org", "lnx04", "lnx05", "lnx06",
		"clashing", "crooked", "forced", "torn", "lost", "drafty", "retiring", "unknown",
	}
	users := []string{"", "rob", "ROB", "ann", "bob", "eve", "nobody"}
	keys := []string{"emacs", "EMACS", "emacs@30.1-1", "emacs@31~RC1", "gcc", "gcc@14", "gcc@12", "nightly", "nightly@1-59", "vi"}
	var all []ldapmap.Query
	for i, host := range hosts {
		for j, user := range users {
			for l, key := range keys {
				if i > 0 && j > 0 && l > 0 {
					continue // one thing at a time
				}
				k, err := ldapmap.ParseKey(key)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, ldapmap.Query{Key: k, Host: host, User: user})
			}
		}
	}
	return all
}

// TestServersAnswerAlike compares what the servers, and LDIF files, answer to every
// kind of question, and that no part of it is one without an index.
func TestServersAnswerAlike(t *testing.T) {
	servers := startServers(t)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "all.ldif"), serverLDIF())
	files := ldifsource.New(dir)

	var sources []*ldapsource.Source
	for _, s := range servers {
		sources = append(sources, newSource(t, s.config))
	}
	answered, refused := 0, 0
	for _, q := range questions(t) {
		want := answer(t, files, q)
		if strings.HasSuffix(want, "error: <nil>") {
			answered++
		} else {
			refused++
		}
		for i, s := range sources {
			if got := answer(t, s, q); got != want {
				t.Fatalf("%+v: %s says\n%s\nLDIF files say\n%s", q, servers[i].name, got, want)
			}
		}
	}
	if answered < 50 || refused < 50 {
		t.Errorf("%d questions were answered and %d refused: not much of a comparison", answered, refused)
	}

	for _, user := range []string{"rob", "ROB", "ann", "bob", "eve", "nobody"} {
		want := treeAnswer(t, files, user)
		for i, s := range sources {
			if got := treeAnswer(t, s, user); got != want {
				t.Errorf("tree of %s: %s says\n%s\nLDIF files say\n%s", user, servers[i].name, got, want)
			}
		}
	}

	for i, s := range servers {
		r := ldapmap.Resolver{Sources: []ldapmap.Source{sources[i]}}
		if got, err := r.Components(t.Context(), "em"); err != nil || len(got) != 1 {
			t.Errorf("%s: components %v, %v", s.name, got, err)
		}
		if got, err := r.Placed(t.Context()); err != nil || len(got) != 1 {
			t.Errorf("%s: mount points %v, %v", s.name, got, err)
		}
		if unindexed, err := s.unindexed(); len(unindexed) != 0 || err != nil {
			t.Errorf("%s: searches without an index: %q, %v", s.name, unindexed, err)
		}
		if before, err := s.searches(); before == 0 || err != nil {
			t.Errorf("%s: no searches are counted: %v", s.name, err)
		}
		// The check that finds none finds one that there is.
		terms := []ldapmap.Term{{{{Attr: "levelfsImage", Value: "nosuch"}}}}
		if _, err := sources[i].Search(t.Context(), terms, []string{"cn"}); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		if unindexed, err := s.unindexed(); len(unindexed) != 1 || err != nil || !strings.Contains(unindexed[0], "levelfsImage") {
			t.Errorf("%s: %q, %v; want one about levelfsImage", s.name, unindexed, err)
		}
	}
}

// TestServersFailAlike compares what is said of a source that is set up wrongly, and
// of a server that is gone.
func TestServersFailAlike(t *testing.T) {
	q := ldapmap.Query{Key: ldapmap.Key{Component: "emacs"}, Host: "lnx01"}
	for _, s := range startServers(t) {
		wrong := s.config
		wrong.Base = "ou=nosuch," + s.slapd.Base
		var config *ldapmap.ConfigError
		r := ldapmap.Resolver{Sources: []ldapmap.Source{newSource(t, wrong)}}
		if _, err := r.Resolve(t.Context(), q); !errors.As(err, &config) || !strings.Contains(err.Error(), "does not exist") {
			t.Errorf("%s, wrong base: %v", s.name, err)
		}
		for name, dn := range map[string]string{"wrong password": readerDN, "unknown identity": "cn=nosuch," + s.slapd.Base} {
			wrong = s.config
			wrong.BindDN, wrong.PasswordFile = dn, secret(t, "wrong")
			r = ldapmap.Resolver{Sources: []ldapmap.Source{newSource(t, wrong)}}
			if _, err := r.Resolve(t.Context(), q); !errors.As(err, &config) {
				t.Errorf("%s, %s: %v, want a *ConfigError", s.name, name, err)
			}
		}

		if err := s.slapd.Stop(); err != nil {
			t.Fatal(err)
		}
		var gone *ldapmap.UnavailableError
		r = ldapmap.Resolver{Sources: []ldapmap.Source{newSource(t, s.config)}}
		if _, err := r.Resolve(t.Context(), q); !errors.As(err, &gone) || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s, stopped: %v, want an *UnavailableError", s.name, err)
		}
	}
}

// dialAs is a connection with that identity.
func dialAs(t *testing.T, uri, dn, password string) *ldap.Conn {
	t.Helper()
	c, err := ldap.DialURL(uri)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Bind(dn, password); err != nil {
		t.Fatal(err)
	}
	return c
}
