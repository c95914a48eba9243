package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
)

// BenchmarkInventoryWhole asks for everybody in an inventory of 100,000 hosts on slapd,
// and for what changes would come to: all of it is read, page by page.
func BenchmarkInventoryWhole(b *testing.B) {
	testenv.Require(b, "root", "slapd")
	testenv.RaiseFiles(b)
	s := &inventorySize{Hosts: 100000}
	commands := testenv.Commands(b)
	s.setUp(b, "none")
	if err := s.slapd.Configure("olcDatabase={1}mdb,cn=config", "olcLimits", "* size.prtotal=unlimited"); err != nil {
		b.Fatal(err)
	}
	component := s.inventory.ComponentName(0)
	for _, c := range [][]string{
		{"level", "list", component},
		{"who", component, "--summary"},
		{"assign", "host:" + s.inventory.HostName(1), component + "=2", "--dry-run"},
		{"assign", "profile:p0000", component + "=3", "--dry-run"},
		{"plan", "--all-hosts", component, "--if", "level retire " + component + "@1"},
	} {
		name := strings.ReplaceAll(strings.Join(c[:2], " "), " ", "_")
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.Command(commands.Levelfs, c...)
				cmd.Env = append(os.Environ(), "LEVELFS_ROOT="+s.roots[0])
				start := time.Now()
				out, err := cmd.CombinedOutput()
				if err != nil {
					b.Fatalf("%v: %v\n%s", c, err, out)
				}
				fmt.Printf("levelfs %s: %.1f s, of which %.1f s on a processor\n", strings.Join(c, " "), time.Since(start).Seconds(),
					(cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds())
			}
		})
	}
}
