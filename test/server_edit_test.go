package test

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
)

// entryOf is an entry as a Store returns it, with the attributes that edits need.
func entryOf(t *testing.T, s ldapmap.Store, class, cn string) *ldapmap.Entry {
	t.Helper()
	terms := []ldapmap.Term{{{{Attr: "objectClass", Value: class}}, {{Attr: "cn", Value: cn}}}}
	found, err := s.All(t.Context(), terms, []string{"*", ldapmap.AttrVersion}, nil)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: entries named %q: %v, %v", s.Name(), cn, found, err)
	}
	return &found[0]
}

// numbered is an edit of the entry as it was, which counts as levelfs's edits do.
func numbered(was *ldapmap.Entry, mods ...ldapmap.Mod) ldapmap.Edit {
	next := 1
	if last := was.First("levelfsserial"); last != "" {
		n, _ := strconv.Atoi(last)
		next = n + 1
		mods = append(mods, ldapmap.Mod{Op: ldapmap.ModDelete, Attr: "levelfsSerial", Values: []string{last}})
	}
	mods = append(mods, ldapmap.Mod{Op: ldapmap.ModAdd, Attr: "levelfsSerial", Values: []string{strconv.Itoa(next)}})
	return ldapmap.Edit{DN: was.DN, Was: was, Mods: mods}
}

func added(attr string, values ...string) ldapmap.Mod {
	return ldapmap.Mod{Op: ldapmap.ModAdd, Attr: attr, Values: values}
}

func deleted(attr string, values ...string) ldapmap.Mod {
	return ldapmap.Mod{Op: ldapmap.ModDelete, Attr: attr, Values: values}
}

// kind is what kind of error it is.
func kind(err error) string {
	var conflict *ldapmap.ConflictError
	var config *ldapmap.ConfigError
	var gone *ldapmap.UnavailableError
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &conflict):
		return "conflict"
	case errors.As(err, &config):
		return "set up wrongly"
	case errors.As(err, &gone):
		return "unavailable"
	}
	return "refused"
}

// Controls: RFC 4528, RFC 2696 and RFC 4533.
const (
	assertion       = "1.3.6.1.1.12"
	paging          = "1.2.840.113556.1.4.319"
	synchronization = "1.3.6.1.4.1.4203.1.9.1.1"
)

// wantControls checks that the server has what the documentation says it has.
func wantControls(t *testing.T, s server, want map[string]bool) {
	t.Helper()
	c := dialAs(t, s.slapd.URI, s.slapd.RootDN, s.slapd.RootPW)
	result, err := c.Search(ldap.NewSearchRequest("", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 0, 0, false,
		"(objectClass=*)", []string{"supportedControl"}, nil))
	if err != nil {
		t.Fatal(err)
	}
	for oid, has := range want {
		if got := slices.Contains(result.Entries[0].GetAttributeValues("supportedControl"), oid); got != has {
			t.Errorf("control %s: %v, want %v", oid, got, has)
		}
	}
}

