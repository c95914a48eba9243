package test

import (
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
)

// fakeLayer is a layer without an image: the map does not look for one.
func fakeLayer(name string) testenv.Layer {
	return testenv.Layer{
		Name: name, FSType: "erofs", Digest: "sha256:" + strings.Repeat("0123456789abcdef", 4), Size: 4096,
		UUID: "2b6a51c4-90f3-4d1e-8a77-c05d3e9b1f62", Images: []string{name + ".erofs"}, Segments: []string{"EMACS294"},
	}
}

// emacsInventory is a component with three levels.
func emacsInventory() testenv.Inventory {
	c := component("emacs", "29.4-1", "29.4-1", "30.1-1", "31~rc1")
	c.MountPoint, c.Private = "/opt/emacs", "persistent"
	inv := testenv.Inventory{Components: []testenv.Component{c}}
	for i := range c.Levels {
		l := &c.Levels[i]
		l.Layers[0] = strings.ReplaceAll(l.Layers[0], "~", ".") // no ~ in the name of a layer
		inv.Layers = append(inv.Layers, fakeLayer(l.Layers[0]))
	}
	return inv
}

// wantAnswer checks the contract for success: exactly one line.
func wantAnswer(t *testing.T, r testenv.Result, line string) {
	t.Helper()
	if r.Exit != 0 || r.Stdout != line+"\n" || r.Stderr != "" {
		t.Errorf("%v; want exit 0, line %q and nothing on stderr", r, line)
	}
}

// wantRefusal checks the contract for failure: no line, and one with the reason.
func wantRefusal(t *testing.T, r testenv.Result, reasons ...string) {
	t.Helper()
	if r.Exit != 1 || r.Stdout != "" || strings.Count(r.Stderr, "\n") != 1 || !strings.HasSuffix(r.Stderr, "\n") {
		t.Errorf("%v; want exit 1, empty stdout and one line on stderr", r)
	}
	for _, reason := range reasons {
		if !strings.Contains(r.Stderr, reason) {
			t.Errorf("stderr is %q, want %q in it", r.Stderr, reason)
		}
	}
}

// countingServer is an LDAP server that counts its connections and ends them.
func countingServer(t *testing.T) (uri string, connections *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connections = new(atomic.Int64)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			c.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return "ldap://" + l.Addr().String(), connections
}

