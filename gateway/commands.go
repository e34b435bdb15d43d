package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.uber.org/zap"

	"linli/internal/alert"
	"linli/internal/audit"
	"linli/internal/console"
	"linli/internal/site"
	"linli/internal/telemetry"
	"linli/internal/uplink"
	"linli/internal/wire"
	"linli/internal/yamlfile"
)

// Why a command is refused that the uplink had let pass, as the reply and the audit record say it.
const (
	reasonNoAlert     = "not_found"
	reasonStillActive = "still_active"
	reasonNotDone     = "not_done" // what was to carry it out refuses; its words follow
)

// maxReason bounds what a reply says about why, in bytes.
const maxReason = 600

// cityCommands carries out the signed commands of the city. Whose they are, whether they are fresh, allowed and new, the
// uplink has found out before.
type cityCommands struct {
	inv   *telemetry.Inventory
	clock *telemetry.Clock
	book  *alert.Book
	audit *audit.Record
	log   *zap.Logger

	// Set before the uplink runs.
	up     *uplink.Uplink
	orders *orders
	rules  *runningRules
}

// taken returns what the uplink has to know of the site file's commands; nil where there is no key. inMemory says that the
// state directory cannot be used, and what earlier processes took is not known.
func (c *cityCommands) taken(cfg *site.Commands, inMemory bool) *uplink.Commands {
	keys, problems := commandKeys(cfg)
	for _, p := range problems {
		c.log.Error("commands signed by this key are not taken", zap.String("at", p.Pos.String()), zap.String("why", p.Msg))
	}
	if len(keys) == 0 {
		return nil
	}
	// What an earlier process carried out stands in the audit record too: twice as far back as a command lives, for
	// clocks that differ.
	began, err := c.audit.Began(c.clock.Now().Wall.Add(-2 * wire.MaxCommandLife))
	if err != nil {
		c.log.Warn("commands carried out before are known from commands.state alone", zap.Error(err))
	}
	return &uplink.Commands{
		Keys: keys, Allow: cfg.Allow, Do: c.do, Refused: c.refused, Forgotten: inMemory,
		Began: func(cmd *wire.Command) bool { return began[audit.CommandKey{By: cmd.Key, Command: cmd.ID}] },
	}
}

// commandKeys returns the keys by name, and what is wrong with those in files.
func commandKeys(cfg *site.Commands) (keys map[string]ed25519.PublicKey, problems yamlfile.Errors) {
	if cfg == nil {
		return nil, nil
	}
	keys = map[string]ed25519.PublicKey{}
	for _, k := range cfg.Keys {
		key := k.Key
		if key == nil {
			pem, err := os.ReadFile(k.File)
			if err == nil {
				key, err = site.ParsePublicKeyPEM(pem)
			}
			if err != nil {
				problems.Addf(k.Pos, "key %s in %s: %v; until then nothing is taken from it", k.Name, k.File, err)
				continue
			}
		}
		keys[k.Name] = key
	}
	return keys, problems
}

// do carries out one command. It stands in the audit record before and after.
func (c *cityCommands) do(ctx context.Context, cmd *wire.Command) wire.Reply {
	e := c.entry(cmd)
	quiet := cmd.Verb == wire.VerbStatus // changes nothing, and may be asked for often
	if !quiet {
		c.audit.Begin(e)
	}
	began := c.clock.Mono()
	r := c.carryOut(ctx, cmd)
	if len(r.Reason) > maxReason {
		r.Reason = strings.ToValidUTF8(r.Reason[:maxReason], "") + "…"
	}
	e.TookMS = milliseconds(c.clock.Mono().Sub(began))
	e.Outcome, e.Error = string(r.State), r.Reason
	stamp(c.clock, &e)
	if quiet {
		c.audit.Fold(e)
	} else {
		c.audit.Add(e)
	}
	c.log.Info("command "+e.Outcome, zap.String("verb", cmd.Verb), zap.String("id", cmd.ID), zap.String("by", cmd.Key), zap.String("reason", r.Reason))
	return r
}

