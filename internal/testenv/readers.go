package testenv

import (
	"bytes"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
)

// Readers are processes that open and read files in a loop.
type Readers struct {
	t         testing.TB
	processes []*reader
}

type reader struct {
	cmd            *exec.Cmd
	in             io.Closer
	stdout, stderr bytes.Buffer
}

// A Tally is what readers have seen.
type Tally struct {
	Opened int `json:"opened"` // files
	Failed int `json:"failed"` // of them could not be opened, or read
	Mixed  int `json:"mixed"`  // of them had bytes of two levels
}

// StartReaders starts n processes that read the files, each of which consists of one
// character in each level.
func StartReaders(t testing.TB, n int, files ...string) *Readers {
	t.Helper()
	module, err := ModuleDir()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(shortDir(t, "rd"), "reader")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", program, "./internal/testenv/reader")
	build.Dir = module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	r := &Readers{t: t}
	t.Cleanup(func() {
		for _, p := range r.processes {
			p.in.Close()
			p.cmd.Wait() // what it said is read by Stop
		}
	})
	for range n {
		p := &reader{cmd: exec.Command(program, files...)}
		p.cmd.Dir = "/"
		p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
		if p.in, err = p.cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := p.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r.processes = append(r.processes, p)
	}
	return r
}

// Stop ends them and adds up what they have seen.
func (r *Readers) Stop() Tally {
	r.t.Helper()
	var sum Tally
	for _, p := range r.processes {
		p.in.Close()
	}
	for _, p := range r.processes {
		var one Tally
		err := p.cmd.Wait()
		if n, scanErr := fmt.Sscan(p.stdout.String(), &one.Opened, &one.Failed, &one.Mixed); err != nil || n != 3 {
			r.t.Errorf("reader: %v, %v: %s%s", err, scanErr, p.stdout.String(), p.stderr.String())
		}
		if one.Failed > 0 {
			r.t.Errorf("reader: %s", p.stderr.String()[:min(p.stderr.Len(), 500)])
		}
		sum.Opened, sum.Failed, sum.Mixed = sum.Opened+one.Opened, sum.Failed+one.Failed, sum.Mixed+one.Mixed
	}
	r.processes = nil
	return sum
}
