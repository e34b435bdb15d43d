package modbus

import (
	"context"
	"net"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// NewOver returns a bus over a test's own connections.
func NewOver(c Config, dial func(context.Context) (net.Conn, error)) (*Bus, error) {
	if c.Address == "" {
		c.Address = "test:502"
	}
	if c.Device == "" {
		c.Device = "test"
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return newBus(c, func(ctx context.Context) (port, error) { return dial(ctx) })
}

// Names for what tests look at from outside.
var (
	CRC16       = crc16
	AppendRTU   = appendRTU
	AppendTCP   = appendTCP
	CheckAnswer = checkAnswer
	FindTCP     = findTCP
	OpenSerial  = openSerial
	QuietTime   = quietTime
)

// Block is a planned read.
type Block struct {
	Table    firmwareconfig.Table
	Addr     int
	Count    int
	Channels []string
	Life     bool
}

func show(blocks []*block) []Block {
	var out []Block
	for _, b := range blocks {
		n := Block{Table: b.table, Addr: b.addr, Count: b.count, Life: b.life}
		for _, it := range b.items {
			n.Channels = append(n.Channels, it.name)
		}
		out = append(out, n)
	}
	return out
}

// Plan returns the planned reads of a unit.
func Plan(u *firmwareconfig.Unit) ([]Block, error) {
	g, _, err := plan(u, resolve(u.Profile.Limits))
	return show(blocksOf(g, resolve(u.Profile.Limits), nil)), err
}

// Blocks returns the reads of unit number i as learned so far.
func (b *Bus) Blocks(i int) []Block { return show(b.units[i].blocks) }

// Quarantined returns the channels of unit i that it refuses.
func (b *Bus) Quarantined(i int) []string {
	var out []string
	for _, bl := range b.units[i].blocks {
		if bl.out {
			for _, it := range bl.items {
				out = append(out, it.name)
			}
		}
	}
	return out
}

// Decode decodes registers (big-endian bytes) as channel ch for binding b.
func Decode(ch *firmwareconfig.Channel, b firmwareconfig.Binding, data []byte) (telemetry.Value, telemetry.Quality) {
	c, n := newCodec(ch), newBinder(b)
	return n.value(c.decode(data))
}

// Encode is the inverse of Decode.
func Encode(ch *firmwareconfig.Channel, b firmwareconfig.Binding, v telemetry.Value) ([]byte, error) {
	c, n := newCodec(ch), newBinder(b)
	raw, err := n.raw(&c, v)
	if err != nil {
		return nil, err
	}
	return c.words(raw), nil
}

// NewDecoder returns the decoding of the unit's first block.
func NewDecoder(u *firmwareconfig.Unit) (func(dst []telemetry.Sample, data []byte, t telemetry.Mono) []telemetry.Sample, error) {
	groups, _, err := plan(u, resolve(u.Profile.Limits))
	if err != nil {
		return nil, err
	}
	blocks := blocksOf(groups, resolve(u.Profile.Limits), nil)
	return func(dst []telemetry.Sample, data []byte, t telemetry.Mono) []telemetry.Sample {
		return blocks[0].decode(dst, data, blocks[0].addr, t, false)
	}, nil
}

// Pick chooses the next transaction.
func (b *Bus) Pick() {
	if !b.started {
		b.start(0)
	}
	b.pick(0)
}

// Due looks through all blocks and returns when the next is due.
func (b *Bus) Due(now telemetry.Mono) telemetry.Mono {
	b.round = b.round[:0]
	bl, next := b.best(now)
	b.round = b.round[:0]
	if bl != nil {
		return now
	}
	return next
}
