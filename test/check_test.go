package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/check"
	"github.com/levelfs/levelfs/internal/testenv"
)

// checkRig is a rig whose tree is served, as far as check can see, by nobody: views are
// mounted by hand.
func checkRig(t *testing.T) (*rig, testenv.Inventory) {
	t.Helper()
	r := newRig(t)
	r.configureCheck("")
	one := r.Store.Erofs("emacs-1", testenv.Files{"bin/emacs": "level 1"})
	two := r.Store.Erofs("emacs-2", testenv.Files{"bin/emacs": "level 2"})
	inv := testenv.Inventory{
		Layers:     []testenv.Layer{one, two},
		Components: []testenv.Component{component("emacs", "1", "1", "2")},
		Hosts:      []testenv.Caller{{Name: "lnx01", Assign: []string{"emacs=1"}}},
	}
	r.WriteLDIF("all.ldif", inv.LDIF())
	r.mount()
	t.Cleanup(func() {
		for unix.Unmount(r.target, unix.UMOUNT_NOFOLLOW) == nil {
		}
		r.wantNoLoops()
	})
	return r, inv
}

func (r *rig) configureCheck(text string) {
	r.t.Helper()
	r.Configure(fmt.Sprintf("tree = %q\n%s", r.Path("sw"), text))
}

// check runs levelfs check and returns its report.
func (r *rig) check(args ...string) (check.Report, testenv.Result) {
	r.t.Helper()
	got := r.RunLevelfs(append([]string{"check", "--json"}, args...)...)
	var report check.Report
	if err := json.Unmarshal([]byte(got.Stdout), &report); err != nil {
		r.t.Fatalf("%v: %v", err, got)
	}
	return report, got
}

// wantFindings checks that a check finds these, each CODE OBJECT, with words in its text,
// and ends with the status that they make.
func (r *rig) wantFindings(status int, want ...string) check.Report {
	r.t.Helper()
	report, got := r.check()
	found := []string{}
	for _, f := range report.Findings {
		found = append(found, string(f.Code)+" "+f.Object)
	}
	slices.Sort(found)
	slices.Sort(want)
	if !slices.Equal(found, want) && len(found)+len(want) > 0 || got.Exit != status {
		r.t.Errorf("found %q, want %q, status %d, unchecked %v: %v", found, want, status, report.Unchecked, got)
	}
	return report
}

// healthy checks that there is nothing to be said.
func (r *rig) healthy() {
	r.t.Helper()
	if got := r.RunLevelfs("check"); got.Exit != 0 || got.Stdout+got.Stderr != "" {
		r.t.Errorf("of a healthy machine: %v", got)
	}
}

// Where something is dead a check has deadTime, of which one look may take a third; with
// its default of a minute it would not end within deadLimit.
const (
	deadTime  = "check-time = \"9s\"\n"
	deadLimit = 30 * time.Second
)

func TestCheckLevels(t *testing.T) {
	r, inv := checkRig(t)
	r.healthy()

	inv.Hosts[0].Assign = []string{"emacs=2"}
	r.WriteLDIF("all.ldif", inv.LDIF())
	report := r.wantFindings(1, "LV201 "+r.target)
	if f := report.Findings[0]; !strings.Contains(f.Text, "emacs@2 is wanted, and emacs@1 is mounted since 20") {
		t.Errorf("%+v", f)
	}
	if report.Views != 1 || report.OtherLevel != 1 {
		t.Errorf("%+v", report)
	}

	// Who keeps the old one from being unmounted.
	program := filepath.Join(r.target, "sh")
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, shell, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", "read line; true")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	report = r.wantFindings(1, "LV201 "+r.target)
	if text := report.Findings[0].Text; !strings.HasSuffix(text, fmt.Sprintf("in use by process %d", cmd.Process.Pid)) {
		t.Errorf("%q", text)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}

	// The wanted level's image is not there.
	image := filepath.Join(r.Store.Dir, "emacs-2.erofs")
	if err := os.Rename(image, image+".away"); err != nil {
		t.Fatal(err)
	}
	r.wantFindings(2, "LV201 "+r.target, "LV210 emacs")
	if err := os.Rename(image+".away", image); err != nil {
		t.Fatal(err)
	}

	inv.Components[0].Levels[1].State = "retired"
	r.WriteLDIF("all.ldif", inv.LDIF())
	r.wantFindings(2, "LV202 emacs")

	inv.Components[0].Levels[1].State = ""
	inv.Hosts[0].Assign = nil
	r.WriteLDIF("all.ldif", inv.LDIF())
	r.healthy()
}

