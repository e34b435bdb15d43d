//go:build !linux

package gpio

import (
	"errors"
	"runtime"

	"linli/internal/telemetry"
)

type nowhere struct{}

func kernelHost(*telemetry.Clock) Host { return nowhere{} }

func (nowhere) Open(string) (Chip, error) {
	return nil, errors.New("GPIO lines exist on Linux only, this is " + runtime.GOOS)
}
