package test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
)

// TestBootStorm: 2,000 hosts that look up at once, as after a power failure. None
// fails, and none takes longer than the map lets it. The lookups run in this process,
// with a connection each: on one machine as many map processes would wait for a
// processor, which the hosts that they stand for do not share.
func TestBootStorm(t *testing.T) {
	testenv.Require(t, "slapd")
	testenv.RaiseFiles(t)
	const hosts, patience = 2000, 5 * time.Second
	inv := testenv.LargeInventory{Hosts: hosts, Components: 50, Profiles: 100}
	file := filepath.Join(t.TempDir(), "all.ldif")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := inv.WriteLDIF(f); err != nil {
		t.Fatal(err)
	}
	slapd := startSlapd(t, testenv.SlapdOptions{LogLevel: "none", Load: file}, testenv.Inventory{})

	errs, times := make([]error, hosts), make([]time.Duration, hosts)
	gate := make(chan struct{})
	var wait sync.WaitGroup
	for i := range hosts {
		source, err := ldapsource.New(ldapsource.Config{URIs: []string{slapd.URI}, Base: slapd.Base})
		if err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			<-gate
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			start := time.Now()
			r := ldapmap.Resolver{Sources: []ldapmap.Source{source}}
			_, errs[i] = r.Resolve(ctx, ldapmap.Query{
				Key: ldapmap.Key{Component: inv.ComponentName(i % inv.Components)}, Host: inv.HostName(i)})
			times[i] = time.Since(start)
			source.Close()
		})
	}
	close(gate)
	wait.Wait()
	for i, err := range errs {
		if err != nil {
			t.Fatalf("host %d: %v", i, err)
		}
	}
	if longest := slices.Max(times); longest > patience {
		t.Errorf("the longest took %v, more than %v", longest, patience)
	} else {
		t.Logf("the longest took %v", longest)
	}
}
