package inside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/test/guests/report"
)

// Tree is where automount has the shared tree; Hand is where a view is mounted by hand.
const (
	Tree = "/sw"
	Hand = "/mnt/hand"
)

// privateDir is where the private layers are: on a tmpfs, as an initramfs may lie in a
// file system that an overlay cannot write to.
const privateDir = "/var/lib/levelfs/private"

// A View is a component whose level 1 has one layer, and how it is to be mounted.
type View struct {
	Component string
	Content   string   // the tree that the layer is made of
	Program   string   // a busybox in it, or ""
	Device    string   // what the layer is of, as mountinfo says it ("segment.A"); "": the image file
	XIP       string   // how levelfs status begins to say what became of it; "" for the image file
	Ranges    Ranges   // where its pages are, if all of it is in place
	Said      []string // of which the helper warns
}

// A Refusal is a component that is not to be mounted, and what the helper says to that.
type Refusal struct {
	Component string
	Said      []string
}

// MountPrivate mounts what private layers are written to.
func MountPrivate() error {
	for _, dir := range []string{Tree, Hand, privateDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return unix.Mount("tmpfs", privateDir, "tmpfs", 0, "mode=0700")
}

// CheckByHand mounts the views one after the other with mount(8), looks at them as a
// user would, and unmounts them. MountPrivate was before it.
func CheckByHand(r *report.Reporter, views []View, refused []Refusal) {
	for _, v := range views {
		r.Check("hand/"+v.Component, func() error {
			before, err := cached()
			if err != nil {
				return err
			}
			said, exit := Mount(v.Component)
			if exit != 0 {
				return fmt.Errorf("exit %d: %s", exit, said)
			}
			after, err := cached()
			if err != nil {
				return err
			}
			// It was read for its digest, all of it.
			if v.Device != "" && after-before > 512<<10 {
				err = fmt.Errorf("the mount has the page cache grow by %d bytes", after-before)
			}
			return errors.Join(err, v.Look(said), v.Umount())
		})
	}
	for _, c := range refused {
		r.Check("hand/refused/"+c.Component, func() error {
			said, exit := Mount(c.Component)
			if exit != 32 {
				return fmt.Errorf("exit %d: %s", exit, said)
			}
			return errors.Join(hasAll(said, c.Said), NothingMounted())
		})
	}
}

// CheckAutomount does the same through automount(8), and ends it.
func CheckAutomount(r *report.Reporter, views []View, refused []Refusal) {
	var automount *Automount
	r.Check("automount/start", func() (err error) {
		automount, err = StartAutomount(Tree, "program:/usr/libexec/levelfs/auto.levelfs --timeout=600")
		return err
	})
	if automount == nil {
		return
	}
	log := 0 // how much of it is about what was before
	said := func() string {
		text := automount.Log()
		defer func() { log = len(text) }()
		return text[log:]
	}
	for _, v := range views {
		r.Check("automount/"+v.Component, func() error {
			if err := v.look(Tree + "/" + v.Component); err != nil {
				return fmt.Errorf("%w; automount's log: %s", err, said())
			}
			return v.says(said())
		})
	}
	for _, c := range refused {
		r.Check("automount/refused/"+c.Component, func() error {
			if _, err := os.ReadDir(Tree + "/" + c.Component); !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("%v; automount's log: %s", err, said())
			}
			return hasAll(said(), c.Said)
		})
	}
	r.Check("automount/stop", func() error {
		return errors.Join(automount.Stop(), NothingMounted(), os.RemoveAll(privateDir+"/host"))
	})
}

// Mount mounts the component by hand. It returns what was said and the exit status,
// which is -1 if mount(8) could not be run.
func Mount(component string) (said string, exit int) {
	cmd := exec.Command("/bin/mount", "-t", "levelfs", component+"@1", Hand)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// Look looks at the view that was mounted by hand, and at what was said then.
func (v View) Look(said string) error { return errors.Join(v.says(said), v.look(Hand)) }

// Umount unmounts the view that was mounted by hand, and removes its private layer.
// A plain umount has to be enough.
func (v View) Umount() error {
	if err := unix.Unmount(Hand, 0); err != nil {
		return fmt.Errorf("umount %s: %w", v.Component, err)
	}
	return errors.Join(NothingMounted(), os.RemoveAll(privateDir+"/host/"+v.Component))
}

// NothingMounted makes sure that there are no views, and no layers.
func NothingMounted() error {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "overlay" && m.FSType != "erofs" && m.FSType != "ext4" && m.FSType != "autofs", false
	})
	if err == nil && len(mounts) > 0 {
		err = fmt.Errorf("left mounted: %s at %s", mounts[0].Source, mounts[0].Mountpoint)
	}
	return err
}

