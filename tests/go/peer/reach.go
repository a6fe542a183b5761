package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// again is how often what may get lost is sent anew.
const again = 250 * time.Millisecond

// greeting begins what answers say of whom they see.
const greeting = "you are "

// Answered begins the outcome of an end that was reached; the address that it saw follows.
const Answered = "answered "

// Reach sends a text to an end and waits so long for it to come back. The outcome begins with Answered, or is the
// name of the kernel's error, or "silence".
func Reach(name, text string, patience time.Duration) string {
	to, err := parse(name)
	if err != nil {
		return err.Error()
	}
	deadline := time.Now().Add(patience)
	var seen string
	switch to.scheme {
	case "tcp":
		seen, err = to.stream(text, deadline)
	case "udp":
		seen, err = to.datagrams(text, deadline)
	case "icmp":
		seen, err = to.messages(text, deadline)
	default:
		seen, err = to.raw(text, deadline)
	}
	if err != nil {
		return reason(err)
	}
	return Answered + seen
}

// reason is the shortest word for why something failed.
func reason(err error) string {
	var number unix.Errno
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		return "silence"
	case errors.As(err, &number):
		return unix.ErrnoName(number)
	}
	return err.Error()
}

func dial(network, address string, deadline time.Time) (net.Conn, error) {
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial(network, address)
	if err != nil {
		return nil, err
	}
	return conn, conn.SetDeadline(deadline)
}

func (e end) stream(text string, deadline time.Time) (seen string, err error) {
	conn, err := dial("tcp", e.address(), deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	if seen, err = greeted(lines); err != nil {
		return "", err
	}
	if _, err = fmt.Fprintln(conn, text); err != nil {
		return "", err
	}
	echo, err := lines.ReadString('\n')
	if err == nil && strings.TrimSuffix(echo, "\n") != text {
		err = fmt.Errorf("%q came back as %q", text, echo)
	}
	return seen, err
}

func greeted(lines *bufio.Reader) (string, error) {
	line, err := lines.ReadString('\n')
	if err != nil {
		return "", err
	}
	seen, well := strings.CutPrefix(strings.TrimSuffix(line, "\n"), greeting)
	if !well {
		return "", fmt.Errorf("another answered: %q", line)
	}
	return seen, nil
}

// exchange sends a packet until one comes back that is understood.
func exchange(conn net.Conn, packet []byte, deadline time.Time, understood func([]byte) (string, bool)) (string, error) {
	buffer := make([]byte, 64<<10)
	for time.Now().Before(deadline) {
		if _, err := conn.Write(packet); err != nil {
			return "", err
		}
		if err := conn.SetReadDeadline(earlier(deadline, time.Now().Add(again))); err != nil {
			return "", err
		}
		for {
			length, err := read(conn, buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return "", err
			}
			if seen, well := understood(buffer[:length]); well {
				return seen, nil
			}
		}
	}
	return "", os.ErrDeadlineExceeded
}

// read reads a packet without the header that IPv4's raw sockets hand over.
func read(conn net.Conn, into []byte) (int, error) {
	if raw, is := conn.(*net.IPConn); is {
		length, _, err := raw.ReadFrom(into)
		return length, err
	}
	return conn.Read(into)
}

func earlier(one, other time.Time) time.Time {
	if one.Before(other) {
		return one
	}
	return other
}

// saidBack reads an answer's greeting, where it is one to this text.
func saidBack(text string) func([]byte) (string, bool) {
	return func(packet []byte) (string, bool) {
		first, rest, _ := strings.Cut(string(packet), "\n")
		seen, well := strings.CutPrefix(first, greeting)
		return seen, well && rest == text
	}
}

func (e end) datagrams(text string, deadline time.Time) (string, error) {
	dialer := net.Dialer{Deadline: deadline}
	if e.from != 0 {
		dialer.LocalAddr = &net.UDPAddr{Port: int(e.from)}
	}
	conn, err := dialer.Dial("udp", e.address())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	return exchange(conn, []byte(text), deadline, saidBack(text))
}

func (e end) raw(text string, deadline time.Time) (string, error) {
	conn, err := dial(e.packets(), e.host.String(), deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return exchange(conn, []byte(text), deadline, saidBack(text))
}

var identifier atomic.Uint32

// messages sends an ICMP message that the other's kernel answers: an echo, or (IPv4) the time.
func (e end) messages(text string, deadline time.Time) (string, error) {
	conn, err := dial(e.packets(), e.host.String(), deadline)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	// Type, code, checksum, identifier, sequence; of the time, three times follow.
	message := make([]byte, 8, 64)
	message[0], message[1] = e.kind, e.code
	binary.BigEndian.PutUint16(message[4:], uint16(os.Getpid())^uint16(identifier.Add(1)<<8))
	if e.kind == icmpTime {
		message = append(message, make([]byte, 12)...)
	}
	message = append(message, text...)
	if e.host.Is4() {
		// Of ICMPv6 the kernel makes it.
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	return exchange(conn, message, deadline, func(answer []byte) (string, bool) {
		return "by its kernel", len(answer) >= 8 && answer[0] == reply(e.kind) && answer[1] == e.code && bytes.Equal(answer[4:8], message[4:8])
	})
}

const icmpTime = 13

// reply is the type that answers a type.
func reply(kind uint8) uint8 {
	switch kind {
	case 8:
		return 0
	case 128:
		return 129
	}
	return kind + 1
}

// checksum is the one of the internet protocols (RFC 1071).
func checksum(data []byte) uint16 {
	var sum uint32
	for index, value := range data {
		sum += uint32(value) << (8 * (1 - index%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Talk keeps one connection and sends a numbered line every now and then; each that came back is told. It returns
// when the connection fails or a line does not come back in time.
func Talk(address, text string, interval, patience time.Duration, told func(line string)) error {
	conn, err := dial("tcp", address, time.Now().Add(patience))
	if err != nil {
		return err
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	if _, err := greeted(lines); err != nil {
		return err
	}
	for number := 1; ; number++ {
		line := fmt.Sprintf("%s %d\n", text, number)
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return err
		}
		echo, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if echo != line {
			return fmt.Errorf("%q came back as %q", line, echo)
		}
		told(strings.TrimSuffix(line, "\n"))
		time.Sleep(interval)
	}
}

// Drum sends a datagram every few milliseconds, each with the text, a number and a full stop, whatever comes of it.
func Drum(address, text string, interval time.Duration) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	for number := 1; ; number++ {
		_, _ = fmt.Fprintf(conn, "%s %d.", text, number)
		time.Sleep(interval)
	}
}

// Transfer moves so many bytes from an end ("send") or to it ("take"), and returns how long that took.
func Transfer(verb, address string, bytes int64, patience time.Duration) (time.Duration, error) {
	conn, err := dial("tcp", address, time.Now().Add(patience))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	lines := bufio.NewReader(conn)
	if _, err := greeted(lines); err != nil {
		return 0, err
	}
	begin := time.Now()
	if _, err := fmt.Fprintf(conn, "%s %d\n", verb, bytes); err != nil {
		return 0, err
	}
	var moved int64
	if verb == sendVerb {
		moved, err = io.Copy(io.Discard, lines)
	} else {
		if moved, err = io.CopyN(conn, zeros{}, bytes); err == nil {
			_, err = lines.ReadString('\n')
		}
	}
	if err == nil && moved != bytes {
		err = fmt.Errorf("%d bytes of %d", moved, bytes)
	}
	return time.Since(begin), err
}

// zeros never end.
type zeros struct{}

func (zeros) Read(into []byte) (int, error) {
	clear(into)
	return len(into), nil
}
