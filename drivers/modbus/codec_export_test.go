package modbus

import (
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Codec is one channel's decoding with what it remembers, as tests see it.
type Codec struct {
	c codec
	n binder
}

// NewCodec returns the decoding of a channel for a binding.
func NewCodec(ch *firmwareconfig.Channel, b firmwareconfig.Binding) *Codec {
	return &Codec{c: newCodec(ch), n: newBinder(b)}
}

// Decode decodes the channel's registers.
func (c *Codec) Decode(data []byte) (telemetry.Value, telemetry.Quality) {
	return c.n.value(c.c.decode(data))
}

// SetScale takes the content of the register that says the scale.
func (c *Codec) SetScale(code uint16) { c.c.setScale(code) }

// LoseScale forgets it.
func (c *Codec) LoseScale() { c.c.loseScale() }

// Command returns the register that is written for a value.
func (c *Codec) Command(v telemetry.Value) (uint16, error) {
	raw, err := c.n.raw(&c.c, v)
	word, _ := c.c.command(raw)
	return word, err
}
