package test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
)

const emacsLine = "-fstype=levelfs,rw :emacs@30.1-1"

// busyInventory is one in which everything has a say in which emacs lnx01 runs.
func busyInventory() testenv.Inventory {
	inv := emacsInventory()
	inv.Hosts = []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=30.1-1"}, Profiles: []string{"base"}}}
	inv.Groups = []testenv.Caller{
		{Name: "group", Members: []string{"lnx01"}, Assign: []string{"emacs=29.4-1"}, Profiles: []string{"old"}},
		{Name: "other", Members: []string{"lnx02"}, Assign: []string{"emacs=29.4-1"}},
	}
	inv.Profiles = []testenv.Caller{
		{Name: "base", Assign: []string{"vi=1"}, Profiles: []string{"editors"}},
		{Name: "editors", Assign: []string{"emacs=31~rc1"}},
		{Name: "old", Assign: []string{"emacs=29.4-1"}},
	}
	return inv
}

// TestMapSearches counts what a lookup asks the server.
func TestMapSearches(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{}, busyInventory())
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	for _, c := range []struct {
		key  string
		want int
	}{
		{"emacs", 3}, // its host's profile includes one, and its group refers to one
		{"emacs@31~rc1", 2}, {"nosuch", 1}, {"emacs@nosuch", 1},
	} {
		before, err := slapd.Searches()
		if err != nil {
			t.Fatal(err)
		}
		r := m.RunMap(c.key)
		after, err := slapd.Searches()
		if err != nil {
			t.Fatal(err)
		}
		if n := after - before; n != c.want {
			t.Errorf("key %q: %d searches, want %d (%v)", c.key, n, c.want, r)
		}
	}
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
}

// TestMapManyLevels: nor on how many levels a component has had.
func TestMapManyLevels(t *testing.T) {
	inv := busyInventory()
	for i, c := range inv.Components {
		if c.Name != "emacs" {
			continue
		}
		for n := range 600 {
			nightly := c.Levels[0]
			nightly.Name = fmt.Sprintf("0-%d", n)
			inv.Components[i].Levels = append(inv.Components[i].Levels, nightly)
		}
	}
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
	wantAnswer(t, m.RunMap("emacs@0-599"), "-fstype=levelfs,ro :emacs@0-599")
	wantRefusal(t, m.RunMap("emacs@0-600"), "emacs@0-600")
}

// TestMapManyProfiles: slapd returns 500 entries to a search unless told otherwise,
// so that a lookup must not depend on how many profiles there are.
func TestMapManyProfiles(t *testing.T) {
	inv := busyInventory()
	for i := range 600 {
		inv.Profiles = append(inv.Profiles, testenv.Caller{
			Name: fmt.Sprintf("p%d", i), Assign: []string{"emacs=29.4-1"}, Profiles: []string{"base"},
		})
	}
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
}

// TestMapSameAnswers compares the two kinds of inventory.
func TestMapSameAnswers(t *testing.T) {
	inv := busyInventory()
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	for _, host := range []string{"lnx01", "LNX01", "lnx02", "lnx01.example.org", "unknown"} {
		ldif, ldap := testenv.NewMachine(t, host), testenv.NewMachine(t, host)
		ldif.WriteLDIF("all.ldif", inv.LDIF())
		ldap.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
		for _, key := range []string{"emacs", "Emacs", "emacs@30.1-1", "emacs@31~RC1", "vi"} {
			a, b := ldif.RunMap(key), ldap.RunMap(key)
			if a.Exit != b.Exit || a.Stdout != b.Stdout || a.Stderr != b.Stderr {
				t.Errorf("host %s, key %s:\nLDIF %v\nLDAP %v", host, key, a, b)
			}
		}
	}
}