// TestCheckKeys: of other components nothing is said.
func TestCheckKeys(t *testing.T) {
	r, inv := checkRig(t)
	inv.Components = append(inv.Components, component("gcc", "1", "1"))
	inv.Layers = append(inv.Layers, testenv.Layer{Name: "gcc-1", FSType: "erofs", Digest: inv.Layers[0].Digest, Images: []string{"gone"}})
	inv.Hosts[0].Assign = []string{"emacs=2", "gcc=1"}
	r.WriteLDIF("all.ldif", inv.LDIF())
	r.wantFindings(2, "LV201 "+r.target, "LV210 gcc")
	for _, c := range []struct {
		key    string
		status int
		code   string
	}{{"emacs", 1, "LV201"}, {"gcc", 2, "LV210"}, {"gcc@1", 2, "LV210"}, {"emacs@2", 0, ""}, {"nothing", 2, "LV202"}} {
		report, got := r.check(c.key)
		if got.Exit != c.status || len(report.Findings) > 1 || c.code != "" && (len(report.Findings) == 0 || string(report.Findings[0].Code) != c.code) {
			t.Errorf("%s: %v", c.key, got)
		}
	}
	for _, args := range [][]string{{"../x"}, {"--json", "--nagios"}, {"--time", "-1s"}, {"emacs", "--prometheus", "/x"}} {
		if got := r.RunLevelfs(append([]string{"check"}, args...)...); got.Exit != 64 {
			t.Errorf("%q: %v", args, got)
		}
	}
}

// TestCheckImages: images that are not their layers, by a look and by reading them.
func TestCheckImages(t *testing.T) {
	r, inv := checkRig(t)
	image := filepath.Join(r.Store.Dir, "emacs-1.erofs")
	good, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	// By rename: what is mounted is not to be disturbed.
	replace := func(content []byte) {
		t.Helper()
		r.write(image+".new", string(content))
		if err := os.Rename(image+".new", image); err != nil {
			t.Fatal(err)
		}
	}
	changed := slices.Clone(good)
	changed[1024+0x30] ^= 1 // the UUID
	replace(changed)
	r.wantFindings(2, "LV211 "+image)
	replace(append(slices.Clone(good), 0))
	r.wantFindings(2, "LV211 "+image)
	replace(make([]byte, len(good)))
	r.wantFindings(2, "LV211 "+image)

	changed = slices.Clone(good)
	changed[len(changed)-1] ^= 1
	replace(changed)
	r.healthy() // superblock and size are right
	state := r.Path("var/cache/levelfs/check/deep.json")
	for range 2 {
		report, got := r.check("--deep")
		if got.Exit != 2 || !strings.Contains(got.Stdout, "digest is sha256:") || len(report.Unchecked) > 0 {
			t.Errorf("--deep: %v", got)
		}
	}
	replace(good)
	for _, f := range mustCheck(r, "--deep").Findings {
		if f.Code == "LV211" {
			t.Errorf("%+v", f)
		}
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("a whole pass leaves its state: %v", err)
	}

	// Interrupted, it says so, and keeps how far it came.
	big := r.Store.Built("big", testenv.Files{"file": "content"}) // of 2 MiB: two reads
	inv.Layers = append(inv.Layers, big)
	inv.Components = append(inv.Components, testenv.Component{Name: "big", Default: "1", Levels: []testenv.Level{{Name: "1", Layers: []string{"big"}}}})
	inv.Hosts[0].Assign = append(inv.Hosts[0].Assign, "big=1")
	r.WriteLDIF("all.ldif", inv.LDIF())
	r.configureCheck("check-rate = \"1KiB\"\n")
	report, got := r.check("big", "--deep", "--time", "1s")
	if got.Exit != 3 || len(report.Unchecked) != 1 || !strings.Contains(report.Unchecked[0].What, "bytes of the layer images") {
		t.Errorf("interrupted: %v", got)
	}
	if text, err := os.ReadFile(state); err != nil || !strings.Contains(string(text), `"offset":1048576`) {
		t.Errorf("state %q, %v", text, err)
	}
	r.configureCheck("")
	if report, got := r.check("big", "--deep"); len(report.Unchecked) > 0 || strings.Contains(got.Stdout, "LV211") {
		t.Errorf("resumed: %v", got)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("a whole pass leaves its state: %v", err)
	}
}

