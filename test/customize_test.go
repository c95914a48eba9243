package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// customStack are the layers that user ann on lnx01 has of emacs, from the bottom, with
// their kinds: one of each rank.
var customStack = [][2]string{
	{"emacs-1", "vendor"}, {"emacs-site", "site"}, {"emacs-guests", "group"},
	{"emacs-lnx01", "host"}, {"emacs-people", "group"}, {"emacs-ann", "user"},
}

// stackFiles are the files of the layer at a depth. The file up-to-N is in all layers up to
// depth N and in none above, so that it shows which one lies there.
func stackFiles(depth int, name string) testenv.Files {
	files := testenv.Files{"conf": name}
	for n := depth; n < len(customStack); n++ {
		files[fmt.Sprintf("up-to-%d", n)] = name
	}
	return files
}

// customInventory gives lnx01 and ann a layer of every kind. The host's comes through a
// profile.
func customInventory(s *testenv.Store) testenv.Inventory {
	inv := testenv.Inventory{
		Components: []testenv.Component{component("emacs", "1", "1", "2"), component("vi", "1", "1")},
		Layers:     []testenv.Layer{s.Erofs("emacs-2", testenv.Files{"conf": "emacs-2"}), s.Erofs("vi-1", testenv.Files{"conf": "vi-1"})},
		Hosts:      []testenv.Caller{{Name: "lnx01", Profiles: []string{"guest"}}},
		Users:      []testenv.Caller{{Name: "ann", Customize: []string{"emacs=10:emacs-ann"}}},
		Groups: []testenv.Caller{
			{Name: "guests", Members: []string{"lnx01"}, Customize: []string{"emacs=30:emacs-guests"}},
			{Name: "people", Users: []string{"ann"}, Customize: []string{"emacs=30:emacs-people"}},
		},
		Profiles: []testenv.Caller{{Name: "guest", Customize: []string{"emacs=20:emacs-lnx01", "emacs=90:emacs-site"}}},
	}
	inv.Components[0].Customize = []string{"emacs=50:emacs-site"}
	inv.Components[0].Levels[0].State = "released"
	for depth, l := range customStack {
		made := s.Erofs(l[0], stackFiles(depth, l[0]))
		if l[1] != "vendor" {
			made = made.As(l[1])
		}
		inv.Layers = append(inv.Layers, made)
	}
	return inv
}

// wantStack checks by the files of a view which layers it is stacked of, from the bottom.
func wantStack(t *testing.T, dir string, layers ...string) {
	t.Helper()
	for n := range customStack {
		wantFile(t, fmt.Sprintf("%s/up-to-%d", dir, n), layers[min(n, len(layers)-1)])
	}
}

// layersAt are the layers of the view at the directory, topmost first, with their kinds.
func layersAt(t *testing.T, dir string) []string {
	t.Helper()
	views, err := mounter.Views()
	if err != nil {
		t.Fatal(err)
	}
	var layers []string
	for _, v := range views {
		if v.Target != dir {
			continue
		}
		for _, l := range v.Layers {
			name, _, _ := strings.Cut(l, "@")
			layers = append(layers, strings.TrimSpace(name+" "+mounter.KindOf(l)))
		}
	}
	return layers
}

