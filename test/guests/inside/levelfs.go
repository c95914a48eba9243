package inside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/test/guests/report"
)

// Tree is where CheckLevelfs mounts the shared tree.
const Tree = "/sw"

// CheckLevelfs has automount mount a view of the component, of which the guest runs
// that level, and looks at it as a user would. The level has to have busybox at
// bin/busybox. Archive.Levelfs, Archive.Automount and Archive.Inventory of package
// guest have put there what it needs.
func CheckLevelfs(r *report.Reporter, component, level string) {
	view := Tree + "/" + component
	var automount *Automount
	r.Check("levelfs/automount", func() (err error) {
		for _, dir := range []string{Tree, "/var/lib/levelfs/private"} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		// An initramfs may lie in a file system that an overlay cannot write to.
		if err := unix.Mount("tmpfs", "/var/lib/levelfs/private", "tmpfs", 0, "mode=0700"); err != nil {
			return err
		}
		automount, err = StartAutomount(Tree, "program:/usr/libexec/levelfs/auto.levelfs --timeout=600")
		return err
	})
	if automount == nil {
		return
	}
	r.Check("levelfs/view", func() error {
		out, err := exec.Command(view+"/bin/busybox", "echo", "a view").CombinedOutput()
		if err != nil || string(out) != "a view\n" {
			return fmt.Errorf("%q, %w; automount's log: %s", out, err, automount.Log())
		}
		mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(view))
		if err != nil {
			return err
		}
		if want := "levelfs:" + component + "@" + level; len(mounts) != 1 || mounts[0].FSType != "overlay" || mounts[0].Source != want {
			return fmt.Errorf("mounts at %s: %+v", view, mounts)
		}
		return nil
	})
	r.Check("levelfs/private", func() error {
		if err := os.WriteFile(view+"/private", []byte("mine\n"), 0o644); err != nil {
			return err
		}
		text, err := os.ReadFile("/var/lib/levelfs/private/host/" + component + "/upper/private")
		if err == nil && string(text) != "mine\n" {
			err = fmt.Errorf("%q", text)
		}
		return err
	})
	r.Check("levelfs/status", func() error {
		out, err := Run("/usr/bin/levelfs", "status")
		if err == nil && !strings.Contains(out, component+"@"+level) {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	r.Check("levelfs/stop", func() error {
		if err := automount.Stop(); err != nil {
			return err
		}
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(Tree))
		if err == nil && len(mounts) > 0 {
			err = fmt.Errorf("left mounted: %+v", mounts)
		}
		return errors.Join(err, unix.Unmount("/var/lib/levelfs/private", 0))
	})
}