// refused leaves a trace of what somebody signed and nobody carried out.
func (c *cityCommands) refused(cmd *wire.Command, reason string) {
	e := c.entry(cmd)
	e.Outcome, e.Reason = orderRefused, reason
	c.audit.Fold(e)
	c.log.Debug("command refused", zap.String("verb", cmd.Verb), zap.String("id", cmd.ID), zap.String("by", cmd.Key), zap.String("reason", reason))
}

func (c *cityCommands) entry(cmd *wire.Command) audit.Entry {
	e := audit.Entry{What: "command", By: cmd.Key, Origin: audit.OriginCity, Verb: cmd.Verb, Command: cmd.ID, Note: console.CleanText(string(cmd.Args))}
	stamp(c.clock, &e)
	return e
}

// carryOut is the one switch of verbs.
func (c *cityCommands) carryOut(ctx context.Context, cmd *wire.Command) wire.Reply {
	switch cmd.Verb {
	case wire.VerbResend:
		var args wire.ResendArgs
		if err := cmd.DecodeArgs(&args); err != nil {
			return malformed(err)
		}
		if !args.AlertsSince.IsZero() {
			if args != (wire.ResendArgs{AlertsSince: args.AlertsSince}) {
				return malformed(errors.New("either alerts_since, or epoch, from and to"))
			}
			result, err := c.up.ResendAlerts(args.AlertsSince)
			return replyWith(result, err)
		}
		result, err := c.up.Resend(ctx, args.Epoch, args.From, args.To)
		return replyWith(result, err)
	case wire.VerbStatus:
		if err := cmd.DecodeArgs(&struct{}{}); err != nil {
			return malformed(err)
		}
		status, err := c.up.StatusNow(ctx)
		return replyWith(status, err)
	case wire.VerbAcknowledge:
		return c.alert(ctx, cmd, c.book.Acknowledge)
	case wire.VerbClose:
		return c.alert(ctx, cmd, c.book.CloseByHand)
	case wire.VerbWrite:
		return c.write(ctx, cmd)
	case wire.VerbReload:
		if err := cmd.DecodeArgs(&struct{}{}); err != nil {
			return malformed(err)
		}
		done, err := c.rules.reloadFrom(ctx, cmd.Key, audit.OriginCity)
		if errors.Is(err, console.ErrNotReloaded) {
			return wire.Reply{State: wire.ReplyRefused, Reason: reasonNotDone + ": " + inOneLine(err)}
		}
		return replyWith(done, err)
	}
	return malformed(fmt.Errorf("no verb %q", cmd.Verb)) // the site file cannot allow it
}

// alert has something done to an alert, as on the console, by the name of the key.
func (c *cityCommands) alert(ctx context.Context, cmd *wire.Command, do func(ctx context.Context, id, by, note string) (alert.Alert, error)) wire.Reply {
	var args wire.AlertArgs
	if err := cmd.DecodeArgs(&args); err != nil {
		return malformed(err)
	}
	a, err := do(ctx, args.Alert, cmd.Key, console.CleanText(args.Note))
	switch {
	case errors.Is(err, alert.ErrNotFound):
		return wire.Reply{State: wire.ReplyRefused, Reason: reasonNoAlert + ": " + inOneLine(err)}
	case errors.Is(err, alert.ErrStillActive):
		return wire.Reply{State: wire.ReplyRefused, Reason: reasonStillActive + ": " + inOneLine(err)}
	case errors.Is(err, alert.ErrBadInput):
		return malformed(err)
	case err != nil && ctx.Err() != nil: // decided, and not on the disk yet
		return wire.Reply{State: wire.ReplyUnknown, Reason: inOneLine(errStopping)}
	}
	return replyWith(struct {
		Alert    string      `json:"alert"`
		State    alert.State `json:"state"`
		Revision int64       `json:"revision"`
	}{a.ID, a.State, a.Revision}, err)
}