// TestCustomized: each caller has the level with the layers of the site, of groups, of the
// host and of the user above it, in this order, and the level by its name is as it was
// delivered; by automount, by hand, and while no server answers.
func TestCustomized(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs")
	m := testenv.NewMachine(t, "lnx01")
	m.AddUsers(rob, ann)
	inv := customInventory(m.Store)
	slapd := startSlapd(t, testenv.SlapdOptions{LogLevel: "stats,filter"}, inv)
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	a, sw := startAutomount(t, m)
	shared, hers, pinned := sw+"/emacs", sw+"/by-user/ann/emacs", sw+"/emacs@1"
	all := make([]string, 0, len(customStack))
	for _, l := range customStack {
		all = append(all, l[0])
	}
	look := func() {
		t.Helper()
		wantStack(t, shared, all[:4]...)
		wantStack(t, pinned, all[0])
		wantFile(t, sw+"/emacs@2/conf", "emacs-2")
		wantFile(t, sw+"/vi/conf", "vi-1")
		as(t, m, ann, strings.Join(all, " ")+" ", "cd "+hers+" && for n in 0 1 2 3 4 5; do cat up-to-$n; printf ' '; done")
	}
	look()
	// Everything that was looked for has an index.
	if unindexed, err := slapd.Unindexed(); err != nil || len(unindexed) > 0 {
		t.Errorf("%q, %v", unindexed, err)
	}
	ofHost := []string{"emacs-lnx01 host", "emacs-guests group", "emacs-site site", "emacs-1"}
	ofAnn := append([]string{"emacs-ann user", "emacs-people group"}, ofHost...)
	views := func(dirs map[string][]string) {
		t.Helper()
		for dir, want := range dirs {
			if got := layersAt(t, dir); !slices.Equal(got, want) {
				t.Errorf("%s: %q, want %q", dir, got, want)
			}
		}
	}
	views(map[string][]string{shared: ofHost, hers: ofAnn})
	if got := layersAt(t, pinned); got[0] != "emacs-1" {
		t.Errorf("%q", got)
	}
	// The identity of the view is that of the level.
	if source := viewSource(t, shared); source != "levelfs:emacs@1" {
		t.Errorf("%q", source)
	}
	if got := m.RunLevelfs("check"); got.Exit != 0 || got.Stdout != "" {
		t.Errorf("check %v", got)
	}
	// The layers are each there once, and go with the views.
	if loops, err := testenv.LoopDevices(m.Store.Dir); err != nil || len(loops) != len(customStack)+2 {
		t.Errorf("%v, %v", loops, err)
	}
	expireAll(t, a, sw)
	wantNothingLeft(t, sw, m.Store)

	// By hand.
	byHand := m.Mkdir("mnt")
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"emacs"}, ofHost},
		{[]string{"emacs", "-o", "caller=ann"}, ofAnn},
		{[]string{"emacs@1"}, ofHost[3:]},
		{[]string{"emacs@1", "-o", "above=emacs-site"}, ofHost[2:]},
	} {
		if got := m.Mount(append([]string{"-t", "levelfs", c.args[0], byHand}, c.args[1:]...)...); got.Exit != 0 {
			t.Fatalf("%q: %v", c.args, got)
		}
		views(map[string][]string{byHand: c.want})
		m.Umount(byHand)
	}

	// Without a server it is the last answer, with all of the layers.
	if err := slapd.Stop(); err != nil {
		t.Fatal(err)
	}
	look()
	views(map[string][]string{shared: ofHost, hers: ofAnn})
	expireAll(t, a, sw)
	// A layer of which nothing is known any more is missed, and not left out.
	if err := os.Remove(m.Path("/var/cache/levelfs/layers/emacs-guests.toml")); err != nil {
		t.Fatal(err)
	}
	if got := m.RunMap("emacs"); got.Exit == 0 || got.Stdout != "" || !strings.Contains(got.Stderr, "emacs-guests") {
		t.Errorf("%v", got)
	}
	if got := m.Mount("-t", "levelfs", "emacs@1", byHand, "-o", "above=emacs-lnx01:emacs-guests"); got.Exit != 32 || !strings.Contains(got.Stderr, "emacs-guests") {
		t.Errorf("%v", got)
	}
	if layers := layersAt(t, byHand); layers != nil {
		t.Errorf("%q", layers)
	}
}

// viewSource is the mount source of the view at the directory.
func viewSource(t *testing.T, dir string) string {
	t.Helper()
	mounts, err := testenv.Mounts(dir)
	if err != nil || len(mounts) != 1 {
		t.Fatalf("%v, %v", mounts, err)
	}
	return mounts[0].Source
}

