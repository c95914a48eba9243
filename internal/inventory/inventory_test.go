package inventory

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
)

// TestOpen checks that the sources come in the order of the configuration, and
// that nothing is connected to or read before the first lookup.
func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const text = "dn: cn=vi,dc=test\nobjectClass: levelfsComponent\ncn: vi\n"
	if err := os.WriteFile(filepath.Join(dir, "a.ldif"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	inv, err := Open(&config.Config{Sources: []config.Source{
		{Type: "ldif", Path: dir},
		{Type: "ldap", URI: []string{"ldap://127.0.0.1:1", "ldaps://ldap.invalid"}, Base: "dc=test", Timeout: config.Duration{Duration: time.Second}},
		{Type: "ldif", Path: "/nonexistent"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range inv.Sources {
		names = append(names, s.Name())
	}
	if got, want := strings.Join(names, "|"), dir+"|ldap://127.0.0.1:1 ldaps://ldap.invalid|/nonexistent"; got != want {
		t.Errorf("sources %s, want %s", got, want)
	}
	if err := inv.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	inv, err = Open(&config.Config{Sources: []config.Source{{Type: "ldif", Path: dir}}})
	if err != nil {
		t.Fatal(err)
	}
	defer inv.Close()
	if got, err := inv.Components(t.Context(), ""); err != nil || len(got) != 1 || got[0].Name != "vi" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	_, err := Open(&config.Config{Sources: []config.Source{{Type: "ldap", URI: []string{"ldap://ldap.example.org"}, Base: "dc=test"}}})
	var wrong *ldapmap.ConfigError
	if !errors.As(err, &wrong) || !strings.Contains(err.Error(), "starttls") {
		t.Errorf("in the clear: %v, want a *ConfigError", err)
	}
	// Each setting reaches the source.
	for _, s := range []config.Source{
		{Type: "ldap", URI: []string{"ldap://ldap.example.org"}, Base: "dc=test", StartTLS: true},
		{Type: "ldap", URI: []string{"ldap://ldap.example.org"}, Base: "dc=test", Insecure: true},
	} {
		if _, err := Open(&config.Config{Sources: []config.Source{s}}); err != nil {
			t.Errorf("%+v: %v", s, err)
		}
	}
}

// TestOpenStores checks whom and where the configuration, or the caller, says to
// write as and to.
func TestOpenStores(t *testing.T) {
	t.Parallel()
	c := &config.Config{Sources: []config.Source{
		{Type: "ldif", Path: t.TempDir()},
		{Type: "ldap", URI: []string{"ldaps://replica.example.org"}, Base: "dc=test",
			Write: config.Write{URI: []string{"ldaps://provider.example.org"}}},
	}}
	stores, err := OpenStores(c, Writer{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range stores {
		names = append(names, s.Name())
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if got, want := strings.Join(names, "|"), c.Sources[0].Path+"|ldaps://provider.example.org"; got != want {
		t.Errorf("stores %s, want %s", got, want)
	}
	// Nobody writes as nobody.
	var wrong *ldapmap.ConfigError
	if err := stores[1].Apply(t.Context(), ldapmap.Edit{DN: "dc=test"}); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "no identity") {
		t.Errorf("as nobody: %v", err)
	}
	for _, w := range []Writer{{BindDN: "cn=a"}, {PasswordFile: "/p"}} { // half an identity
		if _, err := OpenStores(c, w); !errors.As(err, &wrong) {
			t.Errorf("%+v: %v", w, err)
		}
	}
	// The caller's word goes before the configuration's; each half by itself.
	c.Sources[1].Write.Identity = config.Identity{SASL: "external", Cert: "/c", Key: "/k"}
	if _, err := OpenStores(c, Writer{BindDN: "cn=a", PasswordFile: "/p"}); err != nil {
		t.Error(err)
	}
	c.Sources[1].Write.Identity = config.Identity{BindDN: "cn=a", PasswordFile: "/p"}
	for _, w := range []Writer{{}, {BindDN: "cn=b"}, {PasswordFile: "/q"}} {
		if _, err := OpenStores(c, w); err != nil {
			t.Errorf("%+v: %v", w, err)
		}
	}
}

// TestClose checks that one source's error does not keep the others from being
// closed.
func TestClose(t *testing.T) {
	t.Parallel()
	cause := errors.New("cannot close")
	last := new(source)
	inv := Inventory{ldapmap.Resolver{Sources: []ldapmap.Source{&source{err: cause}, last}}}
	if err := inv.Close(); !errors.Is(err, cause) || !last.closed {
		t.Errorf("got %v; the last source is closed: %v", err, last.closed)
	}
}

type source struct {
	ldapmap.Source
	err    error
	closed bool
}

func (s *source) Close() error { s.closed = true; return s.err }
