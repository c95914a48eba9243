package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
)

// Figures of one size of inventory.
type inventorySize struct {
	Hosts     int     `json:"hosts"`
	LoadS     float64 `json:"load_s"`        // slapadd, seconds
	LookupP50 float64 `json:"lookup_p50_ms"` // a lookup with its own connection, in this process
	LookupP99 float64 `json:"lookup_p99_ms"` //
	MapP50    float64 `json:"map_p50_ms"`    // auto.levelfs from start to end, one at a time
	MapP99    float64 `json:"map_p99_ms"`    //
	OneRate   float64 `json:"map_1_per_s"`   // map processes a second, one at a time
	ManyRate  float64 `json:"map_64_per_s"`  // 64 at once
	ManyP99   float64 `json:"map_64_p99_ms"` // of one among them
	StormP50  float64 `json:"storm_p50_ms"`  // 2,000 lookups by as many hosts that start together
	StormMax  float64 `json:"storm_max_ms"`  //
	Failed    int     `json:"storm_failed"`  //
	RatioP50  float64 `json:"ratio_p50"`     // of LookupP50 to that of the smallest size
	RatioMap  float64 `json:"ratio_map_p50"` // of MapP50, likewise
	inventory testenv.LargeInventory
	slapd     *testenv.Slapd
	roots     []string // LEVELFS_ROOT of some hosts
	lookups   []time.Duration
	maps      []time.Duration
}

const (
	rounds  = 1000 // lookups of each size, in this process
	runs    = 500  // map processes of each size, one at a time
	many    = 64   // map processes at once
	manyAll = 2000 // of them, in all
	storm   = 2000 // hosts that boot at once
	// stormPatience is what the map gives its inventory.
	stormPatience = 5 * time.Second
)

// BenchmarkInventory looks levels up in inventories of 1,000, 10,000 and 100,000
// hosts, with 1,000 components of 5 levels and 2,000 profiles, each in a slapd of its
// own; the sizes take turns, so that a change of the machine's speed meets all alike.
//
// What grows with the directory is the server's part of a lookup, which is measured
// in this process: of a map process most is the start of the process.
//
// The lookups of the boot storm start together, in this process with a connection
// each: on one machine as many map processes would wait for a processor, which the
// hosts that they stand for do not share.
func BenchmarkInventory(b *testing.B) {
	testenv.Require(b, "root", "slapd")
	testenv.RaiseFiles(b)
	sizes := []*inventorySize{{Hosts: 1000}, {Hosts: 10000}, {Hosts: 100000}}
	commands := testenv.Commands(b)
	for _, s := range sizes {
		s.setUp(b, "none")
	}
	for i := range rounds {
		for _, s := range sizes {
			s.lookups = append(s.lookups, s.lookup(b, i))
		}
	}
	for i := range runs {
		for _, s := range sizes {
			s.maps = append(s.maps, s.runMap(b, commands.Map, i))
		}
	}
	for _, s := range sizes {
		s.LookupP50, s.LookupP99 = milliseconds(percentile(s.lookups, 50)), milliseconds(percentile(s.lookups, 99))
		s.MapP50, s.MapP99 = milliseconds(percentile(s.maps, 50)), milliseconds(percentile(s.maps, 99))
		var total time.Duration
		for _, t := range s.maps {
			total += t
		}
		s.OneRate = float64(len(s.maps)) / total.Seconds()
		s.manyMaps(b, commands.Map)
		s.storm(b)
		s.RatioP50 = s.LookupP50 / sizes[0].LookupP50
		s.RatioMap = s.MapP50 / sizes[0].MapP50
	}
	reportInventory(b, sizes, unindexed(b))
}

