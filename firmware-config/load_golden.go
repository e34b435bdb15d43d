package firmwareconfig

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

type goldenFile struct {
	Name     string                       `yaml:"name,required"`
	Request  yamlfile.At[string]          `yaml:"request,required"`
	Response yamlfile.At[string]          `yaml:"response"`
	Values   yamlfile.Map[*yamlfile.Node] `yaml:"values"`
}

// golden checks that the frames are whole and fit each other; whether they decode to the values is for the driver.
func (l *loader) golden(p *Profile, f *goldenFile) {
	g := Golden{Name: f.Name}
	var ok bool
	if g.Request, ok = l.frame(f.Request); !ok {
		return
	}
	if len(g.Request) != 8 || g.Request[1] < byte(Coil) || g.Request[1] > byte(InputRegister) {
		l.errs.Addf(f.Request.Pos, "not a read request: unit, function 1 to 4, address, count, CRC make 8 bytes")
		return
	}
	table := Table(g.Request[1])
	first, count := int(binary.BigEndian.Uint16(g.Request[2:])), int(binary.BigEndian.Uint16(g.Request[4:]))
	if f.Response.Pos.Line > 0 {
		if g.Response, ok = l.frame(f.Response); !ok {
			return
		}
		size := 2 * count
		if table.Bits() {
			size = (count + 7) / 8
		}
		if len(g.Response) != size+5 || g.Response[0] != g.Request[0] || g.Response[1] != g.Request[1] || int(g.Response[2]) != size {
			l.errs.Addf(f.Response.Pos, "the response does not answer the request: %d bytes of data expected", size)
			return
		}
	}
	for _, e := range f.Values {
		i := p.Channel(e.Key.Value)
		if i < 0 && !l.whole {
			continue
		}
		if i < 0 {
			l.errs.Addf(e.Key.Pos, "profile %s has no channel %q", p.ID, e.Key.Value)
			continue
		}
		ch := &p.Channels[i]
		if ch.Table != table || ch.Address < first || ch.Address+ch.Registers() > first+count {
			l.errs.Addf(e.Key.Pos, "the request does not read channel %s", ch.Name)
			continue
		}
		if s := ch.ScaleFrom; s != nil && (s.Table != table || s.Address < first || s.Address >= first+count) {
			l.errs.Addf(e.Key.Pos, "the request does not read the register that says the scale of channel %s", ch.Name)
			continue
		}
		v := GoldenValue{Channel: i, Quality: telemetry.Good, Pos: e.Value.Pos}
		switch word := e.Value.Scalar(); {
		case e.Value.IsScalar() && word == "none":
			v.Quality = telemetry.BadSensor
		case e.Value.IsScalar() && word == "under" && ch.Min != nil:
			v.Quality = telemetry.UnderRange
		case e.Value.IsScalar() && word == "over" && ch.Max != nil:
			v.Quality = telemetry.OverRange
		default:
			def := telemetry.PointDef{Name: ch.Name, Kind: telemetry.Float}
			switch ch.Encoding {
			case EncBool:
				def.Kind = telemetry.Bool
			case EncString:
				def.Kind = telemetry.KindText
			}
			value, err := DecodeValue(e.Value, &def)
			l.errs.Append(e.Value.Pos, err)
			v.Value = value
		}
		g.Values = append(g.Values, v)
	}
	p.Golden = append(p.Golden, g)
}

// frame reads an RTU frame in hex and checks its CRC.
func (l *loader) frame(v yamlfile.At[string]) ([]byte, bool) {
	if v.Value == "" {
		return nil, false
	}
	b, err := hex.DecodeString(strings.ReplaceAll(v.Value, " ", ""))
	if err == nil && len(b) < 4 {
		err = fmt.Errorf("too short")
	}
	if err != nil {
		l.errs.Addf(v.Pos, "not a frame in hex: %v", err)
		return nil, false
	}
	body := b[:len(b)-2]
	if got, want := binary.LittleEndian.Uint16(b[len(b)-2:]), crc16(body); got != want {
		l.errs.Addf(v.Pos, "the CRC is wrong: the frame should end in %02X %02X", byte(want), byte(want>>8))
		return nil, false
	}
	return b, true
}

// Frame returns a PDU as it travels on a serial line: the unit's address before it, its CRC behind it. Golden frames of
// profiles have this form.
func Frame(unit byte, pdu []byte) []byte {
	b := append([]byte{unit}, pdu...)
	return binary.LittleEndian.AppendUint16(b, crc16(b))
}

// crc16 is the CRC of Modbus RTU.
func crc16(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, c := range b {
		crc ^= uint16(c)
		for range 8 {
			if crc&1 != 0 {
				crc = crc>>1 ^ 0xA001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}
