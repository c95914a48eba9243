package test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

var (
	rob = testenv.User{Name: "rob", UID: 5001, GID: 5001}
	ann = testenv.User{Name: "ann", UID: 5002, GID: 5000}
)

// usersInventory gives rob and ann two levels of emacs, ann by a group, and everybody
// one gcc.
func usersInventory(s *testenv.Store) testenv.Inventory {
	files := func(level string) testenv.Files {
		return testenv.Files{"bin/emacs": "level " + level, "etc/conf": "delivered", "etc/old": "", "only-" + level: ""}
	}
	return testenv.Inventory{
		Layers: []testenv.Layer{
			s.Erofs("emacs-1", files("1")), s.Squashfs("emacs-2", files("2")), s.Ext4("gcc-12", testenv.Files{"version": "12"}),
		},
		Components: []testenv.Component{component("emacs", "1", "1", "2"), component("gcc", "12", "12")},
		Users:      []testenv.Caller{{Name: "rob"}, {Name: "ann"}},
		Groups:     []testenv.Caller{{Name: "testers", Users: []string{"ann"}, Assign: []string{"emacs=2"}}},
	}
}

// as runs a shell command as the user and checks what it prints.
func as(t *testing.T, m *testenv.Machine, u testenv.User, want, script string) {
	t.Helper()
	if got := m.RunAs(u, "sh", "-c", script); got.Exit != 0 || got.Stdout != want {
		t.Errorf("%s: %s: %v; want %q", u.Name, script, got, want)
	}
}

// deniedTo checks that the user may not.
func deniedTo(t *testing.T, m *testenv.Machine, u testenv.User, script string) {
	t.Helper()
	if got := m.RunAs(u, "sh", "-c", script); got.Exit == 0 || !strings.Contains(got.Stderr, "Permission denied") {
		t.Errorf("%s: %s: %v; want that it is denied", u.Name, script, got)
	}
}

// expireAll has automount unmount all that is below its mount point, its own mounts
// there included.
func expireAll(t *testing.T, a *testenv.Automount, sw string) {
	t.Helper()
	testenv.WaitFor(t, "nothing mounted below "+sw, func() error {
		a.Expire(sw)
		mounts, err := testenv.Mounts(sw)
		if err == nil && len(mounts) != 1 {
			err = fmt.Errorf("%d mounts", len(mounts))
		}
		return err
	})
}

// wantOwner checks whose everything in a tree is.
func wantOwner(t *testing.T, tree string, u testenv.User) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			return nil // overlayfs's mark of what was removed
		}
		n++
		if st.Uid != u.UID || st.Gid != u.GID {
			t.Errorf("%s is of %d:%d, want %d:%d", path, st.Uid, st.Gid, u.UID, u.GID)
		}
		return nil
	})
	if err != nil || n < 2 {
		t.Errorf("%s: %d files, %v", tree, n, err)
	}
}

// TestUsersTree: each user has the software to himself.
func TestUsersTree(t *testing.T) {
	for _, kind := range []string{"ldif", "ldap"} {
		t.Run(kind, func(t *testing.T) {
			testenv.Require(t, "root", "automount", "overlay", "erofs", "squashfs", "ext4")
			testUsersTree(t, kind)
		})
	}
}