// TestMapKeys checks what keys are taken, and that a key which is not taken is
// refused without a connection, and at once.
func TestMapKeys(t *testing.T) {
	m := testenv.NewMachine(t, "lnx01")
	m.WriteLDIF("all.ldif", emacsInventory().LDIF())

	for key, line := range map[string]string{
		"emacs":        "-fstype=levelfs,rw :emacs@29.4-1",
		"emacs@29.4-1": "-fstype=levelfs,ro :emacs@29.4-1",
		"emacs@30.1-1": "-fstype=levelfs,ro :emacs@30.1-1",
		"emacs@31~rc1": "-fstype=levelfs,ro :emacs@31~rc1",
	} {
		wantAnswer(t, m.RunMap(key), line)
	}
	for key, reason := range map[string]string{
		"vi":                    `no component "vi" in the inventory`,
		"Emacs":                 `no component "Emacs" in the inventory`, // cn ignores case, keys do not
		"emacs@9":               `no level "emacs@9" in the inventory`,
		"emacs@31~RC1":          `no level "emacs@31~RC1" in the inventory`,
		strings.Repeat("x", 64): "no component",
	} {
		wantRefusal(t, m.RunMap(key), reason)
	}

	uri, connections := countingServer(t)
	m.Configure(testenv.LDAPSource(testenv.BaseDN, uri))
	for _, key := range []string{
		"", " ", "emacs ", " emacs", "ema cs", "emacs\n", "emacs\nvi", "\nemacs", "emacs\t", "emacs\x00",
		"$HOME", "${HOME}", "emacs$", "&", `"emacs"`, "'emacs'", "`id`", "$(id)", `ema\cs`, "emacs;id", "emacs|id", "emacs&",
		".hidden", ".git", ".", "..", "../emacs", "../../etc/passwd", "emacs/../x", "/emacs", "emacs/", "emacs/bin",
		"-emacs", "-fstype=tmpfs", "--help", "+emacs", "_emacs", "~emacs", "emacs~", "@", "@29.4-1", "emacs@", "emacs@@1", "emacs@1@2",
		"emacs@.1", "emacs@-1", "emacs@../1", "emacs@1 ", "emacs@1,suid", "emacs,suid", "emacs:", "emacs=1", "emacs*", "*",
		"(cn=*)", "emacs)(cn=*", "émacs", "emacs\u00a0", "\xff\xfe", "emacs\x7f", "e\u200bmacs",
		strings.Repeat("x", 65), strings.Repeat("x", 300), "emacs@" + strings.Repeat("1", 65), strings.Repeat("x", 1<<16),
		"by-user@1",
	} {
		if strings.Contains(key, "\x00") {
			continue // cannot be an argument
		}
		r := m.RunMap(key)
		wantRefusal(t, r)
		if len(r.Stderr) > 500 {
			t.Errorf("key of %d bytes: %d bytes on stderr", len(key), len(r.Stderr))
		}
		// The aim is 10 ms; what shows here is a wait for something.
		if r.Took > time.Second {
			t.Errorf("key %.80q: refused after %v", key, r.Took)
		}
	}
	for _, args := range [][]string{{}, {"emacs", "vi"}, {"emacs", ""}, {"-h", "emacs"}} {
		wantRefusal(t, m.RunMap(args...), "usage: auto.levelfs KEY")
	}
	if n := connections.Load(); n != 0 {
		t.Errorf("%d connections for keys that are refused", n)
	}
	// Or else nothing was counted. Another host's cache is empty.
	m.Host = "lnx02"
	m.Configure(testenv.LDAPSource(testenv.BaseDN, uri))
	wantRefusal(t, m.RunMap("emacs"), "not available")
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections for one good key", n)
	}
}

