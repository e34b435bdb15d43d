package main

import (
	"bufio"
	"cmp"
	"context"
	byteorder "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"linli/drivers"
	firmwareconfig "linli/firmware-config"
	"linli/internal/audit"
	"linli/internal/telemetry"
)

// writeOptions is what linli write has beside where to write.
type writeOptions struct {
	note     string
	yes      bool
	force    bool
	function int
}

func writeCommand() *cobra.Command {
	var r rawTarget
	var o writeOptions
	cmd := &cobra.Command{
		Use:   "write -c FILE DEVICE.POINT VALUE | [DEVICE|tcp://HOST:PORT] --unit N TABLE ADDRESS VALUE...",
		Short: "Set an output, or write raw registers of any unit",
		Long: `Set an output of a site file, or write raw registers of any unit, through the running gateway if there is one: it
checks the value, reads it back, and records who did it.

  linli write -c site.yaml siren_1.on true --note "monthly test"
  linli write -c site.yaml --bus rs485_1 --unit 3 holding 0x0103 5
  linli write /dev/ttyUSB0 --unit 3 coil 0 on

Raw registers are read before and after, and asked about unless --yes. Outcomes: done, unchanged, not taken (it reads
back as something else), refused, unknown (nobody knows whether it took effect; it is not repeated). Exit code 0 for
the first two.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !r.raw() {
				return writePoint(cmd.Context(), &r, o, args, cmd.OutOrStdout())
			}
			values, err := r.resolve(args)
			if err != nil {
				return err
			}
			return writeRaw(cmd.Context(), &r, o, values, cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	r.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.note, "note", "", "why, for the gateway's record")
	f.BoolVar(&o.yes, "yes", false, "do not ask before raw registers are written")
	f.BoolVar(&o.force, "force", false, "send it also where the output is known to have that value")
	f.IntVar(&o.function, "function", 0, "function code for raw registers: 5, 6, 15 or 16 (default: the usual one)")
	return cmd
}

// outcome is what became of a write.
type outcome struct {
	Outcome string `json:"outcome"` // done, unchanged, not_taken, refused or unknown
	Value   any    `json:"value"`   // what it reads back as; nil where that is not known
	Error   string `json:"error,omitempty"`
}

// print tells an outcome, and returns errAnswered where the write has not taken effect for sure.
func (o outcome) print(out io.Writer, what string, asJSON bool) error {
	good := o.Outcome == "done" || o.Outcome == "unchanged"
	if asJSON {
		if err := json.NewEncoder(out).Encode(o); err != nil {
			return err
		}
	} else {
		text := strings.ReplaceAll(o.Outcome, "_", " ")
		switch o.Outcome {
		case "unchanged":
			text = "unchanged: it had that value already"
		case "not_taken":
			text = "not taken: it was accepted"
		case "unknown":
			text = "unknown: nobody knows whether it took effect"
		}
		if o.Value != nil {
			text += fmt.Sprintf("; reads back %v", o.Value)
		}
		if o.Error != "" {
			text += " (" + o.Error + ")"
		}
		fmt.Fprintf(out, "%s: %s\n", what, text)
	}
	if !good {
		return errAnswered
	}
	return nil
}

// writePoint sets an output by the gateway's order, or alone where none runs.
func writePoint(ctx context.Context, r *rawTarget, o writeOptions, args []string, out io.Writer) error {
	if len(args) != 2 {
		return &usageError{errors.New("say which output and what: linli write -c FILE siren_1.on true")}
	}
	p, err := loadPlan(r.file)
	if err != nil {
		return err
	}
	ref, err := findPoint(p.site, args[0])
	if err != nil {
		return err
	}
	if !ref.def.Writable {
		return fmt.Errorf("%s is no output", ref.name)
	}
	v, err := parseValue(ref.def, args[1])
	if err != nil {
		return &usageError{err}
	}
	by, err := whoAsks(r.by)
	if err != nil {
		return err
	}
	api, err := findGateway(ctx, p.site)
	if err != nil {
		return err
	}
	if api != nil {
		result, err := api.order(ctx, ref.name, ref.def, v, by, o)
		if err != nil {
			return err
		}
		return result.print(out, ref.name, r.asJSON)
	}
	result := writeAlone(ctx, ref, v)
	device, point, _ := strings.Cut(ref.name, ".")
	recordAlone(os.Stderr, p.site, audit.Entry{What: "write", By: by, Note: o.note, Device: device, Point: point, Value: valueForJSON(ref.def, v), Outcome: result.Outcome, Error: result.Error})
	return result.print(out, ref.name, r.asJSON)
}

// order sets an output through the gateway's one path of writes.
func (g *gatewayAPI) order(ctx context.Context, name string, def *telemetry.PointDef, v telemetry.Value, by string, o writeOptions) (outcome, error) {
	device, point, _ := strings.Cut(name, ".")
	in := struct {
		Value any    `json:"value"`
		By    string `json:"by"`
		Note  string `json:"note,omitempty"`
		Force bool   `json:"force,omitempty"`
	}{valueForJSON(def, v), by, o.note, o.force}
	var answer struct {
		Outcome string `json:"outcome"`
		Value   any    `json:"value"`
		Error   struct {
			Message struct {
				En string `json:"en"`
			} `json:"message"`
			Detail string `json:"detail"`
		} `json:"error"`
	}
	wait, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	err := g.call(wait, http.MethodPost, "/api/v1/points/"+url.PathEscape(device)+"/"+url.PathEscape(point)+"/write", in, &answer)
	var refused *apiProblem
	if errors.As(err, &refused) {
		return outcome{Outcome: "refused", Error: err.Error()}, nil
	}
	if err != nil {
		return outcome{Outcome: "unknown", Error: err.Error()}, nil
	}
	result := outcome{Outcome: answer.Outcome, Value: answer.Value, Error: answer.Error.Message.En}
	if d := answer.Error.Detail; d != "" {
		result.Error = strings.TrimSpace(result.Error + " " + d)
	}
	return result, nil
}

// writeAlone sets an output without a gateway, by a driver of our own.
func writeAlone(ctx context.Context, ref *pointRef, v telemetry.Value) outcome {
	clock := telemetry.NewClock("", 0, time.Time{})
	b := *ref.bus
	if isModbus(&b) {
		b.Units = onlyPoints(b.Units, []*pointRef{ref})
	}
	if b.Listen != "" {
		return outcome{Outcome: "refused", Error: "the converter of this bus dials in to the gateway, which does not run"}
	}
	bus, err := newBus(&b, nil, nil, clock, zap.NewNop())
	if err != nil {
		return outcome{Outcome: "refused", Error: err.Error()}
	}
	defer bus.Close()
	w, ok := bus.(drivers.Writer)
	if !ok {
		return outcome{Outcome: "refused", Error: drivers.ErrNotWritable.Error()}
	}
	err = w.Write(ctx, ref.id, v)
	var unknown *drivers.OutcomeUnknownError
	var taken *drivers.NotTakenError
	switch {
	case err == nil:
		return outcome{Outcome: "done", Value: valueForJSON(ref.def, v)}
	case errors.As(err, &unknown):
		return outcome{Outcome: "unknown", Error: err.Error()}
	case errors.As(err, &taken):
		return outcome{Outcome: "not_taken", Value: valueForJSON(ref.def, taken.Got), Error: err.Error()}
	}
	return outcome{Outcome: "refused", Error: err.Error()}
}

// parseValue reads a value of a point's kind as people write it.
func parseValue(def *telemetry.PointDef, s string) (telemetry.Value, error) {
	s = strings.TrimSpace(s)
	switch def.Kind {
	case telemetry.Bool:
		b, err := parseBool(s)
		if err != nil {
			return telemetry.Value{}, fmt.Errorf("%s is on or off, not %q", def.Name, s)
		}
		return telemetry.BoolValue(b), nil
	case telemetry.Float:
		f, err := strconv.ParseFloat(s, 64)
		if v := telemetry.FloatValue(f); err == nil && !v.IsZero() {
			return v, nil
		}
		return telemetry.Value{}, fmt.Errorf("%s is a number in %s, not %q", def.Name, dash(def.Unit), s)
	case telemetry.KindText:
		return telemetry.TextValue(s), nil
	case telemetry.Enum:
		var names []string
		for _, e := range def.Enum {
			if e.Name == s || strconv.FormatInt(e.Code, 10) == s {
				return telemetry.EnumValue(e.Code), nil
			}
			names = append(names, e.Name)
		}
		return telemetry.Value{}, fmt.Errorf("%s is one of %s, not %q", def.Name, strings.Join(names, ", "), s)
	}
	n, err := strconv.ParseInt(s, 0, 64)
	if err != nil {
		return telemetry.Value{}, fmt.Errorf("%s is a whole number, not %q", def.Name, s)
	}
	return telemetry.IntValue(n), nil
}

func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "on", "true", "1", "yes":
		return true, nil
	case "off", "false", "0", "no":
		return false, nil
	}
	return false, fmt.Errorf("%q is neither on nor off", s)
}

// writeRaw writes registers or coils, with a look before and after.
func writeRaw(ctx context.Context, r *rawTarget, o writeOptions, args []string, in io.Reader, out, errs io.Writer) error {
	words, err := parseWords(r.tableID, args)
	if err != nil {
		return &usageError{err}
	}
	if r.first+len(words) > 1<<16 {
		return &usageError{errors.New("that goes beyond register 65535")}
	}
	pdu, err := writePDU(r.tableID, r.first, words, o.function)
	if err != nil {
		return &usageError{err}
	}
	if r.by, err = whoAsks(r.by); err != nil {
		return err
	}
	conn, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if g, ok := conn.(*gatewayConn); ok {
		g.opts.note = o.note
	}
	what := fmt.Sprintf("unit %d %s %s", r.unit, r.tableID, registerRange(r.first, len(words)))
	before := "is not readable"
	if was, err := readWords(ctx, conn, r.unit, r.tableID, r.first, len(words), r.timeout); err == nil {
		before = "is " + decimals(was.words)
	} else if away := (*lostError)(nil); errors.As(err, &away) || ctx.Err() != nil {
		return err
	}
	question := fmt.Sprintf("%s %s. Write %s?", what, before, decimals(words))
	if !o.yes {
		if !isTerminal(in) {
			return &usageError{errors.New(question + " Nobody is here to be asked: add --yes")}
		}
		fmt.Fprint(errs, question+" [y/N] ")
		line, _ := bufio.NewReader(in).ReadString('\n')
		if a := strings.ToLower(strings.TrimSpace(line)); a != "y" && a != "yes" {
			fmt.Fprintln(errs, "Nothing was written.")
			return errAnswered
		}
	}
	result, err := sendWords(ctx, conn, r, pdu, words)
	if err != nil {
		return err
	}
	if _, alone := conn.(*aloneConn); alone {
		recordAlone(errs, siteOf(r.file), audit.Entry{What: "raw", By: r.by, Note: o.note, Bus: r.where(), Unit: &r.unit, PDU: fmt.Sprintf("%x", pdu), Outcome: result.Outcome, Error: result.Error})
	}
	return result.print(out, what, r.asJSON)
}

// where names the line for the record.
func (r *rawTarget) where() string {
	if r.endpoint != nil {
		return cmp.Or(r.endpoint.Device, r.endpoint.Address)
	}
	return r.bus
}

// sendWords writes and reads back.
func sendWords(ctx context.Context, conn busConn, r *rawTarget, pdu []byte, words []uint16) (outcome, error) {
	reply, err := conn.Ask(ctx, byte(r.unit), pdu, r.timeout)
	var refused *apiProblem
	switch {
	case errors.As(err, &refused):
		return outcome{Outcome: "refused", Error: err.Error()}, nil // Nothing was sent.
	case ctx.Err() != nil:
		return outcome{Outcome: "unknown", Error: "interrupted"}, nil
	case err == nil && reply.PDU[0]&0x80 != 0 && len(reply.PDU) > 1:
		e := &exceptionError{pdu[0], reply.PDU[1]}
		if e.code == 5 || e.code == 6 || e.code >= 10 {
			return outcome{Outcome: "unknown", Error: e.Error()}, nil
		}
		return outcome{Outcome: "refused", Error: e.Error()}, nil
	}
	said := err
	now, err := readWords(ctx, conn, r.unit, r.tableID, r.first, len(words), r.timeout)
	same := err == nil
	for i := range now.words {
		same = same && now.words[i] == words[i]
	}
	switch {
	case same:
		return outcome{Outcome: "done", Value: decimals(now.words)}, nil
	case said != nil && err == nil:
		return outcome{Outcome: "unknown", Value: decimals(now.words), Error: said.Error()}, nil
	case said != nil:
		return outcome{Outcome: "unknown", Error: said.Error()}, nil
	case err != nil:
		// The unit has confirmed it. Some registers, as commands and a new address, cannot be read back.
		return outcome{Outcome: "done", Error: "confirmed; it cannot be read back: " + err.Error()}, nil
	}
	return outcome{Outcome: "not_taken", Value: decimals(now.words)}, nil
}

// parseWords reads the values of raw registers or coils.
func parseWords(t firmwareconfig.Table, args []string) ([]uint16, error) {
	if t != firmwareconfig.Coil && t != firmwareconfig.HoldingRegister {
		return nil, fmt.Errorf("table %s cannot be written: coils and holding registers can", t)
	}
	if len(args) == 0 {
		return nil, errors.New("say what to write, as linli write /dev/ttyUSB0 --unit 3 holding 0x0103 5")
	}
	var words []uint16
	for _, a := range args {
		if t == firmwareconfig.Coil {
			on, err := parseBool(a)
			if err != nil {
				return nil, fmt.Errorf("a coil is on or off: %w", err)
			}
			w := uint16(0)
			if on {
				w = 1
			}
			words = append(words, w)
			continue
		}
		n, err := strconv.ParseInt(a, 0, 32)
		if err != nil || n < -32768 || n > 65535 {
			return nil, fmt.Errorf("%q is no value of a register: -32768 to 65535, or 0x0000 to 0xFFFF", a)
		}
		words = append(words, uint16(n))
	}
	most := 123
	if t == firmwareconfig.Coil {
		most = 1968
	}
	if len(words) > most {
		return nil, fmt.Errorf("%d values: one request holds %d", len(words), most)
	}
	return words, nil
}

// writePDU builds the request; function 0 is the usual one.
func writePDU(t firmwareconfig.Table, first int, words []uint16, function int) ([]byte, error) {
	single, many := 6, 16
	if t == firmwareconfig.Coil {
		single, many = 5, 15
	}
	if function == 0 {
		function = single
		if len(words) > 1 {
			function = many
		}
	}
	switch {
	case function != single && function != many:
		return nil, fmt.Errorf("a %s is written with function %d or %d, not %d", t, single, many, function)
	case function == single && len(words) > 1:
		return nil, fmt.Errorf("function %d writes one value", function)
	}
	pdu := byteorder.BigEndian.AppendUint16([]byte{byte(function)}, uint16(first))
	switch function {
	case 5:
		return byteorder.BigEndian.AppendUint16(pdu, words[0]*0xFF00), nil
	case 6:
		return byteorder.BigEndian.AppendUint16(pdu, words[0]), nil
	case 15:
		bits := make([]byte, (len(words)+7)/8)
		for i, w := range words {
			bits[i/8] |= byte(w) << (i % 8)
		}
		pdu = byteorder.BigEndian.AppendUint16(pdu, uint16(len(words)))
		return append(append(pdu, byte(len(bits))), bits...), nil
	}
	pdu = byteorder.BigEndian.AppendUint16(pdu, uint16(len(words)))
	pdu = append(pdu, byte(2*len(words)))
	for _, w := range words {
		pdu = byteorder.BigEndian.AppendUint16(pdu, w)
	}
	return pdu, nil
}

func registerRange(first, n int) string {
	if n == 1 {
		return strconv.Itoa(first)
	}
	return fmt.Sprintf("%d-%d", first, first+n-1)
}

// decimals writes words for people.
func decimals(words []uint16) string {
	var parts []string
	for _, w := range words {
		parts = append(parts, strconv.Itoa(int(w)))
	}
	return strings.Join(parts, " ")
}
