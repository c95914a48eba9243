package config

import "time"

// A Watch is the [watch] table.
type Watch struct {
	// Settle is for how long nothing may change before levelfs watch refreshes. Default: 1s.
	Settle Duration `toml:"settle"`
	// Jitter is the most that it waits besides, at random, so that not all machines ask the
	// server at once. Default: 10s.
	Jitter Duration `toml:"jitter"`
	// Probe is for how long a server may be silent before it is asked whether it lives.
	// Default: 5m.
	Probe Duration `toml:"probe"`
}

func (w *Watch) complete() {
	for _, d := range []struct {
		set  *Duration
		then time.Duration
	}{{&w.Settle, time.Second}, {&w.Jitter, 10 * time.Second}, {&w.Probe, 5 * time.Minute}} {
		if d.set.Duration == 0 {
			d.set.Duration = d.then
		}
	}
}