// TestServersChangeAlike makes the same edits on both servers. OpenLDAP compares what
// an entry was by an assertion (RFC 4528); 389 Directory Server has none, so that
// there the number of the last change must do.
func TestServersChangeAlike(t *testing.T) {
	for _, s := range startServers(t) {
		t.Run(s.name, func(t *testing.T) {
			c := s.config
			c.BindDN, c.PasswordFile = s.slapd.RootDN, secret(t, s.slapd.RootPW)
			store := newSource(t, c)
			apply := func(what, want string, e ldapmap.Edit) {
				t.Helper()
				if err := store.Apply(t.Context(), e); kind(err) != want {
					t.Errorf("%s: %s: %v, want %s", what, kind(err), err, want)
				}
			}
			wantControls(t, s, map[string]bool{assertion: s.name == "OpenLDAP", paging: true, synchronization: false})
			if who, err := store.Identity(t.Context()); err != nil || strings.ReplaceAll(who, " ", "") != "dn:"+s.slapd.RootDN {
				t.Errorf("identity %q, %v", who, err)
			}

			before := entryOf(t, store, "device", "lnx05")
			apply("first change", "done", numbered(before, added("levelfsAssignment", "emacs=29.4-1"), added("levelfsHistory", "1 x assign - emacs=29.4-1")))
			apply("another first change, of something else", "conflict", numbered(before, added("levelfsProfileRef", "base")))
			second := entryOf(t, store, "device", "lnx05")
			if got := second.First("levelfsserial"); got != "1" {
				t.Errorf("serial %q", got)
			}
			apply("second change", "done", numbered(second, deleted("levelfsAssignment", "emacs=29.4-1"), added("levelfsAssignment", "emacs=30.1-1")))
			apply("change of what was", "conflict", numbered(second, added("levelfsProfileRef", "base")))
			third := entryOf(t, store, "device", "lnx05")
			if got := third.Attrs["levelfsassignment"]; !slices.Equal(got, []string{"emacs=30.1-1"}) || third.First("levelfsserial") != "2" || third.First("levelfsprofileref") != "" {
				t.Errorf("after all: %q", third.Attrs)
			}
			apply("a value that is not there", "conflict", numbered(third, deleted("levelfsAssignment", "emacs=29.4-1")))
			apply("case of a value", "conflict", numbered(third, deleted("levelfsAssignment", "EMACS=30.1-1")))
			apply("no integer", "refused", ldapmap.Edit{DN: third.DN, Was: third, Mods: []ldapmap.Mod{
				deleted("levelfsSerial", "2"), added("levelfsSerial", "two"),
			}})
			apply("an attribute that the class has not", "refused", numbered(third, added("levelfsDigest", "sha256:00")))
			apply("the attribute as a whole", "done", numbered(third, deleted("levelfsAssignment")))
			apply("no such entry", "conflict", numbered(&ldapmap.Entry{DN: testenv.HostDN("nosuch")}, added("description", "x")))

			level := ldapmap.Edit{DN: testenv.LevelDN("gcc", "15"), Mods: []ldapmap.Mod{
				added("objectClass", "levelfsLevel"), added("cn", "gcc@15"), added("levelfsLayerRef", "00:gcc-14"), added("levelfsState", "draft"),
			}}
			apply("new level", "done", level)
			apply("the same again", "conflict", level)
			level.DN = testenv.LevelDN("nosuch", "15")
			apply("new level of no component", "refused", level)
			level.DN, level.Mods = testenv.LevelDN("gcc", "16"), level.Mods[:2]
			apply("new level without layers", "refused", level)

			profile := entryOf(t, store, "levelfsProfile", "p1")
			apply("a change of a profile", "done", numbered(profile, added("levelfsAssignment", "vi=1")))
			if s.name == "OpenLDAP" { // 389 Directory Server does not compare what it was
				apply("removal of what was", "conflict", ldapmap.Edit{DN: profile.DN, Was: profile, Remove: true})
			}
			profile = entryOf(t, store, "levelfsProfile", "p1")
			apply("removal", "done", ldapmap.Edit{DN: profile.DN, Was: profile, Remove: true})
			apply("removal again", "conflict", ldapmap.Edit{DN: profile.DN, Was: profile, Remove: true})

			if got := entryOf(t, store, "levelfsLevel", "gcc@15").Attrs["levelfslayerref"]; !slices.Equal(got, []string{"00:gcc-14"}) {
				t.Errorf("the new level has layers %q", got)
			}
		})
	}
}

// TestServersAccess: with the access that the project recommends, each role may do
// what is its own and nothing else, on both servers.
func TestServersAccess(t *testing.T) {
	for _, s := range startServers(t) {
		t.Run(s.name, func(t *testing.T) { testAccess(t, s) })
	}
}

