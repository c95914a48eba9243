package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/dcss"
	"github.com/levelfs/levelfs/internal/config"
	"github.com/levelfs/levelfs/internal/edit"
	"github.com/levelfs/levelfs/internal/sharing"
	"github.com/levelfs/levelfs/internal/usage"
	"github.com/levelfs/levelfs/internal/view"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/mounter"
)

// What status says of views is tested here with views that are only described:
// real ones need root, and are in package test.

func TestWriteStatus(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	err := writeStatus(&out, []viewStatus{
		{Target: "/sw/emacs", Mounted: "emacs@29.4-1", Wanted: "emacs@29.4-1", Private: "/p", PrivateBytes: 1536, Since: since, XIP: "active", Layers: []string{"a@1", "b@2"},
			Share: sharing.Share{LayerBytes: 3 << 20, InPlaceBytes: 1 << 20}},
		{Target: "/sw/vi", Mounted: "vi@1", Wanted: "vi@2", Differs: true, Private: "/q", PrivateBytes: -1, Share: sharing.Share{LayerBytes: 2 << 20, SharedBytes: 2 << 20, UnsizedLayers: 1}},
		{Target: "/sw/jdk@21", Mounted: "jdk@21", Share: sharing.Share{UnsizedLayers: 2}},
	})
	const want = `VIEW        MOUNTED       WANTED  PRIVATE  SINCE                XIP     SIZE     LAYERS
/sw/emacs   emacs@29.4-1  =       1.5 KiB  2026-01-02 03:04:05  active  3.0 MiB  a@1 b@2
/sw/vi      vi@1          vi@2    ?        ?                    -       2.0 MiB  
/sw/jdk@21  jdk@21        ?       -        ?                    -       0 B      
layers: 5.0 MiB in all views, 3.0 MiB on the disk, 2.0 MiB saved by sharing; 1.0 MiB executed in place; without 3 of unknown size
`
	if err != nil || out.String() != want {
		t.Errorf("error %v, got\n%swant\n%s", err, out.String(), want)
	}
}

func TestPinned(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		view mounter.View
		want bool
	}{
		{mounter.View{Target: "/sw/emacs@29", Name: "emacs@29", ReadOnly: true}, true},
		{mounter.View{Target: "/sw/emacs", Name: "emacs@29", ReadOnly: true}, false}, // private policy none
		{mounter.View{Target: "/sw/emacs@29", Name: "emacs@29"}, false},
		{mounter.View{Target: "/sw/emacs@28", Name: "emacs@29", ReadOnly: true}, false},
	} {
		if got := view.Pinned(c.view); got != c.want {
			t.Errorf("%+v: %v", c.view, got)
		}
	}
}

// settings makes a configuration with an inventory of text, or of a server that
// is not there.
func settings(t *testing.T, text string) *config.Config {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "etc/levelfs/inventory.d")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.ldif"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.LoadFrom(root)
	if err != nil {
		t.Fatal(err)
	}
	c.Host = "lnx01"
	return c
}

func logger(out io.Writer) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(out)
	return log
}

