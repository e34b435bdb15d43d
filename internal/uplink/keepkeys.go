package uplink

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"linli/internal/inplace"
)

// keptKeys is the file in the state directory with the certificate, the key and the authorities that a broker accepted
// last: a restart in the midst of a renewal must not take the box off the network. Nobody but us may read it.
const keptKeys = "last-good-keys"

// restoreKeys has the keys of last time used where those on the disk, which err is about, are of no use.
func (u *Uplink) restoreKeys(err error) {
	u.status.CertificateError = err.Error()
	kept, keptErr := os.ReadFile(filepath.Join(u.cfg.StateDir, keptKeys))
	if keptErr == nil {
		keptErr = u.keys.Restore(kept)
	}
	if keptErr != nil || u.cfg.CertFile == "" {
		u.log.Error("no certificates yet", zap.Error(err))
		return
	}
	until := u.keys.Certificate().NotAfter
	u.status.CertificateUntil, u.usesKept = until, true
	u.log.Error("the certificates on the disk are of no use: those that a broker accepted last are used", zap.Error(err), zap.Time("until", until))
}

// keepKeys writes down the keys that broker has accepted. Nobody waits for the disk.
func (u *Uplink) keepKeys(broker string) {
	if strings.HasPrefix(broker, "tcp:") || strings.HasPrefix(broker, "mqtt:") {
		return
	}
	kept := u.keys.Kept()
	if kept == nil || bytes.Equal(kept, u.kept) {
		return
	}
	u.kept = kept
	u.lookups.Go(func() {
		u.keeping.Lock()
		defer u.keeping.Unlock()
		path := filepath.Join(u.cfg.StateDir, keptKeys)
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, kept) {
			return
		}
		if err := inplace.Replace(path, kept, 0o600); err != nil {
			u.log.Warn("certificates are not kept: a restart in the midst of a renewal may find none", zap.Error(err))
		}
	})
}
