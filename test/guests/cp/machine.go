package cp

import (
	"encoding/binary"
	"fmt"

	"github.com/levelfs/levelfs/test/guests/gdb"
)

// Text is where the guest's kernel has its code: _stext and _etext.
type Text struct{ Start, End uint64 }

// Registers as the stub numbers them.
const (
	pswMask      = 0
	pswAddress   = 1
	firstGeneral = 2
	registers    = firstGeneral + 16
)

const (
	problemState   = 1 << 48 // in the PSW's mask
	conditionShift = 44
)

const (
	// machineFlags is where lowcore has them in Linux 6.1 (struct lowcore).
	machineFlags = 0x3c8
	flagVM       = 1 << 0
	flagKVM      = 1 << 1 // what Linux takes QEMU for
)

// maxSteps bounds the way out of problem state. The stub holds interrupts back while
// it steps, so that a system call is what ends it.
const maxSteps = 1_000_000

// A Machine is a guest whose kernel takes us for CP.
type Machine struct {
	cp     *CP
	client *gdb.Client
	sites  map[uint64]site
}

// A site is a DIAGNOSE instruction in the kernel's text.
type site struct {
	code   uint16
	rx, ry int // general registers
}

// siteSize is the length of the instruction.
const siteSize = 4

// findSites looks for DIAGNOSE X'08' and X'64' at every place where an instruction
// can start. What it finds within other instructions or data is never reached.
func findSites(text []byte, start uint64) map[uint64]site {
	sites := make(map[uint64]site)
	for i := 0; i+siteSize <= len(text); i += 2 {
		code := binary.BigEndian.Uint16(text[i+2:])
		if text[i] == 0x83 && (code == 0x08 || code == 0x64) {
			sites[start+uint64(i)] = site{code, int(text[i+1] >> 4), int(text[i+1] & 15)}
		}
	}
	return sites
}

// Start makes the guest, which is stopped as long as the client is connected and
// does not let it go on, one of the CP.
func Start(cp *CP, client *gdb.Client, text Text) (*Machine, error) {
	if text.Start >= text.End || text.End-text.Start > 64<<20 {
		return nil, fmt.Errorf("kernel text from %#x to %#x", text.Start, text.End)
	}
	m := &Machine{cp: cp, client: client}
	var code []byte
	err := m.physically(func() (err error) {
		code, err = client.ReadMemory(text.Start, int(text.End-text.Start))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the kernel's text: %w", err)
	}
	m.sites = findSites(code, text.Start)
	if len(m.sites) == 0 {
		return nil, fmt.Errorf("no DIAGNOSE in the kernel's text from %#x to %#x", text.Start, text.End)
	}
	for address := range m.sites {
		if err := client.Break(address, siteSize); err != nil {
			return nil, err
		}
	}
	if err := m.setFlag(); err != nil {
		return nil, fmt.Errorf("set the machine flag: %w", err)
	}
	return m, nil
}

// physically does something with the stub's addresses being physical ones.
func (m *Machine) physically(do func() error) error {
	if err := m.client.Physical(true); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return m.client.Physical(false)
}

// setFlag makes the kernel believe that it is under z/VM. The flags are in the CPU's
// prefix area, which is at virtual address 0 as long as the kernel runs.
func (m *Machine) setFlag() error {
	for step := 0; ; step++ {
		r, err := m.client.Registers(registers)
		if err != nil {
			return err
		}
		if r[pswMask]&problemState == 0 {
			break
		}
		if step == maxSteps {
			return fmt.Errorf("the CPU was in problem state for %d instructions", maxSteps)
		}
		if err := m.step(); err != nil {
			return err
		}
	}
	raw, err := m.client.ReadMemory(machineFlags, 8)
	if err != nil {
		return err
	}
	flags := binary.BigEndian.Uint64(raw)
	if flags>>32 != 0 || flags&flagKVM == 0 || flags&flagVM != 0 {
		return fmt.Errorf("%#x at %#x are not the machine flags of Linux 6.1 under QEMU", flags, machineFlags)
	}
	return m.client.WriteMemory(machineFlags, binary.BigEndian.AppendUint64(nil, flags|flagVM))
}

// Run lets the guest run and answers it, until it is powered off.
func (m *Machine) Run() error {
	for {
		stop, err := m.client.Continue()
		if err != nil {
			return err
		}
		if stop.Exited {
			return nil
		}
		r, err := m.client.Registers(registers)
		if err != nil {
			return err
		}
		if r[pswMask]&problemState != 0 {
			err = m.pass(r[pswAddress])
		} else {
			err = m.answer(r)
		}
		if err != nil {
			return err
		}
	}
}

// pass lets a program do what it has at the address: breakpoints are virtual
// addresses, and a program can have code at one that is a DIAGNOSE in the kernel.
func (m *Machine) pass(address uint64) error {
	if err := m.client.Unbreak(address, siteSize); err != nil {
		return err
	}
	if err := m.step(); err != nil {
		return err
	}
	return m.client.Break(address, siteSize)
}

// step runs one instruction.
func (m *Machine) step() error {
	stop, err := m.client.Step()
	if err == nil && stop.Exited {
		err = fmt.Errorf("the guest is off: %q", stop.Reply)
	}
	return err
}

// answer does the DIAGNOSE that the guest stopped at, with these registers.
func (m *Machine) answer(r []uint64) error {
	at, found := m.sites[r[pswAddress]]
	if !found {
		return fmt.Errorf("the guest stopped at %#x, where there is no DIAGNOSE", r[pswAddress])
	}
	var answer Answer
	set := make(map[int]uint64)
	err := m.physically(func() (err error) {
		rx, ry := r[firstGeneral+at.rx], r[firstGeneral+at.ry]
		if at.code == 0x64 {
			answer, err = m.cp.Segment(m.client, rx, ry)
			return err
		}
		var pair bool
		answer, pair, err = m.cp.Command(m.client, rx, ry)
		if pair {
			set[firstGeneral+at.ry+1] = 0 // length of the output
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("DIAGNOSE X'%02X' at %#x, registers %x: %w", at.code, r[pswAddress], r, err)
	}
	set[firstGeneral+at.rx] = answer.Rx
	set[firstGeneral+at.ry] = answer.Ry
	set[pswMask] = r[pswMask]&^(3<<conditionShift) | answer.CC<<conditionShift
	set[pswAddress] = r[pswAddress] + siteSize
	for register, value := range set {
		if err := m.client.SetRegister(register, value); err != nil {
			return err
		}
	}
	return nil
}
