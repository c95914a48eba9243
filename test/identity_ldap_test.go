package test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestMapIdentity: every way to bind, against the access rules that we deliver.
func TestMapIdentity(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true, VerifyClient: "try"}, busyInventory())
	if err := slapd.Restrict(); err != nil {
		t.Fatal(err)
	}
	dir := testenv.NewMachine(t, "x").Root
	password, err := slapd.Passwd(dir)
	if err != nil {
		t.Fatal(err)
	}
	secret := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		writeFile(t, path, text)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certificate := func(name string) string {
		cert, key, err := slapd.ClientCertificate(name)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("cert = %q\nkey = %q\n", cert, key)
	}
	ca := fmt.Sprintf("ca = %q\n", slapd.CAFile)
	simple := func(dn, file string) string {
		return fmt.Sprintf("bind-dn = %q\npassword-file = %q\n", dn, file)
	}
	reader := certificate("levelfs-reader")
	const external = "sasl = \"external\"\n"
	for _, c := range []struct {
		name, uri, more string
		refused         []string // reasons; nil: it is answered
	}{
		{"password", slapd.URI, simple(testenv.ReaderDN, password), nil},
		{"password over ldaps", slapd.LDAPS, ca + simple(testenv.ReaderDN, password), nil},
		{"password over StartTLS", slapd.URI, ca + "starttls = true\n" + simple(testenv.ReaderDN, password), nil},
		{"password over a socket", slapd.LDAPI, simple(testenv.ReaderDN, password), nil},
		{"certificate over ldaps", slapd.LDAPS, ca + external + reader, nil},
		{"certificate over StartTLS", slapd.URI, ca + external + "starttls = true\n" + reader, nil},
		{"nobody", slapd.URI, "", []string{`base "dc=example,dc=org" does not exist`}},
		{"somebody else", slapd.LDAPS, ca + external + certificate("other"), []string{`base "dc=example,dc=org" does not exist`}},
		{"socket, somebody else", slapd.LDAPI, external, []string{`base "dc=example,dc=org" does not exist`}},
		{"certificate that is not used", slapd.LDAPS, ca + reader, []string{`base "dc=example,dc=org" does not exist`}},
		{"wrong password", slapd.URI, simple(testenv.ReaderDN, secret("wrong", "wrong\n", 0o600)), []string{"Invalid Credentials (49)", testenv.ReaderDN}},
		{"no such DN", slapd.URI, simple("cn=nosuch,dc=example,dc=org", password), []string{"Invalid Credentials (49)"}},
		{"empty password", slapd.URI, simple(testenv.ReaderDN, secret("empty", "\n", 0o600)), []string{"no password in it"}},
		{"password for all to read", slapd.URI, simple(testenv.ReaderDN, secret("open", "x\n", 0o644)), []string{"-rw-r--r--", "0600"}},
		{"password away", slapd.URI, simple(testenv.ReaderDN, "/nosuch/password"), []string{"/nosuch/password"}},
		{"key for all to read", slapd.LDAPS, ca + external + fmt.Sprintf("cert = %q\nkey = %q\n", slapd.CAFile, secret("key", "x", 0o640)), []string{"-rw-r-----", "0600"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := testenv.NewMachine(t, "lnx01")
			m.Configure(testenv.LDAPSource(slapd.Base, c.uri) + c.more)
			if c.refused == nil {
				wantAnswer(t, m.RunMap("emacs"), emacsLine)
				wantAnswer(t, m.RunMap("emacs@31~rc1"), "-fstype=levelfs,ro :emacs@31~rc1")
				return
			}
			// What the configuration must better, the cache does not hide.
			m.WriteLDIF("all.ldif", busyInventory().LDIF())
			m.Configure("")
			wantAnswer(t, m.RunMap("emacs"), emacsLine)
			m.Configure(testenv.LDAPSource(slapd.Base, c.uri) + c.more)
			wantRefusal(t, m.RunMap("emacs"), c.refused...)
		})
	}
}

// TestMapDemandedCertificate: a server that wants certificates gets one, bind or no bind.
func TestMapDemandedCertificate(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true, VerifyClient: "demand"}, busyInventory())
	cert, key, err := slapd.ClientCertificate("lnx01")
	if err != nil {
		t.Fatal(err)
	}
	m := testenv.NewMachine(t, "lnx01")
	source := testenv.LDAPSource(slapd.Base, slapd.LDAPS) + fmt.Sprintf("ca = %q\n", slapd.CAFile)
	m.Configure(source + fmt.Sprintf("cert = %q\nkey = %q\n", cert, key))
	wantAnswer(t, m.RunMap("emacs"), emacsLine)
	m.Configure(source)
	r := m.RunMap("emacs") // known by now
	if r.Exit != 0 || r.Stdout != emacsLine+"\n" || r.Stderr == "" {
		t.Errorf("without a certificate: %v; want the last known level and a warning", r)
	}
}

// TestMapLDAPConf: what levelfs.toml leaves open is the machine's.
func TestMapLDAPConf(t *testing.T) {
	slapd := startSlapd(t, testenv.SlapdOptions{TLS: true}, busyInventory())
	for _, name := range []string{"etc/ldap", "etc/openldap"} {
		m := testenv.NewMachine(t, "lnx01")
		m.Configure("[[source]]\ntype = \"ldap\"\n")
		wantRefusal(t, m.RunMap("emacs"), "uri", "base", "ldap.conf")
		m.Mkdir(name)
		writeFile(t, m.Path(name, "ldap.conf"), fmt.Sprintf("# ours\nuri\tldap://127.0.0.1:1 %s\nBASE  %s\nTLS_CACERT %s\n", slapd.LDAPS, slapd.Base, slapd.CAFile))
		wantAnswer(t, m.RunMap("emacs"), emacsLine)
	}
}
