package test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/manifest"
)

// TestCheckStale: a private file that hides a newer shared one is found, under the mounted
// level or under the next one, until it is settled.
func TestCheckStale(t *testing.T) {
	r, inv := checkRig(t)
	private := r.PrivateDir("emacs")
	file := filepath.Join(r.target, "bin/emacs")
	r.write(file, "mine")
	r.write(filepath.Join(r.target, "new"), "mine")
	r.healthy()

	assign := func(level string) {
		t.Helper()
		inv.Hosts[0].Assign = []string{"emacs=" + level}
		r.WriteLDIF("all.ldif", inv.LDIF())
	}
	run := func(args ...string) {
		t.Helper()
		if got := r.RunLevelfs(args...); got.Exit != 0 {
			t.Fatal(got)
		}
	}
	wantStale := func() {
		t.Helper()
		f := r.wantFindings(1, "LV233 "+private).Findings
		if len(f) == 1 && (!strings.Contains(f[0].Text, `emacs@2 has overtaken: "bin/emacs" (stale)`) || f[0].Fix != "levelfs diff emacs") {
			t.Errorf("%+v", f[0])
		}
	}

	assign("2")
	r.wantFindings(1, "LV201 "+r.target) // under what is mounted it is not
	r.umount(r.target)
	r.healthy() // no list of the levels' files is here
	if _, err := os.Stat(r.Path("/var/cache/levelfs/manifests")); err == nil {
		t.Error("a check has made lists of files")
	}
	if report, got := r.check("--deep"); !slices.ContainsFunc(report.Findings, func(f finding.Finding) bool { return f.Code == finding.StalePrivate }) {
		t.Errorf("%v", got)
	}
	wantStale() // under what will be mounted
	r.mount()
	wantStale()

	// A list lies beside the image, and is not in the cache.
	l := &inv.Layers[1]
	list := filepath.Join(r.Store.Dir, l.Images[0]+".mtree")
	if err := os.Rename(r.Path("/var/cache/levelfs/manifests", strings.TrimPrefix(l.Digest, "sha256:")), list); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.Manifest, err = manifest.Digest(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	assign("2")
	wantStale()
	run("adopt", "emacs", "bin/emacs", "--as", "mine")
	r.healthy()
}
