package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
)

// TestBootStorm: 2,000 hosts that look up at once. None fails, and none takes longer
// than the map lets it.
func TestBootStorm(t *testing.T) {
	testenv.Require(t, "slapd")
	testenv.RaiseFiles(t)
	const hosts, patience = 2000, 5 * time.Second
	inv := testenv.LargeInventory{Hosts: hosts, Components: 50, Profiles: 100}
	dir := t.TempDir()
	file := filepath.Join(dir, "all.ldif")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := inv.WriteLDIF(f); err != nil {
		t.Fatal(err)
	}
	slapd := startSlapd(t, testenv.SlapdOptions{LogLevel: "none", Load: file}, testenv.Inventory{})
	program := filepath.Join(dir, "storm")
	if out, err := exec.Command("go", "build", "-o", program, "./storm").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	out, err := exec.Command(program, slapd.URI, slapd.Base, fmt.Sprint(hosts), fmt.Sprint(inv.Components)).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var failed int
	var longest string
	if _, err := fmt.Sscan(string(out), &failed, &longest); err != nil {
		t.Fatalf("%v: %q", err, out)
	}
	took, err := time.ParseDuration(longest)
	if err != nil || failed > 0 || took > patience {
		t.Errorf("%d of %d lookups failed, the longest took %v, want none and at most %v:\n%s", failed, hosts, took, patience, out)
	}
}
