// Command storm has many hosts look a level up at the same moment, as after a power
// failure, with a connection each and the patience of the map. It is a program of its
// own so that it runs without the race detector, which makes a lookup ten times as
// dear: on the hosts that it stands for there are ten thousand processors.
//
//	storm URI BASE HOSTS COMPONENTS
//
// It prints how many failed, how long the longest took, and the first error.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/levelfs/levelfs/internal/testenv"
	"github.com/levelfs/levelfs/ldapmap"
	"github.com/levelfs/levelfs/ldapmap/ldapsource"
)

// patience is what the map gives its inventory.
const patience = 5 * time.Second

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: storm URI BASE HOSTS COMPONENTS")
		return 64
	}
	hosts, err := strconv.Atoi(args[2])
	components, err2 := strconv.Atoi(args[3])
	if err != nil || err2 != nil || hosts < 1 || components < 1 {
		fmt.Fprintln(os.Stderr, "storm: HOSTS and COMPONENTS are numbers")
		return 64
	}
	inv := testenv.LargeInventory{Hosts: hosts, Components: components}
	errs, times := make([]error, hosts), make([]time.Duration, hosts)
	gate := make(chan struct{})
	var wait sync.WaitGroup
	for i := range hosts {
		source, err := ldapsource.New(ldapsource.Config{URIs: []string{args[0]}, Base: args[1]})
		if err != nil {
			fmt.Fprintln(os.Stderr, "storm:", err)
			return 1
		}
		wait.Go(func() {
			<-gate
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			start := time.Now()
			r := ldapmap.Resolver{Sources: []ldapmap.Source{source}}
			_, errs[i] = r.Resolve(ctx, ldapmap.Query{
				Key: ldapmap.Key{Component: inv.ComponentName(i % components)}, Host: inv.HostName(i)})
			times[i] = time.Since(start)
			source.Close()
		})
	}
	close(gate)
	wait.Wait()
	failed := 0
	var first error
	for _, err := range errs {
		if err != nil {
			failed++
			if first == nil {
				first = err
			}
		}
	}
	fmt.Println(failed, slices.Max(times), first)
	return 0
}
