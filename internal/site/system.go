package site

import (
	"slices"
	"strconv"
	"strings"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/internal/yamlfile"
)

// Classes of the devices that the gateway itself is made of.
const (
	classBus  = "field_bus"
	classUnit = "bus_unit"
	classOwn  = "gateway"
)

// noDevice stands in Bus.Health and Bus.UnitHealth where there is no such device.
const noDevice = -1

// system makes devices of the buses and of their units: Zone -1, System, every mandatory point provided. They come
// after those of the file, so that these keep their indexes. A library without the classes has no such devices.
// Optional points are provided where there is something to tell: how settings and identity are found out is up to the
// gateway, on the schedule Site.Verify.
func (r *resolver) system() {
	wanted := map[[2]int]bool{}
	for _, s := range r.site.Settings {
		wanted[[2]int{s.Bus, s.Unit}] = true
	}
	for i := range r.site.Buses {
		b := &r.site.Buses[i]
		b.Health = r.systemDevice(classBus, b.ID, "bus", telemetry.Text{})
		for j := range b.Units {
			index := noDevice
			if b.Transport != GPIO { // its unit is the bus once more
				var title telemetry.Text
				if p := b.Units[j].Profile; p != nil {
					title = p.Title
				}
				index = r.systemDevice(classUnit, b.Units[j].ID, "unit", title)
			}
			if p := b.Units[j].Profile; index >= 0 && r.site.Verify > 0 {
				r.provideIf(wanted[[2]int{i, j}], index, "config_drift")
				r.provideIf(p != nil && p.HasMark(), index, "model_ok")
				r.provideIf(p != nil && p.Channel(firmwareconfig.SerialChannel) >= 0, index, "swaps")
			}
			b.UnitHealth = append(b.UnitHealth, index)
		}
		r.through(b)
	}
}

// through notes at the devices of a bus, and at its units, that they are reached through them.
func (r *resolver) through(b *Bus) {
	add := func(device, system int) {
		d := &r.inv.Devices[device]
		if system != noDevice && !slices.Contains(d.Through, system) {
			d.Through = append(d.Through, system)
		}
	}
	for j := range b.Units {
		if unit := b.UnitHealth[j]; unit != noDevice {
			add(unit, b.Health)
		}
		for _, bind := range b.Units[j].Bindings {
			device := r.inv.Points[bind.Point].Device
			add(device, b.Health)
			add(device, b.UnitHealth[j])
		}
	}
}

// own makes a device of the gateway itself, after all others. Its points about the uplink are there where the file has
// one.
func (r *resolver) own() {
	r.site.Own = r.systemDevice(classOwn, r.inv.Gateway, classOwn, telemetry.Text{})
	if r.site.Own >= 0 {
		r.provideIf(r.site.Uplink != nil, r.site.Own, "uplink_up")
		r.provideIf(r.site.Uplink != nil, r.site.Own, "backlog_frames")
	}
}

// provideIf makes an optional point of a device a provided one, where the class has it.
func (r *resolver) provideIf(wanted bool, device int, point string) {
	if def := r.inv.Devices[device].Class.Point(point); wanted && def >= 0 {
		r.inv.ProvidePoint(device, def)
	}
}

// systemDevice adds the device that a bus, a unit or the gateway is, and returns its index.
func (r *resolver) systemDevice(class, id, prefix string, title telemetry.Text) int {
	c := r.lib.Classes[class]
	if c == nil || id == "" {
		return noDevice
	}
	title = textOr(yamlfile.Text{Text: title}, c.Title)
	index := r.inv.AddDevice(telemetry.Device{
		ID: r.freeDeviceID(id, prefix), Class: c, Zone: -1, System: true,
		Title: telemetry.Text{Zh: strings.TrimSpace(title.In("zh") + " " + id), En: strings.TrimSpace(title.In("en") + " " + id)},
	})
	for def := range c.Points {
		if !c.Points[def].Optional {
			r.inv.ProvidePoint(index, def)
		}
	}
	return index
}

// freeDeviceID returns id, or prefix_id where a device of the file or an earlier one has it, or that with a number.
func (r *resolver) freeDeviceID(id, prefix string) string {
	free := id
	for n := 1; ; n++ {
		if _, taken := r.inv.DeviceByID(free); !taken {
			return free
		}
		number := ""
		if n > 1 {
			number = "_" + strconv.Itoa(n)
		}
		free = cut(prefix+"_"+id, 32-len(number)) + number
	}
}

// cut returns the first n bytes of an id.
func cut(id string, n int) string {
	if len(id) > n {
		return id[:n]
	}
	return id
}
