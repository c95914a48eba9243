package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/config"
)

// rolloutPage is a page whose commands have to work, in their order.
const rolloutPage = "../docs/rollout.md"

// TestRolloutPage runs the page's commands on an admin's machine. "ssh HOST" is that host,
// whose paths are its own.
func TestRolloutPage(t *testing.T) {
	commands, blocks := readPage(t, rolloutPage)
	if len(commands) < 20 {
		t.Errorf("%d commands: the page is not read", len(commands))
	}
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "etc/levelfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(root, "etc/levelfs/levelfs.toml"), blocks["toml"])
	if c, err := config.LoadFrom(root); err != nil || !c.Report.Enable {
		t.Errorf("%+v, %v", c, err)
	}

	hosts := []string{"canary-1", "canary-2", "early-1", "all-1"}
	f := newFleet(t, hosts...)
	ssh := "#!/bin/sh\nhost=$1; shift\ncase $host in\n"
	roots := []string{f.admin.Root + "/", "/"}
	for _, name := range hosts {
		g := f.guest(name, "")
		f.mount(g)
		ssh += fmt.Sprintf("%s) case $1 in levelfs) shift; LEVELFS_ROOT=%s exec %s \"$@\";; rm) exec rm %s$2;; esac;;\n", name, g.Root, g.Levelfs, g.Root)
		roots = append(roots, g.Root+"/", "/")
	}
	bin := f.admin.Mkdir("bin")
	writeFile(t, filepath.Join(bin, "ssh"), ssh+"esac\nexit 127\n")
	if err := os.Chmod(filepath.Join(bin, "ssh"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		cmd := exec.Command("/bin/sh", "-c", c.text)
		cmd.Dir = f.admin.Mkdir("work")
		cmd.Env = append(f.admin.Env(), "TZ=UTC", "PATH="+bin+":"+filepath.Dir(f.admin.Levelfs)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		got := strings.NewReplacer(roots...).Replace(string(out))
		refused := strings.Contains(strings.Join(c.want, "\n"), "levelfs: error: ")
		if exit := cmd.ProcessState.ExitCode(); refused != (exit == 1) && !strings.Contains(c.text, "lint") || exit == 127 {
			t.Fatalf("%s:%d: %s: %v\n%s", rolloutPage, c.line, c.text, err, got)
		}
		if len(c.want) > 0 && !matches(c.want, got) {
			t.Errorf("%s:%d: %s\ngot\n%s\nwant\n%s", rolloutPage, c.line, c.text, got, strings.Join(c.want, "\n"))
		}
	}
}
