package gdb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// maxPacket bounds what is read for one packet. QEMU's largest is 4 KiB.
const maxPacket = 1 << 16

// errChecksum is a packet that arrived damaged; the peer is asked to send it again.
var errChecksum = errors.New("checksum does not match")

// encode frames the payload: $PAYLOAD#CHECKSUM, with the four characters that have a
// meaning escaped.
func encode(payload string) []byte {
	packet := []byte{'$'}
	var sum byte
	put := func(c byte) {
		packet = append(packet, c)
		sum += c
	}
	for _, c := range []byte(payload) {
		switch c {
		case '#', '$', '}', '*':
			put('}')
			c ^= 0x20
		}
		put(c)
	}
	return fmt.Appendf(packet, "#%02x", sum)
}

// readPacket reads the next packet and returns its payload. Acknowledgements before
// it are skipped.
func readPacket(r *bufio.Reader) (string, error) {
	for {
		c, err := r.ReadByte()
		if err != nil {
			return "", err
		}
		if c == '$' {
			break
		}
		if c != '+' && c != '-' {
			return "", fmt.Errorf("byte %#x between packets", c)
		}
	}
	var payload []byte
	var sum byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			return "", unexpected(err)
		}
		if c == '#' {
			break
		}
		sum += c
		switch c {
		case '}':
			if c, err = r.ReadByte(); err != nil {
				return "", unexpected(err)
			}
			sum += c
			payload = append(payload, c^0x20)
		case '*': // run length: repeat the last character
			if c, err = r.ReadByte(); err != nil {
				return "", unexpected(err)
			}
			sum += c
			if len(payload) == 0 || c < ' ' || c > '~' {
				return "", fmt.Errorf("run of length code %#x", c)
			}
			for range c - 29 {
				payload = append(payload, payload[len(payload)-1])
			}
		default:
			payload = append(payload, c)
		}
		if len(payload) > maxPacket {
			return "", errors.New("packet too long")
		}
	}
	var digits [2]byte
	if _, err := io.ReadFull(r, digits[:]); err != nil {
		return "", unexpected(err)
	}
	want, err := strconv.ParseUint(string(digits[:]), 16, 8)
	if err != nil {
		return "", fmt.Errorf("checksum %q", digits)
	}
	if byte(want) != sum {
		return "", errChecksum
	}
	return string(payload), nil
}

// unexpected is the error of a stream that ends within a packet.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
