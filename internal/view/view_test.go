package view

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/account"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// setup makes a root with two directories of images and one of directory layers.
func setup(t *testing.T) (c *config.Config, root string) {
	t.Helper()
	root = t.TempDir()
	text := fmt.Sprintf("images = [%q, %q]\ndirectories = [%q]\n", root+"/img1", root+"/img2", root+"/dirs")
	for _, dir := range []string{"etc/levelfs", "img1/sub", "img2", "dirs/tree", "elsewhere"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"etc/levelfs/levelfs.toml": text,
		"img1/one":                 "", "img1/sub/deep": "", "img2/two": "", "img1/both": "", "img2/both": "", "elsewhere/secret": "",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c, err := config.LoadFrom(root)
	if err != nil {
		t.Fatal(err)
	}
	return c, root
}

// level is a level of image layers, each with its locations.
func level(private ldapmap.PrivatePolicy, images ...[]string) *ldapmap.Resolution {
	r := &ldapmap.Resolution{
		Component: ldapmap.Component{Name: "emacs", Private: private},
		Level:     ldapmap.Level{Name: "emacs@1"},
	}
	for i, locations := range images {
		r.Layers = append(r.Layers, ldapmap.Layer{
			Name: fmt.Sprintf("layer%d", i), FSType: "erofs", Images: locations,
			Digest: fmt.Sprintf("sha256:%064x", i), Size: 4096, UUID: fmt.Sprintf("00000000-0000-0000-0000-%012x", i),
		})
	}
	return r
}

func TestLocate(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	for _, l := range []struct {
		name      string
		images    []string
		dir, path string // below root
	}{
		{"in the first directory", []string{"one"}, "img1", "one"},
		{"in the second directory", []string{"two"}, "img2", "two"},
		{"in both", []string{"both"}, "img1", "both"},
		{"below", []string{"sub/deep"}, "img1", "sub/deep"},
		{"the first that is there", []string{"missing", "two", "one"}, "img2", "two"},
		{"absolute", []string{root + "/img2/two"}, "img2", "two"},
		{"absolute in the first", []string{root + "/img1/sub/deep"}, "img1", "sub/deep"},
		{"another one outside", []string{root + "/elsewhere/secret", "one"}, "img1", "one"},
	} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			p, err := Plan(t.Context(), c, level(ldapmap.None, l.images), "/sw/emacs", Options{})
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Layers[0]; got.Dir != filepath.Join(root, l.dir) || got.Path != l.path {
				t.Errorf("found %q in %q, want %q in %q", got.Path, got.Dir, l.path, l.dir)
			}
			if got := p.Layers[0]; got.Name != "layer0" || got.FSType != "erofs" || got.Size != 4096 || got.UUID == "" || got.Digest == "" {
				t.Errorf("the layer has become %+v", got)
			}
		})
	}
}

func TestLocateRefuses(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	for _, l := range []struct {
		name   string
		images []string
		want   string // ROOT is the root
	}{
		{"no location", nil, `layer "layer0": the inventory names no image of it`},
		{"missing", []string{"missing"}, `layer "layer0": not on this machine: tried ROOT/img1/missing, ROOT/img2/missing`},
		{"missing, absolute", []string{root + "/img2/missing"}, "not on this machine: tried ROOT/img2/missing"},
		{"outside", []string{root + "/elsewhere/secret"}, `"ROOT/elsewhere/secret" lies outside the configured directories (images in levelfs.toml: `},
		{"a name that begins like a directory's", []string{root + "/img1x/one"}, "lies outside"},
		{"the directory itself", []string{root + "/img1"}, "lies outside"},
	} {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			_, err := Plan(t.Context(), c, level(ldapmap.None, []string{"one"}, l.images), "/sw/emacs", Options{})
			var location *LocationError
			want := strings.ReplaceAll(strings.ReplaceAll(l.want, "ROOT", root), "layer0", "layer1")
			if !errors.As(err, &location) || location.Layer != "layer1" || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, want %q", err, want)
			}
		})
	}
}

