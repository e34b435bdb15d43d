package console

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"

	"linli/internal/live"
	"linli/internal/telemetry"
)

// view is what is installed, as pages see it: point ids mean something only within one view. A new set of rules brings
// other derived points and with them a new view; pages notice by its instance.
type view struct {
	inv      *telemetry.Inventory
	feed     *feed
	site     []byte // the inventory as JSON, compressed: it is read once a page
	instance string
	ended    chan struct{} // closed when another view has taken its place
}

func newView(inv *telemetry.Inventory, table *live.Table) (*view, error) {
	site, err := encodeSite(inv)
	if err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	if site, err = zip(site); err != nil {
		return nil, fmt.Errorf("console: %w", err)
	}
	var id [8]byte
	rand.Read(id[:])
	return &view{inv: inv, feed: newFeed(table, inv), site: site, instance: hex.EncodeToString(id[:]), ended: make(chan struct{})}, nil
}

// SetInventory says what is installed from now on. Open pages load it anew. It may be called from any goroutine.
func (s *Server) SetInventory(inv *telemetry.Inventory) error {
	v, err := newView(inv, s.src.Live)
	if err != nil {
		return err
	}
	close(s.view.Swap(v).ended)
	return nil
}
