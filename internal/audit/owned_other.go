//go:build !unix

package audit

import "os"

// openOwned opens a file, which it creates where it is not there.
func openOwned(path string, flag int) (*os.File, error) {
	return os.OpenFile(path, flag|os.O_CREATE, 0o640)
}