// TestLocateEscapes checks that what leads out of its directory is refused: here, or
// when it is opened, which is by os.Root (mounter, checkImage).
func TestLocateEscapes(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	if err := errors.Join(
		os.Symlink("../elsewhere/secret", filepath.Join(root, "img1/link")),
		os.Symlink(root+"/elsewhere", filepath.Join(root, "img1/dirlink")),
		os.Symlink("/etc/passwd", filepath.Join(root, "img1/passwd"))); err != nil {
		t.Fatal(err)
	}
	for _, image := range []string{
		"../elsewhere/secret", "sub/../../elsewhere/secret", root + "/img1/../elsewhere/secret", "link", "dirlink/secret", "passwd",
	} {
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			p, err := Plan(t.Context(), c, level(ldapmap.None, []string{image}), "/sw/emacs", Options{})
			if err != nil {
				return
			}
			dir, err := os.OpenRoot(p.Layers[0].Dir)
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if f, err := dir.Open(p.Layers[0].Path); err == nil {
				f.Close()
				t.Errorf("%q leads to %q", image, f.Name())
			}
		})
	}
}

func TestPlanMissing(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	p, err := Plan(t.Context(), c, level(ldapmap.None, []string{"gone"}, []string{"one"}, []string{"lost"}), "/sw/emacs", Options{})
	if p == nil || err == nil {
		t.Fatalf("got %v, %v; want a plan and an error", p, err)
	}
	for _, name := range []string{"layer0", "layer2"} {
		if !strings.Contains(err.Error(), `layer "`+name+`": not on this machine`) {
			t.Errorf("error %q does not name %s", err, name)
		}
	}
	if got := p.Layers[0].File(); got != root+"/img1/gone" {
		t.Errorf("a dry run would show %s", got)
	}
}

func TestPlanDirectory(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	dir := func(image string) *ldapmap.Resolution {
		r := level(ldapmap.None)
		r.Layers = []ldapmap.Layer{{Name: "tree", FSType: "dir", Images: []string{image}}}
		return r
	}
	p, err := Plan(t.Context(), c, dir("tree"), "/sw/emacs", Options{})
	if err != nil || p.Layers[0].File() != root+"/dirs/tree" || p.Layers[0].FSType != "dir" {
		t.Errorf("got %+v, %v", p, err)
	}
	// A directory among the images is not checked by anybody: it must lie among the
	// directories.
	if _, err := Plan(t.Context(), c, dir(root+"/img1/sub"), "/sw/emacs", Options{}); err == nil || !strings.Contains(err.Error(), "(directories in levelfs.toml") {
		t.Errorf("a directory among the images: %v", err)
	}
	// And an image among the directories is none.
	if _, err := Plan(t.Context(), c, level(ldapmap.None, []string{root + "/dirs/tree"}), "/sw/emacs", Options{}); err == nil || !strings.Contains(err.Error(), "(images in levelfs.toml") {
		t.Errorf("an image among the directories: %v", err)
	}
}