// setUp starts the server, with the inventory loaded.
func (s *inventorySize) setUp(b *testing.B, logLevel string) {
	s.inventory = testenv.LargeInventory{Hosts: s.Hosts, Components: 1000, Profiles: 2000}
	dir, err := os.MkdirTemp("", "sl") // short: it holds a socket
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	file := dir + ".ldif"
	b.Cleanup(func() { os.Remove(file) })
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	if err := s.inventory.WriteLDIF(w); err != nil {
		b.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	module, err := testenv.ModuleDir()
	if err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	s.slapd, err = testenv.StartSlapd(context.Background(), dir, filepath.Join(module, "packaging/schema"),
		testenv.SlapdOptions{LogLevel: logLevel, Load: file})
	if err != nil {
		b.Fatal(err)
	}
	s.LoadS = time.Since(start).Seconds()
	fmt.Printf("%d hosts loaded in %.1f s\n", s.Hosts, s.LoadS)
	b.Cleanup(func() {
		if err := s.slapd.Stop(); err != nil {
			b.Error(err)
		}
	})
	for i := range many {
		root := filepath.Join(dir, "hosts", fmt.Sprint(i))
		conf := filepath.Join(root, "etc/levelfs")
		if err := os.MkdirAll(conf, 0o755); err != nil {
			b.Fatal(err)
		}
		text := fmt.Sprintf("host = %q\n%s", s.host(i), testenv.LDAPSource(s.slapd.Base, s.slapd.URI))
		if err := os.WriteFile(filepath.Join(conf, "levelfs.toml"), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
		s.roots = append(s.roots, root)
	}
}

// host is one of all hosts, and the same one for the same i.
func (s *inventorySize) host(i int) string {
	return s.inventory.HostName(rand.New(rand.NewPCG(uint64(i), 1)).IntN(s.Hosts))
}

// component is one that this host has a rule of its own for every other time.
func (s *inventorySize) component(i int) string {
	return s.inventory.ComponentName(rand.New(rand.NewPCG(uint64(i), 2)).IntN(s.inventory.Components))
}

// resolve is a lookup as the map makes it.
func (s *inventorySize) resolve(ctx context.Context, i int) error {
	source, err := ldapsource.New(ldapsource.Config{URIs: []string{s.slapd.URI}, Base: s.slapd.Base})
	if err != nil {
		return err
	}
	defer source.Close()
	r := ldapmap.Resolver{Sources: []ldapmap.Source{source}}
	_, err = r.Resolve(ctx, ldapmap.Query{Key: ldapmap.Key{Component: s.component(i)}, Host: s.host(i)})
	return err
}

func (s *inventorySize) lookup(b *testing.B, i int) time.Duration {
	start := time.Now()
	if err := s.resolve(b.Context(), i); err != nil {
		b.Fatal(err)
	}
	return time.Since(start)
}

func (s *inventorySize) runMap(b *testing.B, program string, i int) time.Duration {
	cmd := exec.Command(program, s.component(i))
	cmd.Env = append(os.Environ(), "LEVELFS_ROOT="+s.roots[i%len(s.roots)])
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if err != nil || !strings.HasPrefix(string(out), "-fstype=levelfs,") {
		b.Errorf("%v: %s", err, out)
	}
	return took
}

// manyMaps runs map processes, 64 of them at any time.
func (s *inventorySize) manyMaps(b *testing.B, program string) {
	times := make([]time.Duration, manyAll)
	var next atomic.Int64
	var wait sync.WaitGroup
	start := time.Now()
	for range many {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < manyAll; i = int(next.Add(1)) - 1 {
				times[i] = s.runMap(b, program, i)
			}
		})
	}
	wait.Wait()
	s.ManyRate = manyAll / time.Since(start).Seconds()
	s.ManyP99 = milliseconds(percentile(times, 99))
}

// storm has 2,000 hosts look up at once.
func (s *inventorySize) storm(b *testing.B) {
	times := make([]time.Duration, storm)
	var failed atomic.Int64
	var wait sync.WaitGroup
	gate := make(chan struct{})
	for i := range storm {
		wait.Go(func() {
			<-gate
			ctx, cancel := context.WithTimeout(b.Context(), stormPatience)
			defer cancel()
			start := time.Now()
			if err := s.resolve(ctx, i); err != nil {
				if failed.Add(1) == 1 {
					b.Errorf("boot storm: %v", err)
				}
			}
			times[i] = time.Since(start)
		})
	}
	close(gate)
	wait.Wait()
	s.Failed = int(failed.Load())
	s.StormP50, s.StormMax = milliseconds(percentile(times, 50)), milliseconds(percentile(times, 100))
}

// unindexed counts the parts of lookups' filters for which a server with the indices of
// the documentation has none, and fails if it would not have seen one. The log level
// that tells is too slow for the servers that are measured.
func unindexed(b *testing.B) int {
	s := &inventorySize{Hosts: 1000}
	s.setUp(b, "filter")
	for i := range 200 {
		s.lookup(b, i)
	}
	count := func() int {
		log, err := os.ReadFile(s.slapd.LogFile)
		if err != nil {
			b.Fatal(err)
		}
		return strings.Count(string(log), "not indexed")
	}
	found := count()
	c, err := ldap.DialURL(s.slapd.URI)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Search(ldap.NewSearchRequest(s.slapd.Base, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 0, false,
		"(levelfsImage=none)", []string{"cn"}, nil)); err != nil {
		b.Fatal(err)
	}
	if count() == found {
		b.Error("slapd's log does not show an unindexed search that was made on purpose")
	}
	return found
}

func reportInventory(b *testing.B, sizes []*inventorySize, unindexed int) {
	fmt.Printf("\n1,000 components of %d levels, 2,000 profiles; %d processors for server and clients; times in ms\n", testenv.LevelsEach, runtime.NumCPU())
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "hosts\tlookup p50\tp99\tratio\tmap p50\tp99\tratio\tmaps/s\tmaps/s of 64\tp99\tstorm p50\tmax\tfailed\t\n")
	for _, s := range sizes {
		fmt.Fprintf(w, "%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f\t%.1f\t%.0f\t%.0f\t%d\t\n",
			s.Hosts, s.LookupP50, s.LookupP99, s.RatioP50, s.MapP50, s.MapP99, s.RatioMap, s.OneRate, s.ManyRate, s.ManyP99,
			s.StormP50, s.StormMax, s.Failed)
	}
	w.Flush()
	fmt.Printf("unindexed parts of filters in 200 lookups: %d\n", unindexed)
	if unindexed > 0 {
		b.Error("there are searches that slapd has no index for")
	}
	if path := os.Getenv("LEVELFS_BENCH_JSON"); path != "" {
		text, err := json.MarshalIndent(map[string]any{"benchmark": "inventory", "go": runtime.Version(), "cpus": runtime.NumCPU(), "unindexed": unindexed, "sizes": sizes}, "", "  ")
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
