package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/levelfs/levelfs/internal/testenv"
)

const trialRuns = 200 // of each way

// BenchmarkRun is the time that a command takes which does nothing: in a mount namespace by
// unshare(1), and with another level of a component by levelfs run, as root and as a user.
// They take turns. The level's image was checked before, and automount has it mounted.
func BenchmarkRun(b *testing.B) {
	testenv.Require(b, "root", "automount", "overlay", "erofs", "userns")
	if b.N > 1 {
		b.Fatal("run it with -benchtime 1x")
	}
	m := testenv.NewMachine(b, "lnx01")
	m.WriteLDIF("all.ldif", testenv.Inventory{
		Layers: []testenv.Layer{m.Store.Erofs("emacs-1", testenv.Files{"which": "1"}), m.Store.Erofs("emacs-2", testenv.Files{"which": "2"})},
		Components: []testenv.Component{{Name: "emacs", Default: "1", Levels: []testenv.Level{
			{Name: "1", State: "released", Layers: []string{"emacs-1"}}, {Name: "2", State: "released", Layers: []string{"emacs-2"}},
		}}},
	}.LDIF())
	sw := m.Mkdir("sw")
	m.Configure(fmt.Sprintf("tree = %q\n", sw))
	user := testenv.User{Name: "rob", UID: 5001, GID: 5001}
	m.AddUsers(user)
	program := filepath.Join(m.Mkdir("bin"), "levelfs")
	if err := os.Link(m.Levelfs, program); err != nil {
		b.Fatal(err)
	}
	testenv.StartAutomount(b, m, sw+" program:"+m.Map+" -n 1")
	hold, err := unix.Open(sw+"/emacs@2/.", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) // no expiry
	if err != nil {
		b.Fatal(err)
	}
	defer unix.Close(hold)
	ways := []struct {
		name  string
		user  testenv.User
		args  []string
		times []time.Duration
	}{
		{name: "true", args: []string{"true"}},
		{name: "unshare -m true", args: []string{"unshare", "-m", "true"}},
		{name: "levelfs run -- true", args: []string{program, "run", "--level", "emacs@2", "--", "true"}},
		{name: "unshare -U -m true, as a user", user: user, args: []string{"unshare", "-U", "-m", "true"}},
		{name: "levelfs run -- true, as a user", user: user, args: []string{program, "run", "--level", "emacs@2", "--", "true"}},
	}
	for i := range trialRuns {
		for j := range ways {
			way := &ways[(i+j)%len(ways)]
			cmd := exec.Command(way.args[0], way.args[1:]...)
			cmd.Env, cmd.Dir = m.Env(), "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: way.user.UID, Gid: way.user.GID}}
			start := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				b.Fatalf("%s: %v\n%s", way.name, err, out)
			}
			way.times = append(way.times, time.Since(start))
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\na command that does nothing\tmedian ms\tp95 ms\t\n")
	for _, way := range ways {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t\n", way.name, milliseconds(percentile(way.times, 50)), milliseconds(percentile(way.times, 95)))
	}
	w.Flush()
	fmt.Println()
}