func testUsersTree(t *testing.T, kind string) {
	m := testenv.NewMachine(t, "lnx01")
	m.AddUsers(rob, ann)
	inv := usersInventory(m.Store)
	if kind == "ldap" {
		slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
		m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	} else {
		m.WriteLDIF("all.ldif", inv.LDIF())
	}
	a, sw := startAutomount(t, m)
	his, hers := sw+"/by-user/rob", sw+"/by-user/ann"

	// The names are there without a mount.
	as(t, m, rob, "emacs\ngcc\n", "ls "+his)
	as(t, m, ann, "emacs\ngcc\n", "ls "+hers)
	if views := viewsBelow(t, sw); len(views) != 0 {
		t.Errorf("listing has mounted %q", views)
	}

	// Each one's level.
	as(t, m, rob, "level 1", "cat "+his+"/emacs/bin/emacs")
	as(t, m, ann, "level 2", "cat "+hers+"/emacs/bin/emacs")
	as(t, m, ann, "12", "cat "+hers+"/gcc/version")
	as(t, m, rob, "12", "cat "+his+"/gcc/version")
	wantFile(t, sw+"/emacs/bin/emacs", "level 1")
	wantFile(t, sw+"/gcc/version", "12")
	want := []string{
		"by-user/ann/emacs levelfs:emacs@2", "by-user/ann/gcc levelfs:gcc@12",
		"by-user/rob/emacs levelfs:emacs@1", "by-user/rob/gcc levelfs:gcc@12", "emacs levelfs:emacs@1", "gcc levelfs:gcc@12",
	}
	if views := viewsBelow(t, sw); !slices.Equal(views, want) {
		t.Errorf("views %q, want %q", views, want)
	}
	if options := viewOptions(t, his+"/emacs"); !slices.Contains(options, "nosuid") || !slices.Contains(options, "nodev") {
		t.Errorf("options %q", options)
	}
	// However many have it, an image is one device.
	loops, err := testenv.LoopDevices(m.Store.Dir)
	if err != nil || len(loops) != 3 {
		t.Errorf("loop devices %v, %v; want 3", loops, err)
	}

	// He can change all of it, as if it were his, and it is.
	as(t, m, rob, "", "cd "+his+"/emacs && echo mine >etc/conf && rm etc/old && mkdir d && echo private >d/private && chmod 600 bin/emacs")
	as(t, m, rob, "mine\nconf\n", "cd "+his+"/emacs && cat etc/conf && ls etc")
	as(t, m, rob, fmt.Sprintf("%d:%d\n", rob.UID, rob.GID), "stat -c %u:%g "+his+"/emacs/only-1") // not copied
	as(t, m, ann, "", "echo hers >"+hers+"/emacs/etc/conf")
	for _, u := range []testenv.User{rob, ann} {
		upper := m.UserPrivateDir(u.Name, "emacs") + "/upper"
		wantOwner(t, upper, u)
		if info, err := os.Stat(upper); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", upper, info, err)
		}
	}
	// Nobody else sees any of that, or gets in.
	as(t, m, ann, "hers\nconf\nold\n", "cd "+hers+"/emacs && cat etc/conf && ls etc")
	wantFile(t, sw+"/emacs/etc/conf", "delivered")
	for _, script := range []string{"ls " + his + "/emacs", "cat " + his + "/emacs/bin/emacs", "echo >" + his + "/emacs/x", "stat " + his + "/emacs/etc"} {
		deniedTo(t, m, ann, script)
	}
	deniedTo(t, m, rob, "cat "+hers+"/emacs/etc/conf")
	deniedTo(t, m, rob, "ls "+m.Path("/var/lib/levelfs/private"))
	deniedTo(t, m, ann, "ls "+m.UserPrivateDir("rob", "emacs"))

	// What status says is about each one's own level.
	status := m.RunLevelfs("status")
	for _, line := range []string{his + "/emacs  emacs@1  =", hers + "/emacs  emacs@2  ="} {
		if !strings.Contains(strings.Join(strings.Fields(status.Stdout), " "), strings.Join(strings.Fields(line), " ")) {
			t.Errorf("status %v\nwant %q", status, line)
		}
	}

	// All of it goes when it is idle, and what was private is there again.
	expireAll(t, a, sw)
	wantNothingLeft(t, sw, m.Store)
	as(t, m, rob, "mine\n", "cat "+his+"/emacs/etc/conf")
	as(t, m, rob, "private\n", "cat "+his+"/emacs/d/private")
	// As it does when automount is stopped, with the whole tree in place.
	if err := a.Stop(); err != nil {
		t.Error(err)
	}
	wantNothingLeft(t, sw, m.Store)
	if mounts, err := testenv.Mounts(sw); err != nil || len(mounts) != 0 {
		t.Errorf("mounts left: %v, %v", mounts, err)
	}
}

// sessionMap makes a map program of another name, which gives the level of whoever
// comes first, and automounts it.
func sessionMap(t *testing.T, m *testenv.Machine) (*testenv.Automount, string) {
	t.Helper()
	const name = "auto.levelfs.session"
	program := filepath.Join(m.Mkdir("libexec"), name)
	if err := os.Symlink(m.Map, program); err != nil {
		t.Fatal(err)
	}
	m.Configure(fmt.Sprintf("[maps.%q]\ncaller = \"user\"\n", name))
	dir := m.Mkdir("mine")
	return testenv.StartAutomount(t, m, dir+" program:"+program+" -n 1"), dir
}

