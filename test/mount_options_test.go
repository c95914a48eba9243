package test

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestMountFlags checks what the options of the call become in mountinfo.
func TestMountFlags(t *testing.T) {
	r := newRig(t)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	for _, c := range []struct {
		options  string
		want     []string
		unwanted []string
	}{
		{"", []string{"rw", "nodev", "relatime"}, []string{"ro", "nosuid", "noexec"}},
		{"rw", []string{"rw", "nodev"}, []string{"ro"}},
		{"ro", []string{"ro", "nodev"}, nil},
		{"nosuid", []string{"rw", "nodev", "nosuid"}, []string{"noexec"}},
		{"nosuid,noexec,ro", []string{"ro", "nodev", "nosuid", "noexec"}, nil},
		{"nosuid,suid,noexec,exec", []string{"nodev"}, []string{"nosuid", "noexec"}},
		{"noatime,nodiratime", []string{"nodev", "noatime", "nodiratime"}, []string{"relatime"}},
		{"strictatime", []string{"nodev"}, []string{"relatime", "noatime"}},
		{"noatime,strictatime", []string{"nodev"}, []string{"relatime", "noatime"}},
		{"noatime,relatime", []string{"relatime"}, []string{"noatime"}},
		{"relatime", []string{"nodev", "relatime"}, nil},
		{"x-systemd.automount,_netdev,nofail", []string{"rw", "nodev"}, nil},
	} {
		t.Run(c.options, func(t *testing.T) {
			sub := *r
			sub.t = t
			args := []string{"-n"} // as automount calls it
			if c.options != "" {
				args = append(args, "-o", c.options)
			}
			sub.mount(args...)
			got := viewOptions(t, sub.target)
			for _, o := range c.want {
				if !slices.Contains(got, o) {
					t.Errorf("options %q, want %q among them", got, o)
				}
			}
			for _, o := range c.unwanted {
				if slices.Contains(got, o) {
					t.Errorf("options %q, want no %q", got, o)
				}
			}
			sub.umount(sub.target)
		})
	}
	r.refused(1, []string{"emacs", r.target, "-o", "dev"}, `"dev"`)
	r.refused(1, []string{"emacs", r.target, "-o", "remount,ro"}, "remount")
	r.refused(1, []string{"emacs", r.target, "-o", "upperdir=/etc"}, `"upperdir=/etc"`)
}

