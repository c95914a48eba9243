package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/mounter"
)

// forRob are the options of a mount for him.
const forRob = "caller=rob,uid=5001,gid=5001"

// TestMountUser: the helper by hand, with what the map tells it and without.
func TestMountUser(t *testing.T) {
	r := newRig(t)
	r.AddUsers(rob)
	one, two := r.Store.Erofs("one", testenv.Files{"file": "one"}), r.Store.Erofs("two", testenv.Files{"file": "two"})
	r.WriteLDIF("all.ldif", testenv.Inventory{
		Layers: []testenv.Layer{one, two},
		Components: []testenv.Component{{Name: "emacs", Default: "1", Levels: []testenv.Level{
			{Name: "1", Layers: []string{"one"}}, {Name: "2", Layers: []string{"two"}}}}},
		Users: []testenv.Caller{{Name: "rob", Assign: []string{"emacs=2"}}},
	}.LDIF())
	private := r.UserPrivateDir("rob", "emacs")

	// Without a level it is his that counts; his account is looked up.
	r.mountAt("emacs", r.target, "-o", "caller=rob,suid")
	r.want(map[string]string{"file": "two"})
	if options := strings.Join(viewOptions(t, r.target), ","); !strings.Contains(options, "nosuid") || !strings.Contains(options, "upperdir="+private+"/upper") {
		t.Errorf("options %s", options)
	}
	if got := r.RunAs(rob, "sh", "-c", "echo mine >"+r.target+"/file && cat "+r.target+"/file"); got.Stdout != "mine\n" {
		t.Errorf("%v", got)
	}
	wantOwner(t, private+"/upper", rob)
	// What is his is in use once, like the host's; the host's is another.
	other := r.Mkdir("sw/other")
	r.refused(32, []string{"emacs", other, "-o", forRob}, private, "in use by the view at")
	r.mountAt("emacs", other)
	r.wantAt(other, map[string]string{"file": "one"})
	r.umount(other, r.target)

	// Another level, by name.
	r.mountAt("emacs@1", r.target, "-o", forRob)
	r.want(map[string]string{"file": "mine\n"})
	r.umount(r.target)
	// The layers as they were delivered, without anything of his.
	r.mountAt("emacs@1", r.target, "-o", "ro,caller=rob")
	r.want(map[string]string{"file": "one"})
	r.umount(r.target)

	// The account was deleted, and its uid, or its name, is another's now: what is in
	// the private layer is not theirs.
	before := describe(t, private+"/upper/file", "file")
	for _, c := range []struct{ options, want string }{
		{"caller=rob,uid=5005,gid=5001", fmt.Sprintf("private layer %q belongs to uid 5001, but the caller has uid 5005", private)},
		{"caller=rob,uid=0,gid=0", `user "rob" has uid 0`},
		{"caller=nosuch-user", `user "nosuch-user" is neither`},
	} {
		r.wantRefusal(r.RunHelper("emacs", r.target, "-o", c.options), 32, c.want)
	}
	r.wantRefusal(r.RunHelper("emacs@1", r.target, "-o", "caller=nosuch-user"), 32, "has no account on this machine")
	if now := describe(t, private+"/upper/file", "file"); now != before {
		t.Errorf("his file is now %s, and was %s", now, before)
	}
	// By his own number he gets it still, though his group is another.
	r.mountAt("emacs", r.target, "-o", "caller=rob,uid=5001,gid=5000")
	r.want(map[string]string{"file": "mine\n"})
	r.umount(r.target)
}

