package mounter

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// digest is the sha256 digest whose hexadecimal digits are all c.
func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

// erofs is a layer in an image.
func erofs(name, c string) Layer {
	return Layer{Name: name, FSType: "erofs", Digest: digest(c), Dir: "/images", Path: name + ".erofs"}
}

func dir(name string) Layer {
	return Layer{Name: name, FSType: "dir", Dir: "/dirs", Path: name}
}

func dirs(n int) []Layer {
	layers := make([]Layer, n)
	for i := range layers {
		layers[i] = dir(fmt.Sprintf("d%03d", i))
	}
	return layers
}

func request(p *Private, layers ...Layer) Request {
	return Request{
		Name: "emacs@29.4-1", Target: "/sw/emacs", Layers: layers, Private: p,
		Run: "/run/levelfs", Cache: "/var/cache/levelfs",
	}
}

func kept() *Private { return &Private{Dir: "/var/lib/levelfs/private/host/emacs"} }

func owned(uid, gid uint32) *Private {
	return &Private{Dir: "/var/lib/levelfs/private/user/rob/emacs", Owner: &Owner{UID: uid, GID: gid}}
}

func also(r Request, targets ...string) Request {
	r.Also = targets
	return r
}

func inUserNS(r Request) Request {
	r.UserNS = true
	return r
}

func (p *Plan) ops() string {
	var ops []string
	for _, s := range p.Steps {
		ops = append(ops, string(s.Op))
	}
	return strings.Join(ops, " ")
}

func TestBuild(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		request Request
		ops     string
		flags   string
	}{
		{"read-only", request(nil, erofs("a", "1"), erofs("b", "2")),
			"target check check stage mount mount overlay unstage", "ro nodev"},
		{"read-only, one layer", request(nil, erofs("a", "1")),
			"target check stage mount empty overlay unstage", "ro nodev"},
		{"persistent", request(kept(), erofs("a", "1"), dir("b")),
			"target lock idle check stage mount bind private record overlay unstage", "nodev"},
		{"persistent, one layer", request(kept(), erofs("a", "1")),
			"target lock idle check stage mount private record overlay unstage", "nodev"},
		{"ephemeral", request(&Private{Ephemeral: true}, erofs("a", "1")),
			"target check stage mount private overlay unstage", "nodev"},
		{"a user's", request(owned(1001, 100), erofs("a", "1"), dir("b")),
			"target lock idle check stage mount idmap bind idmap private record overlay unstage", "nodev"},
		{"at two places", also(request(nil, erofs("a", "1")), "/opt/emacs"),
			"target check stage mount empty overlay unstage also", "ro nodev"},
		{"in a user namespace", inUserNS(request(owned(1001, 100), dir("a"))),
			"target lock idle stage bind private record overlay unstage", "nodev"},
		{"root's own", request(owned(0, 0), erofs("a", "1")),
			"target lock idle check stage mount private record overlay unstage", "nodev"},
		{"directories only", request(nil, dirs(2)...),
			"target stage bind bind overlay unstage", "ro nodev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := Build(c.request)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.ops(); got != c.ops {
				t.Errorf("steps %q, want %q", got, c.ops)
			}
			if got := strings.Join(p.Flags, " "); got != c.flags {
				t.Errorf("flags %q, want %q", got, c.flags)
			}
			// Fixed, and all of it, by ARCHITECTURE: see overlayOptions.
			want := "index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off"
			if c.request.UserNS {
				want += ",userxattr"
			}
			if got := strings.Join(p.Options, ","); got != want {
				t.Errorf("options %q, want %q", got, want)
			}
			if p.Source != "levelfs:emacs@29.4-1" {
				t.Errorf("source %q", p.Source)
			}
			for i, l := range p.Layers {
				if l.Name != c.request.Layers[i].Name {
					t.Errorf("layer %d is %q, want %q: first is topmost", i, l.Name, c.request.Layers[i].Name)
				}
			}
		})
	}
}

// TestBuildOneLayer checks that overlayfs, which refuses one lower layer without
// an upper one, gets an empty second one then, below the layer, and only then.
func TestBuildOneLayer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		request Request
		want    []string
	}{
		{"read-only", request(nil, erofs("a", "1")), []string{"a@111111111111", "empty"}},
		{"with a private layer", request(kept(), erofs("a", "1")), []string{"a@111111111111"}},
		{"two layers", request(nil, dir("b"), erofs("a", "1")), []string{"b@dir", "a@111111111111"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := Build(c.request)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, lower := range p.lowers() {
				got = append(got, strings.TrimPrefix(lower, p.Stage+"/"))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("lower layers %q, want %q", got, c.want)
			}
		})
	}
}

