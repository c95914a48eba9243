package main

import (
	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
)

// A progress is a bar on standard error, where that is a terminal; nothing elsewhere.
type progress struct {
	cmd  *cobra.Command
	what string
	bar  *progressbar.ProgressBar
}

func newProgress(cmd *cobra.Command, what string) *progress { return &progress{cmd: cmd, what: what} }

func (p *progress) show(done, total int64) {
	if p.bar == nil {
		p.bar = progressbar.NewOptions64(total,
			progressbar.OptionSetWriter(p.cmd.ErrOrStderr()),
			progressbar.OptionSetDescription(p.what),
			progressbar.OptionShowCount(),
			progressbar.OptionClearOnFinish())
	}
	_ = p.bar.Set64(done) // only looks
}

// count shows a number of which nobody knows how large it gets.
func (p *progress) count() func(done int) {
	if !isTerminal(p.cmd.ErrOrStderr()) {
		return nil
	}
	return func(done int) { p.show(int64(done), -1) }
}

// of shows a part of a whole.
func (p *progress) of() func(done, total int) {
	if !isTerminal(p.cmd.ErrOrStderr()) {
		return nil
	}
	return func(done, total int) { p.show(int64(done), int64(total)) }
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		_ = p.bar.Finish() // only looks
	}
}
