package simulate

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"linli/internal/telemetry"
)

// Day lets the devices of a community live through a day: temperature follows the sun, meters the habits of the
// residents, bins fill with every deposit and are emptied in the morning and the evening, doors open now and then.
// Points that a story is using are left alone.
type Day struct {
	community *Community
	inv       *telemetry.Inventory

	mu     sync.Mutex           // guards everything below
	held   map[[2]string]int    // device and point -> stories that use it
	fill   map[string]float64   // by device: per cent
	energy map[string]float64   // by device: kWh
	until  map[string]time.Time // by device: a door stands open until then
	last   time.Time
	random *rand.Rand
}

// NewDay returns the rhythm for every device of the community. The same seed gives the same day.
func NewDay(c *Community, seed uint64) *Day {
	d := &Day{
		community: c, inv: c.inv, random: rand.New(rand.NewPCG(seed, 1)),
		held: map[[2]string]int{}, fill: map[string]float64{}, energy: map[string]float64{}, until: map[string]time.Time{},
	}
	for i := range c.inv.Devices {
		id := c.inv.Devices[i].ID
		d.fill[id] = 12 + d.random.Float64()*50
		d.energy[id] = 2000 + d.random.Float64()*8000
	}
	return d
}

// Run moves the day on every half second until ctx ends.
func (d *Day) Run(ctx context.Context) error {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		d.Step(time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Step sets every point to what it is at now, local time of the site.
func (d *Day) Step(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now = now.In(d.inv.Location)
	elapsed := 0.0 // hours since the last step
	if !d.last.IsZero() {
		elapsed = min(max(now.Sub(d.last).Hours(), 0), 1)
	}
	d.last = now
	hour := float64(now.Hour()) + float64(now.Minute())/60 + float64(now.Second())/3600
	for i := range d.inv.Devices {
		d.stepDevice(&d.inv.Devices[i], now, hour, elapsed)
	}
}

// bump is a smooth daily peak of height 1 at hour at, width hours wide, around the clock.
func bump(hour, at, width float64) float64 {
	x := math.Mod(hour-at+36, 24) - 12
	return math.Exp(-x * x / (2 * width * width))
}

func (d *Day) stepDevice(dev *telemetry.Device, now time.Time, hour, elapsed float64) {
	jitter := func(amount float64) float64 { return (d.random.Float64()*2 - 1) * amount }
	home := 0.25 + 0.5*bump(hour, 7.5, 1.3) + bump(hour, 20, 2.2) // how much of the day's life is at home
	switch dev.Class.ID {
	case "smart_bin":
		rate := 6 * home // per cent an hour
		d.fill[dev.ID] += rate * elapsed * (0.5 + d.random.Float64())
		if (now.Hour() == 6 || now.Hour() == 18) && now.Minute() < 10 && d.fill[dev.ID] > 15 {
			d.fill[dev.ID] = 3 + d.random.Float64()*4
		}
		d.fill[dev.ID] = min(d.fill[dev.ID], 76) // The story makes bins full, not the quiet day.
		d.set(dev.ID, "fill_pct", d.fill[dev.ID]+jitter(0.4))
		d.set(dev.ID, "temperature_c", 9+6*bump(hour, 14, 4)+jitter(0.1))
	case "energy_meter":
		power := 1500 + 18000*home + jitter(350)
		d.energy[dev.ID] += power / 1000 * elapsed
		d.set(dev.ID, "active_power_w", power)
		d.set(dev.ID, "voltage_v", 229-3*home+jitter(0.6))
		d.set(dev.ID, "current_a", power/229/0.96)
		d.set(dev.ID, "frequency_hz", 50+jitter(0.02))
		d.set(dev.ID, "power_factor", 0.96+jitter(0.01))
		d.set(dev.ID, "energy_kwh", d.energy[dev.ID])
	case "residual_current_monitor":
		d.set(dev.ID, "residual_ma", 38+55*home+jitter(4))
		d.set(dev.ID, "threshold_ma", 300) // What the monitor itself is set to.
		d.set(dev.ID, "cable_temperature_c", 24+16*home+jitter(0.3))
	case "temp_humidity", "air_quality":
		d.set(dev.ID, "temperature_c", 14+8*bump(hour, 14.5, 4)+jitter(0.15))
		d.set(dev.ID, "humidity_pct", 58-18*bump(hour, 14.5, 4)+jitter(0.5))
		d.set(dev.ID, "co2_ppm", 430+350*home+jitter(12))
		d.set(dev.ID, "pm25_ugm3", 28+16*bump(hour, 8, 2)+jitter(2))
	case "noise_meter":
		d.set(dev.ID, "noise_dba", 36+9*home+jitter(1.5))
	case "door":
		if now.After(d.until[dev.ID]) && d.random.Float64() < 0.006+0.02*home {
			d.until[dev.ID] = now.Add(time.Duration(3+d.random.IntN(9)) * time.Second)
		}
		d.set(dev.ID, "open", flag(now.Before(d.until[dev.ID])))
	case "fire_lane_sensor":
		d.set(dev.ID, "occupied", 0)
	case "smoke_detector":
		d.set(dev.ID, "alarm", 0)
		d.set(dev.ID, "mounted", 1)
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// set sets a point unless a story holds it; points that a device does not have are passed over. d.mu is held.
func (d *Day) set(device, point string, v float64) {
	if d.held[[2]string{device, point}] == 0 {
		_ = d.community.Set(device, point, v) // A class's optional point that this device lacks is no mistake.
	}
}

// hold keeps the day's hands off a point until release is called.
func (d *Day) hold(device, point string) (release func()) {
	key := [2]string{device, point}
	d.mu.Lock()
	d.held[key]++
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		d.held[key]--
		d.mu.Unlock()
	}
}
