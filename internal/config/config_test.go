package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// load writes levelfs.toml below a new root and reads it.
func load(t *testing.T, text string) (*Config, error) {
	t.Helper()
	root := t.TempDir()
	file := filepath.Join(root, "etc/levelfs/levelfs.toml")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadFrom(root)
	if err != nil && !strings.HasPrefix(err.Error(), file+": ") {
		t.Errorf("error %q does not start with the file's name", err)
	}
	return c, err
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, text string }{
		{"empty", ""},
		{"comments", "# nothing\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := load(t, c.text)
			if err != nil {
				t.Fatal(err)
			}
			want := &Config{
				Images:    []string{filepath.Join(got.root, "var/lib/levelfs/images")},
				Tree:      "/sw",
				Map:       "/usr/libexec/levelfs/auto.levelfs",
				Retry:     Duration{30 * time.Second},
				Keep:      Duration{720 * time.Hour},
				CacheSize: Size{16 << 20}, CheckTime: Duration{time.Minute}, CheckRate: Size{50 << 20},
				OnStale: "warn", HookTime: Duration{30 * time.Second},
				Sources: []Source{{Type: "ldif", Path: filepath.Join(got.root, "etc/levelfs/inventory.d")}},
				Watch:   Watch{Settle: Duration{time.Second}, Jitter: Duration{10 * time.Second}, Probe: Duration{5 * time.Minute}},
				root:    got.root,
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestMissing: without a file the defaults serve an LDIF inventory.
func TestMissing(t *testing.T) {
	t.Parallel()
	c, err := LoadFrom(filepath.Join(t.TempDir(), "nowhere"))
	if err != nil || c.Tree != "/sw" || len(c.Sources) != 1 {
		t.Errorf("got %+v, %v", c, err)
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/levelfs/levelfs.toml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadFrom(root); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory in its place: %v", err)
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	got, err := load(t, `
host = "lnx01.example.org"
images = ["/srv/a", "/srv/b"]
directories = ["/srv/dirs"]
tree = "/software"
map = "/usr/local/libexec/auto.levelfs"
retry = "1m"
keep = "48h"
cache-size = "512KiB"
on-stale = "stop"
hook-time = "5s"

[maps."auto.levelfs.session"]
caller = "user"

[[source]]
type = "ldif"
path = "/etc/inventory"

[[source]]
type = "ldap"
uri = ["ldap://a", "ldap://b"]
base = "dc=example,dc=org"
timeout = "1500ms"
starttls = true
ca = "/etc/ssl/ca.pem"
insecure = true
tls-name = "ldap.example.org"
srv = "example.org"
bind-dn = "cn=reader"
password-file = "/etc/levelfs/password"
cert = "/c"
key = "/k"
[source.write]
uri = ["ldaps://c"]
srv = "example.net"
sasl = "external"
cert = "/wc"
key = "/wk"

[watch]
settle = "2s"
jitter = "1m"
probe = "10m"
`)
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Host: "lnx01.example.org", Images: []string{"/srv/a", "/srv/b"}, Directories: []string{"/srv/dirs"},
		Tree: "/software", Map: "/usr/local/libexec/auto.levelfs",
		Retry: Duration{time.Minute}, Keep: Duration{48 * time.Hour},
		CacheSize: Size{512 << 10}, CheckTime: Duration{time.Minute}, CheckRate: Size{50 << 20},
		OnStale: "stop", HookTime: Duration{5 * time.Second}, Maps: map[string]Map{"auto.levelfs.session": {Caller: UserCaller}},
		Sources: []Source{
			{Type: "ldif", Path: "/etc/inventory"},
			{Type: "ldap", URI: []string{"ldap://a", "ldap://b"}, Base: "dc=example,dc=org", Timeout: Duration{1500 * time.Millisecond},
				StartTLS: true, CA: "/etc/ssl/ca.pem", Insecure: true, TLSName: "ldap.example.org", SRV: "example.org",
				Identity: Identity{BindDN: "cn=reader", PasswordFile: "/etc/levelfs/password", Cert: "/c", Key: "/k"},
				Write:    Write{URI: []string{"ldaps://c"}, SRV: "example.net", Identity: Identity{SASL: "external", Cert: "/wc", Key: "/wk"}}},
		},
		Watch: Watch{Settle: Duration{2 * time.Second}, Jitter: Duration{time.Minute}, Probe: Duration{10 * time.Minute}},
		root:  got.root,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got, err := load(t, "images = []"); err != nil || len(got.Images) > 0 {
		t.Errorf("no images at all: %q, %v", got.Images, err)
	}
}

// TestDelivered reads the file that is installed, as it is and with everything in
// it that is commented out.
func TestDelivered(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../packaging/levelfs.toml")
	if err != nil {
		t.Fatal(err)
	}
	c, err := load(t, string(text))
	if err != nil {
		t.Fatal(err)
	}
	if c.Tree != "/sw" || !reflect.DeepEqual(c.Sources, []Source{{Type: "ldif", Path: "/etc/levelfs/inventory.d"}}) {
		t.Errorf("got %+v, not the defaults", c)
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if uncommented, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(uncommented, " ") {
			line = uncommented
		}
		lines = append(lines, line)
	}
	if c, err = load(t, strings.Join(lines, "")); err != nil {
		t.Fatalf("with all that is commented out: %v", err)
	}
	if len(c.Sources) != 2 || c.Host == "" || c.Images == nil || c.Sources[1].Timeout.Duration == 0 {
		t.Errorf("with all that is commented out: %+v", c)
	}
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	const (
		ldap  = "[[source]]\ntype = \"ldap\"\n"
		whole = ldap + "uri = [\"ldap://a\"]\nbase = \"dc=x\"\n"
	)
	for _, c := range []struct {
		name, text string
		says       []string
	}{
		{"unknown key", "tree = \"/sw\"\ntreee = \"/sw\"\n", []string{"line 2", `"treee"`}},
		{"unknown key of a source", "[[source]]\ntype = \"ldif\"\npath = \"/a\"\nurl = \"x\"\n", []string{"line 4", `"source.url"`}},
		{"unknown table", "\n\n[ldap]\nuri = \"x\"\n", []string{"line ", `ldap`}},
		{"no TOML", "tree = \"/sw\"\ntree /sw\n", []string{"line 2"}},
		{"twice", "tree = \"/a\"\ntree = \"/b\"\n", []string{"line 2"}},
		{"number for a string", "tree = 1\n", []string{"line 1"}},
		{"string for a list", "images = \"/srv\"\n", []string{"line 1"}},
		{"list of numbers", "images = [1]\n", []string{"line 1"}},
		{"string for a truth value", "\n[[source]]\ntype = \"ldif\"\nstarttls = \"yes\"\n", []string{"line 4"}},
		{"timeout without a unit", ldap + "timeout = \"2\"\n", []string{"line 3", `"2"`}},
		{"timeout is a number", whole + "timeout = 2\n", nil}, // not 2 ns,
		{"timeout is a fraction", whole + "timeout = 2.5\n", nil},
		{"no time", ldap + "timeout = \"0s\"\n", []string{"line 3", `"0s"`}},
		{"negative time", ldap + "timeout = \"-2s\"\n", []string{"line 3", `"-2s"`}},
		{"something else on stale", "on-stale = \"refuse\"\n", []string{`"refuse"`, "warn or stop"}},
		{"no time for hooks", "hook-time = \"0s\"\n", []string{"line 1"}},
		{"relative tree", "tree = \"sw\"\n", []string{`"sw"`, "absolute"}},
		{"relative map", "map = \"auto.levelfs\"\n", []string{`"auto.levelfs"`, "absolute"}},
		{"relative images", "images = [\"/a\", \"b\"]\n", []string{`"b"`, "absolute"}},
		{"relative directories", "directories = [\"b\"]\n", []string{`"b"`, "absolute"}},
		{"unclean images", "images = [\"/a/../etc\"]\n", []string{`"/a/../etc"`}},
		{"slash at the end", "tree = \"/sw/\"\n", []string{`"/sw/"`}},
		{"empty images", "images = [\"\"]\n", []string{`""`}},
		{"images with a comma", "images = [\"/a,suid\"]\n", []string{`"/a,suid"`}}, // overlayfs's separator
		{"images with a colon", "images = [\"/a:b\"]\n", []string{`"/a:b"`}},
		{"tree with a blank", "tree = \"/s w\"\n", []string{`"/s w"`}},
		{"tree with a newline", "tree = \"/s\\nw\"\n", []string{`"/s\nw"`}},
		{"ldif without a path", "[[source]]\ntype = \"ldif\"\n", []string{"source 1", "path"}},
		{"relative ldif", "[[source]]\ntype = \"ldif\"\npath = \"inventory.d\"\n", []string{"source 1", `"inventory.d"`, "absolute"}},
		{"second source", "[[source]]\ntype = \"ldif\"\npath = \"/a\"\n[[source]]\ntype = \"nis\"\n", []string{"source 2", `"nis"`}},
		{"size without a unit", "cache-size = \"16\"\n", []string{"line 1", `"16"`}},
		{"size of another unit", "cache-size = \"16MB\"\n", []string{"line 1", `"16MB"`}},
		{"no size", "cache-size = \"0MiB\"\n", []string{"line 1", `"0MiB"`}},
		{"a size and a half", "cache-size = \"1.5MiB\"\n", []string{`"1.5MiB"`}},
		{"negative size", "cache-size = \"-1MiB\"\n", []string{`"-1MiB"`}},
		{"endless size", "cache-size = \"9999999999999GiB\"\n", []string{"GiB"}},
		{"size is a number", "cache-size = 16\n", nil},
		{"map without a caller", "[maps.\"auto.x\"]\n", []string{`maps."auto.x"`, `caller ""`}},
		{"map of another caller", "[maps.\"auto.x\"]\ncaller = \"root\"\n", []string{`maps."auto.x"`, `caller "root"`}},
		{"map of the users' tree", "[maps.\"auto.levelfs.user\"]\ncaller = \"host\"\n", []string{"reserved for the users' tree"}},
		{"shared map by user", "[maps.\"auto.levelfs\"]\ncaller = \"user\"\n", []string{`maps."auto.levelfs"`, "the host's"}},
		{"map of the helper by user", "map = \"/opt/m\"\n[maps.m]\ncaller = \"user\"\n", []string{`maps."m"`, "the host's"}},
		{"map with more", "[maps.x]\ncaller = \"user\"\nuid = 1\n", []string{"line 3", `"maps.x.uid"`}},
		{"no type", "[[source]]\npath = \"/a\"\n", []string{"source 1", "ldif or ldap"}},
		{"ldap without a uri", ldap + "base = \"dc=x\"\n", []string{"source 1", "uri"}},
		{"ldap without a base", ldap + "uri = [\"ldap://a\"]\n", []string{"source 1", "base"}},
		{"ldap with a path", whole + "path = \"/a\"\n", []string{"source 1", "no path"}},
		{"ldif with a uri", "[[source]]\ntype = \"ldif\"\npath = \"/a\"\nuri = [\"ldap://a\"]\n", []string{"source 1", "nothing else"}},
		{"ldif to be written elsewhere", "[[source]]\ntype = \"ldif\"\npath = \"/a\"\n[source.write]\nsasl = \"external\"\n", []string{"source 1", "nothing else"}},
		{"relative ca", whole + "ca = \"ca.pem\"\n", []string{"source 1", `ca "ca.pem"`, "absolute"}},
		{"bind DN alone", whole + "bind-dn = \"cn=a\"\n", []string{"source 1", "bind-dn and password-file"}},
		{"password alone", whole + "password-file = \"/p\"\n", []string{"source 1", "bind-dn and password-file"}},
		{"relative password file", whole + "bind-dn = \"cn=a\"\npassword-file = \"p\"\n", []string{"source 1", `password-file "p"`, "absolute"}},
		{"two identities", whole + "bind-dn = \"cn=a\"\npassword-file = \"/p\"\nsasl = \"external\"\n", []string{"source 1", "exclude"}},
		{"unknown mechanism", whole + "sasl = \"gssapi\"\n", []string{"source 1", `"gssapi"`, "external"}},
		{"cert alone", whole + "cert = \"/c\"\n", []string{"source 1", "cert and key"}},
		{"relative key", whole + "cert = \"/c\"\nkey = \"k\"\n", []string{"source 1", `key "k"`, "absolute"}},
		{"mistake in write", whole + "[source.write]\nbind-dn = \"cn=a\"\n", []string{"source 1", "write: ", "password-file"}},
		{"unknown key in write", whole + "[source.write]\nbase = \"dc=x\"\n", []string{"line 6", `"source.write.base"`}},
		{"password in the file", whole + "password = \"secret\"\n", []string{"line 5", `"source.password"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := load(t, c.text)
			if err == nil || got != nil {
				t.Fatalf("got %+v and no error", got)
			}
			for _, fact := range c.says {
				if !strings.Contains(err.Error(), fact) {
					t.Errorf("error %q does not say %q", err, fact)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("error of several lines: %q", err)
			}
		})
	}
}

// TestRoot is not parallel: it sets the environment.
func TestRoot(t *testing.T) {
	root := t.TempDir()
	t.Setenv(RootVariable, root+"/./")
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	for got, want := range map[string]string{
		c.File():          "/etc/levelfs/levelfs.toml",
		c.PrivateDir():    "/var/lib/levelfs/private",
		c.CacheDir():      "/var/cache/levelfs",
		c.RunDir():        "/run/levelfs",
		c.Images[0]:       "/var/lib/levelfs/images",
		c.Sources[0].Path: "/etc/levelfs/inventory.d",
	} {
		if got != root+want {
			t.Errorf("got %q, want %q", got, root+want)
		}
	}
	for _, relative := range []string{"root", "./root", ".."} {
		t.Setenv(RootVariable, relative)
		if _, err := Load(); err == nil || !strings.Contains(err.Error(), RootVariable) || !strings.Contains(err.Error(), "absolute") {
			t.Errorf("%s=%s: %v", RootVariable, relative, err)
		}
	}
	c = &Config{root: "/"}
	if c.File() != "/etc/levelfs/levelfs.toml" || c.RunDir() != "/run/levelfs" {
		t.Errorf("without a root: %q, %q", c.File(), c.RunDir())
	}
}

func TestHostname(t *testing.T) {
	t.Parallel()
	if got, err := (&Config{Host: "lnx01"}).Hostname(); err != nil || got != "lnx01" {
		t.Errorf("got %q, %v", got, err)
	}
	want, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := new(Config).Hostname(); err != nil || got != want {
		t.Errorf("got %q, %v; want this machine's %q", got, err, want)
	}
}

func TestCaller(t *testing.T) {
	t.Parallel()
	c, err := load(t, "[maps.\"auto.levelfs.session\"]\ncaller = \"user\"\n[maps.other]\ncaller = \"host\"\n")
	if err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]Caller{"auto.levelfs": HostCaller, "auto.levelfs.session": UserCaller, "other": HostCaller} {
		if got, err := c.Caller(program); err != nil || got != want {
			t.Errorf("%s: %q, %v", program, got, err)
		}
	}
	// A misspelt link must not give the host's level to a user, or the other way round.
	for _, program := range []string{"auto.levelfs.sesion", "auto.levelfs.user", ""} {
		if got, err := c.Caller(program); err == nil || !strings.Contains(err.Error(), program) {
			t.Errorf("%s: %q, %v", program, got, err)
		}
	}
}

// FuzzParse checks that what is accepted can be used as it is: absolute paths, and
// sources of known types.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "tree = \"/sw\"", "tree = 1", "[[source]]\ntype = \"ldif\"\npath = \"/a\"\n",
		"[[source]]\ntype = \"ldap\"\nuri = [\"ldap://a\"]\nbase = \"dc=x\"\ntimeout = \"2s\"\n",
		"[[source]]\ntype = \"ldap\"\nsrv = \"x\"\nbase = \"dc=x\"\nbind-dn = \"cn=a\"\npassword-file = \"/p\"\n[source.write]\nsasl = \"external\"\ncert = \"/c\"\nkey = \"/k\"\n", "[source]", "images = [\"/a\"]", "[[source]]\ntimeout = 1", "a.b.c = 1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		c := &Config{root: "/nosuch"}
		if err := c.parse(text); err != nil {
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("error of several lines: %q", err)
			}
			return
		}
		for _, p := range append(append([]string{c.Tree, c.Map}, c.Images...), c.Directories...) {
			if !filepath.IsAbs(p) {
				t.Errorf("path %q", p)
			}
		}
		for _, s := range c.Sources {
			if s.Type != "ldif" && s.Type != "ldap" || s.Timeout.Duration < 0 {
				t.Errorf("source %+v", s)
			}
			for _, s := range []Source{s, s.Writing()} {
				if s.Type == "ldap" && (len(s.URI) == 0 && s.SRV == "" || s.Base == "" ||
					s.BindDN != "" && (s.PasswordFile == "" || s.SASL != "") || (s.Cert == "") != (s.Key == "")) {
					t.Errorf("source %+v", s)
				}
			}
		}
	})
}
