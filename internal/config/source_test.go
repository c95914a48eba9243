package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestWriting(t *testing.T) {
	t.Parallel()
	const read = "[[source]]\ntype = \"ldap\"\nuri = [\"ldaps://a\"]\nbase = \"dc=x\"\nca = \"/ca\"\n"
	const password = "bind-dn = \"cn=r\"\npassword-file = \"/r\"\n"
	identity := Identity{BindDN: "cn=r", PasswordFile: "/r"}
	for _, c := range []struct {
		name, text string
		uri        []string
		srv        string
		want       Identity
	}{
		{"as it reads", read + password, []string{"ldaps://a"}, "", identity},
		{"another server", read + password + "[source.write]\nuri = [\"ldaps://b\"]\n", []string{"ldaps://b"}, "", identity},
		{"another domain", read + "srv = \"x\"\n" + password + "[source.write]\nsrv = \"y\"\n", nil, "y", identity},
		{"another identity", read + password + "[source.write]\nbind-dn = \"cn=w\"\npassword-file = \"/w\"\n", []string{"ldaps://a"}, "", Identity{BindDN: "cn=w", PasswordFile: "/w"}},
		{"another mechanism", read + password + "[source.write]\nsasl = \"external\"\ncert = \"/c\"\nkey = \"/k\"\n", []string{"ldaps://a"}, "", Identity{SASL: "external", Cert: "/c", Key: "/k"}},
		{"the same certificate", read + "cert = \"/c\"\nkey = \"/k\"\n[source.write]\nsasl = \"external\"\n", []string{"ldaps://a"}, "", Identity{SASL: "external", Cert: "/c", Key: "/k"}},
		{"another certificate", read + "sasl = \"external\"\ncert = \"/c\"\nkey = \"/k\"\n[source.write]\ncert = \"/wc\"\nkey = \"/wk\"\n", []string{"ldaps://a"}, "", Identity{SASL: "external", Cert: "/wc", Key: "/wk"}},
	} {
		c2, err := load(t, c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := Source{Type: "ldap", URI: c.uri, SRV: c.srv, Base: "dc=x", CA: "/ca", Identity: c.want}
		if got := c2.Sources[0].Writing(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, want)
		}
	}
}

// TestLDAPConf: what levelfs.toml leaves open is the machine's, and only that.
func TestLDAPConf(t *testing.T) {
	t.Parallel()
	const ldap = "[[source]]\ntype = \"ldap\"\n"
	const conf = "URI ldaps://one ldaps://two\nBASE dc=conf\nTLS_CACERT /conf.pem\n"
	for _, c := range []struct {
		name, text, conf string
		want             Source
		says             string
	}{
		{"all of it", ldap, conf, Source{URI: []string{"ldaps://one", "ldaps://two"}, Base: "dc=conf", CA: "/conf.pem"}, ""},
		{"nothing", ldap + "uri = [\"ldaps://a\"]\nbase = \"dc=x\"\n", conf, Source{URI: []string{"ldaps://a"}, Base: "dc=x"}, ""},
		{"the base", ldap + "uri = [\"ldaps://a\"]\n", "BASE dc=conf\n", Source{URI: []string{"ldaps://a"}, Base: "dc=conf"}, ""},
		{"the base beside SRV", ldap + "srv = \"x\"\n", "BASE dc=conf\nURI ldap://conf\n", Source{SRV: "x", Base: "dc=conf"}, ""},
		{"the servers", ldap + "base = \"dc=x\"\nca = \"/a.pem\"\n", conf, Source{URI: []string{"ldaps://one", "ldaps://two"}, Base: "dc=x", CA: "/a.pem"}, ""},
		{"no servers in it", ldap, "BASE dc=conf\n", Source{}, "ldap.conf"},
		{"no base in it", ldap, "URI ldaps://a\n", Source{}, "ldap.conf"},
		{"relative authorities", ldap, "URI ldaps://a\nBASE dc=conf\nTLS_CACERT ca.pem\n", Source{}, "absolute"},
	} {
		for _, name := range []string{"etc/ldap/ldap.conf", "etc/openldap/ldap.conf"} {
			root := t.TempDir()
			for file, text := range map[string]string{name: c.conf, "etc/levelfs/levelfs.toml": c.text} {
				path := filepath.Join(root, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := LoadFrom(root)
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s: %v, want %q", c.name, err, c.says)
				}
				continue
			}
			c.want.Type = "ldap"
			if err != nil || !reflect.DeepEqual(got.Sources[0], c.want) {
				t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, c.want)
			}
		}
	}
}

func TestParseLDAPConf(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		"":                             {},
		"URI":                          {},
		"URI \t":                       {},
		"#URI ldap://a\n":              {},
		"URI ldap://a":                 {"URI": "ldap://a"},
		"uri ldap://a\r\n":             {"URI": "ldap://a"},
		" \tUri \t ldap://a b \t\nX 1": {"URI": "ldap://a b"},
		"BASE dc=a\nBASE dc=b, dc=c":   {"BASE": "dc=b, dc=c"},
		"BASE \"dc=a\" # no comment":   {"BASE": "\"dc=a\" # no comment"},
		"URIX ldap://a\nTLS_CACERTDIR /x\nTLS_REQCERT never": {},
	} {
		if got := parseLDAPConf(text); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// FuzzParseLDAPConf checks that a value is one line's, without blanks around it.
func FuzzParseLDAPConf(f *testing.F) {
	f.Add("URI ldap://a\n# x\nBASE dc=a\n")
	f.Add("uri\tx\r\n\vbase\f y")
	f.Add("TLS_CACERT  /a b ")
	f.Fuzz(func(t *testing.T, text string) {
		for name, value := range parseLDAPConf(text) {
			if name != "URI" && name != "BASE" && name != "TLS_CACERT" {
				t.Errorf("option %q", name)
			}
			if value == "" || strings.TrimSpace(value) != value && strings.Trim(value, " \t\r\n\v\f") != value || strings.Contains(value, "\n") || !strings.Contains(text, value) {
				t.Errorf("%s is %q", name, value)
			}
		}
	})
}
