package peer

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Forge sends a datagram over IPv4 that says that it comes from another address.
func Forge(source, target, text string) error {
	from, err := netip.ParseAddr(source)
	if err != nil {
		return err
	}
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	if !from.Is4() || !to.Addr().Is4() {
		return fmt.Errorf("not both of IPv4: %s, %s", source, target)
	}
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	// The kernel adds the identification and the checksum of this header; a datagram needs none of its own.
	packet := make([]byte, 28, 28+len(text))
	packet[0], packet[8], packet[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(packet[2:], uint16(28+len(text)))
	copy(packet[12:], from.AsSlice())
	copy(packet[16:], to.Addr().AsSlice())
	binary.BigEndian.PutUint16(packet[20:], 4000)
	binary.BigEndian.PutUint16(packet[22:], to.Port())
	binary.BigEndian.PutUint16(packet[24:], uint16(8+len(text)))
	return unix.Sendto(socket, append(packet, text...), 0, &unix.SockaddrInet4{Addr: to.Addr().As4()})
}
