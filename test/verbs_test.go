package test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
)

// levelfs runs the command on the machine and wants an exit status, and parts of what it
// says on either output.
func levelfs(t *testing.T, m *testenv.Machine, exit int, command string, says ...string) testenv.Result {
	t.Helper()
	r := m.RunLevelfs(strings.Fields(command)...)
	if r.Exit != exit {
		t.Fatalf("levelfs %s: %v, want exit %d", command, r, exit)
	}
	for _, part := range says {
		if !strings.Contains(r.Stdout+r.Stderr, part) {
			t.Errorf("levelfs %s: %v, want %q", command, r, part)
		}
	}
	return r
}

// TestVerbs changes an inventory on a server that allows its writers no more than
// packaging/schema says.
func TestVerbs(t *testing.T) {
	slapd, m, password := restricted(t, busyInventory())
	if err := slapd.Add(people[strings.Index(people, "dn: ou=people"):strings.Index(people, "dn: cn=eds")] + `
dn: cn=plain,ou=groups,dc=example,dc=org
objectClass: posixGroup
cn: plain
gidNumber: 3001
memberUid: ann
`); err != nil {
		t.Fatal(err)
	}
	m.Mkdir("tree")
	writeFile(t, m.Path("tree", "emacs"), "32")
	built := m.RunLevelfs("layer", "build", m.Path("tree"), "-o", m.Path("emacs-32.erofs"), "--base", slapd.Base)
	if built.Exit != 0 {
		t.Fatal(built)
	}
	writeFile(t, m.Path("emacs-32.ldif"), built.Stdout)

	// The whole life of a level.
	levelfs(t, m, 0, "level publish emacs@32-1 --layers-from "+m.Path("emacs-32.ldif")+" --package emacs-1:32-1.s390x",
		"change: publish emacs-32 on "+testenv.LayerDN("emacs-32")+" in ldap://", "done, recorded as serial 1 on "+testenv.LevelDN("emacs", "32-1"))
	levelfs(t, m, 1, "assign default emacs=32-1", "is in state test")
	levelfs(t, m, 0, "level release emacs@32-1", "change: release test -> released")
	levelfs(t, m, 0, "assign host:lnx01 emacs=32-1 --dry-run", "1 host changes from emacs@30.1-1 to emacs@32-1", "nothing was written")
	levelfs(t, m, 0, "who emacs@30.1-1", "host:lnx01")
	levelfs(t, m, 0, "assign host:lnx01 emacs=32-1", "done, recorded as serial 1")
	wantAnswer(t, m.RunMap("emacs"), "-fstype=levelfs,rw :emacs@32-1")
	levelfs(t, m, 0, "assign user:rob emacs=32-1", "done, recorded as serial 1")
	levelfs(t, m, 0, "assign user:ann emacs=32-1", "1 user changes from the host's level of emacs to emacs@32-1")
	levelfs(t, m, 0, "assign group:plain emacs=29.4-1", "nobody runs another level by it")
	levelfs(t, m, 0, "assign default emacs=32-1", "done, recorded as serial 1")
	levelfs(t, m, 1, "level retire emacs@32-1 --successor 30.1-1", "levelfs: hint: levelfs assign host:lnx01 emacs=30.1-1", "levelfs: hint: levelfs assign user:ann emacs=30.1-1")
	levelfs(t, m, 0, "level history emacs@32-1", "dn:"+testenv.EditorDN, "release", "cn=lnx01,")
	levelfs(t, m, 0, "level show emacs@32-1", "sealed       yes", "1 host, 2 users")
	levelfs(t, m, 0, "level list emacs --count", "32-1")

	// Profiles, from first to last.
	levelfs(t, m, 0, "profile create new")
	levelfs(t, m, 0, "profile set new emacs=32-1")
	levelfs(t, m, 0, "assign host:lnx01 --profile new", "include new")
	levelfs(t, m, 1, "profile delete new", "is included by host:lnx01")
	levelfs(t, m, 0, "unassign host:lnx01 --profile new", "exclude new")
	levelfs(t, m, 0, "profile delete new", "done, with its history")
	levelfs(t, m, 1, "profile show new", "no profile")
	levelfs(t, m, 0, "unassign host:lnx01 emacs", "1 host changes from emacs@32-1 to emacs@31~rc1")

	// Layers above levels, in the writer's rights.
	site := m.Path("site.ldif")
	writeFile(t, site, "dn: "+testenv.LayerDN("emacs-site")+"\nobjectClass: levelfsLayer\ncn: emacs-site\nlevelfsFSType: dir\nlevelfsImage: emacs-site\n")
	levelfs(t, m, 0, "layer publish "+site+" --kind site", "change: publish emacs-site", "done, recorded as serial 1")
	levelfs(t, m, 0, "customize site emacs=emacs-site", "with emacs-site above it instead of nothing", "done, recorded as serial")
	wantAnswer(t, m.RunMap("emacs"), "-fstype=levelfs,rw,above=emacs-site :emacs@31~rc1")
	wantAnswer(t, m.RunMap("emacs@29.4-1"), "-fstype=levelfs,ro :emacs@29.4-1")
	levelfs(t, m, 1, "customize host:lnx01 emacs=emacs-site", "is of kind site", "takes those of kind host")
	levelfs(t, m, 0, "level history emacs", "customize  ", "emacs=50:emacs-site", "dn:"+testenv.EditorDN)
	levelfs(t, m, 0, "customize site emacs=emacs-site --remove", "done, recorded as serial")

	// What the server does not allow, and what it does not have.
	levelfs(t, m, 1, "assign host:new emacs=32-1", "no host \"new\" in inventory ldap://", "--in DN")
	levelfs(t, m, 1, "assign host:new emacs=32-1 --in ou=hosts,"+slapd.Base, "Insufficient Access Rights (50)")
	levelfs(t, m, 0, "assign host:new emacs=32-1 --in ou=hosts,"+slapd.Base+" --bind-dn "+slapd.RootDN+" --password-file "+password, "done, recorded as serial 1")
	levelfs(t, m, 0, "who emacs@32-1", "host:new ")
	levelfs(t, m, 1, "profile create new --in ou=nosuch,"+slapd.Base, "there is no entry to put")
	levelfs(t, m, 1, "assign host:lnx01 emacs=32-1 --bind-dn "+testenv.ReaderDN+" --password-file "+password, "Insufficient Access Rights (50)")

	// An entry remembers its last hundred changes.
	var history []string
	for n := range 100 {
		history = append(history, edit.Record{Serial: n + 1, Time: time.Unix(int64(n), 0), Verb: edit.VerbAssign, Who: "uid=žižka"}.String())
	}
	host := testenv.HostDN("lnx01")
	if err := errors.Join(slapd.Modify(host, "levelfsHistory", history...), slapd.Modify(host, "levelfsSerial", "100")); err != nil {
		t.Fatal(err)
	}
	levelfs(t, m, 0, "assign host:lnx01 emacs=29.4-1", "done, recorded as serial 101")
	if kept, err := slapd.Values(host, "levelfsHistory"); err != nil || len(kept) != 100 || slices.Contains(kept, history[0]) || !slices.Contains(kept, history[1]) {
		t.Errorf("%d records are kept, %v", len(kept), err)
	}
	levelfs(t, m, 0, "unassign host:lnx01 emacs", "done, recorded as serial 102")

	// Who may only look may try, and may not do.
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI) + fmt.Sprintf("bind-dn = %q\npassword-file = %q\n", testenv.ReaderDN, password))
	levelfs(t, m, 0, "assign host:lnx01 emacs=29.4-1 --dry-run", "dry run")
	if r := m.RunLevelfs("plan", "--all-hosts", "emacs", "--if", "assign host:lnx01 emacs=29.4-1"); r.Exit != 0 || !strings.Contains(r.Stdout, "to emacs@29.4-1") {
		t.Error(r)
	}
	levelfs(t, m, 1, "assign host:lnx01 emacs=29.4-1", "Insufficient Access Rights (50)")
}

