package modbus

import (
	"errors"

	gomodbus "github.com/goburrow/modbus"

	firmwareconfig "linli/firmware-config"
)

// requests keeps the PDUs of the last two reads of one block: its own, and the one with others along. goburrow builds
// them; what is read every second is not built anew every second.
type requests [2]struct {
	what span
	pdu  []byte
}

// pdu returns the request to read what.
func (r *requests) pdu(what span) []byte {
	if r[0].what != what {
		r[0], r[1] = r[1], r[0]
	}
	if r[0].what != what || r[0].pdu == nil {
		r[0].what, r[0].pdu = what, readPDU(what)
	}
	return r[0].pdu
}

// readPDU builds the request to read what with goburrow's client.
func readPDU(what span) []byte {
	var k keeper
	c := gomodbus.NewClient(&k)
	addr, n := uint16(what.addr), uint16(what.count)
	switch what.table {
	case firmwareconfig.Coil:
		_, _ = c.ReadCoils(addr, n)
	case firmwareconfig.DiscreteInput:
		_, _ = c.ReadDiscreteInputs(addr, n)
	case firmwareconfig.HoldingRegister:
		_, _ = c.ReadHoldingRegisters(addr, n)
	default:
		_, _ = c.ReadInputRegisters(addr, n)
	}
	return k.pdu
}

// keeper takes goburrow's request and sends nothing.
type keeper struct{ pdu []byte }

var errKept = errors.New("kept")

func (k *keeper) Encode(pdu *gomodbus.ProtocolDataUnit) ([]byte, error) {
	k.pdu = append([]byte{pdu.FunctionCode}, pdu.Data...)
	return nil, errKept
}

func (k *keeper) Decode([]byte) (*gomodbus.ProtocolDataUnit, error) { return nil, errKept }
func (k *keeper) Verify([]byte, []byte) error                       { return errKept }
func (k *keeper) Send([]byte) ([]byte, error)                       { return nil, errKept }
