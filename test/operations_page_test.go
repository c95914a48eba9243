package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// operationsPage is a page whose commands have to work, in their order.
const operationsPage = "../docs/operations.md"

// TestOperationsPage runs the page's commands on a machine as it says.
func TestOperationsPage(t *testing.T) {
	testenv.Require(t, "automount", "squashfs", "ext4")
	commands, blocks := readPage(t, operationsPage)
	if len(commands) < 9 || !strings.Contains(blocks["cron"], "levelfs check --deep") {
		t.Errorf("%d commands, %q: the page is not read", len(commands), blocks)
	}
	r, _ := checkRig(t)
	for _, dir := range []string{"etc/auto.master.d", "sbin"} {
		r.Mkdir(dir)
	}
	r.write(r.Path("etc/auto.master"), "+dir:/etc/auto.master.d\n")
	// The view is mounted by hand: automount's tree is another one.
	r.write(r.Path("etc/auto.master.d/levelfs.autofs"), "/other  program:"+r.Map+"\n")
	if err := os.Symlink(r.Helper, r.Path("sbin/mount.levelfs")); err != nil {
		t.Fatal(err)
	}
	work := r.Mkdir("work")
	for _, c := range commands {
		cmd := exec.Command("/bin/sh", "-c", c.text)
		cmd.Dir = work
		cmd.Env = append(r.Env(), "PATH="+filepath.Dir(r.Levelfs)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		got := strings.ReplaceAll(string(out), r.Root+"/", "/")
		if len(c.want) == 0 && err != nil || len(c.want) > 0 && !matches(c.want, got) {
			t.Errorf("%s:%d: %s: %v\ngot\n%s\nwant\n%s", operationsPage, c.line, c.text, err, got, strings.Join(c.want, "\n"))
		}
	}
}
