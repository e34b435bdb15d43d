package audit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// AppendAlone adds an entry to the record in the state directory dir, for a program that works while no gateway runs,
// and returns when it is on the disk. A directory that does not exist has no record: that is no error, for a laptop on a
// test bench has none. It must not be called while a gateway writes there.
//
// The file gets the owner of the directory, so that a tool of root leaves nothing that the gateway cannot write.
func AppendAlone(dir string, e Entry) error {
	if info, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	} else if err != nil {
		return fmt.Errorf("look for the audit record: %w", err)
	}
	e.Origin = OriginTool
	r := New(Config{Path: filepath.Join(dir, "audit.log")})
	if _, err := r.write([]line{{text: encode(e)}}); err != nil {
		return err
	}
	return r.file.Close()
}

// The values of Entry.Origin.
const (
	OriginGateway = "gateway"
	OriginRule    = "rule"
	OriginAPI     = "api"
	OriginTool    = "tool"
	OriginCity    = "city"
)
