package test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/inventory"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
)

// openStore opens the one source of a machine as a store.
func openStore(t *testing.T, m *testenv.Machine, w inventory.Writer) ldapmap.Store {
	t.Helper()
	c, err := config.LoadFrom(m.Root)
	if err != nil {
		t.Fatal(err)
	}
	stores, err := inventory.OpenStores(c, w)
	if err != nil || len(stores) != 1 {
		t.Fatalf("%d stores, %v", len(stores), err)
	}
	t.Cleanup(func() { stores[0].Close() })
	return stores[0]
}

// restricted is a server with the access rules that we deliver, and a machine that
// reads as the reader and writes as an editor.
func restricted(t *testing.T, inv testenv.Inventory) (*testenv.Slapd, *testenv.Machine, string) {
	t.Helper()
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	if err := slapd.Restrict(); err != nil {
		t.Fatal(err)
	}
	m := testenv.NewMachine(t, "lnx01")
	password, err := slapd.Passwd(m.Root)
	if err != nil {
		t.Fatal(err)
	}
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI) +
		fmt.Sprintf("bind-dn = %q\npassword-file = %q\n", testenv.ReaderDN, password) +
		fmt.Sprintf("[source.write]\nbind-dn = %q\npassword-file = %q\n", testenv.EditorDN, password))
	return slapd, m, password
}

// one is the entry of that DN, with its version.
func one(t *testing.T, s ldapmap.Store, dn string) *ldapmap.Entry {
	t.Helper()
	rdn, _, _ := strings.Cut(dn, ",")
	attr, value, _ := strings.Cut(rdn, "=")
	entries, err := s.All(t.Context(), []ldapmap.Term{{{{Attr: attr, Value: value}}}}, []string{"*", ldapmap.AttrVersion}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.DN == dn {
			return &e
		}
	}
	t.Fatalf("no entry %q among %v", dn, entries)
	return nil
}

func mods(op ldapmap.ModOp, attr string, values ...string) ldapmap.Mod {
	return ldapmap.Mod{Op: op, Attr: attr, Values: values}
}

