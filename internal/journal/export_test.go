package journal

import "linli/internal/telemetry"

// FileSystem and File let the tests put their own file system beneath a journal.
type (
	FileSystem = fileSystem
	File       = file
)

// OSFS is the real file system.
type OSFS = osFS

// OpenFS is Open on another file system.
func OpenFS(cfg Config, inv *telemetry.Inventory, clock *telemetry.Clock, fs FileSystem) (*Journal, error) {
	return open(cfg, inv, clock, fs)
}

// Kill closes the files as the end of the process would.
func (j *Journal) Kill() {
	j.cmu.Lock()
	defer j.cmu.Unlock()
	j.closeFiles()
}
