package peer

import (
	"net"

	"golang.org/x/sys/unix"
)

// rawConn is a socket of one protocol above IP that answers from the address that it was asked at.
type rawConn struct {
	*net.IPConn
	four bool
	// What the kernel told of the last packet: which address it came to.
	at []byte
}

func listenRaw(at end) (*rawConn, error) {
	conn, err := net.ListenPacket(at.packets(), at.host.String())
	if err != nil {
		return nil, err
	}
	raw := &rawConn{IPConn: conn.(*net.IPConn), four: at.host.Is4()}
	control, err := raw.SyscallConn()
	if err != nil {
		return nil, err
	}
	level, option := unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	if raw.four {
		level, option = unix.IPPROTO_IP, unix.IP_PKTINFO
	}
	failed := control.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, 1) })
	if err == nil {
		err = failed
	}
	return raw, err
}

// ReadFrom reads a packet without IPv4's header, which such sockets hand over.
func (c *rawConn) ReadFrom(into []byte) (int, net.Addr, error) {
	told := make([]byte, 128)
	length, toldLength, _, from, err := c.ReadMsgIP(into, told)
	if err != nil {
		return 0, nil, err
	}
	if header := int(into[0]&15) * 4; c.four && length >= header {
		length = copy(into, into[header:length])
	}
	c.at = told[:toldLength]
	// Which link it came by does not matter: the first field for IPv4, the one behind the address for IPv6.
	if field := unix.CmsgLen(0); c.four && toldLength >= field+4 {
		clear(c.at[field : field+4])
	} else if !c.four && toldLength >= field+20 {
		clear(c.at[field+16 : field+20])
	}
	return length, from, nil
}

// WriteTo answers the packet that was read last.
func (c *rawConn) WriteTo(packet []byte, to net.Addr) (int, error) {
	length, _, err := c.WriteMsgIP(packet, c.at, to.(*net.IPAddr))
	return length, err
}
