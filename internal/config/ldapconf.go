package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
)

// ldapConfs are where distributions keep ldap.conf(5): Debian, and the others.
var ldapConfs = [...]string{"/etc/ldap/ldap.conf", "/etc/openldap/ldap.conf"}

// maxLDAPConf is the largest ldap.conf that is read, in bytes.
const maxLDAPConf = 1 << 20

// ldapConf is the machine's ldap.conf: its path and its text, both empty if it has
// none.
func (c *Config) ldapConf() (path, text string, err error) {
	for _, p := range ldapConfs {
		f, err := os.Open(c.path(p))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", "", err
		}
		defer f.Close()
		text, err := io.ReadAll(io.LimitReader(f, maxLDAPConf))
		return c.path(p), string(text), err
	}
	return "", "", nil
}

// completeFrom takes the servers, the base and the authorities from ldap.conf, each
// unless the source has it.
func (s *Source) completeFrom(path, text string, err error) error {
	if err != nil {
		return err
	}
	options := parseLDAPConf(text)
	if len(s.URI) == 0 && s.SRV == "" {
		// Blanks separate them, and, as libldap has it, commas.
		s.URI = strings.FieldsFunc(options["URI"], func(r rune) bool { return r == ' ' || r == '\t' || r == ',' })
	}
	if s.Base == "" {
		s.Base = options["BASE"]
	}
	if s.CA == "" {
		s.CA = options["TLS_CACERT"]
	}
	if len(s.URI) == 0 && s.SRV == "" || s.Base == "" {
		if path == "" {
			return errors.New("an ldap source needs uri and base, here or in ldap.conf, and there is none")
		}
		return fmt.Errorf("an ldap source needs uri and base, here or as URI and BASE in %s", path)
	}
	return nil
}

// parseLDAPConf reads the options that levelfs knows from the text of an ldap.conf
// file, by the rules of ldap.conf(5): one to a line, the name without regard to case,
// and the value up to the last character of the line that is no blank, quotes and
// all. The last one counts.
func parseLDAPConf(text string) map[string]string {
	options := make(map[string]string)
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		const blanks = " \t\r\n\v\f"
		line = strings.Trim(line, blanks)
		end := strings.IndexAny(line, blanks)
		if end < 0 {
			continue // no value
		}
		switch name := strings.ToUpper(line[:end]); name {
		case "URI", "BASE", "TLS_CACERT":
			options[name] = strings.TrimLeft(line[end:], blanks)
		}
	}
	return options
}
