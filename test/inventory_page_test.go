package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/testenv"
)

// inventoryPage is a page whose commands have to work, in their order.
const inventoryPage = "../docs/inventory.md"

// A pageCommand is a command of a page: a line that begins with "$ " in a block marked
// console, with the output that is shown below it. Without any, only its exit status
// is compared.
type pageCommand struct {
	line int
	text string
	want []string
}

// readPage returns a page's commands, and the text of its other blocks by their mark.
func readPage(t *testing.T, name string) (commands []pageCommand, blocks map[string]string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	blocks = make(map[string]string)
	mark, inside, continued := "", false, false
	for i, line := range strings.Split(string(text), "\n") {
		last := len(commands) - 1
		switch {
		case strings.HasPrefix(line, "```"):
			mark, inside = strings.TrimPrefix(line, "```"), !inside
			if inside && mark == "" {
				t.Errorf("%s:%d: a block without a mark", name, i+1)
			}
		case !inside:
			if strings.HasPrefix(line, "    ") && strings.Contains(line, "levelfs ") {
				t.Errorf("%s:%d: a command outside of a block marked console", name, i+1)
			}
		case mark != "console":
			blocks[mark] += line + "\n"
		case continued:
			commands[last].text += "\n" + line
		case strings.HasPrefix(line, "$ "):
			commands = append(commands, pageCommand{line: i + 1, text: strings.TrimPrefix(line, "$ ")})
		case last < 0:
			t.Errorf("%s:%d: output of no command", name, i+1)
		default:
			commands[last].want = append(commands[last].want, line)
		}
		continued = inside && mark == "console" && strings.HasSuffix(line, `\`) && (continued || strings.HasPrefix(line, "$ "))
	}
	// A verb that the text speaks of is one that was run.
	for _, m := range regexp.MustCompile("`levelfs ([^`]*)`").FindAllStringSubmatch(string(text), -1) {
		run := false
		for _, c := range commands {
			run = run || strings.Contains(c.text, "levelfs "+m[1])
		}
		if !run {
			t.Errorf("%s: `levelfs %s` is not run", name, m[1])
		}
	}
	return commands, blocks
}

// matches compares output with what the page shows: "…" stands for any text in a line,
// "..." for any lines, and blanks for any blanks, as tables have them.
func matches(want []string, got string) bool {
	plain := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	var pattern, text strings.Builder
	for _, line := range want {
		if line == "..." {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(plain(line)), "…", ".*") + `\n`)
	}
	for line := range strings.Lines(got) {
		text.WriteString(plain(line) + "\n")
	}
	return regexp.MustCompile(`\A` + pattern.String() + `\z`).MatchString(text.String())
}

// pageInventory is the directory that the page begins with.
func pageInventory() testenv.Inventory {
	return testenv.Inventory{
		Hosts:  []testenv.Caller{{Name: "lnx01"}, {Name: "lnx02"}, {Name: "lnx03"}},
		Groups: []testenv.Caller{{Name: "testguests", Members: []string{"lnx03"}}},
	}
}

// pagePeople is who is in it.
const pagePeople = `
dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

dn: uid=rob,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: rob
cn: Rob
sn: Example
`

// TestInventoryPage runs the page's commands with a central inventory of files, and
// with one on a server, on which they write as no more than its writers.
func TestInventoryPage(t *testing.T) {
	commands, blocks := readPage(t, inventoryPage)
	if len(commands) < 20 {
		t.Errorf("%d commands: the page is not read", len(commands))
	}
	t.Run("configuration", func(t *testing.T) {
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Join(root, "etc/levelfs"), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(root, "etc/levelfs/levelfs.toml"), blocks["toml"])
		if c, err := config.LoadFrom(root); err != nil || len(c.Sources) != 2 {
			t.Errorf("%+v, %v", c, err)
		}
	})
	t.Run("files", func(t *testing.T) {
		m := testenv.NewMachine(t, "lnx01")
		central := m.Mkdir("central")
		writeFile(t, filepath.Join(central, "all.ldif"), pageInventory().LDIF()+pagePeople)
		runPage(t, m, commands, fmt.Sprintf("[[source]]\ntype = \"ldif\"\npath = %q\n", central))
	})
	t.Run("server", func(t *testing.T) {
		slapd, m, password := restricted(t, pageInventory())
		if err := slapd.Add(pagePeople); err != nil {
			t.Fatal(err)
		}
		runPage(t, m, commands, testenv.LDAPSource(slapd.Base, slapd.URI)+
			fmt.Sprintf("bind-dn = %q\npassword-file = %q\n", testenv.ReaderDN, password)+
			fmt.Sprintf("[source.write]\nbind-dn = %q\npassword-file = %q\n", testenv.EditorDN, password))
	})
}

func runPage(t *testing.T, m *testenv.Machine, commands []pageCommand, central string) {
	m.Configure(fmt.Sprintf("[[source]]\ntype = \"ldif\"\npath = %q\n", m.InventoryDir()) + central)
	for _, version := range []string{"29.4", "30.1", "site"} {
		writeFile(t, filepath.Join(m.Mkdir("srv/build/emacs-"+version), "emacs"), version)
	}
	work := m.Mkdir("work")
	// The page's paths are the machine's, not this one's.
	paths := regexp.MustCompile(`(^|[ =])(/srv/|/var/lib/levelfs/|/etc/levelfs/)`)
	for _, c := range commands {
		cmd := exec.Command("/bin/sh", "-c", paths.ReplaceAllString(c.text, "${1}"+m.Root+"${2}"))
		cmd.Dir = work
		cmd.Env = append(m.Env(), "TZ=UTC", "PATH="+filepath.Dir(m.Levelfs)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		got := strings.ReplaceAll(string(out), m.Root+"/", "/")
		refused := strings.Contains(strings.Join(c.want, "\n"), "levelfs: error: ")
		if exit := cmd.ProcessState.ExitCode(); refused != (exit == 1) || !refused && err != nil {
			t.Fatalf("%s:%d: %s: %v\n%s", inventoryPage, c.line, c.text, err, got)
		}
		if len(c.want) > 0 && !matches(c.want, got) {
			t.Errorf("%s:%d: %s\ngot\n%s\nwant\n%s", inventoryPage, c.line, c.text, got, strings.Join(c.want, "\n"))
		}
	}
}

// TestPageMatches: the comparison itself tells one output from another.
func TestPageMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		same      bool
	}{
		{"a  b", "a b\n", true},
		{"a b", "a c\n", false},
		{"a", "a\nb\n", false},
		{"a\n...", "a\nb\nc\n", true},
		{"...\nc", "a\nb\nc\n", true},
		{"a … c", "a b.* c\n", true},
		{"a.c", "abc\n", false},
		{"a\nb", "a\n", false},
	} {
		if got := matches(strings.Split(c.want, "\n"), c.got); got != c.same {
			t.Errorf("%q and %q: %v", c.want, c.got, got)
		}
	}
}