// TestMountOverlayOptions watches what the helper asks of the kernel: mountinfo
// shows only what is not the kernel's default, and the defaults differ.
func TestMountOverlayOptions(t *testing.T) {
	r := newRig(t)
	testenv.Require(t, "strace")
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	trace := r.Path("trace")
	got := r.Run("strace", "-f", "-e", "trace=fsconfig,mount", "-s", "4096", "-o", trace, r.Helper, "emacs", r.target)
	if got.Exit != 0 {
		t.Fatal(got)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(map[string][]string)
	for _, m := range regexp.MustCompile(`FSCONFIG_SET_STRING, "([^"]*)", "([^"]*)".*= 0`).FindAllStringSubmatch(string(text), -1) {
		asked[m[1]] = append(asked[m[1]], m[2])
	}
	private := r.PrivateDir("emacs")
	for key, want := range map[string]string{
		"index": "off", "metacopy": "off", "redirect_dir": "nofollow", "xino": "off", "nfs_export": "off",
		"source": "levelfs:emacs@1", "upperdir": private + "/upper", "workdir": private + "/work",
	} {
		// The question whether the private layer is idle is asked with others.
		if values := asked[key]; len(values) == 0 || values[len(values)-1] != want {
			t.Errorf("%s: asked for %q, want %q", key, values, want)
		}
	}
	if !strings.Contains(string(text), "MS_RDONLY|MS_NODEV") {
		t.Errorf("the layer is not mounted ro,nodev:\n%s", text)
	}
	options := viewOptions(t, r.target)
	for _, o := range []string{"index=on", "metacopy=on", "redirect_dir=on", "redirect_dir=follow", "xino=on", "xino=auto", "nfs_export=on"} {
		if slices.Contains(options, o) {
			t.Errorf("options %q", options)
		}
	}
	for option, parameter := range map[string]string{"index=off": "index", "metacopy=off": "metacopy", "nfs_export=off": "nfs_export"} {
		text, err := os.ReadFile("/sys/module/overlay/parameters/" + parameter)
		if err == nil && strings.TrimSpace(string(text)) == "Y" && !slices.Contains(options, option) {
			t.Errorf("options %q, want %s among them: the kernel's default is another", options, option)
		}
	}
	if line := viewLine(t, r.target); !strings.Contains(line, " - overlay levelfs:emacs@1 ") {
		t.Errorf("mountinfo %q: type or source", line)
	}
	if !regexp.MustCompile(`lowerdir\+=\S*/one@[0-9a-f]{12},`).MatchString(viewLine(t, r.target)) {
		t.Errorf("mountinfo %q does not name the layer", viewLine(t, r.target))
	}
	r.umount(r.target)
}

// TestMountReadOnly: a view of one or of two layers that is mounted ro, or whose
// component says so, refuses every change.
func TestMountReadOnly(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	two := r.Store.Directory("two", testenv.Files{"two": "two"})
	for _, c := range []struct {
		name, policy string
		layers       []testenv.Layer
		options      []string
	}{
		{"option", "persistent", []testenv.Layer{one}, []string{"-o", "ro"}},
		{"policy", "none", []testenv.Layer{one}, nil},
		{"policy, though rw is asked for", "none", []testenv.Layer{one}, []string{"-o", "rw"}},
		{"two layers", "none", []testenv.Layer{two, one}, nil},
		{"ephemeral, but ro is asked for", "ephemeral", []testenv.Layer{one}, []string{"-o", "ro"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			sub.levelWith(testenv.Component{Name: "emacs", Default: "1", Private: c.policy}, c.layers...)
			sub.mount(c.options...)
			sub.want(map[string]string{"file": "one"})
			file := filepath.Join(sub.target, "file")
			for what, err := range map[string]error{
				"write":  os.WriteFile(file, nil, 0o644),
				"create": os.WriteFile(file+"2", nil, 0o644),
				"remove": os.Remove(file),
				"mkdir":  os.Mkdir(file+"3", 0o755),
				"chmod":  os.Chmod(file, 0o600),
			} {
				if !errors.Is(err, unix.EROFS) {
					t.Errorf("%s: %v, want EROFS", what, err)
				}
			}
			if private := sub.privateFiles(); private != "" {
				t.Errorf("it made a private layer:\n%s", private)
			}
			// Nor by a remount of one who does not know: there is no upper layer.
			if err := unix.Mount("", sub.target, "", unix.MS_REMOUNT, ""); err == nil {
				if err := os.Remove(file); !errors.Is(err, unix.EROFS) {
					t.Errorf("remounted rw: remove %v, want EROFS", err)
				}
			}
			sub.umount(sub.target)
		})
	}
}

// TestMountPolicies: what is written is kept, forgotten or refused.
func TestMountPolicies(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one", "gone": ""})
	for _, policy := range []string{"persistent", "ephemeral"} {
		t.Run(policy, func(t *testing.T) {
			sub := *r
			sub.t = t
			sub.levelWith(testenv.Component{Name: "emacs", Default: "1", Private: policy}, one)
			sub.mount()
			sub.write(sub.target+"/file", "changed")
			sub.write(sub.target+"/new", "new")
			if err := os.Remove(sub.target + "/gone"); err != nil {
				t.Fatal(err)
			}
			sub.want(map[string]string{"file": "changed", "new": "new"})
			sub.umount(sub.target)
			sub.mount()
			if policy == "persistent" {
				sub.want(map[string]string{"file": "changed", "new": "new"})
				sub.wantAbsent("gone")
			} else {
				sub.want(map[string]string{"file": "one", "gone": ""})
				sub.wantAbsent("new")
			}
			sub.umount(sub.target)
		})
	}
}

// TestMountRoot: the root of a view has the owner and mode of the topmost layer's.
func TestMountRoot(t *testing.T) {
	r := newRig(t)
	top := r.Store.Directory("top", testenv.Files{"a": ""})
	if err := errors.Join(os.Chown(filepath.Join(r.Store.Dir, "top"), 12, 34),
		os.Chmod(filepath.Join(r.Store.Dir, "top"), os.ModeSticky|os.ModeSetgid|0o771)); err != nil {
		t.Fatal(err)
	}
	bottom := r.Store.Erofs("bottom", testenv.Files{"b": ""})
	for i, policy := range []string{"persistent", "ephemeral", "none"} {
		t.Run(policy, func(t *testing.T) {
			sub := *r
			sub.t = t
			sub.levelWith(testenv.Component{Name: "emacs", Default: "1", Private: policy}, top, bottom)
			sub.mount()
			var st unix.Stat_t
			if err := unix.Stat(sub.target, &st); err != nil {
				t.Fatal(err)
			}
			if st.Uid != 12 || st.Gid != 34 || st.Mode != unix.S_IFDIR|0o3771 {
				t.Errorf("%d: owner %d:%d, mode %o; want 12:34, 43771", i, st.Uid, st.Gid, st.Mode)
			}
			sub.umount(sub.target)
		})
	}
}