// TestVerbsRace: of twenty processes that change one entry, whoever is told that it
// was done is remembered, in that order, and nobody else.
func TestVerbsRace(t *testing.T) {
	const editors = 20
	inv := busyInventory()
	for i, c := range inv.Components {
		if c.Name == "emacs" {
			for n := range editors {
				level := c.Levels[0]
				level.Name = fmt.Sprintf("race-%d", n)
				inv.Components[i].Levels = append(inv.Components[i].Levels, level)
			}
		}
	}
	for _, c := range []struct {
		name    string
		machine func(t *testing.T) *testenv.Machine
	}{
		{"files", func(t *testing.T) *testenv.Machine {
			m := testenv.NewMachine(t, "lnx01")
			m.WriteLDIF("all.ldif", inv.LDIF())
			return m
		}},
		{"OpenLDAP", func(t *testing.T) *testenv.Machine {
			_, m, _ := restricted(t, inv)
			return m
		}},
		{"389 Directory Server", func(t *testing.T) *testenv.Machine {
			d := startDS389(t, inv.LDIF()+people[:strings.Index(people, "dn: uid=bob")]+people[strings.Index(people, "dn: cn=levelfs-operators"):])
			m := testenv.NewMachine(t, "lnx01")
			m.Configure(testenv.LDAPSource(d.Base, d.URI) + fmt.Sprintf("bind-dn = %q\npassword-file = %q\n", d.RootDN, secret(t, d.RootPW)))
			return m
		}},
	} {
		t.Run(c.name, func(t *testing.T) { race(t, c.machine(t), editors) })
	}
}

func race(t *testing.T, m *testenv.Machine, editors int) {
	results := make([]testenv.Result, editors)
	start := make(chan struct{})
	var running sync.WaitGroup
	for i := range editors {
		running.Go(func() {
			<-start
			results[i] = m.RunLevelfs("assign", "host:lnx01", fmt.Sprintf("emacs=race-%d", i))
		})
	}
	close(start)
	running.Wait()
	var won []string
	for i, r := range results {
		switch {
		case r.Exit == 0:
			won = append(won, fmt.Sprintf("emacs=race-%d", i))
		case r.Exit != 1 || !strings.Contains(r.Stderr, "changed by somebody else") || !strings.Contains(r.Stderr, "look at it again"):
			t.Errorf("editor %d: %v", i, r)
		}
	}
	e := entryOf(t, openStore(t, m, inventory.Writer{}), "device", "lnx01")
	records := edit.Records(*e)
	slices.Reverse(records)
	var remembered []string
	last := "emacs=30.1-1"
	for i, r := range records {
		if r.Serial != i+1 || r.Old != last {
			t.Errorf("record %d is %v, after %s", i, r, last)
		}
		last = r.New
		remembered = append(remembered, r.New)
	}
	slices.Sort(won)
	slices.Sort(remembered)
	if len(won) == 0 || !slices.Equal(won, remembered) {
		t.Errorf("done: %q\nremembered: %q", won, remembered)
	}
	if got := e.Attrs["levelfsassignment"]; !slices.Equal(got, []string{last}) {
		t.Errorf("assigned is %q, and the last change made it %q", got, last)
	}
	if got := e.First(strings.ToLower(ldapmap.AttrSerial)); got != fmt.Sprint(len(records)) {
		t.Errorf("serial %s after %d changes", got, len(records))
	}
	t.Logf("%d of %d made their change", len(won), editors)
}