// TestCustomizedRefresh: another customisation alone is another view: check and status tell
// it from another level, refresh brings it with the private layer kept, and diff knows from
// which layer a private file was copied up.
func TestCustomizedRefresh(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs")
	m := testenv.NewMachine(t, "lnx01")
	inv := customInventory(m.Store)
	next := m.Store.Erofs("emacs-lnx01-b", stackFiles(3, "emacs-lnx01-b")).As("host")
	inv.Layers = append(inv.Layers, next)
	m.WriteLDIF("all.ldif", inv.LDIF())
	_, sw := startAutomount(t, m)
	dir := sw + "/emacs"
	wantFile(t, dir+"/conf", "emacs-lnx01")
	writeFile(t, dir+"/conf", "mine")
	writeFile(t, dir+"/new", "mine")

	inv.Profiles[0].Customize[0] = "emacs=20:emacs-lnx01-b"
	m.WriteLDIF("all.ldif", inv.LDIF())
	got := m.RunLevelfs("check", "--json")
	var report check.Report
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil {
		t.Fatalf("%v in %v", err, got)
	}
	other := slices.IndexFunc(report.Findings, func(f finding.Finding) bool { return f.Code == finding.OtherLevel })
	if got.Exit != 1 || len(report.Findings) != 1 || other < 0 ||
		!strings.Contains(report.Findings[other].Text, "emacs@1 is wanted and mounted, but customised otherwise: above it emacs-lnx01-b@") {
		t.Errorf("check %v", got)
	}
	if got := m.RunLevelfs("status"); got.Exit != 0 || !strings.Contains(got.Stdout, "= with other layers") {
		t.Errorf("status %v", got)
	}
	if got := m.RunLevelfs("refresh"); got.Exit != 0 || got.Stderr != "" || !strings.Contains(got.Stdout, "emacs: emacs@1 with other layers") {
		t.Errorf("refresh %v", got)
	}
	wantStack(t, dir, "emacs-1", "emacs-site", "emacs-guests", "emacs-lnx01-b")
	wantFile(t, dir+"/conf", "mine")
	wantFile(t, dir+"/new", "mine")
	if got := m.RunLevelfs("refresh"); got.Exit != 0 || got.Stderr != "" || !strings.Contains(got.Stdout, "emacs@1 already") {
		t.Errorf("a second refresh %v", got)
	}
	// What is private hides what the new layer has.
	if got := m.RunLevelfs("check"); got.Exit != 1 || strings.Count(got.Stdout, "LV") != 1 || !strings.Contains(got.Stdout, "LV233") ||
		!strings.Contains(got.Stdout, `emacs@1 has overtaken: "conf" (stale)`) {
		t.Errorf("check %v", got)
	}
	// It was one level all the time.
	if got := m.RunLevelfs("history", "emacs", "--json"); got.Exit != 0 || strings.Count(got.Stdout, "emacs@1") > 1 {
		t.Errorf("history %v", got)
	}
	d := m.RunLevelfs("diff", "emacs", "--json")
	var differs diffReport
	if err := json.Unmarshal([]byte(d.Stdout), &differs); err != nil {
		t.Fatalf("%v in %v", err, d)
	}
	found := false
	for _, f := range differs.Findings {
		if f.Path == "conf" {
			found = f.Base != nil && f.Base.Layer == "emacs-lnx01" && f.Now != nil && f.Now.Layer == "emacs-lnx01-b"
		}
	}
	if !found {
		t.Errorf("diff %v", d)
	}

	// The level has other layers by its name: that is refused, whatever lies above it.
	inv.Components[0].Levels[0].Layers = []string{"emacs-2"}
	m.WriteLDIF("all.ldif", inv.LDIF())
	if got := m.RunLevelfs("refresh"); got.Exit != 1 || !strings.Contains(got.Stderr, "released level emacs@1 was changed: it had layer emacs-1 ") ||
		strings.Contains(got.Stderr, "lnx01") {
		t.Errorf("refresh of a changed level %v", got)
	}
	inv.Components[0].Levels[0].Layers = []string{"emacs-1"}
	m.WriteLDIF("all.ldif", inv.LDIF())

	// Another level under the same customisation, and back.
	if got := m.RunLevelfs("switch", "emacs", "--to", "2"); got.Exit != 0 || got.Stderr != "" {
		t.Errorf("switch %v", got)
	}
	if got, want := layersAt(t, dir), []string{"emacs-lnx01-b host", "emacs-guests group", "emacs-site site", "emacs-2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := m.RunLevelfs("rollback", "emacs"); got.Exit != 0 || got.Stderr != "" {
		t.Errorf("rollback %v", got)
	}
	wantStack(t, dir, "emacs-1", "emacs-site", "emacs-guests", "emacs-lnx01-b")

	// None any more: the level as it is.
	inv.Profiles[0].Customize, inv.Components[0].Customize, inv.Groups[0].Customize = nil, nil, nil
	m.WriteLDIF("all.ldif", inv.LDIF())
	if got := m.RunLevelfs("refresh", "emacs"); got.Exit != 0 || got.Stderr != "" {
		t.Errorf("refresh %v", got)
	}
	wantStack(t, dir, "emacs-1")
	wantFile(t, dir+"/conf", "mine")
	record, err := os.ReadFile(filepath.Join(m.PrivateDir("emacs"), "level"))
	if err != nil || strings.Contains(string(record), "above ") || !strings.HasPrefix(string(record), "level emacs@1\nlayer emacs-1 ") {
		t.Errorf("%q, %v", record, err)
	}
}
