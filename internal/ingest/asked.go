package ingest

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"

	"linli/internal/ledger"
	"linli/internal/wire"
)

// asked is what a gateway is asked to send again: frames, or the alerts since a moment (nanoseconds; 0: frames).
type asked struct {
	epoch, from, to uint64
	alertsSince     int64
}

// want notes the ranges of a gap that are to be asked for.
func (r *Repairer) want(node string, g *ledger.Gap) {
	for from := g.From; from <= g.To && len(r.asks[node]) < 10*rangesPerNode; from += framesPerRange {
		a := asked{epoch: g.Epoch, from: from, to: min(g.To, from+framesPerRange-1)}
		if !slices.Contains(r.asks[node], a) { // a gap may reach over several hours
			r.asks[node] = append(r.asks[node], a)
		}
	}
}

// command returns the command that asks for it: whoever asks in the same slot of time asks with the same one.
func command(node string, a asked, slotStart time.Time, slot time.Duration) (*wire.Command, error) {
	resend := wire.ResendArgs{Epoch: fmt.Sprintf("%016x", a.epoch), From: a.from, To: a.to}
	if a.alertsSince != 0 {
		resend = wire.ResendArgs{AlertsSince: time.Unix(0, a.alertsSince).UTC()}
	}
	args, err := json.Marshal(resend)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "linli resend %s %s %d", node, args, slotStart.Unix()))
	return &wire.Command{
		Node: node, ID: "repair-" + base64.RawURLEncoding.EncodeToString(sum[:16]), IssuedAt: slotStart, ExpiresAt: slotStart.Add(slot + lifeBeyond),
		Verb: wire.VerbResend, Args: args,
	}, nil
}

// ask publishes what the round wants to have again.
func (r *Repairer) ask(ctx context.Context, now time.Time) error {
	p := &r.cfg.Repair
	if p.KeyFile == "" || len(r.asks) == 0 {
		return nil
	}
	slotStart := now.UTC().Truncate(p.Again.Truncate(time.Second)) // commands count in seconds
	if r.slot != slotStart.Unix() {
		r.slot = slotStart.Unix()
		clear(r.asked)
	}
	key, err := wire.ReadSigningKey(p.KeyFile)
	if err != nil {
		return err
	}
	type message struct {
		id, topic string
		payload   []byte
	}
	var messages []message
	for _, node := range slices.Sorted(maps.Keys(r.asks)) {
		n := 0
		for _, a := range r.asks[node] {
			begin, slot := slotStart, p.Again
			if a.alertsSince != 0 {
				slot *= alertSlots
				begin = now.UTC().Truncate(slot.Truncate(time.Second))
			}
			c, err := command(node, a, begin, slot)
			if err != nil {
				return err
			}
			if r.asked[c.ID] {
				continue
			}
			if n++; n > rangesPerNode {
				break
			}
			payload, err := wire.SignCommand(key, p.KeyName, c)
			if err != nil {
				return err
			}
			messages = append(messages, message{c.ID, wire.Topic{Kind: wire.CommandTopic, Node: node, ID: wire.VerbResend}.String(), payload})
		}
	}
	if len(messages) == 0 {
		return nil
	}
	for _, m := range messages {
		sctx, cancel := context.WithTimeout(ctx, publishFor)
		err := r.in.send(sctx, m.topic, m.payload)
		cancel()
		if err != nil {
			return fmt.Errorf("ask gateways to send again: %w", err)
		}
		r.asked[m.id] = true
		r.count(func(s *RepairStats) { s.Asked++ })
	}
	r.log.Info("asked gateways to send again", zap.Int("commands", len(messages)))
	return nil
}
