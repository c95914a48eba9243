package testenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// slapdConfig is what the configuration of a test slapd depends on.
type slapdConfig struct {
	dir       string // all of slapd's files
	schemaDir string // where levelfs.ldif lies
	rootPW    string
	tls       *tlsFiles // nil without TLS
}

func (c slapdConfig) confDir() string { return filepath.Join(c.dir, "slapd.d") }
func (c slapdConfig) dbDir() string   { return filepath.Join(c.dir, "db") }

// build makes the directories and writes the cn=config database.
func (c slapdConfig) build(ctx context.Context, slapadd string) error {
	for _, dir := range []string{c.confDir(), c.dbDir()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	// An include of a file that does not exist is a parse error without a
	// name in slapadd: say it here.
	if _, err := os.Stat(c.levelfsLDIF()); err != nil {
		return err
	}
	text, err := c.ldif()
	if err != nil {
		return err
	}
	file := filepath.Join(c.dir, "config.ldif")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, slapadd, "-n", "0", "-F", c.confDir(), "-l", file)
	cmd.Env = append(os.Environ(), "LDAPNOINIT=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w: %s", cmd.Args, err, out)
	}
	return nil
}

// load fills the database.
func (c slapdConfig) load(ctx context.Context, slapadd, file string) error {
	cmd := exec.CommandContext(ctx, slapadd, "-q", "-n", "1", "-F", c.confDir(), "-l", file)
	cmd.Env = append(os.Environ(), "LDAPNOINIT=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%q: %w: %s", cmd.Args, err, out)
	}
	return nil
}

func (c slapdConfig) levelfsLDIF() string { return filepath.Join(c.schemaDir, "levelfs.ldif") }

// ldif returns the configuration as slapadd reads it. Distributions differ in
// where schemas and modules lie; where there is no module for the mdb backend
// it is taken to be built in.
func (c slapdConfig) ldif() (string, error) {
	schemas, ok := firstWith("core.ldif", "/etc/ldap/schema", "/etc/openldap/schema")
	if !ok {
		return "", fmt.Errorf("no OpenLDAP schema directory with core.ldif")
	}

	var b strings.Builder
	b.WriteString("dn: cn=config\nobjectClass: olcGlobal\ncn: config\n")
	b.WriteString("olcLogLevel: 0\n") // nothing to syslog; -d logs to our file
	if c.tls != nil {
		fmt.Fprintf(&b, "olcTLSCACertificateFile: %s\n", c.tls.ca)
		fmt.Fprintf(&b, "olcTLSCertificateFile: %s\n", c.tls.cert)
		fmt.Fprintf(&b, "olcTLSCertificateKeyFile: %s\n", c.tls.key)
	}
	if modules, ok := firstWith("back_mdb.so", "/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap"); ok {
		fmt.Fprintf(&b, "\ndn: cn=module{0},cn=config\nobjectClass: olcModuleList\ncn: module{0}\n"+
			"olcModulePath: %s\nolcModuleLoad: back_mdb\n", modules)
	}
	b.WriteString("\ndn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n")
	for _, name := range []string{"core", "cosine", "nis", "inetorgperson"} {
		include(&b, filepath.Join(schemas, name+".ldif"))
	}
	include(&b, c.levelfsLDIF())

	// The indices are those that packaging/schema/README.md asks for. Nothing
	// in a test survives a crash of the machine, so there is no fsync.
	fmt.Fprintf(&b, `
dn: olcDatabase={-1}frontend,cn=config
objectClass: olcDatabaseConfig
objectClass: olcFrontendConfig
olcDatabase: {-1}frontend
olcAccess: to * by * read

dn: olcDatabase={1}mdb,cn=config
objectClass: olcDatabaseConfig
objectClass: olcMdbConfig
olcDatabase: {1}mdb
olcSuffix: %s
olcDbDirectory: %s
olcDbMaxSize: 1073741824
olcDbNoSync: TRUE
olcDbIndex: objectClass eq
olcDbIndex: cn eq,sub
olcDbIndex: member,uniqueMember eq
olcDbIndex: levelfsAssignment pres,eq,sub
olcDbIndex: levelfsProfileRef eq
olcRootDN: %s
olcRootPW: %s
olcAccess: to attrs=userPassword by * auth
olcAccess: to * by * read
`, slapdBase, c.dbDir(), slapdRootDN, c.rootPW)
	return b.String(), nil
}

// include writes a directive that slapadd replaces with the file.
func include(b *strings.Builder, file string) {
	u := url.URL{Scheme: "file", Path: file}
	fmt.Fprintf(b, "\ninclude: %s\n", u.String())
}

// firstWith returns the first of dirs that holds file.
func firstWith(file string, dirs ...string) (string, bool) {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return dir, true
		}
	}
	return "", false
}

// tlsFiles are the paths of PEM files.
type tlsFiles struct{ ca, cert, key string }

// writeTLSFiles makes a CA and a server certificate for the loopback address,
// good for a day, and writes them below dir.
func writeTLSFiles(dir string) (*tlsFiles, error) {
	now := time.Now()
	ca := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "levelfs test CA"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	server := &x509.Certificate{
		SerialNumber: big.NewInt(2),
		Subject:      pkix.Name{CommonName: "localhost"},
		NotBefore:    ca.NotBefore,
		NotAfter:     ca.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serverKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	serverDER, err := x509.CreateCertificate(rand.Reader, server, ca, serverKey.Public(), caKey)
	if err != nil {
		return nil, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(serverKey)
	if err != nil {
		return nil, err
	}

	f := &tlsFiles{
		ca:   filepath.Join(dir, "ca.pem"),
		cert: filepath.Join(dir, "server.pem"),
		key:  filepath.Join(dir, "server.key"),
	}
	for _, p := range []struct {
		file, kind string
		der        []byte
	}{
		{f.ca, "CERTIFICATE", caDER},
		{f.cert, "CERTIFICATE", serverDER},
		{f.key, "PRIVATE KEY", keyDER},
	} {
		if err := os.WriteFile(p.file, pem.EncodeToMemory(&pem.Block{Type: p.kind, Bytes: p.der}), 0o600); err != nil {
			return nil, err
		}
	}
	return f, nil
}
