package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/test/guests/inside"
	"github.com/levelfs/levelfs/test/guests/s390x/layout"
)

// inSpare is the view of a layer of which there is an image file, too.
var inSpare = inside.View{
	Component: "spare", Content: "/content/spare", Device: "segment." + layout.Spare, XIP: "active",
	Ranges: inside.Ranges{{layout.SpareStart, layout.SpareStart + layout.SmallSize - 1}},
}

// An answer is what levelfs said, and its exit status.
type answer struct {
	stdout, stderr string
	exit           int
}

func levelfs(args ...string) (answer, error) {
	cmd := exec.Command("/usr/bin/levelfs", args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return answer{}, err
	}
	return answer{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// A saying is what levelfs is to say: words of its output and of its errors. Without any
// it must not have said anything there.
type saying struct {
	exit           int
	stdout, stderr []string
}

// says runs levelfs, with arguments that have no blanks.
func says(line string, want saying) error {
	got, err := levelfs(strings.Fields(line)...)
	if err != nil {
		return err
	}
	has := func(text string, words []string) bool {
		missing := slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) })
		return !missing && (len(words) > 0 || text == "")
	}
	if got.exit != want.exit || !has(got.stdout, want.stdout) || !has(got.stderr, want.stderr) {
		return fmt.Errorf("levelfs %s: exit %d, %q, %q; want exit %d, %q, %q", line, got.exit, got.stdout, got.stderr, want.exit, want.stdout, want.stderr)
	}
	return nil
}

// failed is the saying of a verb that fails.
func failed(words ...string) saying { return saying{exit: 1, stderr: words} }

// attached makes sure that the devices of these names are all that there are.
func (g *checks) attached(names ...string) error {
	devices, err := g.driver.List()
	if err != nil {
		return err
	}
	var found []string
	for _, d := range devices {
		found = append(found, d.Name)
	}
	return is("attached", strings.Join(found, " "), strings.Join(names, " "))
}

// byOthers writes to a file of the driver, as who does not know of levelfs.
func byOthers(file, segment string) error {
	return os.WriteFile("/sys/devices/dcssblk/"+file, []byte(segment+"\n"), 0)
}

// mountView mounts a view by hand, and leaves it as it is.
func mountView(component string) error {
	if said, exit := inside.Mount(component); exit != 0 {
		return fmt.Errorf("exit %d: %s", exit, said)
	}
	return nil
}

// verbs are levelfs's own verbs for segments, and what else it does about them. What is
// attached goes from one check to the next, and in the end there is nothing.
func (g *checks) verbs() {
	g.segmentVerbs()
	g.retire()
	g.collect()
	g.unused()
	g.fromFile()
}

func (g *checks) segmentVerbs() {
	g.Check("verbs/attach", func() error {
		return errors.Join(
			says("segment attach a:b", saying{stdout: []string{"/dev/dcssblk0\n"}}),
			byOthers("add", layout.Gap),
			mountView("erofs"),
			says("segment attach --gc EXT4", saying{stdout: []string{"/dev/dcssblk3\n"}}))
	})
	g.Check("verbs/refused", func() error {
		iomem, err := os.ReadFile("/proc/iomem") // where a hint sends to
		if err == nil && !strings.Contains(string(iomem), layout.Ext4+"     (DCSS)") {
			err = fmt.Errorf("/proc/iomem has no %s: %s", layout.Ext4, iomem)
		}
		return errors.Join(err,
			says("segment attach UNKNOWN", failed("levelfs: error: dcssblk: add \"UNKNOWN\": ", "CP knows no segment of that name", "levelfs: hint: see whether CP has it")),
			says("segment attach OVERLAP", failed("the segment overlaps the guest's memory or another loaded segment", "levelfs: hint: see what has the addresses (grep DCSS /proc/iomem;")),
			says("segment attach B", failed("segment \"B\" is attached already, in device \"A\" (dcssblk0) made of \"A:B\"", "levelfs: hint: use that device, or detach it: levelfs segment detach 'A'\n")),
			says("segment attach NINECHARS", saying{exit: 64, stderr: []string{"segment name \"NINECHARS\": is longer than 8 characters"}}),
			says("segment detach B", failed("segment B is a part of device A (A:B)", "levelfs: hint: name the device: A\n")),
			says("segment detach EROFS", failed("segment EROFS is in use: erofs@1 is mounted at "+inside.Hand+" (dcssblk: remove \"EROFS\": device or resource busy")))
	})
	g.Check("verbs/list", func() error {
		got, err := levelfs("segment", "list")
		if err != nil {
			return err
		}
		var rows []string
		for line := range strings.Lines(got.stdout) {
			rows = append(rows, strings.Join(strings.Fields(line), " "))
		}
		return errors.Join(is("exit", got.exit, 0), is("errors", got.stderr, ""), is("list", strings.Join(rows, "\n"), `SEGMENT DEVICE SIZE MODE DAX ATTACHED BY VIEWS PROCESSES
A:B /dev/dcssblk0 8.0 MiB shared,ro yes others - -
C /dev/dcssblk1 1.0 MiB shared,ro yes others - -
EROFS /dev/dcssblk2 16.0 MiB shared,ro yes levelfs `+inside.Hand+` -
EXT4 /dev/dcssblk3 16.0 MiB shared,ro yes levelfs - -`))
	})
}