// write gives an order like any other.
func (c *cityCommands) write(ctx context.Context, cmd *wire.Command) wire.Reply {
	var args wire.WriteArgs
	if err := cmd.DecodeArgs(&args); err != nil {
		return malformed(err)
	}
	switch {
	case args.Device == "" || args.Point == "":
		return malformed(errors.New("args of write: device and point must be there"))
	case len(args.Value) == 0 || bytes.Equal(args.Value, []byte("null")):
		return malformed(errors.New("args of write: value must be there, a bool, a number or a text"))
	}
	device, ok := c.inv.DeviceByID(args.Device)
	def := -1
	if ok {
		def = c.inv.Devices[device].Class.Point(args.Point)
	}
	if def < 0 {
		return malformed(fmt.Errorf("there is no point %.64q", args.Device+"."+args.Point))
	}
	value, err := console.DecodeValue(args.Value, &c.inv.Devices[device].Class.Points[def])
	if err != nil {
		return malformed(err)
	}
	point := c.inv.Devices[device].Points[def]
	if point == telemetry.NoPoint {
		return malformed(fmt.Errorf("nothing provides the point %s.%s", args.Device, args.Point))
	}
	r := c.orders.Do(ctx, order{Point: point, Value: value, By: cmd.Key, Note: "command " + cmd.ID, City: true})
	reply := replyWith(struct {
		Outcome string `json:"outcome"`
		Value   any    `json:"value,omitempty"` // that the point has now, where that is known
	}{r.Outcome, r.Value.JSON()}, nil)
	reply.Reason = inOneLine(r.Err)
	switch r.Outcome {
	case orderDone, orderUnchanged:
	case orderUnknown:
		reply.State = wire.ReplyUnknown
	case orderRefused:
		reply.State, reply.Reason = wire.ReplyRefused, reasonNotDone+": "+reply.Reason
	default:
		reply.State = wire.ReplyFailed
	}
	return reply
}

func malformed(err error) wire.Reply {
	return wire.Reply{State: wire.ReplyRefused, Reason: wire.ReasonMalformed + ": " + inOneLine(err)}
}

// replyWith is the reply of what was done with this result, or was not.
func replyWith(result any, err error) wire.Reply {
	var refusal *wire.Refusal
	switch {
	case errors.As(err, &refusal):
		return wire.Reply{State: wire.ReplyRefused, Reason: strings.TrimSuffix(refusal.Reason+": "+refusal.Detail, ": ")}
	case errors.Is(err, context.Canceled):
		return wire.Reply{State: wire.ReplyFailed, Reason: inOneLine(errStopping)}
	case err != nil:
		return wire.Reply{State: wire.ReplyFailed, Reason: inOneLine(err)}
	}
	b, err := json.Marshal(result)
	if err != nil {
		return wire.Reply{State: wire.ReplyDone, Reason: "its result cannot be told: " + inOneLine(err)}
	}
	return wire.Reply{State: wire.ReplyDone, Result: b}
}

// commandsJSON says which commands a gateway would take.
type commandsJSON struct {
	Keys  []string `json:"keys"`
	Allow []string `json:"allow"`
}

func encodeCommands(u *site.Uplink) commandsJSON {
	out := commandsJSON{Keys: []string{}, Allow: []string{}}
	if u == nil || u.Commands == nil || len(u.Commands.Keys) == 0 {
		return out
	}
	for _, k := range u.Commands.Keys {
		out.Keys = append(out.Keys, k.Name)
	}
	out.Allow = append(out.Allow, u.Commands.Allow...)
	return out
}

// printCommands says which verbs are allowed to whom.
func printCommands(stdout io.Writer, u *site.Uplink) {
	c := encodeCommands(u)
	if len(c.Keys) == 0 {
		return
	}
	what := strings.Join(c.Allow, ", ")
	if what == "" {
		what = "none"
	}
	fmt.Fprintf(stdout, "commands of the city: %s (signed by %s)\n", what, strings.Join(c.Keys, " or "))
}