func testAccess(t *testing.T, s server) {
	const denied = ldap.LDAPResultInsufficientAccessRights
	modify := func(dn, op, attr string, values ...string) func(*ldap.Conn) error {
		return func(c *ldap.Conn) error {
			m := ldap.NewModifyRequest(dn, nil)
			switch op {
			case "add":
				m.Add(attr, values)
			case "replace":
				m.Replace(attr, values)
			}
			return c.Modify(m)
		}
	}
	add := func(dn string, attrs ...string) func(*ldap.Conn) error {
		return func(c *ldap.Conn) error {
			a := ldap.NewAddRequest(dn, nil)
			for _, attr := range attrs {
				name, value, _ := strings.Cut(attr, "=")
				a.Attribute(name, []string{value})
			}
			return c.Add(a)
		}
	}
	remove := func(dn string) func(*ldap.Conn) error {
		return func(c *ldap.Conn) error { return c.Del(ldap.NewDelRequest(dn, nil)) }
	}
	newLevel := func(component, level string) func(*ldap.Conn) error {
		return add(testenv.LevelDN(component, level), "objectClass=levelfsLevel", "cn="+component+"@"+level,
			"levelfsLayerRef=00:gcc-14", "levelfsState=draft")
	}
	newLayer := add(testenv.LayerDN("gcc-15"), "objectClass=levelfsLayer", "cn=gcc-15", "levelfsFSType=erofs")
	plain, gcc13, gcc14 := testenv.HostDN("plain"), testenv.LevelDN("gcc", "13"), testenv.LevelDN("gcc", "14")
	layer := testenv.LayerDN("gcc-14")
	self := testenv.HostDN("self")
	const report = "gcc@13 20270102030405Z ok"

	for _, c := range []struct {
		who, what string
		do        func(*ldap.Conn) error
		want      uint16
	}{
		{"reader", "assigns", modify(testenv.HostDN("lnx05"), "add", "levelfsAssignment", "gcc=13"), denied},
		{"eve", "assigns", modify(testenv.HostDN("lnx05"), "add", "levelfsAssignment", "gcc=13"), denied},
		{"ann", "makes a caller", modify(plain, "add", "objectClass", "levelfsCaller"), 0},
		{"ann", "makes a host of another kind", modify(plain, "add", "objectClass", "simpleSecurityObject"), denied},
		{"ann", "assigns", modify(plain, "add", "levelfsAssignment", "gcc=13"), 0},
		{"ann", "counts", modify(plain, "add", "levelfsSerial", "1"), 0},
		{"ann", "takes an assignment away", modify(plain, "replace", "levelfsAssignment"), 0},
		{"ann", "customises a host", modify(plain, "add", "levelfsCustomize", "emacs=10:emacs-lnx03"), 0},
		{"ann", "customises the site", modify(testenv.ComponentDN("gcc"), "add", "levelfsCustomize", "gcc=10:emacs-site"), denied},
		{"ann", "describes a host", modify(plain, "add", "description", "mine"), denied},
		{"ann", "releases a level", modify(gcc14, "replace", "levelfsState", "released"), denied},
		{"ann", "adds a level", newLevel("gcc", "15"), denied},
		{"ann", "deletes a host", remove(plain), denied},
		{"eve", "adds a level", newLevel("gcc", "15"), 0},
		{"eve", "adds a level to somebody else's", newLevel("emacs", "15"), denied},
		{"eve", "adds something else there", add("cn=x,"+testenv.ComponentDN("gcc"), "objectClass=device", "cn=x"), denied},
		{"eve", "changes a draft", modify(gcc14, "replace", "levelfsLayerRef", "00:gcc-13"), 0},
		{"eve", "releases it", modify(gcc14, "replace", "levelfsState", "released"), 0},
		{"eve", "changes it then", modify(gcc14, "replace", "levelfsLayerRef", "00:gcc-14"), denied},
		{"eve", "retires a level", modify(gcc13, "replace", "levelfsState", "retired"), 0},
		{"eve", "deletes a level", remove(gcc13), denied},
		{"eve", "sets the default", modify(testenv.ComponentDN("gcc"), "replace", "levelfsDefault", "14"), 0},
		{"eve", "customises the site", modify(testenv.ComponentDN("gcc"), "add", "levelfsCustomize", "gcc=10:emacs-site"), 0},
		{"eve", "customises somebody else's", modify(testenv.ComponentDN("emacs"), "add", "levelfsCustomize", "emacs=99:emacs-ring"), denied},
		{"eve", "makes somebody else owner", modify(testenv.ComponentDN("gcc"), "replace", "owner", readerDN), denied},
		{"eve", "sets somebody else's default", modify(testenv.ComponentDN("emacs"), "replace", "levelfsDefault", "30.1-1"), denied},
		{"eve", "adds a layer", newLayer, denied},
		{"bob", "adds a layer", newLayer, 0},
		{"bob", "places a layer", modify(layer, "replace", "levelfsImage", "/srv/gcc-14.erofs"), 0},
		{"bob", "changes what is in a layer", modify(layer, "replace", "levelfsDigest", "sha256:"+strings.Repeat("0", 64)), denied},
		{"bob", "changes whose a layer is", modify(layer, "replace", "levelfsKind", "site"), denied},
		{"bob", "deletes a layer", remove(layer), denied},
		{"bob", "adds a level", newLevel("gcc", "17"), denied},
		{"self", "reports", modify(self, "add", "levelfsReport", report), 0},
		{"self", "reports something else", modify(self, "replace", "levelfsReport", report+" x"), 0},
		{"self", "reports for another host", modify(testenv.HostDN("lnx05"), "add", "levelfsReport", report), denied},
		{"self", "assigns itself a level", modify(self, "add", "levelfsAssignment", "gcc=13"), denied},
		{"self", "counts", modify(self, "add", "levelfsSerial", "1"), denied},
		{"self", "describes itself", modify(self, "add", "description", "x"), denied},
		{"ann", "reports for a host", modify(self, "add", "levelfsReport", report), denied},
		{"reader", "reports for a host", modify(self, "add", "levelfsReport", report), denied},
	} {
		dn, password := "uid="+c.who+",ou=people,"+s.slapd.Base, "of-"+c.who
		if c.who == "reader" {
			dn, password = readerDN, s.password
		}
		if c.who == "self" {
			dn = self
		}
		err := c.do(dialAs(t, s.slapd.URI, dn, password))
		if c.want == 0 && err != nil || c.want != 0 && !ldap.IsErrorWithCode(err, c.want) {
			t.Errorf("%s %s: %v, want result %d", c.who, c.what, err, c.want)
		}
	}

	// What the reader sees, and anybody.
	everything := ldap.NewSearchRequest(s.slapd.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
		"(objectClass=*)", []string{"*", "+"}, nil)
	result, err := dialAs(t, s.slapd.URI, readerDN, s.password).Search(everything)
	if err != nil || len(result.Entries) < 100 {
		t.Fatalf("the reader sees %d entries, %v", len(result.Entries), err)
	}
	if i := slices.IndexFunc(result.Entries, func(e *ldap.Entry) bool { return strings.EqualFold(e.DN, self) }); i < 0 || result.Entries[i].GetAttributeValue("levelfsReport") != report+" x" {
		t.Errorf("the reader does not see the report of %q", self)
	}
	for _, e := range result.Entries {
		for _, attr := range []string{"userPassword", "sn", "homeDirectory", "aci"} {
			if e.GetAttributeValue(attr) != "" {
				t.Errorf("the reader sees %s of %q", attr, e.DN)
			}
		}
	}
	c, err := ldap.DialURL(s.slapd.URI)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// One says that there is nothing, the other that there is no such base.
	if result, err := c.Search(everything); err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) || result != nil && len(result.Entries) > 0 {
		t.Errorf("anybody sees %v, %v", result, err)
	}
}