// TestUsersSession: a map for users gives the level of the user who comes first.
func TestUsersSession(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs", "squashfs", "ext4")
	m := testenv.NewMachine(t, "lnx01")
	m.AddUsers(rob, ann)
	m.WriteLDIF("all.ldif", usersInventory(m.Store).LDIF())
	a, dir := sessionMap(t, m)
	view := dir + "/emacs"

	as(t, m, rob, "level 1", "cat "+view+"/bin/emacs")
	as(t, m, rob, "", "echo mine >"+view+"/etc/conf")
	wantOwner(t, m.UserPrivateDir("rob", "emacs")+"/upper", rob)
	// While it is mounted it is his, whoever comes.
	deniedTo(t, m, ann, "cat "+view+"/bin/emacs")
	expireAll(t, a, dir)
	// Automount reuses its answer for a second.
	testenv.WaitFor(t, "her level", func() error {
		got := m.RunAs(ann, "cat", view+"/bin/emacs")
		if got.Stdout != "level 2" {
			a.Expire(dir)
			return fmt.Errorf("%v", got)
		}
		return nil
	})
	as(t, m, ann, "delivered", "cat "+view+"/etc/conf")
	// A level by name is nobody's.
	as(t, m, ann, "level 1", "cat "+view+"@1/bin/emacs")
	as(t, m, rob, "level 1", "cat "+view+"@1/bin/emacs")
	if options := viewOptions(t, view+"@1"); !slices.Contains(options, "nosuid") || !slices.Contains(options, "ro") {
		t.Errorf("options %q", options)
	}

	// Whom automount cannot name gets nothing: neither root's level nor the host's.
	nobody := testenv.User{UID: 7777, GID: 7777}
	if got := m.RunAs(nobody, "cat", dir+"/gcc/version"); got.Exit == 0 || !strings.Contains(got.Stderr, "No such file") {
		t.Errorf("without an account: %v", got)
	}
	// Nor is there a users' tree in it.
	if _, err := testenv.ReadFile(dir + "/by-user/rob"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("by-user: %v", err)
	}
	for _, reason := range []string{"auto.levelfs.session: unknown caller", `key "by-user" is reserved`} {
		if !strings.Contains(a.Log(), reason) {
			t.Errorf("automount's log does not say %q", reason)
		}
	}
	expireAll(t, a, dir)
	wantNothingLeft(t, dir, m.Store)
}

// TestUsersNames: only a user's name leads anywhere in the users' tree.
func TestUsersNames(t *testing.T) {
	testenv.Require(t, "root", "automount", "overlay", "erofs", "squashfs", "ext4")
	m := testenv.NewMachine(t, "lnx01")
	toor := testenv.User{Name: "toor", UID: 0, GID: 0}
	local := testenv.User{Name: "local-only", UID: 5003, GID: 5003}
	m.AddUsers(rob, toor, local)
	m.WriteLDIF("all.ldif", usersInventory(m.Store).LDIF())
	a, sw := startAutomount(t, m)
	for _, name := range []string{
		"nosuch", "ROB", "Rob", "rob ", " rob", "rob,suid", "rob@host", "..rob", ".git", "$HOME", "&", "*", "rob*", "(uid=*)", "-fstype=tmpfs",
		"ro\nb", `ro"b`, `ro\b`, "rob:x", strings.Repeat("r", 65), strings.Repeat("r", 200), "5001", "host", "by-user",
	} {
		if _, err := testenv.ReadFile(filepath.Join(sw, "by-user", name, "emacs/bin/emacs")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("user %q: %v, want ENOENT", name, err)
		}
	}
	for _, reason := range []string{
		`user "nosuch" is neither in the inventory nor in /etc/passwd`, `user "ROB" is neither`, `invalid key ".git"`, `invalid key "ro\nb"`,
	} {
		if !strings.Contains(a.Log(), reason) {
			t.Errorf("automount's log does not say %q", reason)
		}
	}
	if views := viewsBelow(t, sw); len(views) != 0 {
		t.Errorf("views %q", views)
	}
	// Another name of root's is not a user, and writes nowhere.
	if _, err := testenv.ReadFile(sw + "/by-user/toor/emacs/bin/emacs"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("toor: %v", err)
	}
	// In the inventory but without an account: there is nobody to own a private layer.
	if _, err := testenv.ReadFile(sw + "/by-user/ann/emacs/bin/emacs"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no account: %v", err)
	}
	for _, dir := range []string{"toor", "ann"} {
		if _, err := os.Stat(m.UserPrivateDir(dir, "emacs")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("private layer of %s: %v", dir, err)
		}
	}
	// Root itself is a user like others, and an account without an entry has what the
	// host's rules give.
	wantFile(t, sw+"/by-user/root/emacs/bin/emacs", "level 1")
	as(t, m, local, "level 1", "cat "+sw+"/by-user/local-only/emacs/bin/emacs")
	expireAll(t, a, sw)
	wantNothingLeft(t, sw, m.Store)
}

