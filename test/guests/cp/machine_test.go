package cp

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/levelfs/levelfs/test/guests/gdb"
)

// A cpu is the other end of a gdb connection: memory, registers, and the places
// where it stops when it is let run.
type cpu struct {
	memory    memory
	registers [registers]uint64
	runs      []func(c *cpu) string // what each step or continue does; the result is the reply
	log       []string              // steps and breakpoints
}

// serve answers packets, which hold nothing that has to be escaped.
func (c *cpu) serve(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for {
		if _, err := r.ReadString('$'); err != nil {
			return
		}
		request, err := r.ReadString('#')
		if err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, r, 2); err != nil {
			return
		}
		reply := c.answer(strings.TrimSuffix(request, "#"))
		var sum byte
		for _, b := range []byte(reply) {
			sum += b
		}
		if _, err := fmt.Fprintf(conn, "+$%s#%02x", reply, sum); err != nil {
			return
		}
	}
}

func (c *cpu) answer(request string) string {
	var address, size int
	var value uint64
	switch {
	case strings.HasPrefix(request, "qXfer"):
		return "l<target/>"
	case strings.HasPrefix(request, "Qqemu.PhyMemMode:"):
		return "OK"
	case strings.HasPrefix(request, "Z0"), strings.HasPrefix(request, "z0"):
		c.log = append(c.log, request)
		return "OK"
	case request == "g":
		var all strings.Builder
		for _, r := range c.registers {
			fmt.Fprintf(&all, "%016x", r)
		}
		return all.String()
	case request == "s", request == "c":
		c.log = append(c.log, request)
		run := c.runs[0]
		c.runs = c.runs[1:]
		return run(c)
	}
	if n, _ := fmt.Sscanf(request, "m%x,%x", &address, &size); n == 2 && address+size <= len(c.memory) {
		return hex.EncodeToString(c.memory[address:][:size])
	}
	if n, _ := fmt.Sscanf(request, "P%x=%x", &address, &value); n == 2 && address < registers {
		c.registers[address] = value
		return "OK"
	}
	var digits string
	if n, _ := fmt.Sscanf(request, "M%x,%x:%s", &address, &size, &digits); n == 3 {
		data, err := hex.DecodeString(digits)
		if err == nil && len(data) == size && address+size <= len(c.memory) {
			copy(c.memory[address:], data)
			return "OK"
		}
	}
	return "E22"
}

const (
	kernelState = 0x0704c00180000000
	userState   = 0x0705200180000000
	stopped     = "T05thread:01;"
)

// text is the cpu's kernel: diag %r1,%r2,0x64 at 0x1002, diag %r4,%r6,8 at 0x1006.
var text = Text{0x1000, 0x1010}

func newCPU(t *testing.T, runs ...func(c *cpu) string) *cpu {
	c := &cpu{memory: make(memory, 0x2000), runs: runs}
	c.memory.put(t, 0x1000, "0707 83120064 83460008 0707070707")
	c.memory.put(t, machineFlags, "000000000000b032")
	c.memory.put(t, 0x100, ebcdicFOO)
	c.memory.put(t, 0x200, "e2c1e5c5e2c5c7 40 c6d6d6")
	c.registers[pswMask] = kernelState
	return c
}

func connect(t *testing.T, c *cpu) *gdb.Client {
	t.Helper()
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.serve(theirs)
	}()
	t.Cleanup(func() {
		ours.Close()
		<-done
	})
	client, err := gdb.NewClient(ours)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// at stops the cpu there, in that state, with registers set.
func at(state, address uint64, set map[int]uint64) func(c *cpu) string {
	return func(c *cpu) string {
		c.registers[pswMask], c.registers[pswAddress] = state, address
		for r, value := range set {
			c.registers[firstGeneral+r] = value
		}
		return stopped
	}
}

