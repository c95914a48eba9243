package testenv

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"github.com/go-ldap/ldap/v3"
	"github.com/go-ldap/ldif"
	"golang.org/x/sys/unix"
)

const (
	// ds389LogLevel is what the project's own containers start with: errors, and
	// how the start and the end go. With 0 it would not even say why it ends.
	ds389LogLevel = "266354688"
	// ds389AddressInUse is what it then says of a port that is taken.
	ds389AddressInUse = "Local Network address is in use"
	// ds389Data is where the package has the templates that dscreate(8) fills in.
	ds389Data = "/usr/share/dirsrv/data"
)

// DS389 is a running 389 Directory Server with one database, as dscreate(8) would
// have made it: with the indices that every new database gets, to which
// index-389.ldif has added, and no access for anybody but RootDN. Unlike dscreate's
// it has its files in a directory of its own.
//
// It is a Slapd in all that is not said here, so that a test can take either:
// ns-slapd is a relative of it, and is started, asked and stopped the same way. It
// has no TLS.
type DS389 struct {
	*Slapd
	accessLog string
	semaphore string
	ours      int // searches that the start made
}

// StartDS389 starts a server with its files in dir, which must be empty and private
// to it, with 98levelfs.ldif from schemaDir beside its own schema. All else is as
// with [StartSlapd]. It needs root, as the package's files are not for everybody.
func StartDS389(ctx context.Context, dir, schemaDir string) (*DS389, error) {
	ctx, cancel := context.WithTimeout(ctx, slapdStartLimit)
	defer cancel()
	d, err := startDS389(ctx, dir, schemaDir)
	if err != nil {
		return nil, fmt.Errorf("start 389 Directory Server: %w", err)
	}
	return d, nil
}

func startDS389(ctx context.Context, dir, schemaDir string) (*DS389, error) {
	program, err := lookPath("ns-slapd")
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	c := ds389Config{dir: dir, name: "slapd-" + rand.Text()[:8], rootPW: rand.Text()}
	s := &Slapd{
		Base:    slapdBase,
		RootDN:  slapdRootDN,
		RootPW:  c.rootPW,
		LogFile: filepath.Join(dir, "errors"),
		socket:  filepath.Join(dir, "ldapi"),
	}
	s.LDAPI = "ldapi://" + url.PathEscape(s.socket)
	if limit := len(unix.RawSockaddrUnix{}.Path) - 1; len(s.socket) > limit {
		return nil, fmt.Errorf("%q is longer than the %d bytes of a socket address", s.socket, limit)
	}
	d := &DS389{
		Slapd:     s,
		accessLog: filepath.Join(dir, "log", "access"),
		semaphore: filepath.Join("/dev/shm", "sem."+c.name+".stats"),
	}
	if err := c.makeDirs(schemaDir); err != nil {
		return nil, err
	}
	index, err := os.ReadFile(filepath.Join(schemaDir, "index-389.ldif"))
	if err != nil {
		return nil, err
	}
	// As with slapd, a port that was free may be taken before it is bound.
	for tries := 5; ; tries-- {
		addr, err := freeAddr(ctx)
		if err != nil {
			return nil, err
		}
		s.URI = "ldap://" + addr
		if err := c.write(addr); err != nil {
			return nil, err
		}
		err = s.launch(ctx, program, "-D", c.confDir(), "-i", filepath.Join(dir, "pid"), "-d", ds389LogLevel)
		if err == nil {
			break
		}
		err = errors.Join(err, d.removeSemaphore())
		if tries == 1 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, err
		}
	}
	err = d.addDatabase(ctx)
	if err == nil {
		err = d.Apply(string(index))
	}
	if err == nil {
		err = d.awaitWritable(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, d.Stop())
	}
	return d, nil
}

// ds389Config is what the configuration of a test server depends on.
type ds389Config struct {
	dir    string
	name   string // of the instance; also of its semaphore, which all of the machine sees
	rootPW string
}

func (c ds389Config) confDir() string { return filepath.Join(c.dir, c.name) }

