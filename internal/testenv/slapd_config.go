package testenv

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// moduleDirs are where distributions have the modules of slapd.
var moduleDirs = []string{"/usr/lib/ldap", "/usr/lib64/openldap", "/usr/lib/openldap"}

// slapdConfig is what the configuration of a test slapd depends on.
type slapdConfig struct {
	dir       string // all of slapd's files
	schemaDir string // where levelfs.ldif lies
	rootPW    string
	tls       *tlsFiles // nil without TLS

	verifyClient string      // "" for slapd's default
	replication  replication // none: the zero value
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
		if c.verifyClient != "" {
			fmt.Fprintf(&b, "olcTLSVerifyClient: %s\n", c.verifyClient)
		}
	}
	if modules, ok := firstWith("back_mdb.so", moduleDirs...); ok {
		fmt.Fprintf(&b, "\ndn: cn=module{0},cn=config\nobjectClass: olcModuleList\ncn: module{0}\n"+
			"olcModulePath: %s\nolcModuleLoad: back_mdb\n", modules)
	}
	b.WriteString("\ndn: cn=schema,cn=config\nobjectClass: olcSchemaConfig\ncn: schema\n")
	for _, name := range []string{"core", "cosine", "nis", "inetorgperson"} {
		include(&b, filepath.Join(schemas, name+".ldif"))
	}
	include(&b, c.levelfsLDIF())

	// The indices are those that docs/servers.md asks for, and no other. Nothing in a
	// test survives a crash of the machine, so there is no fsync.
	fmt.Fprintf(&b, `
dn: olcDatabase={-1}frontend,cn=config
objectClass: olcDatabaseConfig
objectClass: olcFrontendConfig
olcDatabase: {-1}frontend
olcAccess: to * by * read

dn: olcDatabase={0}config,cn=config
objectClass: olcDatabaseConfig
olcDatabase: {0}config
olcAccess: to * by dn.exact=gidNumber=%d+uidNumber=%d,cn=peercred,cn=external,cn=auth manage

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
olcDbIndex: uid,memberUid,gidNumber eq
olcDbIndex: levelfsMountPoint pres
olcRootDN: %s
olcRootPW: %s
olcAccess: to attrs=userPassword %sby * auth
olcAccess: to * by * read
`, os.Getegid(), os.Geteuid(), slapdBase, c.dbDir(), slapdRootDN, c.rootPW, c.replication.passwords())
	c.replication.write(&b)
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