// TestMountMapped: whose files of a layer are in a user's view. What is root's is his,
// what is another's stays the other's, and what has his own number is nobody's.
func TestMountMapped(t *testing.T) {
	r := newRig(t)
	testenv.Require(t, "squashfs", "ext4")
	r.AddUsers(rob, ann)
	files := func(name string) testenv.Files {
		return testenv.Files{"of-root-" + name: "root's", "of-ann-" + name: "ann's", "of-rob-" + name: "number"}
	}
	// A Store's images are all root's; the directory has files of three owners.
	tree := r.Store.Directory("tree", files("tree"))
	for name, owner := range map[string]int{"of-ann-tree": int(ann.UID), "of-rob-tree": int(rob.UID)} {
		if err := os.Lchown(filepath.Join(r.Store.Dir, "tree", name), owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	layers := []testenv.Layer{tree, r.Store.Erofs("one", files("one")), r.Store.Squashfs("two", files("two")), r.Store.Ext4("three", files("three"))}
	for _, mount2 := range []bool{false, true} {
		plan := r.plan(&mounter.Private{
			Dir: r.UserPrivateDir("rob", fmt.Sprint("mount2-", mount2)), Owner: &mounter.Owner{UID: rob.UID, GID: rob.GID},
		}, layers...)
		a := mounter.Applier{Mount2: mount2, Note: func(text string) { t.Error(text) }}
		if err := a.Apply(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]uint32{
			"of-root-tree": rob.UID, "of-ann-tree": ann.UID, "of-rob-tree": 65534,
			"of-root-one": rob.UID, "of-root-two": rob.UID, "of-root-three": rob.UID, ".": rob.UID,
		} {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(r.target, name), &st); err != nil || st.Uid != want {
				t.Errorf("mount2=%v: %s is of %d, %v; want %d", mount2, name, st.Uid, err, want)
			}
		}
		script := "cd " + r.target + " && for f in of-root-*; do echo changed >$f && chmod 640 $f || exit 1; done && rm of-root-one && mv of-root-two renamed"
		if got := r.RunAs(rob, "sh", "-c", script); got.Exit != 0 {
			t.Errorf("mount2=%v: %v", mount2, got)
		}
		for _, name := range []string{"of-ann-tree", "of-rob-tree"} {
			if got := r.RunAs(rob, "sh", "-c", "echo changed >"+r.target+"/"+name); got.Exit == 0 {
				t.Errorf("mount2=%v: %s was changed", mount2, name)
			}
		}
		wantOwner(t, mounter.Upper(plan.Private.Dir), rob)
		r.umount(r.target)
	}
	// The layer itself is as it was.
	r.wantAt(filepath.Join(r.Store.Dir, "tree"), map[string]string{"of-root-tree": "root's"})
}

// TestMountUnmapped: where a layer cannot be mapped the view works, root's files stay
// root's, and it is said.
func TestMountUnmapped(t *testing.T) {
	r := newRig(t)
	r.AddUsers(rob)
	// Overlayfs is no file system that can be mapped.
	base, mnt := r.Mkdir("base"), r.Mkdir("store/on-overlay")
	r.write(base+"/file", "delivered")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", base, r.Mkdir("upper"), r.Mkdir("work"))
	if err := unix.Mount("test", mnt, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(mnt, 0); err != nil {
			t.Error(err)
		}
	}()
	r.WriteConfig(fmt.Sprintf("host = %q\nmap = %q\nimages = [%q]\ndirectories = [%q]\n", r.Host, r.Map, r.Store.Dir, filepath.Dir(mnt)))
	r.level("1", testenv.Layer{Name: "on-overlay", FSType: "dir", Images: []string{"on-overlay"}},
		r.Store.Erofs("one", testenv.Files{"mapped": "delivered"}))
	got := r.RunHelper("emacs", r.target, "-v", "-o", "caller=rob")
	if got.Exit != 0 || !strings.Contains(got.Stderr, `layer "on-overlay": files stay root's`) {
		t.Fatalf("%v", got)
	}
	r.want(map[string]string{"file": "delivered", "mapped": "delivered"})
	if got := r.RunAs(rob, "sh", "-c", "echo mine >"+r.target+"/new && echo mine >"+r.target+"/mapped"); got.Exit != 0 {
		t.Errorf("%v", got)
	}
	deniedTo(t, r.Machine, rob, "echo mine >"+r.target+"/file")
	wantOwner(t, r.UserPrivateDir("rob", "emacs")+"/upper", rob)
	r.umount(r.target)
}

// TestMountUserFails: what overlayfs refuses for another reason than the mapped layers
// is refused without them, too, and that is what is said.
func TestMountUserFails(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	place := r.Mkdir("place") // no upper directory can lie on overlayfs
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", r.Mkdir("base"), r.Mkdir("upper"), r.Mkdir("work"))
	if err := unix.Mount("test", place, "overlay", 0, options); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(place, 0); err != nil {
			t.Error(err)
		}
	}()
	for _, mount2 := range []bool{false, true} {
		plan := r.plan(&mounter.Private{Dir: fmt.Sprint(place, "/", mount2), Owner: &mounter.Owner{UID: rob.UID, GID: rob.GID}}, one)
		a := mounter.Applier{Mount2: mount2, Note: func(text string) { t.Error(text) }}
		r.sameMounts(func() {
			err := a.Apply(t.Context(), plan)
			if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "overlay: ") {
				t.Errorf("mount2=%v: %v", mount2, err)
			}
		})
	}
	r.wantNoLoops()
}

