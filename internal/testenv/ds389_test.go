package testenv

import (
	"errors"
	"io/fs"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/go-ldap/ldap/v3"
)

func startDS389ForTest(t *testing.T) *DS389 {
	t.Helper()
	Require(t, "root", "ds389")
	d, err := StartDS389(t.Context(), socketDir(t), schemaDir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestDS389 starts one server for all that is to be seen of it.
func TestDS389(t *testing.T) {
	d := startDS389ForTest(t)
	if n, err := d.Searches(); n != 0 || err != nil {
		t.Fatalf("searches after the start: %d, %v; want none", n, err)
	}
	example, err := os.ReadFile(schemaDir + "/example.ldif")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Add(string(example)); err != nil {
		t.Fatal(err)
	}
	c, err := d.dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	t.Run("schema", func(t *testing.T) {
		schema, err := parseSchema(readSchemaFile(t, "levelfs.schema"))
		if err != nil {
			t.Fatal(err)
		}
		r := ldap.NewSearchRequest("cn=schema", ldap.ScopeBaseObject, ldap.NeverDerefAliases, 0, 0, false,
			"(objectClass=*)", []string{"attributeTypes", "objectClasses"}, nil)
		result, err := c.Search(r)
		if err != nil {
			t.Fatal(err)
		}
		known := make(map[string]bool)
		for _, attr := range result.Entries[0].Attributes {
			for _, v := range attr.Values {
				tokens, err := tokenize(v)
				if err == nil && len(tokens) > 1 {
					known[tokens[1]] = true
				}
				for i, token := range tokens {
					for _, rule := range []string{"EQUALITY", "ORDERING", "SUBSTR"} {
						if token == rule {
							known[tokens[1]+" "+rule+" "+tokens[i+1]] = true
						}
					}
				}
			}
		}
		for key, tokens := range schema {
			if !known[tokens[1]] {
				t.Errorf("the server does not know %s, OID %s", key, tokens[1])
			}
			for i, token := range tokens {
				switch token {
				case "EQUALITY", "ORDERING", "SUBSTR":
					if rule := token + " " + tokens[i+1]; !known[tokens[1]+" "+rule] {
						t.Errorf("%s: the server has no %s", key, rule)
					}
				}
			}
		}
	})

	t.Run("searches", func(t *testing.T) {
		before, err := d.Searches()
		if err != nil {
			t.Fatal(err)
		}
		if got := search(t, c, d.Base, "(cn=base)"); !slices.Equal(got, []string{ProfileDN("base")}) {
			t.Errorf("got %q", got)
		}
		if unindexed, err := d.Unindexed(); len(unindexed) != 0 || err != nil {
			t.Errorf("an indexed search: %q, %v", unindexed, err)
		}
		search(t, c, d.Base, "(levelfsImage=/srv/levelfs/emacs-common.erofs)")
		if unindexed, err := d.Unindexed(); len(unindexed) != 1 || err != nil || !strings.Contains(unindexed[0], "levelfsImage") {
			t.Errorf("an unindexed search: %q, %v", unindexed, err)
		}
		if after, err := d.Searches(); after != before+2 || err != nil {
			t.Errorf("%d searches, then %d (%v)", before, after, err)
		}
	})

	t.Run("nothing for anybody else", func(t *testing.T) {
		if got := search(t, anonymous(t, d.URI), d.Base, "(objectClass=*)"); len(got) != 0 {
			t.Errorf("anybody sees %q", got)
		}
	})

	t.Run("loopback only", func(t *testing.T) {
		u, err := url.Parse(d.URI)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.2", u.Port()))
		if err == nil {
			c.Close()
			t.Error("it listens on more than 127.0.0.1")
		}
	})

	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(d.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after Stop, process %d: %v, want ESRCH", d.PID(), err)
	}
	if _, err := os.Stat(d.semaphore); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want none", d.semaphore, err)
	}
}

// TestDS389Killed: a server that is killed leaves a semaphore, which Stop removes.
func TestDS389Killed(t *testing.T) {
	d := startDS389ForTest(t)
	if _, err := os.Stat(d.semaphore); err != nil {
		t.Fatalf("a running server has no semaphore: %v", err)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(d.semaphore); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want none", d.semaphore, err)
	}
}
