package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-ldap/ldif"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestExt4Layer mounts a layer as levelfs builds it with --fs ext4, from the entry that
// it prints.
func TestExt4Layer(t *testing.T) {
	testenv.Require(t, "root", "overlay")
	m := testenv.NewMachine(t, "lnx01")
	tree := m.Mkdir("tree")
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("in ext4"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := m.RunLevelfs("layer", "build", tree, "-o", filepath.Join(m.Store.Dir, "emacs-1.ext4"), "--fs", "ext4", "--xip", "--base", testenv.BaseDN)
	if r.Exit != 0 || r.Stderr != "" {
		t.Fatal(r)
	}
	m.WriteLDIF("layer.ldif", r.Stdout)
	m.WriteLDIF("all.ldif", testenv.Inventory{Components: []testenv.Component{component("emacs", "1", "1")}}.LDIF())
	target := m.Mkdir("mnt")
	if r := m.Mount("-t", "levelfs", "emacs@1", target); r.Exit != 0 {
		t.Fatal(r)
	}
	wantFile(t, filepath.Join(target, "file"), "in ext4")
	m.Umount(target)
}

// TestSegmentPlanLDAP carries a plan out in a directory: the server takes what --ldif
// prints, and the plan is the same after it, with nothing new.
func TestSegmentPlanLDAP(t *testing.T) {
	inv := emacsInventory()
	for i := range inv.Layers {
		inv.Layers[i].Size = 5000 << 20 // of three parts
		inv.Layers[i].Segments = nil
	}
	inv.Hosts = []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=30.1-1"}}, {Name: "lnx02", Assign: []string{"emacs=29.4-1"}}}
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	m := testenv.NewMachine(t, "lnx01")
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))

	before := m.RunLevelfs("segment", "plan")
	if before.Exit != 0 || strings.Count(before.Stdout, "  new: no segment yet\n") != 2 {
		t.Fatal(before)
	}
	r := m.RunLevelfs("segment", "plan", "--ldif")
	if r.Exit != 0 {
		t.Fatal(r)
	}
	changes, err := ldif.Parse(r.Stdout)
	if err != nil || len(changes.Entries) != 2 {
		t.Fatalf("%v in\n%s", err, r.Stdout)
	}
	for _, e := range changes.Entries {
		if e.Modify == nil || len(e.Modify.Changes) != 2 {
			t.Fatalf("%+v", e)
		}
		for _, c := range e.Modify.Changes {
			if err := slapd.Modify(e.Modify.DN, c.Modification.Type, c.Modification.Vals...); err != nil {
				t.Error(err)
			}
		}
	}
	after := m.RunLevelfs("segment", "plan")
	if after.Exit != 0 || strings.Contains(after.Stdout, "new") || strings.Contains(after.Stdout, "vmcp") {
		t.Error(after)
	}
	places := func(text string) (list []string) {
		for line := range strings.Lines(text) {
			if f := strings.Fields(line); len(f) > 3 && strings.HasPrefix(f[0], "EMA") {
				list = append(list, f[0]+" "+f[3])
			}
		}
		return list
	}
	was, is := places(before.Stdout), places(after.Stdout)
	if len(was) != 6 || strings.Join(was, ",") != strings.Join(is, ",") {
		t.Errorf("planned %q, then %q", was, is)
	}
}
