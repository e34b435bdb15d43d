package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/drivers/gpio"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// namedRunner is a part beside the buses that they need: it runs until ctx ends.
type namedRunner struct {
	name string
	run  func(ctx context.Context) error
	// listener is set where it is one that converters dial in to.
	listener *modbus.Listener
}

// newBuses builds the drivers of a site's buses, in their order, and the listeners where converters dial in: one for each
// address, whatever the number of buses behind it. Nothing is opened yet. The listeners are to be started before the
// buses. memory gives what a bus has learned before; nil forgets it.
func newBuses(s *site.Site, clock *telemetry.Clock, log *zap.Logger, memory func(busID string) modbus.Memory) ([]drivers.Bus, []namedRunner, error) {
	var buses []drivers.Bus
	var runners []namedRunner
	var errs []error
	listeners := map[string]*modbus.Listener{}
	for i := range s.Buses {
		b := &s.Buses[i]
		var inbound *modbus.Route
		if b.Listen != "" {
			l := listeners[b.Listen]
			if l == nil {
				l = modbus.NewListener(b.Listen, log.Named("modbus"))
				listeners[b.Listen] = l
				runners = append(runners, namedRunner{"converters at " + b.Listen, l.Run, l})
			}
			inbound = l.Route(b.Registration)
		}
		var remembered modbus.Memory
		if memory != nil && b.Transport != site.GPIO {
			remembered = memory(b.ID)
		}
		bus, err := newBus(b, inbound, remembered, clock, log)
		if err != nil {
			errs = append(errs, fmt.Errorf("set up bus %s: %w", b.ID, err))
			continue
		}
		buses = append(buses, bus)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, nil, err
	}
	return buses, runners, nil
}

// newBus builds the driver of one bus: the one place where the kinds of bus are listed.
func newBus(b *site.Bus, inbound *modbus.Route, memory modbus.Memory, clock *telemetry.Clock, log *zap.Logger) (drivers.Bus, error) {
	if b.Transport == site.GPIO {
		cfg, err := gpioConfig(b, clock, log)
		if err != nil {
			return nil, err
		}
		return gpio.New(cfg)
	}
	cfg, err := driverConfig(b, clock, log)
	if err != nil {
		return nil, err
	}
	cfg.Inbound, cfg.Memory = inbound, memory
	return modbus.New(cfg)
}

// driverConfig returns the driver's settings of a Modbus bus, without what only a running gateway has.
func driverConfig(b *site.Bus, clock *telemetry.Clock, log *zap.Logger) (modbus.Config, error) {
	cfg := modbus.Config{
		Name: b.ID, Address: b.Address, Device: b.Device, Line: b.Line, Timeout: b.Timeout, Units: b.Units, IgnoreTID: b.IgnoreTID, AtOnce: b.AtOnce,
		Clock: clock, Log: log.Named("modbus"),
	}
	switch b.Transport {
	case site.ModbusTCP:
		cfg.Transport = modbus.TCP
	case site.ModbusRTU:
		cfg.Transport = modbus.RTU
	case site.ModbusRTUOverTCP:
		cfg.Transport = modbus.RTUOverTCP
	default:
		return cfg, fmt.Errorf("unknown transport %q (%s, %s, %s or %s)", b.Transport, site.ModbusTCP, site.ModbusRTU, site.ModbusRTUOverTCP, site.GPIO)
	}
	return cfg, nil
}

// gpioConfig returns the driver's settings of a GPIO chip. The secret of its Wiegand readers is read when they are
// opened: a file that is missing costs the readers, not the gateway.
func gpioConfig(b *site.Bus, clock *telemetry.Clock, log *zap.Logger) (gpio.Config, error) {
	cfg := gpio.Config{Name: b.ID, Chip: b.Chip, Lines: append([]firmwareconfig.GPIOLine(nil), b.Lines...), Clock: clock, Log: log.Named("gpio")}
	if len(b.Units) != 1 {
		return cfg, fmt.Errorf("a GPIO chip with %d units", len(b.Units))
	}
	cfg.Unit = b.Units[0]
	if b.KeyFile != "" {
		cfg.Key = func() ([]byte, error) { return readKey(b.KeyFile) }
	}
	return cfg, nil
}

// keyLeast is the least length of the site's secret in bytes: card numbers are short, and with a secret that can be
// guessed their hashes give them away.
const keyLeast = 16

// readKey reads the secret with which card numbers are hashed: the file without white space at its ends.
func readKey(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the key of the card readers: %w", err)
	}
	key := bytes.TrimSpace(data)
	if len(key) < keyLeast {
		return nil, fmt.Errorf("the key of the card readers in %s is shorter than %d characters; make one with: openssl rand -hex 32", file, keyLeast)
	}
	return key, nil
}
