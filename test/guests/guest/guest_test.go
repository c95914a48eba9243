package guest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"
)

func TestArchive(t *testing.T) {
	dir := t.TempDir()
	tree := &Tree{Dir: dir, Release: "6.1.0-0-test"}
	for file, text := range map[string]string{
		"lib/modules/6.1.0-0-test/kernel/fs/over-lay.ko":   "module",
		"lib/modules/6.1.0-0-test/modules.builtin":         "kernel/fs/ext4/built-in.ko\n",
		"content/usr/bin/program":                          "#!",
		"lib/modules/6.1.0-0-test/kernel/fs/not-wanted.ko": "other",
	} {
		name := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	a := NewArchive()
	a.File("/init", 0o755, []byte("init"))
	a.Modules(tree, "over_lay", "built_in")
	a.Tree("/usr", filepath.Join(dir, "content/usr"))
	a.Link("/bin", "usr/bin")
	image := filepath.Join(dir, "initrd")
	if err := a.WriteFile(image); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make(map[string]string)
	for r := cpio.NewReader(f); ; {
		header, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		// A directory comes before what is in it: the kernel makes none by itself.
		if parent := filepath.Dir(header.Name); parent != "." && got[parent] != "drwxr-xr-x" {
			t.Errorf("%q comes before its directory", header.Name)
		}
		got[header.Name] = header.FileInfo().Mode().String() + header.Linkname + string(text)
		if header.FileInfo().IsDir() {
			got[header.Name] = header.FileInfo().Mode().String()
		}
	}
	for name, want := range map[string]string{
		"init":                "-rwxr-xr-xinit",
		"modules":             "drwxr-xr-x",
		"modules/over_lay.ko": "-rw-r--r--module",
		"modules/order":       "-rw-r--r--over_lay\n",
		"usr/bin/program":     "-rwxr-xr-x#!",
		"bin":                 "Lrwxrwxrwxusr/bin",
	} {
		if got[name] != want {
			t.Errorf("%q is %q, want %q", name, got[name], want)
		}
	}
	if _, is := got["modules/not_wanted.ko"]; is {
		t.Error("a module that was not asked for is there")
	}
}

func TestArchiveFails(t *testing.T) {
	dir := t.TempDir()
	missing := NewArchive()
	missing.Copy("/init", filepath.Join(dir, "none"), 0o755)
	if err := missing.WriteFile(filepath.Join(dir, "initrd")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	modules := filepath.Join(dir, "lib/modules/r")
	if err := errors.Join(os.MkdirAll(modules, 0o755), os.WriteFile(filepath.Join(modules, "modules.builtin"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	module := NewArchive()
	module.Modules(&Tree{Dir: dir, Release: "r"}, "erofs")
	if err := module.WriteFile(filepath.Join(dir, "initrd")); err == nil {
		t.Error("missing module: no error")
	}
}

// program is a stand-in for QEMU: it ignores its arguments.
func program(t *testing.T, script string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "qemu")
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestVM(t *testing.T) {
	var seen []string
	vm, err := Start(t.Context(), Config{
		Program: program(t, "echo PASS early; echo READY 1 2; read answer; echo \"FAIL late: $answer\"; echo DONE 2\n"),
		Each:    func(line string) { seen = append(seen, line) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if rest, err := vm.Await("READY "); err != nil || rest != "1 2" {
		t.Errorf("%q, %v", rest, err)
	}
	if err := vm.Send("why"); err != nil {
		t.Fatal(err)
	}
	r, err := vm.Report()
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Results) != 2 || r.Results[1].Why != "why" || len(seen) != 4 {
		t.Errorf("report %+v, lines %q", r, seen)
	}
}

func TestVMFails(t *testing.T) {
	for name, script := range map[string]string{
		"exit status": "echo DONE 0; exit 3\n",
		"no end":      "echo PASS a\n",
		"wrong end":   "echo PASS a; echo DONE 2\n",
	} {
		vm, err := Start(t.Context(), Config{Program: program(t, script)})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := vm.Report(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	vm, err := Start(t.Context(), Config{Program: program(t, "echo last words\n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Await("READY"); err == nil || !strings.Contains(err.Error(), "last words") {
		t.Errorf("the guest was not ready, and the error is %v", err)
	}
	if _, err := Start(t.Context(), Config{Program: "/nonexistent"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
}

// TestVMStop stops a guest that would run for ever.
func TestVMStop(t *testing.T) {
	vm, err := Start(t.Context(), Config{Program: program(t, "echo READY; exec sleep 1000\n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Await("READY"); err != nil {
		t.Fatal(err)
	}
	vm.Stop()
	if err := syscall.Kill(vm.PID(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d is there: %v", vm.PID(), err)
	}
	vm.Stop()
}

// TestVMDeadline has a guest that would run for ever.
func TestVMDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	vm, err := Start(ctx, Config{Program: program(t, "exec sleep 1000\n")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vm.Report(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestMemoryOf(t *testing.T) {
	m, err := MemoryOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if m.PSS <= 0 || m.PSS > m.RSS || m.Private > m.RSS {
		t.Errorf("%+v", m)
	}
	got, err := parseRollup("55d0 [rollup]\nRss: 10 kB\nPss: 7 kB\nPss_Dirty: 1 kB\nPrivate_Clean: 1 kB\nPrivate_Dirty: 2 kB\n")
	if want := (Memory{10240, 7168, 3072}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for _, text := range []string{"", "Rss: 10 kB\n", "Rss: ten kB\n", "Rss: 10 pages\n"} {
		if got, err := parseRollup(text); err == nil {
			t.Errorf("%q: no error but %+v", text, got)
		}
	}
}

func TestMappings(t *testing.T) {
	const text = "7f00-7f10 r--s 00000000 fe:00 12 /img/a\nSize: 4 kB\nRss: 4 kB\n" +
		"7f10-7f20 r--s 00000000 fe:00 13 /img/b\nRss: 8 kB\n" +
		"7f20-7f30 rw-p 00000000 00:00 0 \nRss: 1 kB\n" +
		"7f30-7f40 r--s 00001000 fe:00 12 /img/a\nRss: 16 kB\nVmFlags: rd\n"
	got := mappings(text, "/img/a")
	if want := []string{"Size: 4 kB\nRss: 4 kB\n", "Rss: 16 kB\nVmFlags: rd\n"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	self, err := filepath.EvalSymlinks("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := MappingOf(os.Getpid(), self); err != nil || m.RSS == 0 || m.PSS > m.RSS {
		t.Errorf("this program: %+v, %v", m, err)
	}
	if m, err := MappingOf(os.Getpid(), "/nonexistent"); err != nil || m != (Memory{}) {
		t.Errorf("no mapping: %+v, %v", m, err)
	}
}

func TestKernelPackage(t *testing.T) {
	const out = "linux-image-s390x\n  Depends: linux-image-6.1.0-50-s390x\n  Conflicts: <linux-image-other>\n"
	if match := kernelPackage.FindStringSubmatch(out); match == nil || match[1] != "linux-image-6.1.0-50-s390x" {
		t.Errorf("%q", match)
	}
}
