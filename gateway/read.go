package main

import (
	"context"
	byteorder "encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

// rawTarget is where raw registers are read or written: flags that read and write share.
type rawTarget struct {
	file, bus, by   string
	unit            int
	table           string
	address, count  string
	baud            int
	format          string
	timeout         time.Duration
	asJSON          bool
	endpoint        *site.Bus // alone
	share           float64   // of a running bus's time
	tableID         firmwareconfig.Table
	first, quantity int
}

func (r *rawTarget) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVarP(&r.file, "config", "c", "", "site file")
	f.StringVar(&r.bus, "bus", "", "id of the bus in the site file")
	f.IntVar(&r.unit, "unit", 0, "unit address, for raw registers")
	f.StringVar(&r.table, "table", "", "coil, discrete, holding or input")
	f.StringVar(&r.address, "address", "", "register address as it travels on the wire, 0 to 65535; 0x is allowed")
	f.IntVar(&r.baud, "baud", 9600, "of a device without a site file")
	f.StringVar(&r.format, "format", "8N1", "of a device without a site file")
	f.DurationVar(&r.timeout, "timeout", 0, "longest wait for an answer (default: the bus's)")
	f.StringVar(&r.by, "by", "", "who asks, for the gateway's record (default: the user)")
	f.BoolVar(&r.asJSON, "json", false, "print for programs")
}

// raw reports whether raw registers are meant, not points.
func (r *rawTarget) raw() bool {
	return r.unit != 0 || r.table != "" || r.address != "" || r.file == ""
}

// resolve reads the arguments of a raw command: [ENDPOINT] [TABLE ADDRESS] rest. The rest is returned.
func (r *rawTarget) resolve(args []string) ([]string, error) {
	if r.file == "" {
		if len(args) == 0 {
			return nil, &usageError{errors.New("say where: /dev/ttyUSB0, tcp://HOST:PORT, or -c FILE")}
		}
		b, err := parseEndpoint(args[0])
		if err != nil {
			return nil, &usageError{err}
		}
		if b.Transport == site.ModbusRTU {
			b.Line = firmwareconfig.Line{Baud: r.baud, Format: strings.ToUpper(r.format)}
		}
		r.endpoint, args = b, args[1:]
	}
	if err := r.check(); err != nil {
		return nil, &usageError{err}
	}
	if r.unit < 1 || r.unit > 255 {
		return nil, &usageError{errors.New("say which unit: --unit 1 to 247")}
	}
	if r.table == "" && len(args) > 0 {
		r.table, args = args[0], args[1:]
	}
	if r.address == "" && len(args) > 0 {
		r.address, args = args[0], args[1:]
	}
	var err error
	if r.tableID, err = parseTable(r.table); err != nil {
		return nil, &usageError{err}
	}
	n, err := strconv.ParseUint(r.address, 0, 16)
	if err != nil {
		return nil, &usageError{fmt.Errorf("%q is no register address: 0 to 65535, or 0x0000 to 0xFFFF", r.address)}
	}
	r.first = int(n)
	return args, nil
}

// check refuses flags that mean nothing.
func (r *rawTarget) check() error {
	switch {
	case r.timeout < 0 || r.timeout > time.Minute:
		return fmt.Errorf("--timeout %v: from 1ms to 1m, 0 for the bus's own", r.timeout)
	case r.endpoint != nil && r.endpoint.Transport == site.ModbusRTU && !usualRate(r.baud):
		return fmt.Errorf("--baud %d is no usual rate: 1200, 2400, 4800, 9600, 14400, 19200, 38400, 57600, 115200 and so on", r.baud)
	case r.endpoint != nil && r.endpoint.Transport == site.ModbusRTU && !slices.Contains(lineFormats(), strings.ToUpper(r.format)):
		return fmt.Errorf("--format %s is none of %s", r.format, strings.Join(lineFormats(), ", "))
	}
	return nil
}

// usualRate reports whether devices with this baud rate exist.
func usualRate(baud int) bool {
	return slices.Contains([]int{300, 600, 1200, 1800, 2400, 4800, 7200, 9600, 14400, 19200, 28800, 38400, 56000, 57600, 76800, 115200, 128000, 230400,
		250000, 256000, 460800, 500000, 576000, 921600, 1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000}, baud)
}

// lineFormats are data bits, parity and stop bits as serial lines have them.
func lineFormats() []string { return []string{"8N1", "8E1", "8O1", "8N2", "8E2", "8O2"} }

// open connects to the bus that is meant.
func (r *rawTarget) open(ctx context.Context) (busConn, error) {
	if r.endpoint != nil {
		return openAlone(ctx, r.endpoint)
	}
	return connectBus(ctx, r.file, r.bus, reachOptions{by: r.by, share: r.share})
}

