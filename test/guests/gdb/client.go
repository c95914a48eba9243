package gdb

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// replyLimit is how long the stub may take for an answer. It answers at once; only
// a guest that runs takes its time, see [Client.Continue].
const replyLimit = 30 * time.Second

// readSize is how much memory is read with one packet: QEMU answers 4 KiB of
// hexadecimal digits at most.
const readSize = 2048

// A RemoteError is the stub's refusal, "E14".
type RemoteError struct {
	Request string
	Reply   string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("gdb stub: %.40q refused: %q", e.Request, e.Reply)
}

// A Stop is why the guest does not run.
type Stop struct {
	Exited bool // powered off; otherwise it stopped at a breakpoint or after a step
	Reply  string
}

// A Client is a connection to a stub. It is not for concurrent use.
type Client struct {
	conn net.Conn
	r    *bufio.Reader
}

// NewClient starts on a fresh connection, which stops the guest, and asks the stub
// for its register description. QEMU 7.2 answers nothing to requests for single
// registers before that.
func NewClient(conn net.Conn) (*Client, error) {
	c := &Client{conn: conn, r: bufio.NewReader(conn)}
	description, err := c.ask("qXfer:features:read:target.xml:0,ffb")
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(description, "l") && !strings.HasPrefix(description, "m") {
		return nil, fmt.Errorf("gdb stub: no register description: %.40q", description)
	}
	return c, nil
}

// Close ends the connection. The guest goes on.
func (c *Client) Close() error { return c.conn.Close() }

// send sends a packet until it has been received undamaged.
func (c *Client) send(payload string) error {
	for range 3 {
		if _, err := c.conn.Write(encode(payload)); err != nil {
			return err
		}
		again, err := c.acknowledged()
		if err != nil || !again {
			return err
		}
	}
	return fmt.Errorf("gdb stub: %.40q was not understood three times", payload)
}

// acknowledged waits for '+' or '-'. A packet that comes instead is the stop that
// connecting made, which the stub may send late.
func (c *Client) acknowledged() (again bool, err error) {
	for {
		b, err := c.r.ReadByte()
		if err != nil {
			return false, err
		}
		switch b {
		case '+':
			return false, nil
		case '-':
			return true, nil
		case '$':
			if err := c.r.UnreadByte(); err != nil {
				return false, err
			}
			if _, err := c.receive(); err != nil {
				return false, err
			}
		default:
			return false, fmt.Errorf("gdb stub: byte %#x for an acknowledgement", b)
		}
	}
}

// receive reads a packet and acknowledges it.
func (c *Client) receive() (string, error) {
	for {
		payload, err := readPacket(c.r)
		acknowledgement := "+"
		if errors.Is(err, errChecksum) {
			acknowledgement = "-"
		} else if err != nil {
			return "", err
		}
		if _, err := io.WriteString(c.conn, acknowledgement); err != nil && !exited(payload) {
			return "", err
		}
		if acknowledgement == "+" {
			return payload, nil
		}
	}
}

// exited reports whether the packet is the stub's last one: nobody is there to take
// the acknowledgement.
func exited(packet string) bool {
	return strings.HasPrefix(packet, "W") || strings.HasPrefix(packet, "X")
}

// ask sends a request and returns the reply to it.
func (c *Client) ask(request string) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(replyLimit)); err != nil {
		return "", err
	}
	if err := c.send(request); err != nil {
		return "", err
	}
	for {
		reply, err := c.receive()
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(reply, "T") {
			continue // the stop that connecting made
		}
		if isError(reply) {
			return "", &RemoteError{request, reply}
		}
		return reply, nil
	}
}

// isError reports whether the reply is "E" and two hexadecimal digits. Memory that
// starts with the digits e0 to ef is lower case and longer.
func isError(reply string) bool {
	return len(reply) == 3 && reply[0] == 'E'
}

// command sends a request that is answered with OK.
func (c *Client) command(request string) error {
	reply, err := c.ask(request)
	if err == nil && reply != "OK" {
		return &RemoteError{request, reply}
	}
	return err
}

// Physical makes addresses physical ones, or virtual ones as the CPU sees them.
func (c *Client) Physical(on bool) error {
	if on {
		return c.command("Qqemu.PhyMemMode:1")
	}
	return c.command("Qqemu.PhyMemMode:0")
}

// ReadMemory reads n bytes.
func (c *Client) ReadMemory(address uint64, n int) ([]byte, error) {
	memory := make([]byte, 0, n)
	for len(memory) < n {
		part := min(readSize, n-len(memory))
		request := fmt.Sprintf("m%x,%x", address+uint64(len(memory)), part)
		reply, err := c.ask(request)
		if err != nil {
			return nil, err
		}
		bytes, err := hex.DecodeString(reply)
		if err != nil || len(bytes) != part {
			return nil, &RemoteError{request, reply}
		}
		memory = append(memory, bytes...)
	}
	return memory, nil
}

// WriteMemory writes the bytes.
func (c *Client) WriteMemory(address uint64, bytes []byte) error {
	for len(bytes) > 0 {
		part := min(readSize, len(bytes))
		if err := c.command(fmt.Sprintf("M%x,%x:%x", address, part, bytes[:part])); err != nil {
			return err
		}
		address += uint64(part)
		bytes = bytes[part:]
	}
	return nil
}

// Registers reads the general registers: 8 bytes each, big endian, in the order of
// the stub's description. It is for s390x, where these are the PSW's mask and
// address and r0 to r15, and a remainder of other sizes is left out.
func (c *Client) Registers(n int) ([]uint64, error) {
	reply, err := c.ask("g")
	if err != nil {
		return nil, err
	}
	if len(reply) < 16*n {
		return nil, &RemoteError{"g", reply}
	}
	registers := make([]uint64, n)
	for i := range registers {
		if registers[i], err = strconv.ParseUint(reply[16*i:16*i+16], 16, 64); err != nil {
			return nil, &RemoteError{"g", reply}
		}
	}
	return registers, nil
}

// SetRegister writes one register, numbered as in [Client.Registers].
func (c *Client) SetRegister(register int, value uint64) error {
	return c.command(fmt.Sprintf("P%x=%016x", register, value))
}

// Break sets a breakpoint at an instruction of that many bytes. QEMU does not change
// the guest's memory for it.
func (c *Client) Break(address uint64, size int) error {
	return c.command(fmt.Sprintf("Z0,%x,%x", address, size))
}

// Unbreak removes the breakpoint.
func (c *Client) Unbreak(address uint64, size int) error {
	return c.command(fmt.Sprintf("z0,%x,%x", address, size))
}

// Step runs one instruction.
func (c *Client) Step() (Stop, error) { return c.run("s") }

// Continue runs the guest until it stops, which may be never: give the connection's
// other end a deadline, or close the connection.
func (c *Client) Continue() (Stop, error) { return c.run("c") }

func (c *Client) run(request string) (Stop, error) {
	if err := c.conn.SetDeadline(time.Time{}); err != nil {
		return Stop{}, err
	}
	if err := c.send(request); err != nil {
		return Stop{}, err
	}
	reply, err := c.receive()
	if err != nil {
		return Stop{}, err
	}
	switch {
	case exited(reply):
		return Stop{Exited: true, Reply: reply}, nil
	case strings.HasPrefix(reply, "T"), strings.HasPrefix(reply, "S"):
		return Stop{Reply: reply}, nil
	}
	return Stop{}, &RemoteError{request, reply}
}
