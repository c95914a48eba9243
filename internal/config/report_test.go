package config

import (
	"strings"
	"testing"
)

func TestReporting(t *testing.T) {
	t.Parallel()
	const sources = `
[[source]]
type = "ldif"
path = "/etc/levelfs/inventory.d"

[[source]]
type = "ldap"
uri = ["ldaps://replica"]
base = "dc=example,dc=org"
bind-dn = "cn=reader,dc=example,dc=org"
password-file = "/etc/levelfs/password"
[source.write]
uri = ["ldaps://provider"]
bind-dn = "cn=editor,dc=example,dc=org"
password-file = "/etc/levelfs/editor"
`
	c, err := load(t, sources+`
[report]
enable = true
uri = ["ldaps://master"]
sasl = "external"
cert = "/etc/levelfs/host.pem"
key = "/etc/levelfs/host.key"
`)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Reporting(); got.URI[0] != "ldaps://master" || got.Base != "dc=example,dc=org" || got.SASL != "external" || got.BindDN != "" || got.Cert != "/etc/levelfs/host.pem" {
		t.Errorf("written to as %+v", got)
	}
	// What it does not say is the source's, and nothing of its [source.write].
	if c, err = load(t, sources+"[report]\nenable = true\n"); err != nil {
		t.Fatal(err)
	}
	if got := c.Reporting(); got.URI[0] != "ldaps://replica" || got.BindDN != "cn=reader,dc=example,dc=org" {
		t.Errorf("written to as %+v", got)
	}
	if c, err = load(t, sources+"[report]\nsource = 1\n"); err != nil || c.Reporting().Type != "ldif" || c.Report.Enable {
		t.Errorf("%+v, %v", c.Report, err)
	}
	for text, says := range map[string]string{
		"source = 3":          "source 3: there are 2",
		"source = -1":         "source -1",
		"sasl = \"plain\"":    "must be external",
		"cert = \"/x\"":       "cert and key go together",
		"base = \"dc=other\"": "unknown key",
	} {
		if _, err := load(t, sources+"[report]\n"+text+"\n"); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", text, err, says)
		}
	}
}