// retire has a process that runs a program of a view.
func (g *checks) retire() {
	cmd := exec.Command(inside.Hand+"/bin/busybox", "cat")
	var input io.WriteCloser
	g.Check("verbs/list-users", func() (err error) {
		if input, err = cmd.StdinPipe(); err != nil {
			return err
		}
		if err := cmd.Start(); err != nil { // it has begun to execute then
			return err
		}
		got, err := levelfs("segment", "list", "--json")
		if err != nil {
			return err
		}
		var list []struct {
			Name      string
			Segments  []string
			Levelfs   bool
			Views     []struct{ Target, Level string }
			Processes []struct {
				PID int
				How string
			}
		}
		if err := json.Unmarshal([]byte(got.stdout), &list); err != nil {
			return err
		}
		want := fmt.Sprintf("[{A [A B] false [] []} {C [C] false [] []} {EROFS [EROFS] true [{%[1]s erofs@1}] [{%[2]d maps %[1]s/bin/busybox}]} {EXT4 [EXT4] true [] []}]",
			inside.Hand, cmd.Process.Pid)
		return is("list", fmt.Sprint(list), want)
	})
	g.Check("retire/in-use", func() error {
		process := fmt.Sprintf("process %d (\"busybox\") maps ", cmd.Process.Pid)
		err := says("segment retire EROFS --force", failed("segment EROFS is in use: erofs@1 is mounted at "+inside.Hand+"; "+process, "levelfs: hint: unmount the views and end the processes"))
		// Of a view that was unmounted lazily no mount table tells.
		return errors.Join(err, unix.Unmount(inside.Hand, unix.MNT_DETACH),
			says("segment retire EROFS --force --dry-run", failed("segment EROFS is in use: "+process)),
			g.attached("A", "C", "EROFS", "EXT4"))
	})
	g.Check("retire/free", func() error {
		return errors.Join(input.Close(), cmd.Wait(), inside.NothingMounted(),
			says("segment retire EROFS", failed("segment EROFS is used by what the inventory has callers for: layer erofs of erofs@1", "or give --force")),
			says("segment retire EROFS --force --dry-run", saying{stdout: []string{"segment EROFS (/dev/dcssblk2) would be detached\n"}}),
			g.attached("A", "C", "EROFS", "EXT4"),
			says("segment retire EROFS --force", saying{stdout: []string{"segment EROFS (/dev/dcssblk2) is detached\n", "vmcp 'PURGE NSS NAME EROFS'\n"}}),
			says("segment retire C", saying{stdout: []string{"segment C (/dev/dcssblk1) is detached\n"}}), // nobody's
			g.attached("A", "EXT4"))
	})
	g.Check("verbs/detach", func() error {
		return errors.Join(says("segment detach a", saying{}), g.attached("EXT4"))
	})
}

// collect has a segment that levelfs attached and that is open, one that a view uses, one
// that nobody uses, and others' ones.
func (g *checks) collect() {
	segments := func(line string, want ...string) error {
		got, err := levelfs(strings.Fields(line)...)
		if err != nil {
			return err
		}
		var said []string
		for line := range strings.Lines(got.stdout) {
			if about, is := strings.CutPrefix(line, "segment "); is {
				said = append(said, about)
			}
		}
		return errors.Join(is("exit", got.exit, 0), is("errors", got.stderr, ""), is("what "+line+" says of segments", strings.Join(said, ""), strings.Join(want, "\n")+"\n"))
	}
	const (
		unused = "(attached by levelfs, and no view uses it)"
		mark   = "(only a mark: levelfs has no such device attached)"
		inView = "EROFS: kept (used by erofs@1 at " + inside.Hand + ")"
	)
	g.Check("gc/attached", func() error {
		f, device, err := g.driver.Open(layout.Ext4)
		if err != nil {
			return err
		}
		err = errors.Join(mountView("erofs"), byOthers("add", layout.Gap), says("segment attach --gc SPARE", saying{stdout: []string{"/dev/dcssblk"}}))
		return errors.Join(err,
			// COMPACT and the like were attached by mounts, and detached without levelfs.
			segments("gc --dry-run", "COMPACT: would be removed "+mark, inView,
				fmt.Sprintf("EXT4: kept (used by process 1 (\"init\"), which has open %s)", device.Path()),
				"OTHER: would be removed "+mark, "RESAVED: would be removed "+mark, "SPARE: would be detached "+unused),
			g.attached("C", "EROFS", "EXT4", "SPARE"),
			segments("gc", "COMPACT: removed "+mark, inView, "EXT4: kept (in use, the driver says)",
				"OTHER: removed "+mark, "RESAVED: removed "+mark, "SPARE: detached "+unused),
			g.attached("C", "EROFS", "EXT4"), f.Close())
	})
	// The mark that levelfs has of it is of another device then.
	g.Check("gc/exchanged", func() error {
		return errors.Join(byOthers("remove", layout.Ext4), byOthers("add", layout.Ext4), inErofs.Umount(),
			segments("gc", "EROFS: detached "+unused, "EXT4: removed "+mark),
			g.attached("C", "EXT4"), byOthers("remove", layout.Ext4), byOthers("remove", layout.Gap))
	})
}