// TestMapLocalFirst checks that a local inventory goes before the central one.
func TestMapLocalFirst(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{}, busyInventory())
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(fmt.Sprintf("[[source]]\ntype = \"ldif\"\npath = %q\n", m.InventoryDir()) + testenv.LDAPSource(slapd.Base, slapd.URI))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
	m.WriteLDIF("local.ldif", testenv.Inventory{Hosts: []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=31~rc1"}}}}.LDIF())
	wantAnswer(t, m.RunMap("emacs"), "-fstype=levelfs,rw :emacs@31~rc1")
}

// TestMapLastKnown checks what is known without a server.
func TestMapLastKnown(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{}, busyInventory())
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
	wantAnswer(t, m.RunMap("emacs@31~rc1"), "-fstype=levelfs,ro :emacs@31~rc1")
	if err := slapd.Stop(); err != nil {
		t.Fatal(err)
	}

	for key, line := range map[string]string{
		"emacs":        emacsLine,
		"emacs@30.1-1": "-fstype=levelfs,ro :emacs@30.1-1",
		"emacs@31~rc1": "-fstype=levelfs,ro :emacs@31~rc1",
	} {
		r := m.RunMap(key)
		if r.Exit != 0 || r.Stdout != line+"\n" || strings.Count(r.Stderr, "\n") != 1 ||
			!strings.Contains(r.Stderr, "warning") || !strings.Contains(r.Stderr, "not available") {
			t.Errorf("key %q: %v; want exit 0, line %q and one warning", key, r, line)
		}
	}
	for _, key := range []string{"vi", "emacs@29.4-1"} {
		wantRefusal(t, m.RunMap(key), "not available", "not in the cache")
	}
	// What it knows is of one host.
	m.Host = "lnx02"
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	wantRefusal(t, m.RunMap("emacs"), "not available", "not in the cache")

	// A cache that cannot be read is none.
	m.Host = "lnx01"
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	answer := m.Path("var/cache/levelfs/answers/lnx01/emacs")
	for _, bad := range []string{"", "emacs@30.1-1", "emacs\n", "vi@1\n", "emacs@30.1-1 :/etc\n", "emacs@30.1-1\n-fstype=tmpfs :x\n"} {
		writeFile(t, answer, bad)
		wantRefusal(t, m.RunMap("emacs"), "not available", "not in the cache")
	}
	writeFile(t, answer, "emacs@30.1-1\n")
	for _, f := range glob(t, m.Path("var/cache/levelfs/levels/emacs@30.1-1*")) {
		writeFile(t, f, "{")
	}
	wantRefusal(t, m.RunMap("emacs"), "not available", "not in the cache")
}

// TestMapServerDown: a server that does not answer is asked once an interval, by one
// map, and not once an access.
func TestMapServerDown(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{}, busyInventory())
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)

	uri, connections := countingServer(t)
	// The time of a change counts, and the file system's clock may lag.
	configure := func(text string) {
		m.Configure(text)
		now := time.Now()
		if err := os.Chtimes(m.Path("etc/levelfs/levelfs.toml"), now, now); err != nil {
			t.Fatal(err)
		}
	}
	away := testenv.LDAPSource(slapd.Base, uri)
	configure(away)
	for range 5 {
		r := m.RunMap("emacs")
		if r.Exit != 0 || r.Stdout != emacsLine+"\n" || !strings.Contains(r.Stderr, "last known level") {
			t.Errorf("%v; want %q and a warning", r, emacsLine)
		}
		wantRefusal(t, m.RunMap("vi"), "not available", "not in the cache")
	}
	if n := connections.Load(); n != 1 {
		t.Errorf("%d connections in one interval, want 1", n)
	}
	status := m.RunLevelfs("status")
	if status.Exit != 0 || !strings.Contains(status.Stderr, "no inventory server answered") {
		t.Errorf("status: %v", status)
	}

	// The interval ends: of many maps at once, one asks.
	configure("retry = \"1h\"\n" + away)
	mark := m.Path("var/cache/levelfs/down")
	age := func() {
		past := time.Now().Add(-2 * time.Hour)
		if err := os.Chtimes(m.Path("etc/levelfs/levelfs.toml"), past.Add(-time.Hour), past.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(mark, past, past); err != nil {
			t.Fatal(err)
		}
	}
	age()
	before := connections.Load()
	for range 5 {
		m.RunMap("emacs")
	}
	if n := connections.Load() - before; n != 1 {
		t.Errorf("%d connections after the interval, want 1", n)
	}

	// Once it answers nothing is left of it.
	configure(testenv.LDAPSource(slapd.Base, slapd.URI)) // changed since: asked at once
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the mark is still there: %v", err)
	}

	// An answer that is too old is none.
	answer := m.Path("var/cache/levelfs/answers/lnx01/emacs")
	old := time.Now().Add(-31 * 24 * time.Hour)
	if err := os.Chtimes(answer, old, old); err != nil {
		t.Fatal(err)
	}
	configure(away)
	wantRefusal(t, m.RunMap("emacs"), "older than 720h")
	configure("keep = \"1000h\"\n" + away)
	if r := m.RunMap("emacs"); r.Exit != 0 {
		t.Errorf("kept for longer: %v", r)
	}
}

// glob is filepath.Glob of something that must be there.
func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %q, %v", pattern, files, err)
	}
	return files
}

// TestMapWrongBase checks that a source which is set up wrongly is not taken for
// one that is away: the cache would hide the mistake for ever.
func TestMapWrongBase(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{}, busyInventory())
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
	wrong := "ou=nosuch," + slapd.Base
	m.Configure(testenv.LDAPSource(wrong, slapd.URI))
	for _, key := range []string{"emacs", "emacs@30.1-1", "vi"} {
		wantRefusal(t, m.RunMap(key), fmt.Sprintf("base %q does not exist", wrong))
	}
}