// makeDirs makes the directories, and the schema in its place: a directory of the
// configuration's, read after that of the package.
func (c ds389Config) makeDirs(schemaDir string) error {
	schema := filepath.Join(c.confDir(), "schema")
	for _, dir := range []string{schema, "db", "log", "run", "lock", "tmp", "ldif", "bak", "inst"} {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.dir, dir)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(filepath.Join(schemaDir, "98levelfs.ldif"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(schema, "98levelfs.ldif"), text, 0o600)
}

// write fills the package's template in, as dscreate does.
func (c ds389Config) write(addr string) error {
	template, err := os.ReadFile(filepath.Join(ds389Data, "template-dse.ldif"))
	if err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	below := func(name string) string { return filepath.Join(c.dir, name) }
	values := map[string]string{
		"schema_dir": filepath.Join(c.confDir(), "schema"), "cert_dir": c.confDir(), "config_dir": "/etc/dirsrv/config",
		"db_dir": below("db"), "db_home_dir": below("db"), "db_lib": "mdb",
		"log_dir": below("log"), "run_dir": below("run"), "lock_dir": below("lock"), "tmp_dir": below("tmp"),
		"ldif_dir": below("ldif"), "bak_dir": below("bak"), "inst_dir": below("inst"),
		"fqdn": "localhost", "ds_port": port, "ds_user": "root", "ds_suffix": slapdBase,
		"rootdn": slapdRootDN, "ds_passwd": "{CLEAR}" + c.rootPW,
		"ldapi_enabled": "on", "ldapi": below("ldapi"), "ldapi_autobind": "off",
	}
	var missing []string
	text := regexp.MustCompile(`%[a-z_]+%`).ReplaceAllStringFunc(string(template), func(name string) string {
		value, ok := values[strings.Trim(name, "%")]
		if !ok {
			missing = append(missing, name)
		}
		return value
	})
	if len(missing) > 0 {
		return fmt.Errorf("%s asks for %q, which is not known here", ds389Data, missing)
	}
	// The loopback interface only, and a log that can be read while it runs.
	head, rest, found := strings.Cut(text, "\nnsslapd-port:")
	if !found {
		return fmt.Errorf("%s sets no nsslapd-port", ds389Data)
	}
	text = head + "\nnsslapd-listenhost: 127.0.0.1\nnsslapd-accesslog-logbuffering: off\nnsslapd-port:" + rest
	return os.WriteFile(filepath.Join(c.confDir(), "dse.ldif"), []byte(text), 0o600)
}

// addDatabase adds the database while the server runs, which is what gives it the
// default indices.
func (d *DS389) addDatabase(ctx context.Context) error {
	c, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, entry := range []struct {
		dn    string
		attrs map[string][]string
	}{
		{"cn=userRoot,cn=ldbm database,cn=plugins,cn=config", map[string][]string{
			"objectClass":    {"top", "extensibleObject", "nsBackendInstance"},
			"nsslapd-suffix": {d.Base},
		}},
		{fmt.Sprintf("cn=%q,cn=mapping tree,cn=config", d.Base), map[string][]string{
			"objectClass":     {"top", "extensibleObject", "nsMappingTree"},
			"cn":              {d.Base},
			"nsslapd-state":   {"backend"},
			"nsslapd-backend": {"userRoot"},
		}},
	} {
		r := ldap.NewAddRequest(entry.dn, nil)
		for attr, values := range entry.attrs {
			r.Attribute(attr, values)
		}
		if err := c.Add(r); err != nil {
			return fmt.Errorf("add %q: %w", entry.dn, err)
		}
	}
	return nil
}

// awaitWritable waits until the task that fills the index is done, and the database
// takes changes again, which is a moment later.
func (d *DS389) awaitWritable(ctx context.Context) error {
	c, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	tasks := ldap.NewSearchRequest("cn=tasks,cn=config", ldap.ScopeWholeSubtree, ldap.NeverDerefAliases,
		0, 0, false, "(nsInstance=*)", []string{"nsTaskExitCode", "nsTaskStatus"}, nil)
	probe := ldap.NewModifyRequest(d.Base, nil) // there is no such entry yet
	probe.Replace("description", []string{"probe"})
	if err := poll(func() error {
		result, err := c.Search(tasks)
		if err != nil {
			return err
		}
		for _, task := range result.Entries {
			if task.GetAttributeValue("nsTaskExitCode") != "0" {
				return fmt.Errorf("task %q: %q", task.DN, task.GetAttributeValue("nsTaskStatus"))
			}
		}
		if err := c.Modify(probe); !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
			return fmt.Errorf("probe: %w", err)
		}
		return nil
	}); err != nil {
		return err
	}
	d.ours, err = d.Searches()
	return err
}