func TestBuildFlags(t *testing.T) {
	t.Parallel()
	r := request(kept(), erofs("a", "1"))
	r.Flags = []string{"nosuid", "noexec", "noatime"}
	before := slices.Clone(r.Flags)
	p, err := Build(r)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Flags, " "); got != "nodev nosuid noexec noatime" {
		t.Errorf("flags %q", got)
	}
	if !slices.Equal(r.Flags, before) {
		t.Errorf("the request's flags have become %q", r.Flags)
	}
	r.Private = nil
	if p, err = Build(r); err != nil || strings.Join(p.Flags, " ") != "ro nodev nosuid noexec noatime" {
		t.Errorf("read-only: flags %q, %v", p.Flags, err)
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	target := func(path string) Request {
		r := request(nil, dirs(2)...)
		r.Target = path
		return r
	}
	short := erofs("a", "1")
	short.Digest = short.Digest[:len(short.Digest)-1]
	none := erofs("a", "1")
	none.Digest = ""
	same := dir("other")
	same.Path = "d000"
	for _, c := range []struct {
		name    string
		request Request
		want    string
	}{
		{"no layers", request(kept()), "no layers"},
		{"501 layers", request(kept(), dirs(501)...), "501 layers, but overlayfs takes at most 500"},
		{"layer twice", request(nil, erofs("a", "1"), erofs("b", "2"), erofs("a", "1")), `layer "a" is in it twice`},
		{"name twice", request(nil, erofs("a", "1"), erofs("a", "2")), `layer "a" is in it twice`},
		{"digest twice", request(nil, erofs("a", "1"), dir("c"), erofs("b", "1")), `layers "a" and "b" have the same content sha256:1111`},
		{"directory twice", request(nil, dir("d000"), same), `layers "d000" and "other" have the same content /dirs/d000`},
		{"no digest", request(nil, none), `layer "a" has no digest`},
		{"short digest", request(nil, short), `layer "a" has no digest`},
		{"relative target", target("sw/emacs"), `"sw/emacs" is not a clean absolute path`},
		{"dots in the target", target("/sw/../etc"), "not a clean absolute path"},
		{"slash after the target", target("/sw/emacs/"), "not a clean absolute path"},
		{"root as target", target("/"), "not a clean absolute path"},
		{"no target", target(""), `"" is not a clean absolute path`},
		{"a second target", also(request(nil, dirs(2)...), "/opt/../etc"), `"/opt/../etc" is not a clean absolute path`},
		{"a second target for a view that replaces one", also(replacing(kept(), dirs(2)...), "/opt/emacs"), "has the mount point of that"},
		{"an image in a user namespace", inUserNS(request(kept(), dir("b"), erofs("a", "1"))), `layer "a" is an image, which only root can mount`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := Build(c.request)
			var refused *PlanError
			if !errors.As(err, &refused) || p != nil {
				t.Fatalf("plan %v, error %v; want a *PlanError", p, err)
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "view emacs@29.4-1: ") {
				t.Errorf("error %q, want %q in it", err, c.want)
			}
		})
	}
	if _, err := Build(request(kept(), dirs(500)...)); err != nil {
		t.Errorf("500 layers: %v", err)
	}
}

// goldenPlans are the plans of the golden files: each kind of layer, and each kind
// of private layer.
func goldenPlans(t *testing.T) map[string]*Plan {
	t.Helper()
	top := erofs("emacs-conf", "a")
	top.Size, top.UUID = 4096, "00112233-4455-6677-8899-aabbccddeeff"
	squash := Layer{Name: "emacs-bin", FSType: "squashfs", Digest: digest("b"), Dir: "/images", Path: "sub/emacs-bin.squashfs"}
	ext4 := Layer{Name: "emacs-lisp", FSType: "ext4", Digest: digest("c"), Dir: "/images", Path: "emacs-lisp.ext4"}
	requests := map[string]Request{
		"persistent": request(kept(), top, squash, ext4, dir("base")),
		"ephemeral":  request(&Private{Ephemeral: true}, top, ext4),
		"readonly":   request(nil, top),
		"user":       request(owned(1001, 100), top, dir("base")),
	}
	released := requests["persistent"]
	released.Released = true
	requests["persistent"] = released
	blanks := request(&Private{Dir: "/it's a root/private/emacs"}, Layer{
		Name: "a", FSType: "erofs", Digest: digest("d"), Dir: "/it's a root", Path: "an $image;.erofs"})
	blanks.Target, blanks.Run = "/it's a root/emacs", "/it's a root/run"
	blanks.Flags = []string{"nosuid", "noexec"}
	requests["blanks"] = blanks
	requests["userns"] = also(inUserNS(request(owned(1001, 100), dir("emacs@29.4-1"))), "/opt/emacs")
	requests["replaces"] = replacing(kept(), top, dir("base"))
	plans := make(map[string]*Plan)
	for name, r := range requests {
		p, err := Build(r)
		if err != nil {
			t.Fatal(err)
		}
		plans[name] = p
	}
	return plans
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test ./mounter -update writes it)", err)
	}
	if bytes.Equal(got, want) {
		return
	}
	wantLines := strings.Split(string(want), "\n")
	for i, line := range strings.Split(string(got), "\n") {
		if i >= len(wantLines) || line != wantLines[i] {
			t.Fatalf("not as in %s; line %d is\n%s", file, i+1, line)
		}
	}
	t.Errorf("%s has more lines", file)
}

func TestPlanGolden(t *testing.T) {
	t.Parallel()
	for name, p := range goldenPlans(t) {
		text, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "plan-"+name, append(text, '\n'))
		var back Plan
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if again, err := json.MarshalIndent(&back, "", "  "); err != nil || !bytes.Equal(again, text) {
			t.Errorf("%s: read back and written again it differs (%v):\n%s", name, err, again)
		}
	}
}

func TestCommandsGolden(t *testing.T) {
	t.Parallel()
	for name, p := range goldenPlans(t) {
		golden(t, "commands-"+name, []byte(strings.Join(p.Commands(), "\n")+"\n"))
	}
}