// TestMapRules checks which level a host runs.
func TestMapRules(t *testing.T) {
	type callers = []testenv.Caller
	const line = "-fstype=levelfs,rw :emacs@"
	for _, c := range []struct {
		name                    string
		host                    string // default lnx01
		hosts, groups, profiles callers
		want                    string // level
		refused                 []string
	}{
		{name: "unknown host: default", want: "29.4-1"},
		{name: "host that says nothing: default", hosts: callers{{Name: "lnx01"}}, want: "29.4-1"},
		{name: "host of another component: default", hosts: callers{{Name: "lnx01", Assign: []string{"emacs-nox=30.1-1", "vi=30.1-1"}}}, want: "29.4-1"},
		{name: "host", hosts: callers{{Name: "lnx01", Assign: []string{"vi=9", "emacs=30.1-1"}}, {Name: "lnx02", Assign: []string{"emacs=31~rc1"}}}, want: "30.1-1"},
		{name: "profile", hosts: callers{{Name: "lnx01", Profiles: []string{"p"}}},
			profiles: callers{{Name: "p", Assign: []string{"emacs=30.1-1"}}, {Name: "q", Assign: []string{"emacs=31~rc1"}}}, want: "30.1-1"},
		{name: "profile in a profile", hosts: callers{{Name: "lnx01", Profiles: []string{"p"}}},
			profiles: callers{{Name: "p", Profiles: []string{"q"}}, {Name: "q", Assign: []string{"emacs=30.1-1"}}}, want: "30.1-1"},
		{name: "host before its profile", hosts: callers{{Name: "lnx01", Assign: []string{"emacs=30.1-1"}, Profiles: []string{"p"}}},
			profiles: callers{{Name: "p", Assign: []string{"emacs=31~rc1"}}}, want: "30.1-1"},
		{name: "group", hosts: callers{{Name: "lnx01"}, {Name: "lnx02"}},
			groups: callers{{Name: "g", Members: []string{"lnx01"}, Assign: []string{"emacs=30.1-1"}}, {Name: "h", Members: []string{"lnx02"}, Assign: []string{"emacs=31~rc1"}}}, want: "30.1-1"},
		{name: "profile before group", hosts: callers{{Name: "lnx01", Profiles: []string{"p"}}}, profiles: callers{{Name: "p", Assign: []string{"emacs=30.1-1"}}},
			groups: callers{{Name: "g", Members: []string{"lnx01"}, Assign: []string{"emacs=31~rc1"}}}, want: "30.1-1"},
		{name: "group's profile", hosts: callers{{Name: "lnx01"}}, profiles: callers{{Name: "p", Assign: []string{"emacs=30.1-1"}}},
			groups: callers{{Name: "g", Members: []string{"lnx01"}, Profiles: []string{"p"}}}, want: "30.1-1"},
		{name: "two groups that agree", hosts: callers{{Name: "lnx01"}}, groups: callers{
			{Name: "g", Members: []string{"lnx01"}, Assign: []string{"emacs=30.1-1"}}, {Name: "h", Members: []string{"lnx01"}, Assign: []string{"emacs=30.1-1"}}}, want: "30.1-1"},

		{name: "full name finds full name", host: "lnx01.example.org", hosts: callers{{Name: "lnx01.example.org", Assign: []string{"emacs=30.1-1"}}}, want: "30.1-1"},
		{name: "full name finds short name", host: "lnx01.example.org", hosts: callers{{Name: "lnx01", Assign: []string{"emacs=30.1-1"}}}, want: "30.1-1"},
		{name: "full name is not another domain's", host: "lnx01.example.org", hosts: callers{{Name: "lnx01.example.com", Assign: []string{"emacs=30.1-1"}}}, want: "29.4-1"},
		{name: "case of host names", host: "LNX01", hosts: callers{{Name: "lnx01", Assign: []string{"emacs=30.1-1"}}}, want: "30.1-1"},

		{name: "two levels at a host", hosts: callers{{Name: "lnx01", Assign: []string{"emacs=30.1-1", "emacs=31~rc1"}}},
			refused: []string{"two levels", `"30.1-1" by "` + testenv.HostDN("lnx01"), `"31~rc1" by "` + testenv.HostDN("lnx01")}},
		{name: "two groups that differ", hosts: callers{{Name: "lnx01"}}, groups: callers{
			{Name: "g", Members: []string{"lnx01"}, Assign: []string{"emacs=30.1-1"}}, {Name: "h", Members: []string{"lnx01"}, Assign: []string{"emacs=31~rc1"}}},
			refused: []string{"two levels", `"30.1-1" by "` + testenv.GroupDN("g"), `"31~rc1" by "` + testenv.GroupDN("h")}},
		{name: "two profiles that differ", hosts: callers{{Name: "lnx01", Profiles: []string{"p", "q"}}},
			profiles: callers{{Name: "p", Assign: []string{"emacs=30.1-1"}}, {Name: "q", Assign: []string{"emacs=31~rc1"}}},
			refused:  []string{"two levels", "via profile p", "via profile q"}},
		{name: "profile loop", hosts: callers{{Name: "lnx01", Profiles: []string{"p"}}},
			profiles: callers{{Name: "p", Profiles: []string{"q"}}, {Name: "q", Profiles: []string{"p"}}}, refused: []string{"loop", "p -> q -> p"}},
		{name: "profile in itself", hosts: callers{{Name: "lnx01", Profiles: []string{"p"}}},
			profiles: callers{{Name: "p", Profiles: []string{"P"}}}, refused: []string{"loop"}},
		{name: "level that is not there", hosts: callers{{Name: "lnx01", Assign: []string{"emacs=99"}}}, refused: []string{`no level "emacs@99"`}},
		{name: "bad assignment", hosts: callers{{Name: "lnx01", Assign: []string{"emacs=../etc"}}},
			refused: []string{testenv.HostDN("lnx01"), "levelfsAssignment", `"emacs=../etc"`}},
		{name: "assignment of nothing", hosts: callers{{Name: "lnx01", Assign: []string{"emacs="}}}, refused: []string{"levelfsAssignment"}},
		{name: "bad profile reference", hosts: callers{{Name: "lnx01", Profiles: []string{"p)(cn=*"}}}, refused: []string{"levelfsProfileRef"}},
		{name: "bad host name", host: "lnx01)(cn=*", refused: []string{"invalid host name"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			host := c.host
			if host == "" {
				host = "lnx01"
			}
			m := testenv.NewMachine(t, host)
			inv := emacsInventory()
			inv.Hosts, inv.Groups, inv.Profiles = c.hosts, c.groups, c.profiles
			m.WriteLDIF("all.ldif", inv.LDIF())
			if r := m.RunMap("emacs"); c.refused != nil {
				wantRefusal(t, r, c.refused...)
			} else {
				wantAnswer(t, r, line+c.want)
			}
		})
	}
}

