package test

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
)

// socketDir is an empty directory with a short path.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestReplica: a replica near the guests has what the provider has, answers in its
// place when it is gone, takes no changes, and catches up when it is back.
func TestReplica(t *testing.T) {
	testenv.Require(t, "slapd")
	const dn, password = "cn=levelfs-replica," + testenv.BaseDN, "of-replica"
	provider, err := testenv.StartProvider(t.Context(), socketDir(t), schemaDir, dn, testenv.SlapdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := provider.Stop(); err != nil {
			t.Error(err)
		}
	})
	inv := busyInventory()
	for n := range 600 { // more than slapd returns to a search that has no limits of its own
		inv.Hosts = append(inv.Hosts, testenv.Caller{Name: fmt.Sprintf("h%d", n)})
	}
	if err := provider.Add(inv.LDIF() + `
dn: ` + dn + `
objectClass: applicationProcess
objectClass: simpleSecurityObject
cn: levelfs-replica
userPassword: ` + password + `

dn: cn=last,ou=hosts,dc=example,dc=org
objectClass: device
objectClass: levelfsCaller
cn: last
levelfsAssignment: emacs=30.1-1
`); err != nil {
		t.Fatal(err)
	}
	replica, err := testenv.StartReplica(t.Context(), socketDir(t), schemaDir, provider, dn, password, testenv.SlapdOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := replica.Stop(); err != nil {
			t.Error(err)
		}
	})

	// What the replica itself answers to a host.
	near := func(host string) *testenv.Machine {
		m := testenv.NewMachine(t, host)
		m.Configure(testenv.LDAPSource(replica.Base, replica.URI))
		return m
	}
	wait := func(what string, m *testenv.Machine, line string) {
		t.Helper()
		testenv.WaitFor(t, what, func() error {
			if r := m.RunMap("emacs"); r.Exit != 0 || r.Stdout != line+"\n" {
				return fmt.Errorf("%v, want %q", r, line)
			}
			return nil
		})
	}
	wait("the whole of the inventory", near("last"), emacsLine)
	lnx01 := near("lnx01")
	wantAnswer(t, lnx01.RunMap("emacs"), emacsLine)

	assign := func(level string) {
		t.Helper()
		if err := provider.Modify(testenv.HostDN("lnx01"), "levelfsAssignment", "emacs="+level); err != nil {
			t.Fatal(err)
		}
	}
	assign("31~rc1")
	wait("a change", lnx01, "-fstype=levelfs,rw :emacs@31~rc1")

	// A change is made at the provider: the replica says where that is.
	m := ldap.NewModifyRequest(testenv.HostDN("lnx01"), nil)
	m.Replace("levelfsAssignment", []string{"emacs=30.1-1"})
	err = dialAs(t, replica.URI, dn, password).Modify(m)
	if !ldap.IsErrorWithCode(err, ldap.LDAPResultReferral) {
		t.Errorf("a change at the replica: %v, want a referral", err)
	}

	guest := testenv.NewMachine(t, "lnx01")
	guest.Configure(testenv.LDAPSource(provider.Base, provider.URI, replica.URI))
	if err := provider.Kill(); err != nil {
		t.Fatal(err)
	}
	before, err := replica.Searches()
	if err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, guest.RunMap("emacs"), "-fstype=levelfs,rw :emacs@31~rc1")
	if after, err := replica.Searches(); after == before || err != nil {
		t.Errorf("the replica was not asked (%v)", err)
	}

	if err := provider.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	assign("29.4-1")
	wantAnswer(t, guest.RunMap("emacs"), "-fstype=levelfs,rw :emacs@29.4-1")
	wait("a change after the provider's return", lnx01, "-fstype=levelfs,rw :emacs@29.4-1")
}
