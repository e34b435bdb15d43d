package testservers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// gpioSimRoot is where the gpio-sim module is configured (the kernel's Documentation/admin-guide/gpio/gpio-sim.rst).
const gpioSimRoot = "/sys/kernel/config/gpio-sim"

// SimChip is a GPIO chip simulated by the kernel's gpio-sim module, for tests that run in the machine of RunInVM. To
// programs it is a GPIO chip like any other; a SimChip is the world outside that chip. Its methods may be called from
// several goroutines, apart from Close.
type SimChip struct {
	config string // the chip's directory in configfs
	bank   string // its only bank therein
	lines  map[int]string
	sysfs  string // /sys/devices/platform/gpio-sim.N/gpiochipM
	dev    string
}

// NewSimChip creates a chip with num lines. The name is that of the configuration and must be free; the label is the
// chip's own and lines are the names of some of its lines by offset, both as programs see them.
func NewSimChip(name, label string, lines map[int]string, num int) (*SimChip, error) {
	c := &SimChip{config: filepath.Join(gpioSimRoot, name), lines: lines}
	c.bank = filepath.Join(c.config, "bank")
	if err := os.Mkdir(c.config, 0o755); err != nil {
		return nil, fmt.Errorf("create a simulated chip: %w (gpio-sim is there in the machine of RunInVM only)", err)
	}
	if err := c.create(label, num); err != nil {
		return nil, errors.Join(fmt.Errorf("create the simulated chip %s: %w", name, err), c.Close())
	}
	return c, nil
}

func (c *SimChip) create(label string, num int) error {
	if err := os.Mkdir(c.bank, 0o755); err != nil {
		return err
	}
	if err := put(strconv.Itoa(num), c.bank, "num_lines"); err != nil {
		return err
	}
	if err := put(label, c.bank, "label"); err != nil {
		return err
	}
	for offset, name := range c.lines {
		if offset < 0 || offset >= num {
			return fmt.Errorf("line %d (%s) is not within 0 to %d", offset, name, num-1)
		}
		if err := os.Mkdir(c.lineConfig(offset), 0o755); err != nil {
			return err
		}
		if err := put(name, c.lineConfig(offset), "name"); err != nil {
			return err
		}
	}
	if err := put("1", c.config, "live"); err != nil {
		return err
	}
	device, err := get(c.config, "dev_name")
	if err != nil {
		return err
	}
	chip, err := get(c.bank, "chip_name")
	if err != nil {
		return err
	}
	c.sysfs = filepath.Join("/sys/devices/platform", device, chip)
	c.dev = filepath.Join("/dev", chip)
	_, err = os.Stat(c.dev)
	return err
}

func (c *SimChip) lineConfig(offset int) string {
	return filepath.Join(c.bank, "line"+strconv.Itoa(offset))
}

// Dev returns the path of the chip's device, such as /dev/gpiochip0.
func (c *SimChip) Dev() string { return c.dev }

// Set puts a level on a line from outside, like a contact between it and supply (true) or ground. An input follows and
// programs see the edge; a driven output does not follow. Neither has a level of its own as soon as no program holds the
// line: gpio-sim then shows the level that Set gave last (at first low), as a pull resistor on a real board would. A
// program that requests an input with a bias overrides Set.
func (c *SimChip) Set(line int, level bool) error {
	pull := "pull-down"
	if level {
		pull = "pull-up"
	}
	return put(pull, c.lineSysfs(line), "pull")
}

// Value returns the level that a line has to the outside: of an output, what the program drives.
func (c *SimChip) Value(line int) (bool, error) {
	value, err := get(c.lineSysfs(line), "value")
	if err != nil {
		return false, err
	}
	return strconv.ParseBool(value)
}

func (c *SimChip) lineSysfs(offset int) string {
	return filepath.Join(c.sysfs, "sim_gpio"+strconv.Itoa(offset))
}

// Close removes the chip, as if it was pulled out: a program that holds it gets errors from then on.
func (c *SimChip) Close() error {
	var errs []error
	if c.dev != "" {
		errs = append(errs, put("0", c.config, "live"))
	}
	for offset := range c.lines {
		errs = append(errs, remove(c.lineConfig(offset)))
	}
	return errors.Join(append(errs, remove(c.bank), remove(c.config))...)
}

// remove removes a directory of configfs, which need not be there.
func remove(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func put(value string, file ...string) error {
	return os.WriteFile(filepath.Join(file...), []byte(value), 0)
}

func get(file ...string) (string, error) {
	b, err := os.ReadFile(filepath.Join(file...))
	return strings.TrimSpace(string(b)), err
}