// TestMapValues changes one thing of a good inventory at a time.
func TestMapValues(t *testing.T) {
	layer := testenv.LayerDN("emacs-29.4-1")
	level := testenv.LevelDN("emacs", "29.4-1")
	emacs := testenv.ComponentDN("emacs")
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, c := range []struct {
		name     string
		old, new string // the first old in the LDIF becomes new
		want     []string
	}{
		{"digest too short", "levelfsDigest: " + digest, "levelfsDigest: sha256:0123", []string{layer, "levelfsDigest"}},
		{"digest of another kind", "levelfsDigest: " + digest, "levelfsDigest: md5:0123", []string{layer, "levelfsDigest"}},
		{"digest as a path", "levelfsDigest: " + digest, "levelfsDigest: sha256:../../" + strings.Repeat("0", 58), []string{layer, "levelfsDigest"}},
		{"no digest", "levelfsDigest: " + digest + "\n", "", []string{layer, "levelfsDigest"}},
		{"file system", "levelfsFSType: erofs", "levelfsFSType: ntfs", []string{layer, "levelfsFSType", `"ntfs"`}},
		{"file system with options", "levelfsFSType: erofs", "levelfsFSType: erofs,suid", []string{layer, "levelfsFSType"}},
		{"no file system", "levelfsFSType: erofs\n", "", []string{layer, "levelfsFSType"}},
		{"digest of a directory", "levelfsFSType: erofs", "levelfsFSType: dir", []string{layer, "levelfsDigest"}},
		{"size", "levelfsSize: 4096", "levelfsSize: much", []string{layer, "levelfsSize", `"much"`}},
		{"negative size", "levelfsSize: 4096", "levelfsSize: -1", []string{layer, "levelfsSize"}},
		{"UUID", "levelfsUUID: 2b6a51c4", "levelfsUUID: x", []string{layer, "levelfsUUID"}},
		{"image above", "levelfsImage: ", "levelfsImage: ../", []string{layer, "levelfsImage"}},
		{"image with ..", "levelfsImage: ", "levelfsImage: a/../", []string{layer, "levelfsImage"}},
		{"absolute image with ..", "levelfsImage: ", "levelfsImage: /srv/../etc/", []string{layer, "levelfsImage"}},
		{"image with comma", "levelfsImage: ", "levelfsImage: a,b", []string{layer, "levelfsImage"}},
		{"image with blank", "levelfsImage: ", "levelfsImage: a b", []string{layer, "levelfsImage"}},
		{"image with colon", "levelfsImage: ", "levelfsImage: a:b", []string{layer, "levelfsImage"}},
		{"image with quote", "levelfsImage: ", "levelfsImage: a\"b", []string{layer, "levelfsImage"}},
		{"image with newline", "levelfsImage: emacs-29.4-1.erofs", "levelfsImage:: YQpi", []string{layer, "levelfsImage", `"a\nb"`}},
		{"segment", "levelfsSegment: EMACS294", "levelfsSegment: EMACS2940", []string{layer, "levelfsSegment"}},
		{"segment with a path", "levelfsSegment: EMACS294", "levelfsSegment: ../add", []string{layer, "levelfsSegment"}},
		{"layer reference without number", "levelfsLayerRef: 00:", "levelfsLayerRef: ", []string{level, "levelfsLayerRef"}},
		{"layer reference with a path", "levelfsLayerRef: 00:", "levelfsLayerRef: 00:../", []string{level, "levelfsLayerRef"}},
		{"no layer reference", "levelfsLayerRef: 00:emacs-29.4-1\n", "", []string{level, "levelfsLayerRef"}},
		{"one number twice", "levelfsLayerRef: 00:emacs-29.4-1\n", "levelfsLayerRef: 00:emacs-29.4-1\nlevelfsLayerRef: 0:emacs-30.1-1\n", []string{level, "levelfsLayerRef"}},
		{"one layer twice", "levelfsLayerRef: 00:emacs-29.4-1\n", "levelfsLayerRef: 00:emacs-29.4-1\nlevelfsLayerRef: 01:emacs-29.4-1\n", []string{level, "levelfsLayerRef"}},
		{"missing layer", "levelfsLayerRef: 00:emacs-29.4-1", "levelfsLayerRef: 00:nosuch", []string{`no layer "nosuch"`, level}},
		{"missing level", "levelfsDefault: 29.4-1", "levelfsDefault: 29.4-2", []string{`no level "emacs@29.4-2"`}},
		{"state", "levelfsLayerRef: ", "levelfsState: golden\nlevelfsLayerRef: ", []string{level, "levelfsState"}},
		{"default", "levelfsDefault: 29.4-1", "levelfsDefault: 29.4-1 :/etc", []string{emacs, "levelfsDefault"}},
		{"no default", "levelfsDefault: 29.4-1\n", "", []string{`no level of "emacs"`, `host "lnx01"`}},
		{"private", "levelfsPrivate: persistent", "levelfsPrivate: sometimes", []string{emacs, "levelfsPrivate"}},
		{"relative mount point", "levelfsMountPoint: /opt/emacs", "levelfsMountPoint: opt/emacs", []string{emacs, "levelfsMountPoint"}},
		{"mount point with blank", "levelfsMountPoint: /opt/emacs", "levelfsMountPoint: /opt/ema cs", []string{emacs, "levelfsMountPoint"}},
		{"mount point with ..", "levelfsMountPoint: /opt/emacs", "levelfsMountPoint: /opt/../etc", []string{emacs, "levelfsMountPoint"}},
		{"mount point at the root", "levelfsMountPoint: /opt/emacs", "levelfsMountPoint: /", []string{emacs, "levelfsMountPoint"}},
		{"mount point with comma", "levelfsMountPoint: /opt/emacs", "levelfsMountPoint: /opt,emacs", []string{emacs, "levelfsMountPoint"}},
		{"component twice", "dn: ou=profiles", "dn: cn=emacs,ou=hosts," + testenv.BaseDN + "\nobjectClass: levelfsComponent\ncn: emacs\n\ndn: ou=profiles",
			[]string{"emacs", "has it too"}},
		{"entry twice", "dn: ou=profiles", "dn: " + strings.ToUpper(layer) + "\nobjectClass: levelfsLayer\ncn: x\n\ndn: ou=profiles", []string{"all.ldif", "already"}},
		{"line that is no attribute", "levelfsSize: 4096", "levelfsSize 4096", []string{"all.ldif"}},
		{"line of one byte", "levelfsSize: 4096", "x", []string{"all.ldif"}},
		{"bad base64", "levelfsSize: 4096", "levelfsSize:: *", []string{"all.ldif"}},
		{"no DN", "dn: " + layer, "dn: nonsense", []string{"all.ldif", "nonsense"}},
		{"change record", "dn: " + layer + "\n", "dn: " + layer + "\nchangetype: delete\n", []string{"all.ldif"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := emacsInventory().LDIF()
			if !strings.Contains(text, c.old) {
				t.Fatalf("no %q in the inventory", c.old)
			}
			m := testenv.NewMachine(t, "lnx01")
			m.WriteLDIF("all.ldif", text)
			wantAnswer(t, m.RunMap("emacs"), "-fstype=levelfs,rw :emacs@29.4-1")
			m.WriteLDIF("all.ldif", strings.Replace(text, c.old, c.new, 1))
			wantRefusal(t, m.RunMap("emacs"), c.want...)
		})
	}
}