func TestStoreApply(t *testing.T) {
	slapd, m, password := restricted(t, busyInventory())
	s := openStore(t, m, inventory.Writer{})
	if who, err := s.Identity(t.Context()); err != nil || !strings.EqualFold(who, "dn:"+testenv.EditorDN) {
		t.Errorf("identity %q, %v", who, err)
	}
	values := func(dn, attr string) string {
		t.Helper()
		v, err := slapd.Values(dn, attr)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(v, "|")
	}
	host := testenv.HostDN("lnx01")
	was := one(t, s, host)
	if was.First("entrycsn") == "" {
		t.Fatalf("no version in %v", was)
	}
	change := ldapmap.Edit{DN: host, Was: was, Mods: []ldapmap.Mod{
		mods(ldapmap.ModDelete, "levelfsAssignment", "emacs=30.1-1"), mods(ldapmap.ModAdd, "levelfsAssignment", "emacs=29.4-1", "vi=1"),
	}}
	if err := s.Apply(t.Context(), change); err != nil {
		t.Fatal(err)
	}
	if got := values(host, "levelfsAssignment"); got != "emacs=29.4-1|vi=1" {
		t.Errorf("changed to %q", got)
	}
	conflict := func(e ldapmap.Edit, name string) {
		t.Helper()
		var late *ldapmap.ConflictError
		if err := s.Apply(t.Context(), e); !errors.As(err, &late) || late.DN != e.DN {
			t.Errorf("%s: %v, want a *ConflictError", name, err)
		}
	}
	conflict(change, "the same once more")
	conflict(ldapmap.Edit{DN: host, Was: was, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsProfileRef", "old")}}, "made for what it was")
	unversioned := &ldapmap.Entry{DN: host, Attrs: map[string][]string{}}
	conflict(ldapmap.Edit{DN: host, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModDelete, "levelfsAssignment", "emacs=30.1-1")}}, "value that is gone")
	conflict(ldapmap.Edit{DN: host, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1")}}, "value that is there")
	conflict(ldapmap.Edit{DN: testenv.HostDN("gone"), Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1")}}, "entry that is gone")
	if got := values(host, "levelfsAssignment"); got != "emacs=29.4-1|vi=1" {
		t.Errorf("after conflicts: %q", got)
	}

	profile := testenv.ProfileDN("new")
	add := ldapmap.Edit{DN: profile, Mods: []ldapmap.Mod{
		mods(ldapmap.ModAdd, "objectClass", "levelfsProfile"), mods(ldapmap.ModAdd, "cn", "new"), mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1"),
	}}
	if err := s.Apply(t.Context(), add); err != nil {
		t.Fatal(err)
	}
	conflict(add, "entry that is there")
	if err := s.Apply(t.Context(), ldapmap.Edit{DN: profile, Was: one(t, s, profile), Mods: []ldapmap.Mod{mods(ldapmap.ModDelete, "levelfsAssignment")}}); err != nil {
		t.Error(err)
	}
	if got := values(profile, "levelfsAssignment"); got != "" {
		t.Errorf("after a delete of all values: %q", got)
	}

	// A person's entry is made a caller's; the rest of it is not levelfs's.
	person := "uid=rob,ou=people," + slapd.Base
	if err := slapd.Add("dn: ou=people," + slapd.Base + "\nobjectClass: organizationalUnit\nou: people\n\ndn: " + person +
		"\nobjectClass: inetOrgPerson\nuid: rob\ncn: Rob\nsn: R\nmail: rob@example.org\n"); err != nil {
		t.Fatal(err)
	}
	rob := one(t, s, person)
	if rob.First("mail") != "" || rob.First("entrycsn") == "" {
		t.Errorf("an editor sees %v", rob)
	}
	if err := s.Apply(t.Context(), ldapmap.Edit{DN: person, Was: rob, Mods: []ldapmap.Mod{
		mods(ldapmap.ModAdd, "objectClass", "levelfsCaller"), mods(ldapmap.ModAdd, "levelfsAssignment", "emacs=29.4-1"),
	}}); err != nil {
		t.Error(err)
	}

	// What is no conflict is none: nothing that reading again would better.
	plain := func(s ldapmap.Store, e ldapmap.Edit, says string) {
		t.Helper()
		var late *ldapmap.ConflictError
		if err := s.Apply(t.Context(), e); err == nil || errors.As(err, &late) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q and no *ConflictError", err, says)
		}
	}
	add.DN = "cn=new,ou=nosuch," + slapd.Base
	plain(s, add, "no entry to put")
	plain(s, ldapmap.Edit{DN: profile, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "mail", "x")}}, "Object Class Violation (65)")
	plain(s, ldapmap.Edit{DN: profile, Was: unversioned}, "nothing to change")
	plain(s, ldapmap.Edit{DN: person, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "objectClass", "uidObject")}}, "Insufficient Access Rights (50)")
	plain(s, ldapmap.Edit{DN: testenv.ReaderDN, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "description", "x")}}, "not changed")
	// A host's other attributes are not levelfs's.
	plain(s, ldapmap.Edit{DN: host, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "description", "x")}}, "Insufficient Access Rights (50)")
	reader := openStore(t, m, inventory.Writer{BindDN: testenv.ReaderDN})
	plain(reader, ldapmap.Edit{DN: profile, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1")}}, "Insufficient Access Rights (50)")
	if who, err := reader.Identity(t.Context()); err != nil || who != "dn:"+testenv.ReaderDN {
		t.Errorf("identity %q, %v", who, err)
	}
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	nobody := openStore(t, m, inventory.Writer{})
	plain(nobody, ldapmap.Edit{DN: profile, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1")}}, "no identity")
	if _, err := nobody.Identity(t.Context()); err == nil {
		t.Error("nobody has an identity")
	}
	if err := openStore(t, m, inventory.Writer{BindDN: testenv.EditorDN, PasswordFile: password}).Apply(t.Context(),
		ldapmap.Edit{DN: profile, Was: unversioned, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1")}}); err != nil {
		t.Errorf("as the one that was named: %v", err)
	}
}

// TestStoreRace: of editors who looked at the same entry, one changes it.
func TestStoreRace(t *testing.T) {
	slapd, m, _ := restricted(t, busyInventory())
	const editors = 20
	host := testenv.HostDN("lnx01")
	was := one(t, openStore(t, m, inventory.Writer{}), host)
	for _, c := range []struct {
		name string
		was  ldapmap.Entry
		mods func(i int) []ldapmap.Mod
	}{
		// Values that do not meet: only the version tells.
		{"by version", *was, func(i int) []ldapmap.Mod {
			return []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", fmt.Sprintf("c%d=1", i))}
		}},
		{"by value", ldapmap.Entry{DN: host}, func(i int) []ldapmap.Mod {
			return []ldapmap.Mod{mods(ldapmap.ModDelete, "levelfsProfileRef", "base"), mods(ldapmap.ModAdd, "levelfsProfileRef", fmt.Sprintf("p%d", i))}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			errs := make([]error, editors)
			start := make(chan struct{})
			var running sync.WaitGroup
			for i := range editors {
				s := openStore(t, m, inventory.Writer{})
				running.Go(func() {
					<-start
					errs[i] = s.Apply(t.Context(), ldapmap.Edit{DN: host, Was: &c.was, Mods: c.mods(i)})
				})
			}
			close(start)
			running.Wait()
			won := -1
			for i, err := range errs {
				var late *ldapmap.ConflictError
				switch {
				case err == nil && won < 0:
					won = i
				case err == nil:
					t.Errorf("both %d and %d", won, i)
				case !errors.As(err, &late):
					t.Errorf("editor %d: %v", i, err)
				}
			}
			if won < 0 {
				t.Fatal("nobody changed it")
			}
			attr := c.mods(won)[len(c.mods(won))-1]
			got, err := slapd.Values(host, attr.Attr)
			if err != nil || !strings.Contains("|"+strings.Join(got, "|")+"|", "|"+attr.Values[0]+"|") {
				t.Errorf("%q, %v: not what editor %d wrote", got, err, won)
			}
		})
	}
}

// TestStoreAll: more entries than slapd returns to anybody at once.
func TestStoreAll(t *testing.T) {
	const hosts = 5000
	inv := busyInventory()
	for i := range hosts {
		inv.Hosts = append(inv.Hosts, testenv.Caller{Name: fmt.Sprintf("h%d", i), Assign: []string{"emacs=29.4-1"}})
	}
	slapd, m, _ := restricted(t, inv)
	terms := []ldapmap.Term{{{{Attr: "objectClass", Value: "device"}}}}
	for _, dn := range []string{testenv.ReaderDN, testenv.EditorDN} {
		s := openStore(t, m, inventory.Writer{BindDN: dn})
		var steps []int
		got, err := s.All(t.Context(), terms, []string{"cn", "levelfsAssignment"}, func(n int) { steps = append(steps, n) })
		if err != nil || len(got) != hosts+1 {
			t.Fatalf("%s: %d entries, %v", dn, len(got), err)
		}
		names := make(map[string]bool)
		for _, e := range got {
			names[e.First("cn")] = true
		}
		if len(names) != hosts+1 || !names["h4999"] || !names["lnx01"] {
			t.Errorf("%d names", len(names))
		}
		if len(steps) < 2 || steps[len(steps)-1] != len(got) {
			t.Errorf("progress %v", steps)
		}
		// A lookup keeps its limit.
		var many *ldapmap.TooManyError
		if _, err := s.Search(t.Context(), terms, []string{"cn"}); !errors.As(err, &many) {
			t.Errorf("a lookup of %d entries: %v", hosts, err)
		}
	}
	terms, attrs := ldapmap.Everything()
	if got, err := openStore(t, m, inventory.Writer{}).All(t.Context(), terms, attrs, nil); err != nil || len(got) < hosts+10 {
		t.Errorf("everything: %d entries, %v", len(got), err)
	}

	// Without the limits of access.ldif it is said what stops it.
	if err := slapd.Configure("olcDatabase={1}mdb,cn=config", "olcLimits"); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(t, m, inventory.Writer{}).All(t.Context(), terms, []string{"cn"}, nil)
	var wrong *ldapmap.ConfigError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "the server stops after 500 entries") {
		t.Errorf("with slapd's own limits: %v", err)
	}
}

// TestStoreReferral: a replica says who takes changes; we go nowhere by ourselves.
func TestStoreReferral(t *testing.T) {
	slapd, m, _ := restricted(t, busyInventory())
	s := openStore(t, m, inventory.Writer{})
	was := one(t, s, testenv.HostDN("lnx01"))
	const provider = "ldap://provider.example.org"
	for _, c := range [][2]string{
		{"olcSyncrepl", `rid=001 provider=ldap://127.0.0.1:1 type=refreshOnly retry="3600 +" searchbase="` + slapd.Base + `" bindmethod=simple`},
		{"olcUpdateRef", provider},
	} {
		if err := slapd.Configure("olcDatabase={1}mdb,cn=config", c[0], c[1]); err != nil {
			t.Fatal(err)
		}
	}
	err := s.Apply(t.Context(), ldapmap.Edit{DN: was.DN, Was: was, Mods: []ldapmap.Mod{mods(ldapmap.ModAdd, "levelfsAssignment", "vi=1")}})
	var wrong *ldapmap.ConfigError
	var referral *ldapsource.ReferralError
	if !errors.As(err, &wrong) || !errors.As(err, &referral) || len(referral.To) != 1 || !strings.HasPrefix(referral.To[0], provider) {
		t.Errorf("got %v, want that it refers to %s", err, provider)
	}
}
