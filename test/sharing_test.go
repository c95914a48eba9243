package test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/internal/sharing"
	"github.com/levelfs/levelfs/internal/testenv"
)

// TestSharing: check and status say what three views take of the disk that have a layer in
// common, and what is private to each.
func TestSharing(t *testing.T) {
	r := newRig(t)
	r.configureCheck("")
	common := r.Store.Erofs("common", testenv.Files{"share/text": strings.Repeat("shared by all\n", 10000)})
	site := r.Store.Erofs("site", testenv.Files{"share/site": strings.Repeat("the site's\n", 10000)}).As("site")
	inv := testenv.Inventory{Layers: []testenv.Layer{common, site}}
	host := testenv.Caller{Name: "lnx01"}
	var own int64
	for _, name := range []string{"ed", "emacs", "vi"} {
		l := r.Store.Erofs(name, testenv.Files{"bin/" + name: "program " + name})
		own += l.Size
		inv.Layers = append(inv.Layers, l)
		inv.Components = append(inv.Components, testenv.Component{Name: name, Levels: []testenv.Level{
			{Name: "1", Layers: []string{name, "common"}}, {Name: "2", Layers: []string{name, "common"}},
		}})
		host.Assign = append(host.Assign, name+"=1")
	}
	inv.Hosts = []testenv.Caller{host}
	inv.Components[0].Customize = []string{"ed=50:site"}
	inv.Components[1].Customize = []string{"emacs=10:site"}
	r.WriteLDIF("all.ldif", inv.LDIF())
	defer r.wantNoLoops() // when the views are unmounted
	for _, name := range []string{"ed", "emacs", "vi"} {
		target := r.Mkdir("sw", name)
		r.mountAt(name, target)
		defer r.Umount(target)
	}
	r.write(filepath.Join(r.target, "mine"), strings.Repeat("x", 64<<10))
	if err := os.Link(r.PrivateDir("emacs")+"/upper/mine", r.PrivateDir("emacs")+"/upper/mine2"); err != nil {
		t.Fatal(err)
	}
	want := sharing.Share{LayerBytes: own + 3*common.Size + 2*site.Size, SharedBytes: 2*common.Size + site.Size}

	report, got := r.check()
	if got.Exit != 0 || report.Total != want || len(report.Shares) != 3 {
		t.Errorf("total %+v, want %+v: %v", report.Total, want, got)
	}
	var private int64
	for _, s := range report.Shares {
		private += s.PrivateBytes
		if s.PrivateBytes < 0 || (s.Target == r.target) != (s.PrivateBytes >= 64<<10) || s.PrivateBytes >= 128<<10 {
			t.Errorf("%+v", s)
		}
	}
	if private != report.PrivateBytes {
		t.Errorf("%d private bytes in views, %d in all", private, report.PrivateBytes)
	}
	text := r.RunLevelfs("check", "--nagios")
	if part := fmt.Sprintf(" private=%dB;;;0 layers=%dB;;;0 saved=%dB;;;0 in_place=0B;;;0 ", private, want.LayerBytes, want.SharedBytes); !strings.Contains(text.Stdout, part) {
		t.Errorf("no %q: %v", part, text)
	}
	file := r.Path("metrics.prom")
	if got := r.RunLevelfs("check", "--prometheus", file); got.Exit != 0 {
		t.Error(got)
	}
	metrics, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		fmt.Sprintf("levelfs_views_layer_bytes %d", want.LayerBytes), fmt.Sprintf("levelfs_views_saved_bytes %d", want.SharedBytes),
		fmt.Sprintf("levelfs_view_private_bytes{view=%q,level=\"emacs@1\"} ", r.target), fmt.Sprintf("levelfs_view_layer_bytes{view=%q,level=\"emacs@1\"} ", r.target),
	} {
		if !strings.Contains(string(metrics), line) {
			t.Errorf("no %q in\n%s", line, metrics)
		}
	}

	var statuses []struct {
		Target string
		sharing.Share
	}
	status := r.RunLevelfs("status", "--json")
	if err := json.Unmarshal([]byte(status.Stdout), &statuses); err != nil || len(statuses) != 3 {
		t.Fatalf("%v: %v", err, status)
	}
	var shares []sharing.Share
	for _, s := range statuses {
		shares = append(shares, s.Share)
	}
	if got := sharing.Sum(shares); got != want {
		t.Errorf("status: %+v, want %+v", got, want)
	}
	if got := r.RunLevelfs("status"); !strings.Contains(got.Stdout, " saved by sharing; 0 B executed in place\n") {
		t.Error(got)
	}

	// Of a level that a view was switched to, no mount has left a definition.
	inv.Hosts[0].Assign = []string{"ed=1", "emacs=2", "vi=1"}
	r.WriteLDIF("all.ldif", inv.LDIF())
	if got := r.RunLevelfs("switch", "emacs"); got.Exit != 0 {
		t.Fatal(got)
	}
	if report, got := r.check(); got.Exit != 0 || report.Total != want {
		t.Errorf("after a change of level: %+v, want %+v: %v", report.Total, want, got)
	}
}