// TestUsersDown: known users keep their last tree and its levels without a server, and
// one's answers are not another's.
func TestUsersDown(t *testing.T) {
	testenv.Require(t, "root", "automount", "slapd", "overlay", "erofs", "squashfs", "ext4")
	m := testenv.NewMachine(t, "lnx01")
	m.AddUsers(rob, ann)
	inv := usersInventory(m.Store)
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	source := testenv.LDAPSource(slapd.Base, slapd.URI)
	m.Configure(source)
	a, sw := startAutomount(t, m)
	his := sw + "/by-user/rob"
	as(t, m, rob, "level 1", "cat "+his+"/emacs/bin/emacs")
	expireAll(t, a, sw)
	if err := slapd.Stop(); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "an answer from the cache", func() error {
		as(t, m, rob, "level 1", "cat "+his+"/emacs/bin/emacs")
		expireAll(t, a, sw)
		if !strings.Contains(a.Log(), "giving the last known levels") {
			return errors.New("the map was not asked")
		}
		return nil
	})
	as(t, m, rob, "emacs\ngcc\n", "ls "+his)
	as(t, m, rob, "12", "cat "+his+"/gcc/version") // for the first time
	if got := m.RunAs(ann, "ls", sw+"/by-user/ann"); got.Exit == 0 {
		t.Errorf("a tree that was never asked for: %v", got)
	}
	expireAll(t, a, sw)

	// Once it is known that no server answers, nobody waits.
	r := m.Run(m.UserMap, "rob")
	want := "/emacs -fstype=levelfs,rw,caller=rob :emacs@1 /gcc -fstype=levelfs,rw,caller=rob :gcc@12\n"
	if r.Exit != 0 || r.Stdout != want || !strings.Contains(r.Stderr, "auto.levelfs.user: warning: ") {
		t.Errorf("%v; want %q", r, want)
	}
	if limit := time.Second; r.Took > limit { // the aim is 50 ms
		t.Errorf("it took %v", r.Took)
	}
	wantRefusal(t, m.Run(m.UserMap, "ann"), "not available", "not in the cache")
	old := time.Now().Add(-31 * 24 * time.Hour)
	if err := os.Chtimes(m.Path("var/cache/levelfs/trees/rob@lnx01"), old, old); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, m.Run(m.UserMap, "rob"), "older than 720h")
}

// TestUsersMany: a user with hundreds of components, more than a server returns at
// once.
func TestUsersMany(t *testing.T) {
	testenv.Require(t, "root", "automount", "slapd", "overlay", "erofs", "squashfs", "ext4")
	m := testenv.NewMachine(t, "lnx01")
	m.AddUsers(rob)
	inv := usersInventory(m.Store)
	for i := range 600 {
		c := component(fmt.Sprintf("c%03d", i), "1", "1")
		c.Levels[0].Layers = []string{"emacs-1"}
		inv.Components = append(inv.Components, c)
	}
	slapd := startSlapd(t, testenv.SlapdOptions{}, inv)
	m.Configure(testenv.LDAPSource(slapd.Base, slapd.URI))
	before, err := slapd.Searches()
	if err != nil {
		t.Fatal(err)
	}
	if r := m.Run(m.UserMap, "rob"); r.Exit != 0 || strings.Count(r.Stdout, " :") != 602 || r.Stderr != "" {
		t.Fatalf("%d components: %v", strings.Count(r.Stdout, " :"), r)
	}
	after, err := slapd.Searches()
	if err != nil {
		t.Fatal(err)
	}
	if n := after - before; n > 100 {
		t.Errorf("%d searches", n)
	}
	a, sw := startAutomount(t, m)
	if got := m.RunAs(rob, "ls", sw+"/by-user/rob"); strings.Count(got.Stdout, "\n") != 602 {
		t.Errorf("%d components: exit %d, %s", strings.Count(got.Stdout, "\n"), got.Exit, got.Stderr)
	}
	for _, name := range []string{"c000", "c299", "c599", "emacs"} {
		as(t, m, rob, "level 1", "cat "+sw+"/by-user/rob/"+name+"/bin/emacs")
	}
	if views := viewsBelow(t, sw); len(views) != 4 {
		t.Errorf("%d views: %q", len(views), views)
	}
	expireAll(t, a, sw)
	wantNothingLeft(t, sw, m.Store)
}

// BenchmarkUsersDown is what a user's tree costs while it is known that no server
// answers.
func BenchmarkUsersDown(b *testing.B) {
	testenv.Require(b, "root", "erofs", "squashfs", "ext4")
	m := testenv.NewMachine(b, "lnx01")
	m.WriteLDIF("all.ldif", usersInventory(m.Store).LDIF())
	if r := m.Run(m.UserMap, "rob"); r.Exit != 0 {
		b.Fatal(r)
	}
	m.Configure(testenv.LDAPSource(testenv.BaseDN, "ldapi:///nonexistent/ldapi"))
	for b.Loop() {
		if r := m.Run(m.UserMap, "rob"); r.Exit != 0 || !strings.Contains(r.Stderr, "last known levels") {
			b.Fatal(r)
		}
	}
}