// says compares what the helper said with what it is to say; if that is nothing, it
// must not have warned.
func (v View) says(said string) error {
	if len(v.Said) == 0 && strings.Contains(said, "mount.levelfs: warning") {
		return fmt.Errorf("a warning: %s", said)
	}
	return hasAll(said, v.Said)
}

func hasAll(said string, words []string) error {
	for _, w := range words {
		if !strings.Contains(said, w) {
			return fmt.Errorf("nothing is said of %q, but %q", w, said)
		}
	}
	return nil
}

// look looks at the view where it is mounted, and writes to it at last.
func (v View) look(target string) error {
	if v.Program != "" {
		out, err := exec.Command(target+"/"+v.Program, "echo", "a view").CombinedOutput()
		if err != nil || string(out) != "a view\n" {
			return fmt.Errorf("%q, %w", out, err)
		}
	}
	if err := Same(v.Content, target); err != nil { // the first access, if there is no program
		return err
	}
	return errors.Join(v.mounted(target), v.status(target), v.inPlace(target), v.copyUp(target))
}

// mounted looks what the kernel says of the view.
func (v View) mounted(target string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
	if err != nil {
		return err
	}
	if len(mounts) != 1 || mounts[0].FSType != "overlay" || mounts[0].Source != "levelfs:"+v.Component+"@1" {
		return fmt.Errorf("mounts at %s: %+v", target, mounts)
	}
	options := mounts[0].VFSOptions
	if v.Device == "" && !strings.Contains(options, "+segment.") && !strings.Contains(options, "+pmem.") {
		return nil
	}
	if v.Device == "" || !strings.Contains(options, "+"+v.Device) {
		return fmt.Errorf("%s is mounted with %q, not of %q", target, options, v.Device)
	}
	return nil
}

// status looks what levelfs status says of it.
func (v View) status(target string) error {
	out, err := exec.Command("/usr/bin/levelfs", "status", "--json").Output()
	if err != nil {
		return fmt.Errorf("levelfs status: %w", err)
	}
	var views []struct{ Target, Mounted, XIP string }
	if err := json.Unmarshal(out, &views); err != nil {
		return err
	}
	for _, s := range views {
		if s.Target == target && s.Mounted == v.Component+"@1" && strings.HasPrefix(s.XIP, v.XIP) && (v.XIP != "" || s.XIP == "") {
			return nil
		}
	}
	return fmt.Errorf("levelfs status says %s, not %q", out, v.XIP)
}

func (v View) inPlace(target string) error {
	if v.XIP == "active" {
		return InPlace(target, v.Ranges)
	}
	without, files, err := NotDAX(target)
	if partial := strings.HasPrefix(v.XIP, "partial"); err == nil && (len(without) == 0 || partial == (len(without) == files)) {
		err = fmt.Errorf("%d of %d files are without DAX", len(without), files)
	}
	return err
}

// errEnough ends a walk.
var errEnough = errors.New("enough")

// copyUp changes a file: its content is as before, but for the change, and it is in
// this machine's own memory then.
func (v View) copyUp(target string) error {
	var name string
	err := Files(v.Content, func(path string) (err error) {
		if name, err = filepath.Rel(v.Content, path); err == nil {
			err = errEnough
		}
		return err
	})
	if !errors.Is(err, errEnough) {
		return err
	}
	want, err := os.ReadFile(filepath.Join(v.Content, name))
	if err != nil {
		return err
	}
	copied := filepath.Join(target, name)
	f, err := os.OpenFile(copied, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString("mine")
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	got, err := os.ReadFile(copied)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, append(want, "mine"...)) {
		return fmt.Errorf("%q is not what it was, with the change", name)
	}
	dax, err := DAX(copied)
	if err == nil && dax {
		err = fmt.Errorf("the private %q has DAX", name)
	}
	return err
}

// cached is what files, and devices, have in the page cache.
func cached() (int64, error) {
	files, err := Meminfo("Cached")
	if err != nil {
		return 0, err
	}
	devices, err := Meminfo("Buffers")
	return files + devices, err
}
