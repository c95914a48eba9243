package test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestMountTarget: nothing is mounted at or below a view, nor where nothing can be.
func TestMountTarget(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one", "sub/deep/x": ""})
	two := r.Store.Erofs("two", testenv.Files{"two": "two"})
	component := func(name, layer string) testenv.Component {
		return testenv.Component{Name: name, Default: "1", Levels: []testenv.Level{{Name: "1", Layers: []string{layer}}, {Name: "2", Layers: []string{layer}}}}
	}
	inv := testenv.Inventory{
		Layers:     []testenv.Layer{one, two},
		Components: []testenv.Component{component("emacs", "one"), component("vi", "two")},
	}
	r.WriteLDIF("all.ldif", inv.LDIF())
	// vi has a private layer with something in it.
	r.mountAt("vi", r.target)
	r.write(r.target+"/private", "mine")
	r.umount(r.target)
	inv.Components[1].Default = "2"
	r.WriteLDIF("all.ldif", inv.LDIF())

	file, link := r.Path("file"), r.Path("link")
	r.write(file, "")
	if err := os.Symlink(r.target+"/sub", link); err != nil {
		t.Fatal(err)
	}
	r.mount()
	bound := r.Mkdir("bound")
	if err := unix.Mount(r.target, bound, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(r.target, "sub")
	for _, c := range []struct {
		name, target string
		words        []string
	}{
		{"at a view", r.target, []string{"emacs@1", r.target}},
		{"at a view, with a slash", r.target + "/", []string{"emacs@1", r.target}},
		{"in a view", foreign, []string{"emacs@1", foreign}},
		{"deep in a view", foreign + "/deep", []string{"emacs@1", foreign + "/deep"}},
		{"through a link", link, []string{"emacs@1", foreign}},
		{"through dots", r.Path("sw") + "/../sw/emacs/sub", []string{"emacs@1", foreign}},
		{"at a bind mount of a view", bound, []string{"emacs@1", bound}},
		{"in a bind mount of a view", bound + "/sub", []string{"emacs@1", bound + "/sub"}},
		{"missing", r.Path("nowhere"), []string{r.Path("nowhere"), "no such file"}},
		{"missing in a view", r.target + "/nowhere", []string{r.target + "/nowhere", "no such file"}},
		{"file", file, []string{file, "not a directory"}},
		{"file in a view", r.target + "/file", []string{r.target + "/file"}},
		{"the root", "/", []string{`"/"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			sub.refused(32, []string{"vi", c.target}, c.words...)
			sub.refused(32, []string{"vi@1", c.target, "-o", "ro"}, c.words...)
		})
	}
	r.unchanged(func() {
		got := r.RunHelper("vi", "")
		if got.Exit == 1 {
			got.Exit = 32 // it is as good as bad usage
		}
		r.wantRefusal(got, 32)
	})
	// A mount that somebody else made below a view is below the view.
	if err := unix.Mount("foreign", foreign, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(foreign+"/dir", 0o755); err != nil {
		t.Fatal(err)
	}
	r.refused(32, []string{"vi", foreign + "/dir"}, "emacs@1", foreign+"/dir")
	r.refused(32, []string{"vi", foreign}, "emacs@1", foreign)
	r.Umount(foreign)
	r.Umount(bound)
	r.umount(r.target)

	// A relative target is meant from where the caller is.
	cmd := exec.Command(r.Helper, "vi", "emacs")
	cmd.Dir, cmd.Env = r.Path("sw"), r.Env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	r.want(map[string]string{"two": "two", "private": "mine"})
	r.umount(r.target)
}

// TestMountSpec: what is no key is refused before anything is looked at.
func TestMountSpec(t *testing.T) {
	r := newRig(t)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	asked := r.Path("asked")
	r.WriteConfig(fmt.Sprintf("host = \"lnx01\"\nmap = %q\nimages = [%q]\n", r.program("touch "+asked), r.Store.Dir))
	for _, spec := range []string{
		"", " ", "two words", "emacs ", " emacs", "emacs\n", "new\nline", "$HOME", "emacs$", `em"acs`, "em'acs", "`id`", ".hidden", "-",
		"..", "../x", "a/b", "/", "emacs@", "@1", "a@b@c", "emacs@../1", "emacs@.1", "emacs@1\n", "e\tm", "ém", "e\x7fm", "emacs;", "*",
		"levelfs:emacs", ":emacs", "emacs,ro", strings.Repeat("x", 65), strings.Repeat("x", 300), "emacs@" + strings.Repeat("1", 65),
	} {
		t.Run(spec, func(t *testing.T) {
			sub := *r
			sub.t = t
			if strings.HasPrefix(spec, "-") {
				sub.refused(1, []string{spec, sub.target}, "usage")
				return
			}
			sub.refused(1, []string{spec, sub.target}, "invalid key")
		})
	}
	if _, err := os.Stat(asked); !os.IsNotExist(err) {
		t.Errorf("the map was asked: %v", err)
	}
}

// TestMountFake: -f does all but the mount.
func TestMountFake(t *testing.T) {
	r := newRig(t)
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	r.level("1", one)
	r.unchanged(func() {
		for _, flags := range []string{"-f", "-sfnv", "-fn"} {
			if got := r.RunHelper("emacs", r.target, flags); got.Exit != 0 || got.Stdout != "" {
				t.Errorf("%s: %v", flags, got)
			}
		}
	})
	one.Images = []string{"missing.erofs"}
	r.level("2", one)
	r.refused(32, []string{"emacs", r.target, "-f"}, "missing.erofs")
	r.refused(32, []string{"vi", r.target, "-f"}, "vi")
}

// TestMountVerbose: -v tells each step, in one line.
func TestMountVerbose(t *testing.T) {
	r := newRig(t)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	got := r.RunHelper("emacs", r.target, "-v")
	if got.Exit != 0 || got.Stdout != "" {
		t.Fatal(got)
	}
	var steps []string
	for line := range strings.Lines(got.Stderr) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "mount.levelfs:" {
			t.Fatalf("line %q", line)
		}
		steps = append(steps, words[1])
	}
	if want := "target lock idle check stage mount private record overlay unstage"; strings.Join(steps, " ") != want {
		t.Errorf("steps %q, want %q", steps, want)
	}
	r.umount(r.target)
}

// TestMountNotRoot: without the rights it is a usage error.
func TestMountNotRoot(t *testing.T) {
	r := newRig(t)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	var stderr bytes.Buffer
	// Where anybody can run it.
	helper := filepath.Join("/run", "helper")
	program, err := os.ReadFile(r.Helper)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(helper, program, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(helper)
	cmd := exec.Command(helper, "emacs", "/")
	cmd.Dir, cmd.Env, cmd.Stderr = "/", r.Env(), &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(stderr.String(), "only root") {
		t.Errorf("%v, stderr %q; want exit 1", err, stderr.String())
	}
}

// TestMountInterrupted: a signal while an image is read, which can take long, ends
// the helper at once with mount(8)'s status for it, and nothing stays.
func TestMountInterrupted(t *testing.T) {
	r := newRig(t)
	image := filepath.Join(r.Store.Dir, "huge.erofs")
	head := make([]byte, 4096)
	copy(head[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0})
	r.write(image, string(head))
	const size = 64 << 30 // a hole, which nobody reads in less than 10 s
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	r.level("1", testenv.Layer{Name: "huge", FSType: "erofs", Digest: "sha256:" + strings.Repeat("0", 64), Size: size, Images: []string{"huge.erofs"}})
	for _, signal := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		r.unchanged(func() {
			cmd := exec.Command(r.Helper, "emacs", r.target)
			cmd.Env = r.Env()
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			timer := time.AfterFunc(testenv.WaitLimit, func() { cmd.Process.Kill() })
			defer timer.Stop()
			testenv.WaitFor(t, "read of the image", func() error {
				text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", cmd.Process.Pid))
				if err != nil {
					return err
				}
				m := regexp.MustCompile(`rchar: (\d+)`).FindSubmatch(text)
				if n, err := strconv.Atoi(string(m[1])); err != nil || n < 8<<20 {
					return fmt.Errorf("%d bytes so far, %v", n, err)
				}
				return nil
			})
			start := time.Now()
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			cmd.Wait() // the status is looked at below
			took := time.Since(start)
			r.wantRefusal(testenv.Result{Exit: cmd.ProcessState.ExitCode(), Stderr: stderr.String()}, 8, "huge.erofs")
			if took > 2*time.Second {
				t.Errorf("it took %v to end", took)
			}
		})
	}
}

// program writes a shell script, to stand for the map.
func (r *rig) program(script string) string {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "map")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// TestMountMapProgram: a map program that is missing or mad is an error that says
// so, by a deadline.
func TestMountMapProgram(t *testing.T) {
	r := newRig(t)
	r.level("1", r.Store.Erofs("one", testenv.Files{"file": "one"}))
	use := func(program string) {
		r.WriteConfig(fmt.Sprintf("host = \"lnx01\"\nmap = %q\nimages = [%q]\n", program, r.Store.Dir))
	}
	// The one that hangs, while the others are tried. The helper has read its
	// configuration as soon as the program runs.
	running := r.Path("running")
	use(r.program("echo $$ >" + running + "; exec sleep 1000"))
	var hung testenv.Result
	done := make(chan struct{})
	go func() {
		hung = r.Run(r.Helper, "emacs", r.Root)
		close(done)
	}()
	var pid int
	testenv.WaitFor(t, "the map program", func() error {
		text, err := os.ReadFile(running)
		if err != nil {
			return err
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
		return err
	})
	for _, c := range []struct {
		name, script string
		words        []string
	}{
		{"missing", "", []string{"/nonexistent/map", "no such file"}},
		{"silent", "exit 0", []string{"gave no level"}},
		{"garbage", `printf '\001\377 what? \033[2J\n'`, []string{"gave no level"}},
		{"two lines", `echo "-fstype=levelfs,rw :emacs@1"; echo "-fstype=levelfs,rw :emacs@1"`, []string{"gave no level"}},
		{"another component", `echo "-fstype=levelfs,rw :vi@1"`, []string{"gave no level"}},
		{"options in the level", `echo "-fstype=levelfs,rw :emacs@1,suid"`, []string{"gave no level"}},
		{"fails with a message", `echo "auto.levelfs: the reason" >&2; exit 1`, []string{"the reason"}},
		{"fails with two lines", `echo "auto.levelfs: the reason" >&2; echo "more" >&2; exit 1`, []string{"the reason; more"}},
		{"fails in silence", `exit 7`, []string{"exit status 7"}},
		{"fails after an answer", `echo "-fstype=levelfs,rw :emacs@1"; exit 1`, []string{"exit status 1"}},
		{"answers what nobody knows", `echo "-fstype=levelfs,rw :emacs@9"`, []string{"no definition"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			sub := *r
			sub.t = t
			program := "/nonexistent/map"
			if c.script != "" {
				program = sub.program(c.script)
			}
			use(program)
			sub.refused(32, []string{"emacs", sub.target}, c.words...)
			sub.refused(32, []string{"emacs@9", sub.target})
		})
	}
	<-done
	r.wantRefusal(hung, 32, "map")
	if hung.Took > 12*time.Second {
		t.Errorf("a map program that hangs took %v", hung.Took)
	}
	if err := unix.Kill(pid, 0); err == nil {
		t.Errorf("the map program still runs, as %d", pid)
	}
	r.Configure("")
	r.mount()
	r.umount(r.target)
}

// TestMountLog: an error goes to the system log too, as one message; automount
// shows what the helper prints only at its debug level.
func TestMountLog(t *testing.T) {
	r := newRig(t)
	if !testenv.Inside() {
		t.Fatal("not in a sandbox")
	}
	const path = "/dev/log"
	if _, err := os.Lstat(path); err == nil {
		const saved = path + ".saved"
		if err := os.Rename(path, saved); err != nil {
			t.Fatal(err)
		}
		defer os.Rename(saved, path)
	}
	log, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	defer log.Close()
	receive := func() string {
		t.Helper()
		if err := log.SetReadDeadline(time.Now().Add(testenv.WaitLimit)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 64<<10)
		n, err := log.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	one := r.Store.Erofs("one", testenv.Files{"file": "one"})
	r.level("1", one)
	r.mount() // says nothing
	r.umount(r.target)
	one.Images = []string{"missing.erofs"}
	r.level("2", one)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"emacs", r.target}, "missing.erofs"},
		{[]string{"two\nlines", r.target}, "invalid key"},
		{[]string{"emacs", r.target, "-x"}, "unknown option -x"},
	} {
		got := r.RunHelper(c.args...)
		message := receive()
		m := regexp.MustCompile(`^<27>mount\.levelfs\[\d+\]: (.*)$`).FindStringSubmatch(message) // daemon.err
		if m == nil || !strings.Contains(m[1], c.want) || got.Stderr != "mount.levelfs: "+m[1]+"\n" {
			t.Errorf("logged %q, printed %q", message, got.Stderr)
		}
	}
	// Nothing else has come: what is asked for last is what comes next.
	r.RunHelper("emacs", r.target, "-y")
	if message := receive(); !strings.Contains(message, "unknown option -y") {
		t.Errorf("more than one message: %q", message)
	}
}