// finds makes sure that levelfs check has exactly these findings about shared memory. It
// may have others, of how bare this guest is; the exit status is that of all.
func finds(want ...string) error {
	got, err := levelfs("check", "--json")
	if err != nil {
		return err
	}
	var report struct {
		Findings  []struct{ Code, Severity, Object, Text, Fix string }
		Unchecked []struct{ What, Why string }
	}
	if err := json.Unmarshal([]byte(got.stdout), &report); err != nil {
		return fmt.Errorf("%w: %+v", err, got)
	}
	var found []string
	status := 0
	for _, f := range report.Findings {
		status = max(status, 1)
		if f.Severity == "critical" {
			status = 2
		}
		if f.Code == "LV212" || f.Code == "LV213" || f.Code == "LV220" {
			found = append(found, fmt.Sprintf("%s %s %s: %s; fix: %s", f.Severity, f.Code, f.Object, f.Text, f.Fix))
		}
	}
	return errors.Join(is("unchecked", len(report.Unchecked), 0), is("exit", got.exit, status), is("findings", strings.Join(found, "\n"), strings.Join(want, "\n")))
}

// unused has a segment that levelfs attached and nobody uses any more.
func (g *checks) unused() {
	g.Check("check/used", func() error {
		return errors.Join(mountView("erofs"), byOthers("add", layout.Gap), finds())
	})
	g.Check("check/unused", func() error {
		return errors.Join(inErofs.Umount(),
			finds("warning LV220 EROFS: segment EROFS is attached, and no view uses it; fix: levelfs gc (or levelfs repair LV220)"))
	})
	g.Check("repair/unused", func() error {
		f, _, err := g.driver.Open(layout.Erofs)
		if err != nil {
			return err
		}
		return errors.Join(
			says("repair --yes LV220", saying{exit: 1, stdout: []string{"failed LV220 EROFS\n", "  failed: segment EROFS: in use, the driver says\n", "left warning LV220 EROFS: "}}),
			f.Close(),
			says("repair --yes LV220", saying{stdout: []string{"done LV220 EROFS\n"}}),
			g.attached("C"), byOthers("remove", layout.Gap))
	})
}

// fromFile has a view that was mounted from the image file although there is a segment,
// and one of which a part is not in place.
func (g *checks) fromFile() {
	const settings = "/etc/levelfs/levelfs.toml"
	plain, err := os.ReadFile(settings)
	xip := func(wish string) error {
		return os.WriteFile(settings, append([]byte("xip = \""+wish+"\"\n"), plain...), 0o644)
	}
	g.Check("check/from-file", func() error {
		// Nothing says that there is the segment, as long as it is not attached.
		return errors.Join(err, xip("off"), mountView("spare"), xip("auto"), finds(),
			says("segment attach SPARE", saying{stdout: []string{"/dev/dcssblk0\n"}}),
			finds("warning LV213 "+inside.Hand+": spare@1: layer spare is mounted from its image file, and could be executed from segment SPARE; fix: umount "+inside.Hand+" (or levelfs repair LV213)"))
	})
	g.Check("check/required", func() error {
		return errors.Join(xip("require"),
			finds("critical LV212 "+inside.Hand+": spare@1: layer spare is mounted from its image file, and execution in place is required; fix: levelfs doctor"),
			says("repair --yes LV212", saying{exit: 1, stdout: []string{"left critical LV212 " + inside.Hand + ": ", "  why: What is missing has to be found out: the finding says why.\n"}}),
			xip("auto"))
	})
	g.Check("repair/from-file", func() error {
		return errors.Join(
			says("repair --yes LV213", saying{stdout: []string{"done LV213 " + inside.Hand + "\n  umount " + inside.Hand + "\n"}}),
			inside.NothingMounted(), g.attached("SPARE"))
	})
	g.Check("check/partial", func() error {
		const partial = inside.Hand + ": compact@1: execution in place is partial (1 of 2 files)"
		return errors.Join(mountView("compact"),
			finds("warning LV213 "+partial+"; fix: levelfs doctor"),
			says("repair --yes LV213", saying{exit: 1, stdout: []string{"left warning LV213 " + partial, "  why: it is mounted from the memory, and the kernel does not execute it in place"}}),
			inside.View{Component: "compact"}.Umount(), g.remove(layout.Compact))
	})
	g.Check("check/in-place", func() error {
		said, exit := inside.Mount("spare")
		if exit != 0 {
			return fmt.Errorf("exit %d: %s", exit, said)
		}
		return errors.Join(finds(), inSpare.Look(said), inSpare.Umount(), g.detach(layout.Spare))
	})
}
