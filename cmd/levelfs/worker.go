package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Verbs that look into mounted file systems are done by a worker: a process of its own,
// which may be left behind. A FUSE server that has taken a request and never answers holds
// who asked so that not even a kill ends it, nor the other threads of its process: nobody
// who waits for that process would get an answer. So the worker says what its exit status
// is before it exits, and who started it does not wait for more.

// workerName is the name under which the program is a worker. Its descriptor 3 is where the
// exit status goes.
const workerName = "levelfs-worker"

// leaveTime is how long a worker that has said its status may take to end.
const leaveTime = 200 * time.Millisecond

// mayHang reports whether the command line is that of a verb for a worker.
func mayHang(args []string) bool {
	i := slices.IndexFunc(args, func(arg string) bool { return !strings.HasPrefix(arg, "-") })
	return i >= 0 && slices.Contains([]string{"check", "repair", "report"}, args[i])
}

// work is what a worker does.
func work(args []string) int {
	status := os.NewFile(3, "status")
	unix.CloseOnExec(3)
	exit := run(args, os.Stdin, os.Stdout, os.Stderr)
	fmt.Fprintln(status, exit)
	return exit
}

// attend has a worker do the command line, and returns its exit status.
func attend(args []string) int {
	// The worker is to end with this process, by a signal that comes when the thread ends
	// that has started it.
	runtime.LockOSThread()
	fail := func(err error) int {
		fmt.Fprintf(os.Stderr, "levelfs: error: %v\n", err)
		return exitUnchecked
	}
	r, w, err := os.Pipe()
	if err != nil {
		return fail(err)
	}
	defer r.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = workerName
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	// It is the worker who is meant; a terminal sends them to both.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fail(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(io.LimitReader(r, 16)).ReadString('\n')
		said <- strings.TrimSpace(line)
	}()
	for {
		select {
		case s := <-signals:
			if s == unix.SIGTERM {
				_ = cmd.Process.Signal(s) // one that has ended needs none
			}
		case line := <-said:
			exit, err := strconv.Atoi(line)
			if err != nil {
				return fail(fmt.Errorf("the process that did the work has ended: %v", <-ended))
			}
			select {
			case <-ended:
			case <-time.After(leaveTime):
			}
			return exit
		}
	}
}
