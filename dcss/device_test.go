package dcss

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestList(t *testing.T) {
	for _, c := range []struct {
		captured string
		dax      bool // of those besides EXT4
	}{{"linux-6.1.sysfs", true}, {"link-layout.sysfs", false}} {
		d := NewFromRoot(tree(t, c.captured), t.TempDir(), "")
		got, err := d.List()
		if err != nil {
			t.Fatal(err)
		}
		want := []Device{
			{"B", []string{"B", "A"}, true, "dcssblk1", 254, 1, 8 << 20, true, c.dax},
			{"EROFS", []string{"EROFS"}, true, "dcssblk0", 254, 0, 16 << 20, true, c.dax},
			{"EXT4", []string{"EXT4"}, true, "dcssblk2", 254, 2, 16 << 20, true, true},
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", c.captured, got, want)
		}
	}
}

func TestInspect(t *testing.T) {
	d := NewFromRoot(tree(t, "linux-6.1.sysfs"), t.TempDir(), "")
	for segment, want := range map[string]string{"ext4": "EXT4", "B": "B", "a": "B"} {
		if got, err := d.Inspect(segment); err != nil || got.Name != want {
			t.Errorf("%q is on %q, %v, want %q", segment, got.Name, err, want)
		}
	}
	if _, err := d.Inspect("C"); !errors.Is(err, ErrNotAttached) {
		t.Errorf("segment that is on no device: %v", err)
	}
	var wrong *NameError
	if _, err := d.Inspect("../A"); !errors.As(err, &wrong) {
		t.Errorf("name that is none: %v", err)
	}
	if got := (Device{Node: "dcssblk2"}).Path(); got != "/dev/dcssblk2" {
		t.Errorf("path %q", got)
	}
}

func TestNoDriver(t *testing.T) {
	d := NewFromRoot(t.TempDir(), t.TempDir(), "/nonexistent")
	_, list := d.List()
	_, inspect := d.Inspect("A")
	_, attach := d.Attach(t.Context(), "A")
	for what, err := range map[string]error{
		"list": list, "inspect": inspect, "attach": attach, "detach": d.Detach(t.Context(), "A"),
		"shared": d.SetShared(t.Context(), "A", false), "save": d.Save(t.Context(), "A"),
	} {
		if !errors.Is(err, ErrNoDriver) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestListComing has devices that are not complete: the driver makes and removes
// one file after the other.
func TestListComing(t *testing.T) {
	for _, missing := range []string{"seglist", "shared", "block", "block/dcssblk2", "block/dcssblk2/dev", "block/dcssblk2/size"} {
		root := tree(t, "linux-6.1.sysfs")
		if err := os.RemoveAll(filepath.Join(root, "sys/devices/dcssblk/EXT4", missing)); err != nil {
			t.Fatal(err)
		}
		got, err := NewFromRoot(root, t.TempDir(), "").List()
		if err != nil || len(got) != 2 {
			t.Errorf("without %q: %d devices, %v", missing, len(got), err)
		}
	}
}

// TestListOther has what is no device beside the devices.
func TestListOther(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	put(t, filepath.Join(root, "sys/devices/dcssblk/power/control"), "auto\n")
	put(t, filepath.Join(root, "sys/devices/dcssblk/uevent"), "")
	mkdir(t, filepath.Join(root, "sys/devices/dcssblk/lower"))
	mkdir(t, filepath.Join(root, "sys/devices/dcssblk/NINECHARS"))
	mkdir(t, filepath.Join(root, "sys/devices/dcssblk/EXT4/block/other"))
	if got, err := NewFromRoot(root, t.TempDir(), "").List(); err != nil || len(got) != 3 {
		t.Errorf("%d devices, %v", len(got), err)
	}
}

func TestListDamaged(t *testing.T) {
	for file, text := range map[string]string{
		"seglist":                  "EXT4",
		"shared":                   "2\n",
		"block/dcssblk2/dev":       "254\n",
		"block/dcssblk2/size":      "-1\n",
		"block/dcssblk2/ro":        "\n",
		"block/dcssblk2/queue/dax": "yes\n",
	} {
		root := tree(t, "linux-6.1.sysfs")
		put(t, filepath.Join(root, "sys/devices/dcssblk/EXT4", file), text)
		_, err := NewFromRoot(root, t.TempDir(), "").List()
		var parse *ParseError
		if !errors.As(err, &parse) || !strings.HasSuffix(parse.File, file) || parse.Text != text {
			t.Errorf("%s holds %q: %v", file, text, err)
		}
	}
	root := tree(t, "link-layout.sysfs")
	link := filepath.Join(root, "sys/devices/dcssblk/EXT4/block")
	if err := errors.Join(os.Remove(link), os.Symlink("../../../block/sda", link)); err != nil {
		t.Fatal(err)
	}
	var parse *ParseError
	if _, err := NewFromRoot(root, t.TempDir(), "").List(); !errors.As(err, &parse) {
		t.Errorf("link to another driver's device: %v", err)
	}
}

// TestOpenOther has a file in the place of the device.
func TestOpenOther(t *testing.T) {
	root := tree(t, "linux-6.1.sysfs")
	d := NewFromRoot(root, t.TempDir(), "")
	if _, _, err := d.Open("EXT4"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no device node: %v", err)
	}
	put(t, filepath.Join(root, "dev/dcssblk2"), "")
	if f, _, err := d.Open("EXT4"); err == nil || f != nil {
		t.Errorf("no block device: %v", err)
	}
	if _, _, err := d.Open("C"); !errors.Is(err, ErrNotAttached) {
		t.Errorf("no device: %v", err)
	}
}

func FuzzSeglist(f *testing.F) {
	for _, text := range []string{"A\n", "B\nA\n", "", "A", "NINECHARS\n", "A\n\n", "A:B\n", "../x\n", "A\x00\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		names, err := parseSeglist(text)
		if err != nil {
			return
		}
		if got := strings.Join(names, "\n") + "\n"; got != text {
			t.Errorf("%q was read as %q", text, names)
		}
		for _, name := range names {
			if name == "" || len(name) > 8 || strings.ContainsAny(name, "/:\n\x00") {
				t.Errorf("%q has the name %q", text, name)
			}
		}
	})
}

func FuzzNumbers(f *testing.F) {
	for _, text := range []string{"0\n", "32768\n", "-1\n", "9223372036854775807\n", "254:2\n", "254:\n", ":\n", "4294967296:0\n", "+1\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if size, err := parseSize(text); err == nil && (size < 0 || size%512 != 0) {
			t.Errorf("%q is %d bytes", text, size)
		}
		if _, _, err := parseDev(text); err == nil && strings.Count(text, ":") != 1 {
			t.Errorf("%q is a device number", text)
		}
	})
}