// check is a stop at an instruction after the kernel has been answered: it looks at
// what it was answered first.
func check(t *testing.T, want map[int]uint64, next func(c *cpu) string) func(c *cpu) string {
	return func(c *cpu) string {
		for register, value := range want {
			if c.registers[register] != value {
				t.Errorf("register %d is %#x, want %#x", register, c.registers[register], value)
			}
		}
		return next(c)
	}
}

func off(*cpu) string { return "W00" }

func TestMachine(t *testing.T) {
	control := newCP(t)
	cpu := newCPU(t,
		at(kernelState, 0x4711, nil), // a step out of problem state
		at(userState, 0x1002, nil),   // a program has code there, too
		at(userState, 0x1004, nil),   // which is stepped over
		at(kernelState, 0x1002, map[int]uint64{1: 0x100, 2: loadShared}),
		check(t, map[int]uint64{pswMask: kernelState &^ (3 << conditionShift), pswAddress: 0x1006, firstGeneral + 1: 0x20000000, firstGeneral + 2: 0x20ffffff},
			at(kernelState, 0x1006, map[int]uint64{4: 0x200, 6: 11 | responsePair, 7: 99})),
		check(t, map[int]uint64{pswAddress: 0x100a, firstGeneral + 6: 0, firstGeneral + 7: 0},
			at(kernelState, 0x1002, map[int]uint64{1: 0x200, 2: loadShared})), // no segment's name
		check(t, map[int]uint64{pswMask: kernelState&^(3<<conditionShift) | 2<<conditionShift, firstGeneral + 2: 44}, off),
	)
	cpu.registers[pswMask] = userState
	client := connect(t, cpu)
	m, err := Start(control, client, text)
	if err != nil {
		t.Fatal(err)
	}
	if flags := cpu.memory[machineFlags+7]; flags != 0x33 {
		t.Errorf("machine flags are %#x", flags)
	}
	slices.Sort(cpu.log[:2])
	if want := []string{"Z0,1002,4", "Z0,1006,4", "s"}; !slices.Equal(cpu.log, want) {
		t.Errorf("start: %q, want %q", cpu.log, want)
	}
	cpu.log = nil
	if err := m.Run(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"c", "z0,1002,4", "s", "Z0,1002,4", "c", "c", "c", "c"}; !slices.Equal(cpu.log, want) {
		t.Errorf("run: %q, want %q", cpu.log, want)
	}
	if loaded, shared := control.Loaded("FOO"); !loaded || !shared {
		t.Errorf("FOO: loaded %v, shared %v", loaded, shared)
	}
	if got := control.Commands(); !slices.Equal(got, []string{"SAVESEG FOO"}) {
		t.Errorf("commands %q", got)
	}
}

func TestStartRefuses(t *testing.T) {
	for name, change := range map[string]func(c *cpu) Text{
		"no text":             func(*cpu) Text { return Text{0x1000, 0x1000} },
		"text elsewhere":      func(*cpu) Text { return Text{0x10000, 0x10100} },
		"no DIAGNOSE":         func(*cpu) Text { return Text{0x1800, 0x1900} },
		"flags elsewhere":     func(c *cpu) Text { clear(c.memory[machineFlags:][:8]); return text },
		"address for flags":   func(c *cpu) Text { c.memory[machineFlags] = 1; return text },
		"flag is set already": func(c *cpu) Text { c.memory[machineFlags+7] |= flagVM; return text },
	} {
		c := newCPU(t)
		where := change(c)
		if _, err := Start(newCP(t), connect(t, c), where); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestRunFails(t *testing.T) {
	for name, stop := range map[string]func(c *cpu) string{
		"no DIAGNOSE there": at(kernelState, 0x1004, nil),
		"unknown subcode":   at(kernelState, 0x1002, map[int]uint64{1: 0x100, 2: 0x2c}),
		"bad address":       at(kernelState, 0x1002, map[int]uint64{1: 0x100000, 2: loadShared}),
	} {
		m, err := Start(newCP(t), connect(t, newCPU(t, stop)), text)
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Run(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