// TestMapServers checks that no server, however it fails, makes the map hang or
// talk nonsense.
func TestMapServers(t *testing.T) {
	silent, stop, err := testenv.SilentServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	closing, stop, err := testenv.ClosingServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	nobody := "127.0.0.1:1" // tcpmux: nobody listens
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true}, busyInventory())

	t.Run("servers", func(t *testing.T) { // until all of them are done
		for _, c := range []struct {
			name, more string
			uris       []string
			want       string // part of the reason; "" for the answer
		}{
			{"absent", "", []string{"ldap://" + nobody}, "refused"},
			{"silent", "", []string{"ldap://" + silent}, "not available"},
			{"closing", "", []string{"ldap://" + closing}, "not available"},
			{"silent in TLS", "", []string{"ldaps://" + silent}, "TLS handshake"},
			{"closing in TLS", "", []string{"ldaps://" + closing}, "TLS handshake"},
			{"silent in StartTLS", "starttls = true", []string{"ldap://" + silent}, "StartTLS"},
			{"closing in StartTLS", "starttls = true", []string{"ldap://" + closing}, "StartTLS"},
			{"no socket", "", []string{"ldapi:///nosuch/socket"}, "/nosuch/socket"},
			{"several", "", []string{"ldap://" + nobody, "ldap://" + silent, "ldaps://" + closing}, "not available"},
			{"absent, then good", "", []string{"ldap://" + nobody, slapd.URI}, ""},
			{"TLS that hangs, then good", "", []string{"ldaps://" + silent, slapd.URI}, ""},
			{"TLS that ends, then good", "", []string{"ldaps://" + closing, slapd.URI}, ""},
			{"silent, then good", "", []string{"ldap://" + silent, slapd.URI}, ""},
			{"closing, then good", "", []string{"ldap://" + closing, slapd.URI}, ""},
			{"socket", "", []string{slapd.LDAPI}, ""},
		} {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				m := testenv.NewMachine(t, "lnx01")
				m.Configure(testenv.LDAPSource(slapd.Base, c.uris...) + "timeout = \"300ms\"\n" + c.more)
				r := m.RunMap("emacs")
				if c.want == "" {
					wantAnswer(t, r, emacsLine)
				} else {
					wantRefusal(t, r, "not available", c.want)
				}
				if r.Took > 6*time.Second {
					t.Errorf("it took %v", r.Took)
				}
			})
		}
		// The limit of the map itself, without any in the configuration.
		for name, more := range map[string]string{"search": "", "StartTLS": "starttls = true"} {
			t.Run("deadline in "+name, func(t *testing.T) {
				t.Parallel()
				m := testenv.NewMachine(t, "lnx01")
				m.Configure(testenv.LDAPSource(slapd.Base, "ldap://"+silent) + more)
				r := m.RunMap("emacs")
				wantRefusal(t, r)
				if limit := 6500 * time.Millisecond; r.Took > limit { // with the start of the process
					t.Errorf("it took %v", r.Took)
				}
			})
		}
	})
}

// TestMapTLS checks that the server must be the one that the authorities vouch
// for, over ldaps and StartTLS alike.
func TestMapTLS(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true}, busyInventory())
	other := startSlapd(t, testenv.SlapdOptions{TLS: true}, testenv.Inventory{}) // another CA
	empty := testenv.NewMachine(t, "x").Path("empty.pem")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []struct{ name, uri, more string }{
		{"ldaps", slapd.LDAPS, ""},
		{"StartTLS", slapd.URI, "starttls = true\n"},
	} {
		for _, c := range []struct{ name, ca, want string }{
			{"right CA", slapd.CAFile, ""},
			{"wrong CA", other.CAFile, "certificate signed by unknown authority"},
			{"system's CAs", "", "certificate signed by unknown authority"},
			{"empty CA file", empty, "no PEM certificate"},
			{"no CA file", "/nosuch.pem", "/nosuch.pem"},
		} {
			t.Run(mode.name+" with "+c.name, func(t *testing.T) {
				m := testenv.NewMachine(t, "lnx01")
				m.Configure(testenv.LDAPSource(slapd.Base, mode.uri) + mode.more + fmt.Sprintf("ca = %q\n", c.ca))
				r := m.RunMap("emacs")
				if c.want == "" {
					wantAnswer(t, r, emacsLine)
				} else {
					wantRefusal(t, r, c.want)
				}
			})
		}
		t.Run(mode.name+" by an address that is not in the certificate", func(t *testing.T) {
			m := testenv.NewMachine(t, "lnx01")
			m.Configure(testenv.LDAPSource(slapd.Base, relay(t, mode.uri)) + mode.more + fmt.Sprintf("ca = %q\n", slapd.CAFile))
			wantRefusal(t, m.RunMap("emacs"), "certificate is valid for 127.0.0.1, not 127.0.0.2")
		})
	}
}

// relay serves the server of a URI at another loopback address.
func relay(t *testing.T, uri string) string {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				server, err := net.Dial("tcp", u.Host)
				if err != nil {
					return // the client sees it
				}
				defer server.Close()
				running.Go(func() {
					defer server.Close()
					io.Copy(server, c)
				})
				io.Copy(c, server)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
	return u.Scheme + "://" + l.Addr().String()
}