func TestPlanPrivate(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	rob, owner := &account.Account{UID: 1001, GID: 100}, &mounter.Owner{UID: 1001, GID: 100}
	for _, l := range []struct {
		policy  ldapmap.PrivatePolicy
		options Options
		want    *mounter.Private
	}{
		{ldapmap.Persistent, Options{}, &mounter.Private{Dir: root + "/var/lib/levelfs/private/host/emacs"}},
		{ldapmap.Persistent, Options{User: "rob", Account: rob}, &mounter.Private{Dir: root + "/var/lib/levelfs/private/user/rob/emacs", Owner: owner}},
		{ldapmap.Ephemeral, Options{User: "rob", Account: rob}, &mounter.Private{Ephemeral: true, Owner: owner}},
		{ldapmap.Persistent, Options{User: "rob", ReadOnly: true}, nil}, // needs no account
		{ldapmap.None, Options{User: "rob"}, nil},
		{ldapmap.Persistent, Options{User: "root"}, &mounter.Private{Dir: root + "/var/lib/levelfs/private/user/root/emacs", Owner: &mounter.Owner{}}},
		{ldapmap.Persistent, Options{ReadOnly: true}, nil},
		{ldapmap.Ephemeral, Options{}, &mounter.Private{Ephemeral: true}},
		{ldapmap.Ephemeral, Options{ReadOnly: true}, nil},
		{ldapmap.None, Options{}, nil},
	} {
		t.Run(fmt.Sprint(l.policy, l.options), func(t *testing.T) {
			t.Parallel()
			l.options.Flags = []string{"nosuid"}
			p, err := Plan(t.Context(), c, level(l.policy, []string{"one"}), "/sw/emacs", l.options)
			if err != nil {
				t.Fatal(err)
			}
			if (p.Private == nil) != (l.want == nil) || p.Private != nil && !reflect.DeepEqual(p.Private, l.want) {
				t.Errorf("private layer %+v, want %+v", p.Private, l.want)
			}
			if slices.Contains(p.Flags, "ro") != (l.want == nil) || !slices.Contains(p.Flags, "nosuid") || !slices.Contains(p.Flags, "nodev") {
				t.Errorf("flags %q", p.Flags)
			}
			if p.Name != "emacs@1" || p.Target != "/sw/emacs" || p.Run != root+"/run/levelfs" || p.Cache != root+"/var/cache/levelfs" {
				t.Errorf("got %+v", p)
			}
		})
	}
}

// TestPlanAccount: a user without an account on this machine, and one with the uid of
// root, get no view; the plan is shown all the same.
func TestPlanAccount(t *testing.T) {
	t.Parallel()
	c, _ := setup(t)
	for want, o := range map[string]Options{
		`user "nosuch-user" has no account on this machine`: {User: "nosuch-user"},
		`user "rob" has uid 0 on this machine`:              {User: "rob", Account: &account.Account{GID: 100}},
	} {
		p, err := Plan(t.Context(), c, level(ldapmap.Persistent, []string{"one"}), "/sw/emacs", o)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
		if p == nil || p.Private == nil || p.Private.Owner != nil {
			t.Errorf("plan %+v", p)
		}
		if !slices.Contains(p.Flags, "nosuid") {
			t.Errorf("flags %q", p.Flags)
		}
	}
	// Whom /etc/passwd does not know owns what he has.
	dir := PrivateDir(c, "nosuch-user", "emacs")
	if err := os.MkdirAll(mounter.Upper(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(mounter.Upper(dir), os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	a, err := Options{User: "nosuch-user"}.account(t.Context(), dir)
	if want := (account.Account{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())}); err != nil || a != want {
		t.Errorf("got %v, %v; want %v", a, err, want)
	}
}

func TestUserOf(t *testing.T) {
	t.Parallel()
	c, root := setup(t)
	for _, l := range []struct{ upper, target, want string }{
		{root + "/var/lib/levelfs/private/user/rob/emacs/upper", "/mnt", "rob"},
		{root + "/var/lib/levelfs/private/host/emacs/upper", "/sw/emacs", ""},
		{"", "/sw/by-user/ann/emacs", "ann"},
		{"", "/sw/by-user", ""},
		{"", "/sw/emacs", ""},
		{"", "/sw/by-user/..a/emacs", ""},
	} {
		if got := UserOf(c, mounter.View{Upper: l.upper, Target: l.target}); got != l.want {
			t.Errorf("%+v: %q", l, got)
		}
	}
}

// TestPlanRefuses checks that what Build refuses is refused here too, beside what
// is missing.
func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	c, _ := setup(t)
	r := level(ldapmap.None, []string{"one"}, []string{"two"})
	r.Layers[1].Digest = r.Layers[0].Digest
	_, err := Plan(t.Context(), c, r, "/sw/emacs", Options{})
	var refused *mounter.PlanError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "same content") {
		t.Errorf("one digest twice: %v", err)
	}
}