func TestWantedLevels(t *testing.T) {
	t.Parallel()
	const text = `dn: cn=emacs,dc=test
objectClass: levelfsComponent
cn: emacs
levelfsDefault: 30

dn: cn=emacs@30,dc=test
objectClass: levelfsLevel
cn: emacs@30
levelfsLayerRef: 00:base

dn: cn=emacs@29,dc=test
objectClass: levelfsLevel
cn: emacs@29
levelfsLayerRef: 00:base

dn: uid=rob,dc=test
objectClass: posixAccount
objectClass: levelfsCaller
uid: rob
levelfsAssignment: emacs=29

dn: cn=base,dc=test
objectClass: levelfsLayer
cn: base
levelfsFSType: dir
`
	views := []mounter.View{
		{Name: "emacs@29", Target: "/sw/emacs"},
		{Name: "gone@1", Target: "/sw/gone"},
		{Name: "gone@2", Target: "/elsewhere/gone"},
		{Name: "emacs@28", Target: "/sw/emacs@28", ReadOnly: true},
		{Name: "emacs@29", Target: "/sw/by-user/rob/emacs"},
		{Name: "emacs@29", Target: "/sw/by-user/ann/emacs"},
	}
	var warnings bytes.Buffer
	names := func(wanted map[asker]*ldapmap.Resolution) map[asker]string {
		names := make(map[asker]string)
		for who, r := range wanted {
			if names[who] = ""; r != nil {
				names[who] = r.Level.Name
			}
		}
		return names
	}
	got := names(wantedLevels(t.Context(), settings(t, text), views, logger(&warnings)))
	want := map[asker]string{{"", "emacs"}: "emacs@30", {"", "gone"}: "", {"rob", "emacs"}: "emacs@29", {"ann", "emacs"}: "emacs@30"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// Once is enough to say it.
	if strings.Count(warnings.String(), "\n") != 1 || !strings.Contains(warnings.String(), `no component \"gone\"`) {
		t.Errorf("warnings %q", warnings.String())
	}

	// A server that does not answer is waited for once, not for each component.
	warnings.Reset()
	down := settings(t, "")
	down.Sources = []config.Source{{Type: "ldap", URI: []string{"ldapi:///nonexistent/ldapi"}, Base: "dc=test"}}
	got = names(wantedLevels(t.Context(), down, views, logger(&warnings)))
	if got[asker{"", "emacs"}] != "" || strings.Count(warnings.String(), "\n") != 1 || !strings.Contains(warnings.String(), "not available") {
		t.Errorf("got %q, warnings %q", got, warnings.String())
	}

	// Nor is a configuration that is wrong a reason to show nothing.
	warnings.Reset()
	down.Sources[0].Base = ""
	if got = names(wantedLevels(t.Context(), down, views, logger(&warnings))); len(got) > 0 || !strings.Contains(warnings.String(), "base") {
		t.Errorf("got %q, warnings %q", got, warnings.String())
	}
	if got = names(wantedLevels(t.Context(), down, nil, logger(t.Output()))); len(got) > 0 {
		t.Errorf("without views: %q", got)
	}
}

func TestTreeSize(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "a/b"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{"x": 1000, "a/y": 500, "a/b/z": 36} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, err := treeSize(t.Context(), dir); err != nil || got != 1536 {
		t.Errorf("got %d, %v; want 1536: regular files only", got, err)
	}
	if _, err := treeSize(t.Context(), filepath.Join(dir, "gone")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := treeSize(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

func TestByteCount(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 2 << 20: "2.0 MiB", 3 << 30: "3.0 GiB", 1 << 40: "1.0 TiB", 1<<63 - 1: "8.0 EiB",
	} {
		if got := byteCount(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// TestSegmentRemedies checks that every refusal of the driver that is known has one,
// and no other.
func TestSegmentRemedies(t *testing.T) {
	t.Parallel()
	for _, f := range dcss.Facts() {
		err := fmt.Errorf("more: %w", &dcss.Error{Op: f.Op, Segment: "A", Errno: f.Errno})
		if hintFor(err) == "" {
			t.Errorf("%v: no hint", err)
		}
	}
	for _, op := range []dcss.Op{dcss.OpAdd, dcss.OpRemove, dcss.OpShared, dcss.OpSave} {
		if hint := hintFor(&dcss.Error{Op: op, Errno: unix.EXDEV}); hint != "" {
			t.Errorf("%s: hint %q for what is not known", op, hint)
		}
	}
}

// TestHints checks that every error which a person can do something about has a
// hint that names what to change, however deep it is wrapped.
func TestHints(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		err  error
		want string
	}{
		{&ldapmap.NoLevelError{Component: "emacs", Host: "lnx01"}, "levelfsAssignment: emacs=LEVEL"},
		{&ldapmap.NotFoundError{What: "layer", Name: "base"}, "add the layer"},
		{&ldapmap.AmbiguousError{Component: "emacs"}, "emacs=LEVEL"},
		{&ldapmap.LoopError{Profiles: []string{"x", "a", "b", "a"}}, "from profile b to a"},
		{&ldapmap.InvalidError{DN: "cn=x", Attr: "levelfsDefault"}, "levelfsDefault in cn=x"},
		{&ldapmap.ConfigError{Source: "/x", Err: fs.ErrNotExist}, "[[source]]"},
		{&ldapmap.UnavailableError{Source: "ldaps://a ldaps://b", Err: fs.ErrNotExist}, "-H ldaps://a "},
		{&view.LocationError{Layer: "base"}, "copy the image"},
		{&inUseError{Segment: "A", Use: usage.Use{Views: make([]usage.View, 1)}}, "unmount"},
		{&inUseError{Segment: "A", Err: &dcss.Error{Op: dcss.OpRemove, Errno: unix.EBUSY}}, "fuser"},
		{&partError{Segment: "B", Device: dcss.Device{Name: "A"}}, "device: A"},
		{&referredError{Segment: "A"}, "--force"},
		{&dcss.HeldError{Device: dcss.Device{Name: "A$"}}, "detach 'A$'"},
		{&dcss.DeadlineError{Started: true}, "minutes"},
		{&dcss.DeadlineError{}, "lock file"},
		{dcss.ErrNoDriver, "modprobe"},
		{dcss.ErrNotAttached, "segment list"},
		{fs.ErrPermission, "root"},
		{&ldapmap.ConflictError{Source: "/x", DN: "cn=x", Err: fs.ErrExist}, "repeat"},
		{&leftError{}, "--force"},
		{&ldapmap.ConfigError{Source: "/x", Err: ldap.NewError(ldap.LDAPResultSizeLimitExceeded, fs.ErrInvalid)}, "Limits"},
		{&leftError{commands: []string{"levelfs assign default emacs=2"}}, "\nlevelfs assign default emacs=2"},
		{&edit.ChoiceError{}, "--central"},
		{&edit.AmbiguousNameError{Candidates: []string{"host:a", "user:a"}}, "host:a, user:a"},
		{&edit.AbsentError{Kind: edit.Host}, "--in"},
		{&edit.AbsentError{Kind: edit.User}, "make the user"},
		{&edit.NewComponentError{}, "--create-component"},
		{&edit.DigestError{}, "another name"},
		{&edit.ExistsError{Kind: "level"}, "another level"},
		{&edit.PlaceError{}, "--in"},
		{&edit.ReferredError{Profile: "p"}, "--profile p"},
		{errors.New("whatever"), ""},
	} {
		got := hintFor(errors.Join(fmt.Errorf("more: %w", c.err)))
		if c.want == "" && got != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: hint %q, want %q", c.err, got, c.want)
		}
	}
}
