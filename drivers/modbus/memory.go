package modbus

import firmwareconfig "linli/firmware-config"

// Memory keeps what a bus has learned about its units across restarts. Both methods are called by the bus's
// goroutine; Save must be quick or work in the background.
type Memory interface {
	Load() []Hole
	Save([]Hole)
}

// Hole is a range of registers that a unit refuses to read: blocks are planned around it.
type Hole struct {
	Unit    string               `json:"unit"`
	Profile string               `json:"profile"`
	Table   firmwareconfig.Table `json:"table"`
	Address int                  `json:"address"`
	Count   int                  `json:"count"`
}
