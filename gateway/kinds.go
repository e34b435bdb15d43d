package main

import (
	"fmt"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/drivers/modbus"
	"linli/internal/site"
	"linli/internal/telemetry"
)

// newBus builds the driver of one bus: the one place where the kinds of bus are listed. Nothing is opened yet.
func newBus(b site.Bus, clock *telemetry.Clock, log *zap.Logger) (drivers.Bus, error) {
	cfg := modbus.Config{
		Name: b.ID, Address: b.Address, Device: b.Device, Line: b.Line, Timeout: b.Timeout, Units: b.Units,
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
		return nil, fmt.Errorf("unknown transport %q (%s, %s or %s)", b.Transport, site.ModbusTCP, site.ModbusRTU, site.ModbusRTUOverTCP)
	}
	return modbus.New(cfg)
}
