// Package site decodes the site file, validates everything in it, and resolves it into zones, devices, points,
// buses and units. To be written: the package comment specifies the file.
package site

import (
	"time"

	firmwareconfig "linli/firmware-config"
	"linli/internal/telemetry"
	"linli/rules"
)

// Site is a site file, resolved: everything the gateway needs to start.
type Site struct {
	File      string // path the positions refer to
	Inventory *telemetry.Inventory
	Buses     []Bus
	Packs     []*rules.Pack                // in the order of the file, parameters not yet applied
	Params    map[string]map[string]string // pack -> parameter -> value as written
	Uplink    *Uplink                      // nil: works alone
	Console   Console
	State     string // state directory; "" means the command line decides
	Journal   Journal
	// Constants lists the optional points that nothing provides, as "device.point = default", for `linli check`.
	Constants []string
}

// Bus is one serial line or one Modbus TCP endpoint.
type Bus struct {
	ID        string
	Transport string              // modbus_tcp, modbus_rtu, modbus_rtu_over_tcp
	Address   string              // host:port of the TCP transports
	Device    string              // path of the serial device
	Line      firmwareconfig.Line // of a serial line
	Timeout   time.Duration       // overrides the profiles' where not 0
	Units     []firmwareconfig.Unit
}

// Uplink says how to reach the city's broker.
type Uplink struct {
	Brokers      []string // tcp://host:port or tls://host:port, in order of preference
	Username     string
	PasswordFile string
	CAFile       string
	CertFile     string
	KeyFile      string
	Compression  string        // none, gzip, zstd
	Batch        time.Duration // how much time of frames goes into one message, at most 10 s
}

// Console says where people look.
type Console struct {
	Listen    string // host:port; "" means 127.0.0.1:8080
	TokenFile string // holds the access token; required where Listen is not loopback
}

// Journal bounds what is kept on the box.
type Journal struct {
	MaxBytes    int64
	MaxAge      time.Duration
	CommitEvery time.Duration
}

// Load reads and resolves the site file src named file. lib is the class and profile library, packs the rule packs
// that can be named (shipped, then site-local). The error is yamlfile.Errors with every mistake found.
func Load(file string, src []byte, lib *firmwareconfig.Library, packs map[string]*rules.Pack) (*Site, error) {
	panic("to be written")
}