// TestDS389Limits: the server's size limit holds for a search page by page, too, until
// it is lifted for who reads everything.
func TestDS389Limits(t *testing.T) {
	d := startDS389(t, serverLDIF())
	database := "cn=config,cn=ldbm database,cn=plugins,cn=config"
	terms := []ldapmap.Term{{{{Attr: "objectClass", Op: ldapmap.Present}}}}
	for _, c := range []struct{ dn, server, reader string }{
		{"cn=config", "nsslapd-sizelimit", "nsPagedSizeLimit"},
		{database, "nsslapd-lookthroughlimit", "nsPagedLookThroughLimit"},
	} {
		if err := d.Modify(c.dn, c.server, "50"); err != nil {
			t.Fatal(err)
		}
		all := func() ([]ldapmap.Entry, error) {
			s := newSource(t, ldapsource.Config{URIs: []string{d.URI}, Base: d.Base, BindDN: readerDN, PasswordFile: secret(t, readerPassword)})
			return s.All(t.Context(), terms, []string{"cn"}, nil)
		}
		if got, err := all(); kind(err) != "set up wrongly" {
			t.Errorf("with %s: %d entries, %v", c.server, len(got), err)
		}
		if err := d.Modify(readerDN, c.reader, "-1"); err != nil {
			t.Fatal(err)
		}
		if got, err := all(); err != nil || len(got) < 200 {
			t.Errorf("with %s: %d entries, %v", c.reader, len(got), err)
		}
	}
}
