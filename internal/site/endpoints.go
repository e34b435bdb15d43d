package site

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"linli/internal/yamlfile"
)

// maxRegistration bounds the registration packet of a converter, in bytes.
const maxRegistration = 64

// endpoints is what the buses occupy, to find two on one.
type endpoints struct {
	device map[string]string    // cleaned path -> bus
	tcp    map[string]string    // host:port that is dialled -> bus
	host   map[string]*bus      // host that is dialled -> first bus there
	chip   map[string]string    // GPIO chip -> bus
	listen map[string][]inbound // port -> who dials in there
	ports  []string             // of listen, in the order of the file
}

func newEndpoints() *endpoints {
	return &endpoints{device: map[string]string{}, tcp: map[string]string{}, host: map[string]*bus{}, chip: map[string]string{}, listen: map[string][]inbound{}}
}

// inbound is one bus whose converter dials in.
type inbound struct {
	bus          string
	address      string // as written
	pos, regPos  yamlfile.Pos
	registration []byte
	unknown      bool // its registration is wrong and has been reported
}

// tcp resolves an endpoint: one that we dial, or one that dials in.
func (r *resolver) tcp(b *bus, e *endpoint, out *Bus, taken *endpoints) {
	if e == &b.RTUOverTCP {
		out.Line = r.line(e.Baud, e.Format)
		if e.IgnoreTID.Pos.Line > 0 {
			r.failf(e.IgnoreTID.Pos, "ignore_transaction_id is for %s: RTU frames carry no transaction id", ModbusTCP)
		}
		if e.AtOnce.Pos.Line > 0 {
			r.failf(e.AtOnce.Pos, "requests_at_once is for %s: on a serial line there is one at a time", ModbusTCP)
		}
	} else {
		for key, pos := range map[string]yamlfile.Pos{"baud": e.Baud.Pos, "format": e.Format.Pos} {
			if pos.Line > 0 {
				r.failf(pos, "%s is of a serial line, and %s has none that the gateway sees", key, ModbusTCP)
			}
		}
		out.IgnoreTID, out.AtOnce = e.IgnoreTID.Value, e.AtOnce.Value
		if n := e.AtOnce; n.Pos.Line > 0 && (n.Value < 1 || n.Value > 16) {
			r.failf(n.Pos, "%d requests at once: 1 to 16", n.Value)
		}
		if out.AtOnce > 1 && (out.IgnoreTID || e.Listen.Pos.Line > 0) {
			r.failf(e.AtOnce.Pos, "requests_at_once needs transaction ids, and a server that the gateway dials")
		}
	}
	switch {
	case e.Address.Pos.Line > 0 && e.Listen.Pos.Line > 0:
		r.failf(e.Listen.Pos, "either address (the gateway dials) or listen (the converter dials in), not both")
	case e.Address.Pos.Line == 0 && e.Listen.Pos.Line == 0:
		if !r.refused[e.Pos] && !r.troubled(e.Pos) {
			r.failf(e.Pos, "write address: host:port, which the gateway dials, or listen: host:port, where the converter dials in")
		}
	case e.Listen.Pos.Line > 0:
		r.inbound(b, e, out, taken)
	default:
		if e.Registration.pos.Line > 0 {
			r.failf(e.Registration.pos, "a registration is what a converter sends when it dials in: it needs listen instead of address")
		}
		r.outbound(b, e, out, taken)
	}
}

func (r *resolver) outbound(b *bus, e *endpoint, out *Bus, taken *endpoints) {
	if !present(r, e.Address) {
		return
	}
	host, _, problem := splitHostPort(e.Address.Value)
	if problem == "" && host == "" {
		problem = "the host is missing"
	}
	if problem != "" {
		r.failf(e.Address.Pos, "%q is no address: %s (host:port, as 192.168.1.20:502)%s", e.Address.Value, problem, wideHint(e.Address.Value))
		return
	}
	out.Address = e.Address.Value
	key := strings.ToLower(out.Address)
	if other, ok := taken.tcp[key]; ok {
		r.failf(e.Address.Pos, "bus %s has this address already: put all units of one endpoint on one bus", other)
		return
	}
	taken.tcp[key] = b.ID.Value
	host = strings.ToLower(host)
	if first := taken.host[host]; first == nil {
		taken.host[host] = b
	} else if given(first.TCP.Pos) != given(b.TCP.Pos) {
		r.warnf(e.Address.Pos, "%s is used as Modbus TCP and as RTU over TCP (bus %s): right only where its ports are set up so, each for a line of its own", host, first.ID.Value)
	}
}

