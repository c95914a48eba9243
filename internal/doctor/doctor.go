package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/levelfs/levelfs/internal/attached"
	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/pmem"
	"github.com/levelfs/levelfs/mounter"
)

// State says how something is.
type State string

// The states. Error: levelfs does not work so. Warning: it does, but something is missing
// or will be.
const (
	OK      State = "ok"
	Warning State = "warning"
	Error   State = "error"
)

// A Line is one thing that was looked at.
type Line struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"` // unless it is ok
}

// patience bounds each look.
const patience = 10 * time.Second

// Examine looks at everything.
func Examine(ctx context.Context, c *config.Config) []Line {
	var lines []Line
	for _, look := range []func(context.Context, *config.Config) []Line{automount, master, kernel, sharedMemory, sources, rights, confinement} {
		found, err := check.Try(ctx, patience, func(ctx context.Context) ([]Line, error) { return look(ctx, c), nil })
		if err != nil {
			found = []Line{{"deadline", Error, err.Error(), "see what hangs: cat /proc/$(pidof levelfs)/task/*/stack"}}
		}
		lines = append(lines, found...)
	}
	return lines
}

// Worst is the worst state of the lines.
func Worst(lines []Line) State {
	worst := OK
	for _, l := range lines {
		if l.State == Error || worst == OK {
			worst = l.State
		}
		if worst == Error {
			break
		}
	}
	return worst
}

// automount looks for the daemon.
func automount(ctx context.Context, _ *config.Config) []Line {
	program, err := exec.LookPath("automount")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/automount"); err != nil {
			return []Line{{"automount", Error, "automount is not installed", "install the package autofs"}}
		}
	}
	cmd := exec.CommandContext(ctx, program, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		return []Line{{"automount", Error, fmt.Sprintf("%s: %v", program, err), "install the package autofs anew"}}
	}
	for line := range strings.Lines(string(out)) {
		if text := strings.TrimSpace(line); text != "" {
			return []Line{{Name: "automount", State: OK, Text: text}}
		}
	}
	return []Line{{Name: "automount", State: OK, Text: program}}
}

// master looks at the master map and the mount helper.
func master(_ context.Context, c *config.Config) []Line {
	a, err := check.LookAtAutofs(c, nil)
	switch {
	case err != nil:
		return []Line{{"master map", Error, err.Error(), "run it as root"}}
	case a == nil:
		return []Line{{"master map", Warning, "/etc/auto.master.d/levelfs.autofs is not installed: automount serves no tree of levelfs",
			"copy packaging/levelfs.autofs there"}}
	}
	lines := []Line{{Name: "master map", State: OK, Text: a.Map}}
	if !a.Included {
		lines[0] = Line{"master map", Error, a.Master + " does not read it", "echo +dir:/etc/auto.master.d >> " + a.Master}
	}
	for _, p := range a.Programs {
		lines = append(lines, Line{"map program", Error, p + " cannot be run", "install it, or correct " + a.Map})
	}
	if a.Helper == "" {
		return append(lines, Line{"mount helper", Error, "mount(8) does not find mount.levelfs", "install it as /sbin/mount.levelfs"})
	}
	return append(lines, Line{Name: "mount helper", State: OK, Text: a.Helper})
}

// sharedMemory lists the devices that layers can be executed from.
func sharedMemory(_ context.Context, c *config.Config) []Line {
	var found []string
	segments, err := attached.New(c).List()
	for _, d := range segments {
		found = append(found, fmt.Sprintf("segment %s (DAX %t)", d.Name, d.DAX))
	}
	devices, err2 := pmem.NewFromRoot(c.Root(), mounter.Probe).List()
	for _, d := range devices {
		found = append(found, fmt.Sprintf("pmem %s (DAX %t)", d.Node, d.DAX))
	}
	if len(found) > 0 {
		return []Line{{Name: "shared memory", State: OK, Text: strings.Join(found, ", ")}}
	}
	text := "no segment and no pmem device: layers are used from their image files"
	if err2 != nil {
		text += fmt.Sprintf(" (%v)", err2)
	}
	if err == nil {
		text += "; the driver for segments is there"
	}
	if c.XIP == "require" {
		return []Line{{"shared memory", Error, text, "attach a segment or a pmem device, or set xip = \"auto\""}}
	}
	return []Line{{Name: "shared memory", State: OK, Text: text}}
}

// rights are those of files that others must not change or read.
func rights(_ context.Context, c *config.Config) []Line {
	findings, err := check.Rights(c)
	var lines []Line
	if err != nil {
		lines = append(lines, Line{"rights", Error, err.Error(), "run it as root"})
	}
	for _, f := range findings {
		lines = append(lines, Line{"rights", Error, f.Object + ": " + f.Text, f.Fix})
	}
	if len(lines) == 0 {
		lines = []Line{{Name: "rights", State: OK, Text: "configuration, private layers, cache, secrets and hooks are root's"}}
	}
	return lines
}

// confinement says whether SELinux or AppArmor may stand between automount and levelfs.
func confinement(_ context.Context, c *config.Config) []Line {
	return []Line{selinux(filepath.Join(c.Root(), "/sys/fs/selinux/enforce")), apparmor(filepath.Join(c.Root(), "/sys/kernel/security/apparmor/profiles"))}
}

func selinux(file string) Line {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Line{Name: "SELinux", State: OK, Text: "off"}
	case err != nil:
		return Line{"SELinux", Warning, err.Error(), "run it as root"}
	case strings.TrimSpace(string(text)) == "1":
		return Line{"SELinux", Warning, "enforcing: automount_t may be kept from running the map or the helper",
			"after an access that failed: ausearch -m avc -ts recent"}
	}
	return Line{Name: "SELinux", State: OK, Text: "permissive"}
}

func apparmor(file string) Line {
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Line{Name: "AppArmor", State: OK, Text: "off"}
	case err != nil:
		return Line{"AppArmor", Warning, err.Error(), "run it as root"}
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if slices.ContainsFunc([]string{"automount", "levelfs"}, func(name string) bool { return strings.Contains(line, name) }) && strings.HasSuffix(line, "(enforce)") {
			return Line{"AppArmor", Warning, "profile " + line + " may keep automount from running the map or the helper", "after an access that failed: journalctl -k -g apparmor"}
		}
	}
	return Line{Name: "AppArmor", State: OK, Text: "no profile for automount or levelfs is enforced"}
}