// TestMapConfig checks what a wrong levelfs.toml leads to.
func TestMapConfig(t *testing.T) {
	ldap := func(lines ...string) string { return "[[source]]\ntype = \"ldap\"\n" + strings.Join(lines, "\n") }
	base := `base = "` + testenv.BaseDN + `"`
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "hots = \"lnx01\"\n", `line 1: unknown key "hots"`},
		{"unknown key of a source", ldap(`uri = ["ldap://127.0.0.1"]`, base, `password = "x"`), `line 5: unknown key "source.password"`},
		{"no TOML", "host = lnx01\n", "line 1"},
		{"wrong type", "host = 1\n", "line 1"},
		{"relative image directory", `images = ["images"]`, "clean absolute path"},
		{"image directory with ..", `images = ["/srv/../etc"]`, "clean absolute path"},
		{"unknown kind of source", "[[source]]\ntype = \"nis\"\n", `type "nis"`},
		{"relative LDIF directory", "[[source]]\ntype = \"ldif\"\npath = \"inventory\"\n", `path "inventory"`},
		{"no LDIF directory", "[[source]]\ntype = \"ldif\"\npath = \"/nosuch\"\n", "/nosuch"},
		{"no uri", ldap(base), "needs uri and base"},
		{"no base", ldap(`uri = ["ldap://127.0.0.1"]`), "needs uri and base"},
		{"base that is no DN", ldap(`uri = ["ldap://127.0.0.1"]`, `base = "example"`), "no distinguished name"},
		{"unknown scheme", ldap(`uri = ["http://127.0.0.1"]`, base), "scheme"},
		{"timeout", ldap(`uri = ["ldap://127.0.0.1"]`, base, `timeout = "soon"`), "duration"},
		{"no timeout", ldap(`uri = ["ldap://127.0.0.1"]`, base, `timeout = "0s"`), "duration"},
		// 192.0.2.0/24 is nobody's (RFC 5737).
		{"in the clear", ldap(`uri = ["ldap://192.0.2.1"]`, base), "in the clear"},
		{"in the clear, by name", ldap(`uri = ["ldap://ldap.example.org"]`, base), "in the clear"},
		{"in the clear, second", ldap(`uri = ["ldaps://192.0.2.1", "ldap://192.0.2.2"]`, base), "in the clear"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := testenv.NewMachine(t, "lnx01")
			m.WriteConfig(c.text)
			r := m.RunMap("emacs")
			wantRefusal(t, r, c.want)
			if r.Took > 2*time.Second {
				t.Errorf("it took %v: something was asked", r.Took)
			}
		})
	}

	t.Run("none", func(t *testing.T) {
		m := testenv.NewMachine(t, "lnx01")
		m.WriteConfig("")
		m.WriteLDIF("all.ldif", emacsInventory().LDIF())
		wantAnswer(t, m.RunMap("emacs"), "-fstype=levelfs,rw :emacs@29.4-1")
	})
}
