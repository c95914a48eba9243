package test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/finding"
	"github.com/levelfs/levelfs/internal/testenv"
)

// lintResult runs levelfs lint, and returns its findings without their sources.
func lintResult(t *testing.T, m *testenv.Machine, status int) []finding.Finding {
	t.Helper()
	r := m.RunLevelfs("lint", "--json")
	var findings []finding.Finding
	if err := json.Unmarshal([]byte(r.Stdout), &findings); err != nil || r.Exit != status || r.Stderr != "" {
		t.Fatalf("%v: %s, want status %d", err, r, status)
	}
	for i := range findings {
		findings[i].Source = ""
	}
	return findings
}

// TestLintLDAP: over a directory server, read as the least-privileged identity and page
// by page, lint finds what it finds in LDIF files.
func TestLintLDAP(t *testing.T) {
	inv := testenv.Inventory{
		Components: []testenv.Component{{Name: "emacs", Default: "1", Levels: []testenv.Level{
			{Name: "1", State: "test", Layers: []string{"base"}}, {Name: "2", State: "retired", Layers: []string{"base"}}}}},
		Layers:   []testenv.Layer{{Name: "base", FSType: "erofs", Digest: "sha256:" + strings.Repeat("0", 64), Segments: []string{"SEG"}, Images: []string{"b"}}},
		Profiles: []testenv.Caller{{Name: "used", Assign: []string{"emacs=3"}}, {Name: "unused"}},
		Groups:   []testenv.Caller{{Name: "g", Members: []string{"h001", "gone"}, Assign: []string{"emacs=2"}}},
	}
	for i := range 600 { // more than slapd returns at once
		inv.Hosts = append(inv.Hosts, testenv.Caller{Name: fmt.Sprintf("h%03d", i)})
	}
	inv.Hosts[599].Profiles = []string{"used"}
	want := []string{"LV102 " + testenv.ProfileDN("used"), "LV130 " + testenv.LevelDN("emacs", "2"), "LV133 " + testenv.LevelDN("emacs", "1"),
		"LV107 " + testenv.GroupDN("g"), "LV171 " + testenv.ProfileDN("unused")}

	files := testenv.NewMachine(t, "lnx01")
	files.WriteLDIF("all.ldif", inv.LDIF())
	byFiles := lintResult(t, files, 2)
	var got []string
	for _, f := range byFiles {
		got = append(got, string(f.Code)+" "+f.Object)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %q\nwant %q", got, want)
	}

	slapd, m, _ := restricted(t, inv)
	byServer := lintResult(t, m, 2)
	if fmt.Sprint(byServer) != fmt.Sprint(byFiles) {
		t.Errorf("by the server %+v\nby files %+v", byServer, byFiles)
	}

	// Mended, there is nothing to be said.
	for _, change := range []struct{ dn, attr, value string }{
		{testenv.ProfileDN("used"), "levelfsAssignment", "emacs=1"},
		{testenv.LevelDN("emacs", "1"), "levelfsState", "draft"},
		{testenv.ComponentDN("emacs"), "levelfsDefault", ""},
		{testenv.GroupDN("g"), "member", testenv.HostDN("h001")},
		{testenv.GroupDN("g"), "levelfsAssignment", ""},
		{testenv.HostDN("h002"), "levelfsProfileRef", "unused"},
	} {
		var values []string
		if change.value != "" {
			values = []string{change.value}
		}
		if err := slapd.Modify(change.dn, change.attr, values...); err != nil {
			t.Fatal(err)
		}
	}
	if r := m.RunLevelfs("lint"); r.Exit != 0 || r.Stdout+r.Stderr != "" {
		t.Error(r)
	}

	// A server that is gone is no inventory without faults.
	if err := slapd.Stop(); err != nil {
		t.Fatal(err)
	}
	if r := m.RunLevelfs("lint"); r.Exit != 3 || r.Stdout != "" || !strings.Contains(r.Stderr, "is not available") {
		t.Error(r)
	}
}