func mustCheck(r *rig, args ...string) check.Report {
	r.t.Helper()
	report, _ := r.check(args...)
	return report
}

// TestCheckMounts: what was done to mounts by hand, or was left by something that was
// interrupted.
func TestCheckMounts(t *testing.T) {
	r, _ := checkRig(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	tmpfs := r.Mkdir("sw/tmp")
	must(unix.Mount("tmpfs", tmpfs, "tmpfs", 0, ""))
	r.wantFindings(1, "LV203 "+tmpfs)
	r.Umount(tmpfs)

	inside := filepath.Join(r.target, "bin")
	must(unix.Mount("tmpfs", inside, "tmpfs", 0, ""))
	r.wantFindings(2, "LV203 "+inside, "LV208 "+inside)
	r.Umount(inside)

	must(unix.Mount("", r.target, "", unix.MS_REMOUNT|unix.MS_NODEV|unix.MS_RDONLY, ""))
	r.wantFindings(2, "LV206 "+r.target)
	must(unix.Mount("", r.target, "", unix.MS_REMOUNT|unix.MS_NODEV, ""))
	r.healthy()

	// A mount by hand: other options, and a private layer elsewhere.
	lower, upper, work := r.Mkdir("x/lower"), r.Mkdir("x/upper"), r.Mkdir("x/work")
	other := r.Mkdir("sw/other")
	must(unix.Mount("levelfs:emacs@1", other, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work+",metacopy=on,redirect_dir=on"))
	report := r.wantFindings(2, "LV204 "+other, "LV204 "+other, "LV204 "+other, "LV205 "+other)
	if text := fmt.Sprint(report.Findings); !strings.Contains(text, "metacopy=on") || !strings.Contains(text, "redirect_dir=on") || !strings.Contains(text, "with dev") {
		t.Errorf("%v", text)
	}
	r.Umount(other)

	// Two views of ours, one on the other.
	must(unix.Mount("levelfs:emacs@1", r.target, "overlay", unix.MS_RDONLY|unix.MS_NODEV,
		"lowerdir="+lower+":"+upper+",index=off,metacopy=off,redirect_dir=nofollow,xino=off,nfs_export=off"))
	r.wantFindings(2, "LV207 "+r.target)
	r.Umount(r.target)
	r.healthy()
}

// TestCheckPrivate: private layers that belong to nothing and nobody.
func TestCheckPrivate(t *testing.T) {
	r, _ := checkRig(t)
	dir := func(elem ...string) string {
		t.Helper()
		path := r.Path(append([]string{"var/lib/levelfs/private"}, elem...)...)
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	r.AddUsers(rob)
	old, robs, nobodys := dir("host", "old"), dir("user", "rob", "emacs"), dir("user", "nobody-here", "emacs")
	r.wantFindings(1, "LV230 "+old, "LV231 "+nobodys)
	for _, d := range []string{old, filepath.Dir(nobodys)} {
		if err := os.RemoveAll(d); err != nil {
			t.Fatal(err)
		}
	}
	r.healthy()
	unfinished := dir("user", "rob", "emacs", "upper.new")
	r.healthy() // a mount may be at it
	then := time.Now().Add(-time.Hour)
	if err := os.Chtimes(unfinished, then, then); err != nil {
		t.Fatal(err)
	}
	r.wantFindings(1, "LV232 "+filepath.Join(robs, "upper.new"))
}

// TestCheckNoWrites: a file system of private layers has become read-only, and nothing that is
// mounted tells. A read-only mount is none of it, nor what no private layer is on.
func TestCheckNoWrites(t *testing.T) {
	r, _ := checkRig(t)
	private := r.Mkdir("var/lib/levelfs/private")
	mount := func(source, target, fstype string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, fstype, flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	mount("tmpfs", private, "tmpfs", 0)
	defer r.Umount(private)
	if err := os.Chmod(private, 0o700); err != nil {
		t.Fatal(err)
	}
	r.healthy()
	mount("", private, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY)
	r.healthy()
	mount("", private, "", unix.MS_REMOUNT|unix.MS_RDONLY)
	r.wantFindings(2, "LV234 "+private)
	mount("", private, "", unix.MS_REMOUNT)
	host := r.Mkdir("var/lib/levelfs/private/host")
	mount("", private, "", unix.MS_REMOUNT|unix.MS_RDONLY)
	r.wantFindings(2, "LV234 "+private)
	mount("tmpfs", host, "tmpfs", 0)
	defer r.Umount(host)
	r.healthy()
}

// TestCheckRights: files that others could change or read.
func TestCheckRights(t *testing.T) {
	r, _ := checkRig(t)
	secret := r.Path("etc/levelfs/password")
	r.write(secret, "secret")
	config, err := os.ReadFile(r.Path("etc/levelfs/levelfs.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path      string
		bad, good os.FileMode
		code      string
	}{
		{r.Path("etc/levelfs/levelfs.toml"), 0o664, 0o644, "LV250"},
		{r.Path("var/lib/levelfs/private"), 0o750, 0o700, "LV251"},
		{r.Path("var/cache/levelfs"), 0o755, 0o700, "LV252"},
	} {
		if err := os.Chmod(c.path, c.bad); err != nil {
			t.Fatal(err)
		}
		r.wantFindings(2, c.code+" "+c.path)
		if err := os.Chmod(c.path, c.good); err != nil {
			t.Fatal(err)
		}
		r.healthy()
	}
	r.WriteConfig(string(config) + fmt.Sprintf("[[source]]\ntype = \"ldif\"\npath = %q\n", r.InventoryDir()) +
		fmt.Sprintf("[[source]]\ntype = \"ldap\"\nuri = [\"ldapi:///nowhere\"]\nbase = \"dc=x\"\nbind-dn = \"cn=x\"\npassword-file = %q\n", secret))
	report, _ := r.check()
	if !strings.Contains(fmt.Sprint(report.Findings), "LV253 critical "+secret) {
		t.Errorf("%+v", report)
	}
}

// TestCheckAutofs: what automount needs.
func TestCheckAutofs(t *testing.T) {
	testenv.Require(t, "automount")
	r, _ := checkRig(t)
	r.Umount(r.target)
	for _, dir := range []string{"etc/auto.master.d", "sbin"} {
		r.Mkdir(dir)
	}
	sw := r.Path("sw")
	r.write(r.Path("etc/auto.master"), "# +dir:/etc/auto.master.d\n+auto.master\n")
	r.write(r.Path("etc/auto.master.d/levelfs.autofs"), sw+"  program:"+r.Path("no/map")+"\n")
	r.wantFindings(2, "LV260 "+r.Path("no/map"), "LV261 "+r.Path("etc/auto.master"), "LV262 mount.levelfs", "LV263 "+sw)

	r.write(r.Path("etc/auto.master"), "+dir:/etc/auto.master.d\n")
	r.write(r.Path("etc/auto.master.d/levelfs.autofs"), sw+"  program:"+r.Map+"\n")
	if err := os.Symlink(r.Helper, r.Path("sbin/mount.levelfs")); err != nil {
		t.Fatal(err)
	}
	r.wantFindings(2, "LV263 "+sw)
	a, _ := startAutomount(t, r.Machine)
	r.healthy()
	wantFile(t, filepath.Join(r.target, "bin/emacs"), "level 1")
	r.healthy()

	r.configureCheck(deadTime)
	// automount that does not run any more, but has not ended: everything else is
	// checked, and what waits for it is given up.
	if err := syscall.Kill(a.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testenv.WaitFor(t, "a stopped automount", func() error { return allStopped(a.PID()) })
	report, got := r.check()
	if err := syscall.Kill(a.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got.Exit != 3 || len(report.Unchecked) != 1 || !strings.Contains(report.Unchecked[0].What, "automount at "+sw) || got.Took > deadLimit {
		t.Errorf("stopped automount: %v, %v", got, got.Took)
	}
	a.Expire(r.target)
}

// allStopped is nil when every thread of the process is: a signal takes its time.
func allStopped(pid int) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("no threads: %v", err)
	}
	for _, thread := range threads {
		text, err := os.ReadFile(thread)
		if err != nil || !strings.Contains(string(text), ") T ") {
			return fmt.Errorf("%s: %q, %v", thread, text, err)
		}
	}
	return nil
}

// TestCheckDead: a server that hangs and a view whose disk fails do not hang a check.
func TestCheckDead(t *testing.T) {
	r, _ := checkRig(t)
	addr, stop, err := testenv.SilentServer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	r.configureCheck(deadTime + "[[source]]\ntype = \"ldap\"\nuri = [\"ldap://" + addr + "\"]\nbase = \"dc=x\"\n")
	report, got := r.check()
	if got.Exit != 3 || len(report.Unchecked) != 1 || report.Unchecked[0].What != "inventory" || got.Took > deadLimit || report.Views != 1 {
		t.Errorf("silent server: %v, %v", got, got.Took)
	}
	r.configureCheck(deadTime)
	r.healthy()

	image := filepath.Join(r.Store.Dir, "emacs-1.erofs")
	if err := os.Truncate(image, 2048); err != nil {
		t.Fatal(err)
	}
	r.write("/proc/sys/vm/drop_caches", "3")
	report, got = r.check()
	if got.Exit != 3 || len(report.Unchecked) != 1 || report.Unchecked[0].What != "view "+r.target || got.Took > deadLimit ||
		len(report.Findings) != 1 || report.Findings[0].Code != "LV211" {
		t.Errorf("truncated image: %v, %v", got, got.Took)
	}
}

// TestCheckDown: the map's note that no server answers.
func TestCheckDown(t *testing.T) {
	r, _ := checkRig(t)
	r.healthy()
	if got := r.RunMap("emacs"); got.Exit != 0 {
		t.Fatal(got)
	}
	down := r.Path("var/cache/levelfs/down")
	r.write(down, "nobody answers\n")
	past := time.Now().Add(-25 * 24 * time.Hour)
	if err := os.Chtimes(r.Path("etc/levelfs/levelfs.toml"), past, past); err != nil {
		t.Fatal(err)
	}
	r.wantFindings(1, "LV240 inventory")
	answer := r.Path("var/cache/levelfs/answers/lnx01/emacs")
	if err := os.Chtimes(answer, past, past); err != nil {
		t.Fatal(err)
	}
	r.wantFindings(2, "LV240 inventory", "LV241 emacs")
}

// TestCheckOutput: the lines for Nagios, the file for Prometheus, and the lock.
func TestCheckOutput(t *testing.T) {
	r, inv := checkRig(t)
	got := r.RunLevelfs("check", "--nagios")
	if got.Exit != 0 || !strings.HasPrefix(got.Stdout, "LEVELFS OK - 1 views | views=1;;;0 ") || strings.Count(got.Stdout, "\n") != 1 {
		t.Error(got)
	}
	inv.Hosts[0].Assign = []string{"emacs=2"}
	r.WriteLDIF("all.ldif", inv.LDIF())
	got = r.RunLevelfs("check", "--nagios")
	if got.Exit != 1 || !strings.HasPrefix(got.Stdout, "LEVELFS WARNING - 1 views, 1 warnings: LV201 ") || strings.Count(got.Stdout, "|") != 1 {
		t.Error(got)
	}
	r.write(filepath.Join(r.target, "mine"), strings.Repeat("x", 8192))
	file := r.Path("metrics.prom")
	if got := r.RunLevelfs("check", "--prometheus", file); got.Exit != 1 {
		t.Error(got)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`levelfs_check_findings{code="LV201",severity="warning"} 1`, `levelfs_check_findings{code="LV210",severity="critical"} 0`,
		"levelfs_check_status 1", "levelfs_views 1", "levelfs_views_other_level 1",
	} {
		if !strings.Contains(string(text), line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}

	lock, err := os.Open(r.Path("run/levelfs"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if got := r.RunLevelfs("check"); got.Exit != 3 || !strings.Contains(got.Stderr, "another levelfs check is running") {
		t.Error(got)
	}
	if got := r.RunLevelfs("check", "--nagios"); got.Exit != 3 || !strings.HasPrefix(got.Stdout, "LEVELFS UNKNOWN - ") {
		t.Error(got)
	}
}

// TestCheckWritesNothing: no system call of a check of a healthy machine changes a file.
func TestCheckWritesNothing(t *testing.T) {
	testenv.Require(t, "strace")
	r, _ := checkRig(t)
	r.write(filepath.Join(r.target, "bin/emacs"), "mine") // which is compared with lists of files
	trace := filepath.Join(t.TempDir(), "trace")
	got := r.Run("strace", "-f", "-qq", "-o", trace, "-e", "trace=openat,openat2,creat,mkdirat,unlinkat,renameat,renameat2,utimensat,ftruncate,fchmodat,linkat,symlinkat,mkdir,unlink,rename", r.Levelfs, "check")
	if got.Exit != 0 || got.Stdout != "" {
		t.Fatal(got)
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "levelfs.toml") {
		t.Fatalf("nothing was traced:\n%s", text)
	}
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, "O_WRONLY") || strings.Contains(line, "O_RDWR") || strings.Contains(line, "O_CREAT") ||
			!strings.Contains(line, "open") && strings.Contains(line, "(AT_FDCWD") {
			t.Errorf("it writes: %s", line)
		}
	}
}

// TestCheckHung: a child of automount that never became its program. The children here
// are shells by that name.
func TestCheckHung(t *testing.T) {
	testenv.Require(t, "root")
	dir := t.TempDir()
	shell, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "automount")
	if err := os.WriteFile(program, shell, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-c", program+` -c 'echo ready; read line; true'; true`)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 16)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		later time.Duration
		want  int
	}{{0, 0}, {10 * time.Second, 0}, {2 * time.Minute, 1}} {
		hung, err := check.Hung("/proc", time.Now().Add(c.later))
		if err != nil || len(hung) != c.want {
			t.Errorf("after %v: %v, %v; want %d", c.later, hung, err, c.want)
		}
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

// TestCheckConfined: the one capability that levelfs-check.service leaves is enough, also
// for what only a user may read.
func TestCheckConfined(t *testing.T) {
	r, _ := checkRig(t)
	r.AddUsers(rob)
	dir := r.UserPrivateDir("rob", "emacs")
	if err := os.MkdirAll(filepath.Join(dir, "upper"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(dir, "upper"), int(rob.UID), int(rob.GID)); err != nil {
		t.Fatal(err)
	}
	unit, err := os.ReadFile("../packaging/systemd/levelfs-check.service")
	if err != nil || !strings.Contains(string(unit), "\nCapabilityBoundingSet=CAP_DAC_READ_SEARCH\n") {
		t.Fatalf("%v: the service has another bounding set", err)
	}
	got := r.Run("setpriv", "--bounding-set=-all,+dac_read_search", "--no-new-privs", r.Levelfs, "check", "--prometheus", r.Path("metrics"))
	if got.Exit != 0 || got.Stdout+got.Stderr != "" {
		t.Error(got)
	}
}
