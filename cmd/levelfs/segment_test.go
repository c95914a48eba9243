package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/segment"
)

func TestFewLevels(t *testing.T) {
	for want, levels := range map[string][]string{
		"a@1": {"a@1"}, "a@1,b@1,c@1": {"a@1", "b@1", "c@1"}, "a@1,b@1,c@1 and 2 more": {"a@1", "b@1", "c@1", "d@1", "e@1"},
	} {
		if got := fewLevels(levels); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The commands run in a shell as they are printed, in front of files where the driver
// and CP would be: one segment of two parts, with names that a shell could take apart.
func TestSegmentCommands(t *testing.T) {
	dir := t.TempDir()
	device := filepath.Join(dir, "sys/A$HOME#")
	for _, d := range []string{device + "/block/dcssblk0", filepath.Join(dir, "dev"), filepath.Join(dir, "bin")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	image := bytes.Repeat([]byte("image"), 1<<20)
	vmcp := "#!/bin/sh\n[ $# = 1 ] && echo \"vmcp $1\" >>" + dir + "/log\ncase $1 in *FAILS*) exit 1;; esac\n"
	for name, content := range map[string]string{"image": string(image), "bin/vmcp": vmcp} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run := func(names ...string) (log string, err error) {
		t.Helper()
		a := segment.Assignment{Layer: "layer", Image: "image", Size: int64(len(image)), New: true}
		for i, name := range names {
			begin := int64(0x1000000 + i*0x400)
			a.Segments = append(a.Segments, segment.Segment{Name: name, Range: segment.Range{Begin: begin, End: begin + 0x3ff}})
		}
		kept := segment.Assignment{Layer: "kept", Segments: a.Segments[:1]}
		script := strings.Join(segmentCommands([]segment.Assignment{kept, a}, &config.Config{Images: []string{dir}}), "\n")
		script = strings.NewReplacer("/sys/devices/dcssblk", dir+"/sys", "/dev/", dir+"/dev/").Replace(script)
		cmd := exec.Command("sh", "-c", script)
		cmd.Env = []string{"PATH=" + dir + "/bin:" + os.Getenv("PATH"), "HOME=/wrong"}
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		text, readErr := os.ReadFile(filepath.Join(dir, "log"))
		if readErr != nil {
			t.Fatal(readErr)
		}
		return string(text), err
	}
	const want = `vmcp DEFSEG A$HOME# 1000000-10003FF SR LOADNSHR
vmcp SAVESEG A$HOME#
vmcp DEFSEG B 1000400-10007FF SR LOADNSHR
vmcp SAVESEG B
vmcp QUERY NSS NAME A$HOME# MAP
vmcp QUERY NSS NAME B MAP
`
	if log, err := run("A$HOME#", "B"); err != nil || log != want {
		t.Errorf("%v, got:\n%swant:\n%s", err, log, want)
	}
	for file, want := range map[string]string{
		filepath.Join(dir, "sys/add"): "A$HOME#:B\n", device + "/shared": "0\n", device + "/save": "1\n",
		filepath.Join(dir, "sys/remove"): "A$HOME#\n", filepath.Join(dir, "dev/dcssblk0"): string(image),
	} {
		if got, err := os.ReadFile(file); err != nil || string(got) != want {
			t.Errorf("%s: %.40q, %v; want %.40q", file, got, err, want)
		}
	}

	// What fails ends the block: nothing is saved after it.
	if log, err := run("FAILS"); err == nil || strings.TrimPrefix(log, want) != "vmcp DEFSEG FAILS 1000000-10003FF SR LOADNSHR\n" {
		t.Errorf("%v, %s", err, log)
	}
}
