package peer

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// What a stream's first word may ask for, beside an echo at once.
const (
	sendVerb = "send"
	takeVerb = "take"
	slowVerb = "slow "
)

// slowness is how long a slow answer takes.
const slowness = 200 * time.Millisecond

// Serve answers at these ends until the process ends, and calls heard, from several goroutines, with every text that
// came and the address that it came from. Where a host is missing, it is every address (of other packets it may be the
// unspecified one); datagrams are answered from the address that they were sent to only where one is named. ICMP is
// answered by the kernel: here it is heard.
func Serve(heard func(text, from string), names ...string) error {
	for _, name := range names {
		at, err := parse(name)
		if err != nil {
			return err
		}
		switch at.scheme {
		case "tcp":
			var listener net.Listener
			if listener, err = net.Listen("tcp", at.address()); err == nil {
				go accept(listener, heard)
			}
		case "udp":
			var conn net.PacketConn
			if conn, err = net.ListenPacket("udp", at.address()); err == nil {
				go answer(conn, heard, true)
			}
		case "icmp":
			var conn net.PacketConn
			if conn, err = net.ListenPacket(at.packets(), at.host.String()); err == nil {
				go answer(conn, heard, false)
			}
		default:
			var conn *rawConn
			if conn, err = listenRaw(at); err == nil {
				go answer(conn, heard, true)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func accept(listener net.Listener, heard func(text, from string)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go converse(conn, heard)
	}
}

func converse(conn net.Conn, heard func(text, from string)) {
	defer conn.Close()
	from := conn.RemoteAddr().String()
	if _, err := fmt.Fprintf(conn, "%s%s\n", greeting, from); err != nil {
		return
	}
	lines := bufio.NewReader(conn)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return
		}
		var verb string
		var bytes int64
		if fields, _ := fmt.Sscanf(line, "%s %d\n", &verb, &bytes); fields == 2 && verb == sendVerb {
			_, _ = io.CopyN(conn, zeros{}, bytes)
			return
		} else if fields == 2 && verb == takeVerb {
			if _, err := io.CopyN(io.Discard, lines, bytes); err != nil {
				return
			}
			line = "taken\n"
		}
		heard(strings.TrimSuffix(line, "\n"), from)
		if strings.HasPrefix(line, slowVerb) {
			time.Sleep(slowness)
		}
		if _, err := io.WriteString(conn, line); err != nil {
			return
		}
	}
}

// answer gives every packet back with the address that it came from, or only hears it.
func answer(conn net.PacketConn, heard func(text, from string), back bool) {
	buffer := make([]byte, 64<<10)
	for {
		length, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return
		}
		text := string(buffer[:length])
		heard(text, from.String())
		if back && !strings.HasPrefix(text, greeting) {
			_, _ = fmt.Fprintf(writer{conn, from}, "%s%s\n%s", greeting, from, text)
		}
	}
}

// writer writes packets to one address.
type writer struct {
	conn net.PacketConn
	to   net.Addr
}

func (w writer) Write(packet []byte) (int, error) { return w.conn.WriteTo(packet, w.to) }