// parseTable reads the name of a table.
func parseTable(s string) (firmwareconfig.Table, error) {
	for _, t := range [...]firmwareconfig.Table{firmwareconfig.Coil, firmwareconfig.DiscreteInput, firmwareconfig.HoldingRegister, firmwareconfig.InputRegister} {
		if s != "" && strings.HasPrefix(t.String(), strings.ToLower(s)) {
			return t, nil
		}
	}
	return 0, fmt.Errorf("%q is no table: coil, discrete, holding or input", s)
}

func readCommand() *cobra.Command {
	var r rawTarget
	var watch time.Duration
	var as valueType
	cmd := &cobra.Command{
		Use:   "read -c FILE DEVICE.POINT... | [DEVICE|tcp://HOST:PORT] --unit N TABLE ADDRESS [COUNT]",
		Short: "Read points, or raw registers of any unit",
		Long: `Read points of a site file with their unit and quality, or raw registers of any unit, through the running gateway
if there is one.

  linli read -c site.yaml air_1.temperature_c smoke_2.alarm
  linli read -c site.yaml --bus rs485_1 --unit 3 input 1 2
  linli read /dev/ttyUSB0 --baud 9600 --unit 3 input 1 2

Tables: coil, discrete, holding, input. Addresses are those on the wire: register 40001 of a manual is holding 0.
Raw registers are shown in every way they may be meant. The request and the answer are shown as the frames of a serial
line, which a profile can keep as golden frames. Exit code 1: something could not be read.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r.share = 0.2 // A loop of reads must not slow the polling down.
			if watch < 0 {
				return &usageError{fmt.Errorf("--watch %v: how often to read, as 1s", watch)}
			}
			if !r.raw() {
				if err := r.check(); err != nil {
					return &usageError{err}
				}
				return readPoints(cmd.Context(), &r, args, watch, cmd.OutOrStdout())
			}
			args, err := r.resolve(args)
			if err != nil {
				return err
			}
			return readRaw(cmd.Context(), &r, args, as, watch, cmd.OutOrStdout())
		},
	}
	r.flags(cmd)
	f := cmd.Flags()
	f.StringVar(&r.count, "count", "", "number of registers or bits (default 1)")
	f.DurationVar(&watch, "watch", 0, "read again and again, as every 1s, until Ctrl-C")
	f.StringVar(&as.name, "type", "", "show values of this type only: "+strings.Join(valueTypes(), ", "))
	f.BoolVar(&as.littleWords, "little-words", false, "with --type: the low word comes first")
	f.Float64Var(&as.scale, "scale", 1, "with --type: value = raw * scale + offset")
	f.Float64Var(&as.offset, "offset", 0, "with --type")
	return cmd
}

// valueType is how registers are to be shown.
type valueType struct {
	name          string
	littleWords   bool
	scale, offset float64
}

func valueTypes() []string { return []string{"u16", "s16", "u32", "s32", "u64", "s64", "f32", "f64"} }

// registers returns how many registers a value takes, 0 for an unknown type.
func (v valueType) registers() int {
	if !slices.Contains(valueTypes(), v.name) {
		return 0
	}
	n, _ := strconv.Atoi(v.name[1:])
	return n / 16
}

// value decodes words, which are as many as registers says.
func (v valueType) value(words []uint16) float64 {
	var raw uint64
	for i := range words {
		w := words[i]
		if v.littleWords {
			w = words[len(words)-1-i]
		}
		raw = raw<<16 | uint64(w)
	}
	bits := 16 * len(words)
	f := float64(raw)
	switch {
	case v.name == "f32":
		f = float64(math.Float32frombits(uint32(raw)))
	case v.name == "f64":
		f = math.Float64frombits(raw)
	case v.name[0] == 's':
		f = float64(int64(raw<<(64-bits)) >> (64 - bits))
	}
	return f*v.scale + v.offset
}

// rawReading is one read of raw registers or bits.
type rawReading struct {
	first int
	words []uint16 // bits are 0 and 1
	took  time.Duration
	frames
}

// frames are one request and its answer as they travel on a serial line, in hex with their CRC.
type frames struct {
	Request  string `json:"request,omitempty"`
	Response string `json:"response,omitempty"`
}

func newFrames(unit int, request, answer []byte) frames {
	return frames{Request: fmt.Sprintf("% X", firmwareconfig.Frame(byte(unit), request)), Response: fmt.Sprintf("% X", firmwareconfig.Frame(byte(unit), answer))}
}

// exceptionError is an exception that a unit answered.
type exceptionError struct{ function, code byte }

func (e *exceptionError) Error() string {
	names := [...]string{1: "it does not know this function", 2: "it has no such register", 3: "it does not accept this count or value",
		4: "it failed", 5: "accepted, it is still at work", 6: "it is busy", 8: "its memory is damaged", 10: "the gateway has no path to it", 11: "the gateway's unit does not answer"}
	text := "unknown reason"
	if int(e.code) < len(names) && names[e.code] != "" {
		text = names[e.code]
	}
	return fmt.Sprintf("the unit refuses: exception %d, %s", e.code, text)
}

// readWords reads registers or bits over conn.
func readWords(ctx context.Context, conn busConn, unit int, t firmwareconfig.Table, first, count int, timeout time.Duration) (rawReading, error) {
	pdu := byteorder.BigEndian.AppendUint16([]byte{byte(t)}, uint16(first))
	pdu = byteorder.BigEndian.AppendUint16(pdu, uint16(count))
	r, err := conn.Ask(ctx, byte(unit), pdu, timeout)
	if err != nil {
		if len(r.Heard) > 0 {
			err = fmt.Errorf("%w (heard % x)", err, r.Heard[:min(len(r.Heard), 32)])
		}
		return rawReading{}, err
	}
	if r.PDU[0]&0x80 != 0 && len(r.PDU) > 1 {
		return rawReading{}, &exceptionError{r.PDU[0] &^ 0x80, r.PDU[1]}
	}
	out := rawReading{first: first, took: r.Took, frames: newFrames(unit, pdu, r.PDU)}
	data := r.PDU[min(2, len(r.PDU)):]
	for i := range count {
		switch {
		case t.Bits() && i/8 < len(data):
			out.words = append(out.words, uint16(data[i/8]>>(i%8))&1)
		case !t.Bits() && 2*i+1 < len(data):
			out.words = append(out.words, byteorder.BigEndian.Uint16(data[2*i:]))
		default:
			return rawReading{}, fmt.Errorf("the answer % x is shorter than what was asked", r.PDU)
		}
	}
	return out, nil
}

func readRaw(ctx context.Context, r *rawTarget, args []string, as valueType, watch time.Duration, out io.Writer) error {
	if r.count == "" && len(args) > 0 {
		r.count, args = args[0], args[1:]
	}
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	most := 125
	if r.tableID.Bits() {
		most = 2000
	}
	r.quantity = 1
	if r.count != "" {
		n, err := strconv.Atoi(r.count)
		if err != nil || n < 1 || n > most || r.first+n > 1<<16 {
			return &usageError{fmt.Errorf("%q is no count: 1 to %d, and not beyond register 65535", r.count, most)}
		}
		r.quantity = n
	}
	if as.name != "" {
		switch n := as.registers(); {
		case n == 0:
			return &usageError{fmt.Errorf("%q is no type: %s", as.name, strings.Join(valueTypes(), ", "))}
		case math.IsNaN(as.scale+as.offset) || math.IsInf(as.scale+as.offset, 0) || as.scale == 0:
			return &usageError{errors.New("--scale and --offset are numbers, and a scale of 0 would make every value the same")}
		case r.tableID.Bits():
			return &usageError{errors.New("--type is for registers; coils and discrete inputs are bits")}
		case r.quantity%n != 0 && r.count != "":
			return &usageError{fmt.Errorf("a %s takes %d registers: the count must be a multiple of it", as.name, n)}
		case r.count == "":
			r.quantity = n
		}
	}
	conn, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return repeat(ctx, watch, func() error {
		got, err := readWords(ctx, conn, r.unit, r.tableID, r.first, r.quantity, r.timeout)
		var away *lostError
		if err != nil {
			err = fmt.Errorf("read unit %d %s %d: %w", r.unit, r.tableID, r.first, err)
			if watch > 0 && !errors.As(err, &away) && ctx.Err() == nil {
				_, err = fmt.Fprintln(out, err) // It may answer the next time: that is what one watches for.
			}
			return err
		}
		if r.asJSON {
			return printRawJSON(out, r, got, as)
		}
		printRaw(out, r, got, as)
		return nil
	})
}

// repeat does it once, or every so often until ctx ends. The first failure ends it.
func repeat(ctx context.Context, every time.Duration, do func() error) error {
	if every <= 0 {
		return do()
	}
	ticker := time.NewTicker(max(every, 100*time.Millisecond))
	defer ticker.Stop()
	for {
		if err := do(); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// printRaw shows registers in every way they may be meant.
func printRaw(out io.Writer, r *rawTarget, got rawReading, as valueType) {
	fmt.Fprintf(out, "unit %d, %s %d", r.unit, r.tableID, got.first)
	if n := len(got.words); n > 1 {
		fmt.Fprintf(out, "-%d", got.first+n-1)
	}
	fmt.Fprintf(out, " (%.1f ms)\nrequest:  %s\nresponse: %s\n", got.took.Seconds()*1000, got.Request, got.Response)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	switch {
	case r.tableID.Bits():
		fmt.Fprintln(w, "ADDRESS\tBIT")
		for i, v := range got.words {
			fmt.Fprintf(w, "%d\t%d\n", got.first+i, v)
		}
	case as.name != "":
		fmt.Fprintf(w, "ADDRESS\tHEX\t%s\n", strings.ToUpper(as.name))
		n := as.registers()
		for i := 0; i+n <= len(got.words); i += n {
			fmt.Fprintf(w, "%d\t%s\t%s\n", got.first+i, hexWords(got.words[i:i+n]), number(as.value(got.words[i:i+n])))
		}
	default:
		fmt.Fprintln(w, "ADDRESS\tHEX\tU16\tS16\tTEXT")
		for i, v := range got.words {
			fmt.Fprintf(w, "%d\t%04X\t%d\t%d\t%s\n", got.first+i, v, v, int16(v), printable(v))
		}
		if len(got.words) < 2 {
			return
		}
		_ = w.Flush() // The pairs are a table of their own.
		fmt.Fprintln(out)
		fmt.Fprintln(w, "PAIR\tU32\tS32\tF32\tU32 low first\tS32 low first\tF32 low first")
		for i := 0; i+1 < len(got.words); i++ {
			pair := got.words[i : i+2]
			fmt.Fprintf(w, "%d-%d", got.first+i, got.first+i+1)
			for _, little := range [...]bool{false, true} {
				for _, name := range [...]string{"u32", "s32", "f32"} {
					fmt.Fprintf(w, "\t%s", number(valueType{name, little, 1, 0}.value(pair)))
				}
			}
			fmt.Fprintln(w)
		}
	}
}

// printable shows a register's two characters, those that are none as dots.
func printable(v uint16) string {
	b := []byte{byte(v >> 8), byte(v)}
	for i, c := range b {
		if c < 0x20 || c > 0x7E {
			b[i] = '.'
		}
	}
	return string(b)
}

// number writes a value shortly.
func number(f float64) string {
	if f == math.Trunc(f) && math.Abs(f) < 1e15 {
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', 7, 64)
}

func hexWords(words []uint16) string {
	var b []byte
	for _, w := range words {
		b = byteorder.BigEndian.AppendUint16(b, w)
	}
	return strings.ToUpper(hex.EncodeToString(b))
}

// jsonNumber is a value for JSON, which has no NaN.
func jsonNumber(f float64) any {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return nil
	}
	return f
}

func printRawJSON(out io.Writer, r *rawTarget, got rawReading, as valueType) error {
	type register struct {
		Address int    `json:"address"`
		Hex     string `json:"hex,omitempty"`
		U16     uint16 `json:"u16"`
		S16     int16  `json:"s16"`
	}
	type pair struct {
		Address int `json:"address"`
		U32     any `json:"u32"`
		S32     any `json:"s32"`
		F32     any `json:"f32"`
		U32Low  any `json:"u32_low_first"`
		S32Low  any `json:"s32_low_first"`
		F32Low  any `json:"f32_low_first"`
	}
	result := struct {
		Unit   int     `json:"unit"`
		Table  string  `json:"table"`
		TookMS float64 `json:"took_ms"`
		frames
		Bits      []uint16   `json:"bits,omitempty"`
		Registers []register `json:"registers,omitempty"`
		Pairs     []pair     `json:"pairs,omitempty"`
		Values    []any      `json:"values,omitempty"`
	}{Unit: r.unit, Table: r.tableID.String(), TookMS: float64(got.took.Microseconds()) / 1000, frames: got.frames}
	if r.tableID.Bits() {
		result.Bits = got.words
		return json.NewEncoder(out).Encode(result)
	}
	for i, v := range got.words {
		result.Registers = append(result.Registers, register{got.first + i, fmt.Sprintf("%04X", v), v, int16(v)})
	}
	if n := as.registers(); n > 0 {
		for i := 0; i+n <= len(got.words); i += n {
			result.Values = append(result.Values, jsonNumber(as.value(got.words[i:i+n])))
		}
		return json.NewEncoder(out).Encode(result)
	}
	for i := 0; i+1 < len(got.words); i++ {
		v := func(name string, little bool) any {
			return jsonNumber(valueType{name, little, 1, 0}.value(got.words[i : i+2]))
		}
		result.Pairs = append(result.Pairs, pair{got.first + i, v("u32", false), v("s32", false), v("f32", false), v("u32", true), v("s32", true), v("f32", true)})
	}
	return json.NewEncoder(out).Encode(result)
}
