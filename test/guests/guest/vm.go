package guest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/levelfs/levelfs/test/guests/report"
)

// tailLines is how much of the console an error shows.
const tailLines = 40

// A Config is a guest to be started.
type Config struct {
	Program string // qemu-system-…
	Kernel  string
	Initrd  string
	Append  string   // kernel command line; the console has to be the first serial port
	Args    []string // what else QEMU is to have
	// Each, if not nil, is called with each line of the console, in order.
	Each func(line string)
}

// A VM is a QEMU process.
type VM struct {
	stdin io.WriteCloser
	lines chan string
	pid   int
	kill  context.CancelFunc
	ended chan struct{}
	err   error // valid after ended

	// What has been read of the console. It is complete when lines is closed.
	mu     sync.Mutex
	tail   []string
	report report.Report
	wrong  []error // of the report
}

// Start starts QEMU. When ctx is done it is killed, and so it is when this process
// ends. The caller calls Stop at last.
func Start(ctx context.Context, c Config) (*VM, error) {
	ctx, kill := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, c.Program, append([]string{
		"-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot", "-nodefaults",
		"-kernel", c.Kernel, "-initrd", c.Initrd, "-append", c.Append,
	}, c.Args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 5 * time.Second
	stdin, err := cmd.StdinPipe()
	if err != nil {
		kill()
		return nil, err
	}
	// A pipe of our own: Wait must not close it before all has been read.
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	vm := &VM{stdin: stdin, kill: kill, lines: make(chan string, 1024), ended: make(chan struct{})}
	started := make(chan error)
	go func() {
		// Pdeathsig is sent when the thread that forked ends, so this one stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		vm.err = err
		w.Close()
		close(vm.ended)
	}()
	if err := <-started; err != nil {
		kill()
		return nil, err
	}
	vm.pid = cmd.Process.Pid
	go vm.read(r, c.Each)
	return vm, nil
}

// read takes the console apart into lines.
func (vm *VM) read(console io.Reader, each func(line string)) {
	defer close(vm.lines)
	lines := bufio.NewScanner(console)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		vm.take(line)
		if each != nil {
			each(line)
		}
		vm.lines <- line
	}
	// Too long a line: the rest is read so that QEMU does not wait for us.
	io.Copy(io.Discard, console)
}

// take notes the line down.
func (vm *VM) take(line string) {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	vm.tail = append(vm.tail, line)
	vm.tail = vm.tail[max(0, len(vm.tail)-tailLines):]
	if _, err := vm.report.Add(line); err != nil {
		vm.wrong = append(vm.wrong, err)
	}
}

// PID is the QEMU process's.
func (vm *VM) PID() int { return vm.pid }

// Stop kills QEMU, unless the guest is off already, and waits until it is gone.
func (vm *VM) Stop() {
	vm.kill()
	for range vm.lines {
		continue
	}
	<-vm.ended
}

// Send types a line on the console.
func (vm *VM) Send(line string) error {
	_, err := io.WriteString(vm.stdin, line+"\n")
	return err
}

// Await reads the console up to a line that starts with the prefix, and returns what
// is behind it.
func (vm *VM) Await(prefix string) (string, error) {
	for line := range vm.lines {
		if rest, found := strings.CutPrefix(line, prefix); found {
			return rest, nil
		}
	}
	return "", vm.explain(fmt.Errorf("the guest was off before it said %q", prefix))
}

// Report waits until the guest is off and returns what it has reported from its
// start on. It is an error if that is not complete, or if QEMU failed; then the
// report is what there is of it.
func (vm *VM) Report() (*report.Report, error) {
	for range vm.lines {
		continue // they have been noted down
	}
	<-vm.ended
	errs := append(vm.wrong, vm.err)
	if !vm.report.Done {
		errs = append(errs, errors.New("the guest was off before the end of its report"))
	}
	if err := errors.Join(errs...); err != nil {
		return &vm.report, vm.explain(err)
	}
	return &vm.report, nil
}

// explain adds the console's last lines to an error.
func (vm *VM) explain(err error) error {
	vm.mu.Lock()
	defer vm.mu.Unlock()
	return fmt.Errorf("%w; console:\n\t%s", err, strings.Join(vm.tail, "\n\t"))
}