func (r *resolver) inbound(b *bus, e *endpoint, out *Bus, taken *endpoints) {
	registration, err := parseRegistration(e.Registration.text)
	wrong := e.Registration.pos.Line > 0 && (err != nil || r.refused[e.Registration.pos])
	switch text := e.Registration.text; {
	case e.Registration.pos.Line == 0 || r.refused[e.Registration.pos]:
	case err != nil:
		r.failf(e.Registration.pos, "%v", err)
	case strings.ContainsFunc(text, func(c rune) bool { return c > 0x7e }):
		r.warnf(e.Registration.pos, "%q is not plain ASCII: it is taken as UTF-8, and makers' tools usually send Chinese as GBK. Write the bytes that the converter sends, as 0x59472D31%s", text, wideHint(text))
	}
	if !present(r, e.Listen) {
		return
	}
	_, port, problem := splitHostPort(e.Listen.Value)
	if problem == "" && port == "0" {
		problem = "0 is no port that a converter could be told"
	}
	if problem != "" {
		r.failf(e.Listen.Pos, "%q is no address to listen on: %s (host:port, as 0.0.0.0:4001)%s", e.Listen.Value, problem, wideHint(e.Listen.Value))
		return
	}
	out.Listen = e.Listen.Value
	if e.Registration.pos.Line > 0 {
		out.Registration = registration
	}
	if taken.listen[port] == nil {
		taken.ports = append(taken.ports, port)
	}
	taken.listen[port] = append(taken.listen[port], inbound{
		bus: b.ID.Value, address: e.Listen.Value, pos: e.Listen.Pos, regPos: e.Registration.pos, registration: out.Registration, unknown: wrong,
	})
}

// listeners checks what shares a port: each connection must lead to one bus, whatever the order in which they come.
func (r *resolver) listeners(taken *endpoints) {
	for _, port := range taken.ports {
		list := taken.listen[port]
		for i, x := range list {
			for _, first := range list[:i] {
				if x.address != first.address {
					r.failf(x.pos, "bus %s listens on this port as %s: write the same here, one port is opened once", first.bus, first.address)
					break
				}
				if x.unknown || first.unknown {
					continue
				}
				if problem, pos := clash(x, first); problem != "" {
					r.failf(pos, "%s", problem)
					break
				}
			}
		}
	}
	if _, port, problem := splitHostPort(r.file.Console.Listen.Value); problem == "" {
		for _, x := range taken.listen[port] {
			r.failf(x.pos, "the console listens on port %s already", port)
		}
	}
}

// clash says why the connections of two buses on one port cannot be told apart, "" where they can.
func clash(x, first inbound) (problem string, pos yamlfile.Pos) {
	x.registration, first.registration = bytes.Trim(x.registration, "\r\n"), bytes.Trim(first.registration, "\r\n")
	switch {
	case len(x.registration) == 0:
		return fmt.Sprintf("bus %s listens on this port too: a registration must tell them apart", first.bus), x.pos
	case len(first.registration) == 0:
		return fmt.Sprintf("bus %s listens on this port too: a registration must tell them apart", x.bus), first.pos
	case bytes.Equal(x.registration, first.registration):
		return fmt.Sprintf("bus %s on this port has the same registration", first.bus), x.regPos
	case bytes.HasPrefix(x.registration, first.registration) || bytes.HasPrefix(first.registration, x.registration):
		return fmt.Sprintf("the registration of bus %s on this port and this one begin alike, and the shorter ends there: when the rest comes late, one would be taken for the other. Give both the same length", first.bus), x.regPos
	}
	return "", yamlfile.Pos{}
}

// wideHint names the first full-width character of a value in which there can be none, "" without one.
func wideHint(s string) string {
	for _, c := range s {
		switch {
		case c >= '！' && c <= '～':
			return fmt.Sprintf(" (here stands %c, a full-width character: write %c)", c, c-'！'+'!')
		case c == '\u3000':
			return " (here stands a full-width space, U+3000)"
		}
	}
	return ""
}

// parseRegistration reads a registration packet: a text as it is, or bytes written as 0x59472D31.
func parseRegistration(s string) ([]byte, error) {
	b := []byte(s)
	if digits, ok := strings.CutPrefix(s, "0x"); ok {
		var err error
		if b, err = hex.DecodeString(digits); err != nil {
			return nil, fmt.Errorf("%q is no row of bytes: after 0x come two hex digits for each byte", s)
		}
	}
	if len(b) == 0 || len(b) > maxRegistration {
		return nil, fmt.Errorf("a registration has 1 to %d bytes, not %d", maxRegistration, len(b))
	}
	if len(bytes.Trim(b, "\r\n")) == 0 {
		return nil, errors.New("a registration of line ends alone tells nothing: line ends around it do not count")
	}
	return b, nil
}

// splitHostPort splits host:port and says what is wrong with it. The port is a number from 0 to 65535.
func splitHostPort(s string) (host, port, problem string) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if !strings.Contains(s, ":") {
			return "", "", "the port is missing"
		}
		return "", "", "that is not host:port"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return "", "", "the port is a number up to 65535"
	}
	if strings.ContainsAny(host, " \t\r\n\x00/@") {
		return "", "", "that is no host name"
	}
	if host != "" && strings.Trim(host, "0123456789.") == "" && net.ParseIP(host) == nil {
		return "", "", host + " is no IP address"
	}
	return host, port, ""
}
