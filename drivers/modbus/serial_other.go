//go:build !linux

package modbus

import "errors"

// openSerial exists on Linux only, which every gateway box runs.
func openSerial(string, int, string) (port, error) {
	return nil, errors.New("serial lines need Linux")
}
