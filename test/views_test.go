package test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestLevels follows two machines that share images and inventory through a
// change of level: what levelfs is for.
func TestLevels(t *testing.T) {
	for _, kind := range []string{"ldif", "ldap"} {
		t.Run(kind, func(t *testing.T) {
			testenv.Require(t, "root", "automount", "overlay", "erofs", "squashfs")
			testLevels(t, kind)
		})
	}
}

func testLevels(t *testing.T, kind string) {
	store := testenv.NewStore(t)
	shared := store.Built("emacs-common", testenv.Files{"share/site.el": "shared", "etc/conf": "delivered"})
	one := store.Erofs("emacs-1", testenv.Files{"bin/emacs": "level 1", "only-1": ""})
	two := store.Squashfs("emacs-2", testenv.Files{"bin/emacs": "level 2", "only-2": ""})
	inv := testenv.Inventory{
		Layers: []testenv.Layer{shared, one, two},
		Components: []testenv.Component{{Name: "emacs", Levels: []testenv.Level{
			{Name: "1", Layers: []string{"emacs-1", "emacs-common"}},
			{Name: "2", Layers: []string{"emacs-2", "emacs-common"}},
		}}},
		Profiles: []testenv.Caller{{Name: "base", Assign: []string{"emacs=1"}}},
		Hosts:    []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=1"}}, {Name: "lnx02", Profiles: []string{"base"}}},
	}
	hosts := []*testenv.Machine{testenv.NewMachine(t, "lnx01"), testenv.NewMachine(t, "lnx02.example.org")}
	var slapd *testenv.Slapd
	if kind == "ldap" {
		slapd = startSlapd(t, testenv.SlapdOptions{}, inv)
	}
	// publish makes the inventory what the machines see.
	publish := func() {
		for _, m := range hosts {
			m.WriteLDIF("all.ldif", inv.LDIF())
		}
		if slapd == nil {
			return
		}
		for dn, c := range map[string]testenv.Caller{
			testenv.HostDN("lnx01"): inv.Hosts[0], testenv.ProfileDN("base"): inv.Profiles[0],
		} {
			if err := slapd.Modify(dn, "levelfsAssignment", c.Assign...); err != nil {
				t.Fatal(err)
			}
		}
	}
	var daemons []*testenv.Automount
	var views []string
	for _, m := range hosts {
		m.Store = store
		m.Configure("")
		if slapd != nil {
			m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
		}
	}
	publish()
	for _, m := range hosts {
		a, sw := startAutomount(t, m)
		daemons, views = append(daemons, a), append(views, filepath.Join(sw, "emacs"))
	}

	for i, view := range views {
		wantFile(t, view+"/bin/emacs", "level 1")
		wantFile(t, view+"/share/site.el", "shared")
		writeFile(t, view+"/etc/conf", "mine "+hosts[i].Host) // copied up
		writeFile(t, view+"/private", hosts[i].Host)
	}
	// leave unmounts the view, by automount or behind its back.
	leave := func(i int) {
		if slapd != nil {
			hosts[i].Umount(views[i])
		} else {
			daemons[i].Expire(views[i])
		}
	}
	// wantLevel comes back to the view until automount's reuse of its last answer
	// has run out.
	wantLevel := func(i int, level string) {
		t.Helper()
		testenv.WaitFor(t, "level "+level, func() error {
			text, err := testenv.ReadFile(views[i] + "/bin/emacs")
			if err == nil && text != "level "+level {
				err = fmt.Errorf("it is %q", text)
				leave(i)
			}
			return err
		})
		wantFile(t, views[i]+"/only-"+level, "")
		wantFile(t, views[i]+"/share/site.el", "shared")
		wantFile(t, views[i]+"/etc/conf", "mine "+hosts[i].Host)
		wantFile(t, views[i]+"/private", hosts[i].Host)
		wantFile(t, hosts[i].PrivateDir("emacs")+"/upper/private", hosts[i].Host)
	}

	inv.Hosts[0].Assign = []string{"emacs=2"}
	publish()
	wantFile(t, views[0]+"/bin/emacs", "level 1") // nothing changes under what is mounted
	leave(0)
	leave(1)
	wantLevel(0, "2")
	wantLevel(1, "1")

	// The other machine by its profile, and the first one back.
	inv.Hosts[0].Assign, inv.Profiles[0].Assign = []string{"emacs=1"}, []string{"emacs=2"}
	publish()
	leave(0)
	leave(1)
	wantLevel(0, "1")
	wantLevel(1, "2")

	for i, view := range views {
		// Held open: automount may still be at the expiry that it was asked for.
		f, err := os.Open(view + "/private")
		if err != nil {
			t.Fatal(err)
		}
		mounts, err := testenv.Mounts(view)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		sources := []string{}
		for _, m := range mounts {
			sources = append(sources, m.Source)
		}
		if want := []string{fmt.Sprintf("levelfs:emacs@%d", i+1)}; !slices.Equal(sources, want) {
			t.Errorf("mounts at %s: %q, want %q", view, sources, want)
		}
	}
	for i := range views {
		daemons[i].Expire(filepath.Dir(views[i]))
	}
	wantNothingLeft(t, hosts[0].Path("sw"), store)
	wantNothingLeft(t, hosts[1].Path("sw"), store)
}
