package config

import "fmt"

// A Report is the [report] table: where, and as whom, this machine writes into its own
// entry what it runs.
type Report struct {
	// Enable has the verbs that change views, and check, write it. Default: false.
	Enable bool `toml:"enable"`
	// Source is the number of the [[source]] that has the entry, from 1. Default: the
	// last one, which is the central one.
	Source int `toml:"source"`
	// Write is how that source is written to, as in [source.write]: what it leaves open is
	// the source's own.
	Write
}

// In is the index of the source that has the machine's entry.
func (r Report) In(sources []Source) int {
	if r.Source == 0 {
		return len(sources) - 1
	}
	return r.Source - 1
}

func (r Report) check(sources []Source) error {
	if r.Source < 0 || r.Source > len(sources) {
		return fmt.Errorf("source %d: there are %d", r.Source, len(sources))
	}
	return r.Identity.check()
}

// Reporting is the source that has the machine's entry, as it is to be written to by the
// machine: nothing of its [source.write], which is for those who change the inventory.
func (c *Config) Reporting() Source {
	s := c.Sources[c.Report.In(c.Sources)]
	s.Write = c.Report.Write
	return s.Writing()
}
