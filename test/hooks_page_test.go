package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// hooksPage is a page whose examples are hooks that have to work.
const hooksPage = "../docs/hooks.md"

// TestHooksPage installs the page's hooks as it says and runs its commands, with programs
// in the place of ldconfig and systemctl that write down how they were called.
func TestHooksPage(t *testing.T) {
	commands, blocks := readPage(t, hooksPage)
	r := newRig(t)
	r.configureCheck("")
	r.target = r.Mkdir("sw/web")
	component := component("web", "1", "1", "2")
	one := r.Store.Erofs("web-1", testenv.Files{"lib/libweb.so": "1", "bin/web-migrate": "#!/bin/sh\necho from $1 to $2"})
	two := r.Store.Erofs("web-2", testenv.Files{"lib/libweb.so": "2", "bin/web-migrate": "#!/bin/sh\necho from $1 to $2"})
	r.WriteLDIF("web.ldif", testenv.Inventory{Components: []testenv.Component{component}, Layers: []testenv.Layer{one, two}}.LDIF())
	r.mountAt("web", r.target)
	// A private file, as levels that are made for tests have no executable ones.
	if err := os.Chmod(r.target+"/bin/web-migrate", 0o755); err != nil {
		t.Fatal(err)
	}
	calls := r.Path("calls")
	for _, name := range []string{"ldconfig", "systemctl"} {
		program := filepath.Join("/usr/sbin", name)
		was, err := os.ReadFile(program)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if !testenv.Inside() {
			t.Fatal("not in a sandbox")
		}
		// /usr/sbin is the sandbox's own here, and the first in the PATH of hooks.
		r.write(program, "#!/bin/sh\necho "+name+" $* $LEVELFS_LEVEL >>"+calls+"\n")
		if err := os.Chmod(program, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if was == nil {
				err = os.Remove(program)
			} else {
				err = os.WriteFile(program, was, 0o755)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	installed := 0
	for mark, text := range blocks {
		name, ok := strings.CutPrefix(mark, "sh ")
		if !ok {
			continue
		}
		for _, event := range []string{"mount", "switch"} {
			if event == "mount" && name == "60-web" {
				continue
			}
			path := r.hook(event, name, "")
			r.write(path, text)
			if err := os.Chmod(path, 0o755); err != nil {
				t.Fatal(err)
			}
			installed++
		}
	}
	if installed != 5 || len(commands) != 5 {
		t.Fatalf("%d hooks, %d commands: the page is not read", installed, len(commands))
	}
	for _, c := range commands {
		cmd := exec.Command("/bin/sh", "-c", c.text)
		cmd.Env = append(r.Env(), "PATH="+filepath.Dir(r.Levelfs)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		got := strings.ReplaceAll(string(out), r.Root+"/", "/")
		if err != nil || !matches(c.want, got) {
			t.Errorf("%s:%d: %s: %v\ngot\n%s\nwant\n%s", hooksPage, c.line, c.text, err, got, strings.Join(c.want, "\n"))
		}
	}
	want := func(lines ...string) {
		t.Helper()
		if text, err := os.ReadFile(calls); err != nil || string(text) != strings.Join(lines, "\n")+"\n" {
			t.Errorf("%v, called\n%s\nwant\n%s", err, text, strings.Join(lines, "\n"))
		}
	}
	to := func(level string) []string {
		return []string{"systemctl stop web.service " + level, "ldconfig " + level, "systemctl daemon-reload " + level, "systemctl start web.service " + level}
	}
	want(append(to("web@2"), to("web@1")...)...)
	// Another level while it is not mounted: the next mount brings the data up to date.
	r.umount(r.target)
	component.Default = "2"
	r.WriteLDIF("web.ldif", testenv.Inventory{Components: []testenv.Component{component}, Layers: []testenv.Layer{one, two}}.LDIF())
	if got := r.RunHelper("web", r.target); got.Exit != 0 || !strings.Contains(got.Stderr, `hook 70-migrate: "web": from 1 to 2`) {
		t.Error(got)
	}
	r.umount(r.target)
	if got := r.RunHelper("web", r.target); got.Exit != 0 || got.Stderr != "" {
		t.Error(got)
	}
	r.umount(r.target)
}
