package gdb

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// A stub answers each request as the function says, after the packets in before.
type stub struct {
	t        *testing.T
	conn     net.Conn
	before   []string
	answer   func(request string) string
	requests []string
}

// connect returns a client of the stub.
func connect(t *testing.T, s *stub) *Client {
	t.Helper()
	ours, theirs := net.Pipe()
	s.t, s.conn = t, theirs
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		ours.Close()
		<-done
	})
	c, err := NewClient(ours)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *stub) serve() {
	defer s.conn.Close()
	r := bufio.NewReader(s.conn)
	for {
		request, err := readPacket(r)
		if err != nil {
			return
		}
		s.requests = append(s.requests, request)
		io.WriteString(s.conn, "+")
		for _, packet := range s.before {
			s.conn.Write(encode(packet))
			if c, err := r.ReadByte(); err != nil || c != '+' {
				s.t.Errorf("acknowledgement %q, %v", c, err)
			}
		}
		s.before = nil
		reply := "l<target/>"
		if !strings.HasPrefix(request, "qXfer:features:read:target.xml") {
			reply = s.answer(request)
		}
		s.conn.Write(encode(reply))
		if exited(reply) {
			return // as QEMU does: gone before the acknowledgement
		}
		if c, err := r.ReadByte(); err != nil || c != '+' {
			s.t.Errorf("acknowledgement %q, %v", c, err)
		}
	}
}

func TestMemory(t *testing.T) {
	memory := bytes.Repeat([]byte("0123456789abcdef"), 300)
	s := &stub{before: []string{"T05thread:01;"}}
	s.answer = func(request string) string {
		var address, size int
		if _, err := fmt.Sscanf(request, "m%x,%x", &address, &size); err == nil {
			return fmt.Sprintf("%x", memory[address:address+size])
		}
		var data []byte
		if _, err := fmt.Sscanf(request, "M%x,%x:%x", &address, &size, &data); err != nil || len(data) != size {
			return "E22"
		}
		copy(memory[address:], data)
		return "OK"
	}
	c := connect(t, s)
	got, err := c.ReadMemory(16, 4500)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, memory[16:4516]) {
		t.Errorf("memory is not as it was read in parts")
	}
	if err := c.WriteMemory(4, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if string(memory[:8]) != "0123new7" {
		t.Errorf("memory after writing: %q", memory[:8])
	}
}

func TestRegisters(t *testing.T) {
	s := &stub{answer: func(request string) string {
		switch request {
		case "g":
			return "0704c00180000000" + "000000000012846e" + "00112233"
		case "P1=0000000000128472", "Z0,12846e,4", "z0,12846e,4", "Qqemu.PhyMemMode:1", "Qqemu.PhyMemMode:0":
			return "OK"
		}
		return "E22"
	}}
	c := connect(t, s)
	got, err := c.Registers(2)
	if err != nil {
		t.Fatal(err)
	}
	if want := []uint64{0x0704c00180000000, 0x12846e}; !slices.Equal(got, want) {
		t.Errorf("registers %#x, want %#x", got, want)
	}
	if _, err := c.Registers(3); err == nil {
		t.Error("more registers than there are")
	}
	if err := errors.Join(c.SetRegister(1, 0x128472), c.Break(0x12846e, 4), c.Unbreak(0x12846e, 4), c.Physical(true), c.Physical(false)); err != nil {
		t.Error(err)
	}
	var refused *RemoteError
	if err := c.SetRegister(99, 0); !errors.As(err, &refused) || refused.Reply != "E22" {
		t.Errorf("refused register: %v", err)
	}
}

func TestRun(t *testing.T) {
	replies := []string{"T05thread:01;", "T05thread:01;", "W00"}
	s := &stub{answer: func(string) string {
		reply := replies[0]
		replies = replies[1:]
		return reply
	}}
	c := connect(t, s)
	for i, do := range []func() (Stop, error){c.Step, c.Continue, c.Continue} {
		stop, err := do()
		if err != nil {
			t.Fatal(err)
		}
		if want := i == 2; stop.Exited != want {
			t.Errorf("run %d: exited is %v", i, stop.Exited)
		}
	}
	if want := []string{"s", "c", "c"}; !slices.Equal(s.requests[1:], want) {
		t.Errorf("requests %q, want %q", s.requests[1:], want)
	}
}

func TestPackets(t *testing.T) {
	for _, c := range []struct{ name, stream, want string }{
		{"plain", "$OK#9a", "OK"},
		{"empty", "$#00", ""},
		{"acknowledged", "++$OK#9a", "OK"},
		{"escaped", "$}\x03#80", "#"},
		{"run of five", "$0*!#7b", "00000"}, // '!' is 33: 4 more
	} {
		got, err := readPacket(bufio.NewReader(strings.NewReader(c.stream)))
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	for name, stream := range map[string]string{
		"checksum": "$OK#9b", "short": "$OK", "no digits": "$OK#zz", "half a checksum": "$OK#9",
		"noise": "x$OK#9a", "run of nothing": "$*!#4b", "escape at the end": "$}",
		"endless": "$" + strings.Repeat("a", maxPacket+1),
	} {
		if got, err := readPacket(bufio.NewReader(strings.NewReader(stream))); err == nil {
			t.Errorf("%s: no error but %q", name, got)
		}
	}
}

// FuzzPacket: whatever is framed comes out again, and nothing else panics.
func FuzzPacket(f *testing.F) {
	f.Add("OK", "$OK#9a")
	f.Add("#$}*", "$0*!#7b")
	f.Add("", "$}")
	f.Fuzz(func(t *testing.T, payload, stream string) {
		if len(payload) <= maxPacket {
			got, err := readPacket(bufio.NewReader(bytes.NewReader(encode(payload))))
			if err != nil || got != payload {
				t.Errorf("%q became %q, %v", payload, got, err)
			}
		}
		readPacket(bufio.NewReader(strings.NewReader(stream)))
	})
}
