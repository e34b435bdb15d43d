// Package simulate is a community of devices that are not there: it speaks real Modbus (TCP on a listener, RTU on a
// pseudo-terminal) exactly as the profiles describe the devices, lets them live through a day, and plays stories
// (a car in the fire lane, smoke, a full bin, a dead device, noise at night).
//
// It is what `linli demo` and many tests run the real gateway against. Its register encoding is its own, not the
// driver's, so that the two check each other. Units can be made to misbehave (Fault). A Community is safe for
// concurrent use.
package simulate

import (
	"context"
	"fmt"
	"net"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
)

// Community is every simulated unit of a site, addressable by device and point.
type Community struct {
	inv    *telemetry.Inventory
	buses  map[string]*bus
	units  map[string]*unit
	points map[telemetry.PointID][]output // more than one where a channel is bound twice
}

// output is where a point's value lives in a unit.
type output struct {
	unit    *unit
	binding firmwareconfig.Binding
}

// New returns a community of the units of inv. Buses are added with AddBus.
func New(inv *telemetry.Inventory) *Community {
	return &Community{
		inv:    inv,
		buses:  map[string]*bus{},
		units:  map[string]*unit{},
		points: map[telemetry.PointID][]output{},
	}
}

// AddBus adds a bus with its units, all of them healthy and all values 0. It must be called before anything is
// served.
func (c *Community) AddBus(id string, units []firmwareconfig.Unit) {
	b := &bus{id: id, units: map[int]*unit{}}
	c.buses[id] = b
	for _, u := range units {
		s := newUnit(u)
		b.units[u.Address] = s
		c.units[u.ID] = s
		for _, binding := range u.Bindings {
			c.points[binding.Point] = append(c.points[binding.Point], output{unit: s, binding: binding})
		}
	}
}

// ServeTCP answers Modbus TCP for the bus on l until ctx ends, and closes l.
func (c *Community) ServeTCP(ctx context.Context, busID string, l net.Listener) error {
	b, err := c.bus(busID)
	if err != nil {
		return err
	}
	return b.serveTCP(ctx, l)
}

// ServeRTU answers Modbus RTU for the bus on p until ctx ends, and closes p.
func (c *Community) ServeRTU(ctx context.Context, busID string, p *Pty) error {
	b, err := c.bus(busID)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	if err := b.serveRTU(ctx, p.Port); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve bus %s: %w", busID, err)
	}
	return nil
}

func (c *Community) bus(id string) (*bus, error) {
	if b := c.buses[id]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("there is no bus %q in the simulation", id)
}

// Set gives a point of a device a value: in the point's unit for numbers, 0 or 1 for bools. The registers of the
// unit that provides it change as on the real device.
func (c *Community) Set(device, point string, v float64) error {
	outs, err := c.outputs(device, point)
	if err != nil {
		return err
	}
	for _, o := range outs {
		b := o.binding
		x := v
		if b.Invert {
			x = 1 - x
		}
		if b.Map != nil {
			x = b.Map.X0 + (x-b.Map.Y0)/(b.Map.Y1-b.Map.Y0)*(b.Map.X1-b.Map.X0)
		}
		if b.UnitFactor != 0 {
			x = (x - b.UnitOffset) / b.UnitFactor
		}
		if err := o.unit.set(b.Channel, x); err != nil {
			return err
		}
	}
	return nil
}

// Fail makes the sensor behind a point report that it has failed (its "no reading" value), or work again.
func (c *Community) Fail(device, point string, failed bool) error {
	outs, err := c.outputs(device, point)
	if err != nil {
		return err
	}
	for _, o := range outs {
		if !o.unit.setFailed(o.binding.Channel, failed) {
			return fmt.Errorf("unit %s has no way to say that %s.%s failed", o.unit.id, device, point)
		}
	}
	return nil
}

// Raw returns the registers (or the bit) that provide a point just now.
func (c *Community) Raw(device, point string) ([]uint16, error) {
	outs, err := c.outputs(device, point)
	if err != nil {
		return nil, err
	}
	return outs[0].unit.get(outs[0].binding.Channel), nil
}

// Misbehave sets how a unit misbehaves from now on; the zero Fault makes it healthy.
func (c *Community) Misbehave(unitID string, f Fault) error {
	u := c.units[unitID]
	if u == nil {
		return fmt.Errorf("there is no unit %q in the simulation", unitID)
	}
	u.setFault(f)
	return nil
}

// UnitOf returns the id of the unit that provides a point of a device.
func (c *Community) UnitOf(device, point string) (string, error) {
	outs, err := c.outputs(device, point)
	if err != nil {
		return "", err
	}
	return outs[0].unit.id, nil
}

func (c *Community) outputs(device, point string) ([]output, error) {
	i, ok := c.inv.DeviceByID(device)
	if !ok {
		return nil, fmt.Errorf("there is no device %q in the simulation", device)
	}
	d := &c.inv.Devices[i]
	def := d.Class.Point(point)
	if def < 0 || d.Points[def] == telemetry.NoPoint || len(c.points[d.Points[def]]) == 0 {
		return nil, fmt.Errorf("device %q of the simulation has no point %q", device, point)
	}
	return c.points[d.Points[def]], nil
}