// TestMountAccount: an account that /etc/passwd does not have is asked of the name
// service, once.
func TestMountAccount(t *testing.T) {
	r := newRig(t)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	bin, log := r.Mkdir("bin"), r.Path("asked")
	getent := "#!/bin/sh\necho \"$*\" >>" + log + "\necho 'far:x:6001:6002:From Afar:/home/far:/bin/sh'\n"
	if err := os.WriteFile(bin+"/getent", []byte(getent), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for range 2 {
		r.mountAt("emacs@1", r.target, "-o", "caller=far")
		wantFile(t, log, "passwd -- far\n")
		var st unix.Stat_t
		if err := unix.Stat(r.target, &st); err != nil || st.Uid != 6001 || st.Gid != 6002 || st.Mode&0o7777 != 0o700 {
			t.Errorf("%d:%d, mode %o, %v", st.Uid, st.Gid, st.Mode, err)
		}
		r.umount(r.target)
	}
	// A number is no name, though getent finds somebody by it.
	r.wantRefusal(r.RunHelper("emacs@1", r.target, "-o", "caller=6001"), 32, `user "6001" has no account`)
	if _, err := os.Stat(r.UserPrivateDir("6001", "emacs")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestMountTypedUser: the printed commands make the same view for a user. Whether
// mount(8) can map the layers depends on its release.
func TestMountTypedUser(t *testing.T) {
	r := newRig(t)
	r.AddUsers(rob)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}), r.Store.Erofs("two", testenv.Files{"two": "two"}))
	r.mount("-o", "caller=rob") // the kernel shows what is new about an upper layer once
	r.umount(r.target)
	r.mount("-o", "caller=rob")
	byHelper := viewLine(t, r.target)
	r.umount(r.target)
	if got := r.typed(r.target, "--user", "rob"); got.Exit != 0 || got.Stdout != "" || got.Stderr != "" {
		t.Fatalf("%v", got)
	}
	if now := viewLine(t, r.target); now != byHelper {
		t.Errorf("typed\n%s\nby the helper\n%s", now, byHelper)
	}
	r.want(map[string]string{"file": "one", "two": "two"})
	as(t, r.Machine, rob, "", "echo mine >"+r.target+"/new")
	r.umount(r.target)
	// The first time, when there is no private layer.
	if err := os.RemoveAll(r.UserPrivateDir("rob", "emacs")); err != nil {
		t.Fatal(err)
	}
	if got := r.typed(r.target, "--user", "rob"); got.Exit != 0 {
		t.Fatalf("%v", got)
	}
	as(t, r.Machine, rob, "", "echo mine >"+r.target+"/new")
	wantOwner(t, r.UserPrivateDir("rob", "emacs")+"/upper", rob)
	r.umount(r.target)
}