// Apply applies the records of an LDIF text, in their order, as RootDN: entries to
// add, and "changetype: add" and "modify". It stops at the first that the server
// refuses; the error then wraps the *ldap.Error.
func (d *DS389) Apply(text string) error {
	records, err := ldif.Parse(text)
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	c, err := d.dial(context.Background())
	if err != nil {
		return fmt.Errorf("apply: %w", err)
	}
	defer c.Close()
	for _, r := range records.Entries {
		switch {
		case r.Modify != nil:
			if err := c.Modify(r.Modify); err != nil {
				return fmt.Errorf("modify %q: %w", r.Modify.DN, err)
			}
		case r.Add != nil || r.Entry != nil:
			add := addRequest(r)
			if err := c.Add(add); err != nil {
				return fmt.Errorf("add %q: %w", add.DN, err)
			}
		default:
			return errors.New("apply: a record neither adds nor modifies an entry")
		}
	}
	return nil
}

// The lines of the access log about searches.
var (
	// [24/Nov/2026:18:40:27.577456996 +0000] conn=1 op=1 SRCH base="..." scope=2 filter="..." attrs="..."
	ds389Search = regexp.MustCompile(`(?m)^\[[^]]+\] (conn=\d+ op=\d+) SRCH base=.*$`)
	// [...] conn=1 op=1 RESULT err=0 tag=101 nentries=1 wtime=... optime=... etime=... notes=U details="..."
	ds389Result = regexp.MustCompile(`(?m)^\[[^]]+\] (conn=\d+ op=\d+) RESULT err=\d+ tag=101 .*$`)
	ds389Notes  = regexp.MustCompile(` notes=(\S+)`)
)

// Searches returns how many search operations the server has begun since it
// started: see [Slapd.Searches].
func (d *DS389) Searches() (int, error) {
	log, err := os.ReadFile(d.accessLog)
	if err != nil {
		return 0, fmt.Errorf("count searches: %w", err)
	}
	return len(ds389Search.FindAllIndex(log, -1)) - d.ours, nil
}

// Unindexed returns the searches so far for which some of the filter had no index,
// as lines of the log. The server logs a result after it has sent it: this waits
// until there is one for each search.
func (d *DS389) Unindexed() ([]string, error) {
	var unindexed []string
	err := poll(func() error {
		unindexed = nil
		log, err := os.ReadFile(d.accessLog)
		if err != nil {
			return err
		}
		open := make(map[string]string)
		for _, m := range ds389Search.FindAllStringSubmatch(string(log), -1) {
			open[m[1]] = m[0]
		}
		for _, m := range ds389Result.FindAllStringSubmatch(string(log), -1) {
			// A is a search of all entries, U one in which a part had no index.
			if notes := ds389Notes.FindStringSubmatch(m[0]); notes != nil && strings.ContainsAny(notes[1], "AU") {
				unindexed = append(unindexed, open[m[1]]+"\n"+m[0])
			}
			delete(open, m[1])
		}
		if len(open) > 0 {
			return fmt.Errorf("%d searches without a result in %s", len(open), d.accessLog)
		}
		return nil
	})
	return unindexed, err
}

// Stop ends the server: see [Slapd.Stop].
func (d *DS389) Stop() error {
	return errors.Join(d.Slapd.Stop(), d.removeSemaphore())
}

// removeSemaphore removes what a server that was killed leaves.
func (d *DS389) removeSemaphore() error {
	if err := os.Remove(d.semaphore); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
