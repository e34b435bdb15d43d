package console

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.uber.org/zap"

	"linli/internal/telemetry"
)

// Bounds of requests about buses.
const (
	maxAsk     = 10 * time.Second // wait for one answer
	maxHear    = 10 * time.Second
	maxSuspend = 10 * time.Minute
	maxPDU     = 253 // bytes of a Modbus PDU
	auditShown = 100
	auditMost  = 1000
)

// Control is what people and tools can do with the buses and the outputs. Its methods are called from any goroutine
// and end within about 25 s, or when their context does. Errors wrap one of the errors below where somebody can do something
// about them.
type Control interface {
	Buses() []BusDetail
	// Ask sends one request to a unit. An Answer without PDU says why there is none; that is no error.
	Ask(ctx context.Context, bus string, q Question) (Answer, error)
	// Hear listens. Like Ask it wants the lease of a bus that is suspended.
	Hear(ctx context.Context, bus string, d time.Duration, lease string) ([]byte, error)
	// Suspend suspends, renews or resumes; the Lease is that of a suspension.
	Suspend(ctx context.Context, bus string, s Suspension) (Lease, error)
	// Write sets an output.
	Write(ctx context.Context, o Order) OrderResult
	// Audit returns the newest n entries of the record of what was changed, newest first, as JSON objects. Beside an
	// error it returns what could be read.
	Audit(n int) ([]json.RawMessage, error)
}

// The errors of Control.
var (
	ErrNoBus       = errors.New("no such bus")
	ErrNotHost     = errors.New("this bus cannot be asked")
	ErrBusBusy     = errors.New("too many requests wait for the bus")
	ErrFunction    = errors.New("function not allowed")
	ErrUndeclared  = errors.New("a request that changes the unit must say so")
	ErrBadRequest  = errors.New("bad request")
	ErrNotWritable = errors.New("not an output")
	ErrValue       = errors.New("value out of range")
	ErrTooSoon     = errors.New("too many writes of this point")
	ErrLocked      = errors.New("another output must be off first")
	ErrStopping    = errors.New("the gateway is stopping")
	ErrSuspended   = errors.New("the bus is suspended")
	ErrSuspendedBy = errors.New("the bus is suspended for")
	ErrNoAnswer    = errors.New("outcome unknown")
	ErrNotTaken    = errors.New("not taken over")
	ErrSilent      = errors.New("the device does not answer, nothing was sent")
	ErrReserved    = errors.New("this name is the gateway's own")
)

// BusDetail is everything that is known of a bus. Counters count since the start of the gateway.
type BusDetail struct {
	ID        string `json:"id"`
	Subject   string `json:"subject,omitempty"` // the device that the bus is, of class field_bus: what its alerts are about
	Transport string `json:"transport"`         // modbus_tcp, modbus_rtu, modbus_rtu_over_tcp or gpio
	Address   string `json:"address,omitempty"` // host:port that is dialled, or listened at
	Device    string `json:"device,omitempty"`  // of the serial line, or the GPIO chip
	Baud      int    `json:"baud,omitempty"`    // as configured
	Format    string `json:"format,omitempty"`
	Up        bool   `json:"up"`
	Suspended bool   `json:"suspended"`
	// SuspendedBy is who has the lease.
	SuspendedBy string       `json:"suspended_by,omitempty"`
	Busy        float64      `json:"busy"` // share of the last minute, 0 to 1
	Late        uint64       `json:"late"`
	Foreign     uint64       `json:"foreign"`
	Error       string       `json:"error,omitempty"`
	Units       []UnitDetail `json:"units"`
}

// UnitDetail is everything that is known of a unit.
type UnitDetail struct {
	ID          string   `json:"id"`
	Subject     string   `json:"subject,omitempty"` // the device that the unit is, of class bus_unit
	Address     int      `json:"address"`
	Profile     string   `json:"profile"`
	Online      bool     `json:"online"`
	Answers     uint64   `json:"answers"`
	Timeouts    uint64   `json:"timeouts"`
	Errors      uint64   `json:"errors"`
	CRCErrors   uint64   `json:"crc_errors"`
	Exceptions  uint64   `json:"exceptions"`
	Retries     uint64   `json:"retries"`
	Late        uint64   `json:"late"`
	RoundTripMS *float64 `json:"round_trip_ms"`          // null before the first answer
	FailedPct   float64  `json:"failed_pct"`             // of the requests of the last five minutes
	ConfigDrift *int64   `json:"config_drift,omitempty"` // settings that differ from the site file; absent where unknown
	Error       string   `json:"error,omitempty"`
}

// Question is one request of a tool to a unit.
type Question struct {
	Unit    byte
	PDU     []byte        // function code first
	Timeout time.Duration // 0: the bus's usual one
	Share   float64       // of the line's time, 0 for as soon as possible
	By      string
	Note    string
	Write   bool // declares that the request may change the unit
	Lease   string
}

// Answer is what came back to a Question.
type Answer struct {
	PDU   []byte // nil where there is none
	Heard []byte // every byte that came
	Took  time.Duration
	Error string // why there is no PDU
}

// Suspension stops the polling of a bus for a while, 0 resumes it; Baud and Format are other settings of its line.
type Suspension struct {
	For    time.Duration
	Baud   int
	Format string
	By     string
	Note   string
	Lease  string // of the suspension that is renewed or ended; "" for none
	Force  bool   // with For 0: end anybody's
}

// Lease is whose a suspension is. Who has the ID renews and ends it, and asks meanwhile.
type Lease struct {
	ID    string    `json:"lease"`
	Until time.Time `json:"until"`
}

// Order asks for an output to be set.
type Order struct {
	Device, Point string
	ID            telemetry.PointID
	Value         telemetry.Value
	By, Note      string
	Force         bool // send it even where the same value was confirmed just now
}

// OrderResult is what became of an Order.
type OrderResult struct {
	Outcome string          // done, unchanged, unknown, refused or not_taken
	Value   telemetry.Value // what the output is known to be now; zero where that is not known
	Retry   time.Duration   // when to try again, with ErrTooSoon
	Err     error           // nil with done and unchanged
}

// controlRoutes adds the addresses about buses and outputs.
func (s *Server) controlRoutes(mux *http.ServeMux) {
	with := func(method string, h http.HandlerFunc) http.Handler {
		return only(func(w http.ResponseWriter, r *http.Request) {
			if s.src.Control == nil {
				writeError(w, http.StatusNotFound, errNoPage)
				return
			}
			h(w, r)
		}, method)
	}
	mux.Handle("/api/v1/buses", with(http.MethodGet, s.getBuses))
	mux.Handle("/api/v1/buses/{bus}/ask", with(http.MethodPost, s.ask))
	mux.Handle("/api/v1/buses/{bus}/hear", with(http.MethodPost, s.hear))
	mux.Handle("/api/v1/buses/{bus}/suspend", with(http.MethodPost, s.suspend))
	mux.Handle("/api/v1/points/{device}/{point}/write", with(http.MethodPost, s.writePoint))
	mux.Handle("/api/v1/audit", with(http.MethodGet, s.getAudit))
}

func (s *Server) getBuses(w http.ResponseWriter, r *http.Request) {
	buses := s.src.Control.Buses()
	if buses == nil {
		buses = []BusDetail{}
	}
	s.writeJSON(w, r, http.StatusOK, struct {
		Buses []BusDetail `json:"buses"`
	}{buses})
}

// askJSON is the body of ask.
type askJSON struct {
	Unit      int     `json:"unit"`
	PDU       string  `json:"pdu"`
	TimeoutMS int64   `json:"timeout_ms"`
	Share     float64 `json:"share"`
	By        string  `json:"by"`
	Note      string  `json:"note"`
	Write     bool    `json:"write"`
	Lease     string  `json:"lease"`
}

type answerJSON struct {
	PDU    string  `json:"pdu,omitempty"`
	Heard  string  `json:"heard"`
	TookMS float64 `json:"took_ms"`
	Error  string  `json:"error,omitempty"`
}

func (s *Server) ask(w http.ResponseWriter, r *http.Request) {
	var in askJSON
	if !readJSON(w, r, &in) || !cleanAuthor(w, &in.By, &in.Note) {
		return
	}
	pdu, err := hex.DecodeString(in.PDU)
	switch {
	case err != nil || len(pdu) == 0 || len(pdu) > maxPDU:
		writeProblem(w, http.StatusBadRequest, errBadRequest, fmt.Sprintf("pdu: 1 to %d bytes in hex, function code first, as 0400010002", maxPDU))
		return
	case in.Unit < 0 || in.Unit > 255:
		writeProblem(w, http.StatusBadRequest, errBadRequest, "unit: 0 to 255")
		return
	case !within(in.TimeoutMS, time.Millisecond, maxAsk):
		writeProblem(w, http.StatusBadRequest, errBadRequest, fmt.Sprintf("timeout_ms: 0 (the bus's usual one) to %d", maxAsk.Milliseconds()))
		return
	case !(in.Share >= 0 && in.Share <= 1):
		writeProblem(w, http.StatusBadRequest, errBadRequest, "share: part of the line's time, 0 (as soon as possible) to 1")
		return
	}
	a, err := s.src.Control.Ask(r.Context(), r.PathValue("bus"), Question{Unit: byte(in.Unit), PDU: pdu,
		Timeout: time.Duration(in.TimeoutMS) * time.Millisecond, Share: in.Share, By: in.By, Note: in.Note, Write: in.Write, Lease: in.Lease})
	if err != nil {
		s.controlFailed(w, r, err)
		return
	}
	s.writeJSON(w, r, http.StatusOK, answerJSON{PDU: hex.EncodeToString(a.PDU), Heard: hex.EncodeToString(a.Heard),
		TookMS: math.Round(float64(a.Took)/1e5) / 10, Error: a.Error})
}

func (s *Server) hear(w http.ResponseWriter, r *http.Request) {
	var in struct {
		MS    int64  `json:"ms"`
		Lease string `json:"lease"`
	}
	if !readJSON(w, r, &in) {
		return
	}
	if in.MS == 0 || !within(in.MS, time.Millisecond, maxHear) {
		writeProblem(w, http.StatusBadRequest, errBadRequest, fmt.Sprintf("ms: 1 to %d", maxHear.Milliseconds()))
		return
	}
	heard, err := s.src.Control.Hear(r.Context(), r.PathValue("bus"), time.Duration(in.MS)*time.Millisecond, in.Lease)
	if err != nil {
		s.controlFailed(w, r, err)
		return
	}
	s.writeJSON(w, r, http.StatusOK, struct {
		Heard string `json:"heard"`
	}{hex.EncodeToString(heard)})
}

func (s *Server) suspend(w http.ResponseWriter, r *http.Request) {
	var in struct {
		ForS   int64  `json:"for_s"`
		Baud   int    `json:"baud"`
		Format string `json:"format"`
		By     string `json:"by"`
		Note   string `json:"note"`
		Lease  string `json:"lease"`
		Force  bool   `json:"force"`
	}
	if !readJSON(w, r, &in) || !cleanAuthor(w, &in.By, &in.Note) {
		return
	}
	if in.By == "" {
		writeError(w, http.StatusBadRequest, errNeedsName)
		return
	}
	if !within(in.ForS, time.Second, maxSuspend) {
		writeProblem(w, http.StatusBadRequest, errBadRequest, fmt.Sprintf("for_s: 0 (resume) to %.0f", maxSuspend.Seconds()))
		return
	}
	lease, err := s.src.Control.Suspend(r.Context(), r.PathValue("bus"), Suspension{For: time.Duration(in.ForS) * time.Second,
		Baud: in.Baud, Format: in.Format, By: in.By, Note: in.Note, Lease: in.Lease, Force: in.Force})
	if err != nil {
		s.controlFailed(w, r, err)
		return
	}
	if in.ForS > 0 {
		s.writeJSON(w, r, http.StatusOK, lease)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// within reports whether n units are a duration from 0 to most. It cannot be led astray by overflow.
func within(n int64, unit, most time.Duration) bool { return n >= 0 && n <= int64(most/unit) }

// reservedName is who does in the record what the gateway does by itself: nobody else goes by it.
const reservedName = "gateway"

// cleanAuthor cleans the texts that go into the record and checks their length and the name; where that fails it has
// answered.
func cleanAuthor(w http.ResponseWriter, by, note *string) bool {
	*by, *note = CleanText(*by), CleanText(*note)
	if utf8.RuneCountInString(*by) > maxName || utf8.RuneCountInString(*note) > maxNote {
		writeError(w, http.StatusBadRequest, errLongText)
		return false
	}
	if strings.EqualFold(*by, reservedName) {
		writeError(w, http.StatusBadRequest, errReserved)
		return false
	}
	return true
}

type orderJSON struct {
	Value json.RawMessage `json:"value"`
	By    string          `json:"by"`
	Note  string          `json:"note"`
	Force bool            `json:"force"`
}

// orderResultJSON says what became of an order. An order that was not carried out is an answer, not a failed request.
type orderResultJSON struct {
	Outcome string         `json:"outcome"`
	Value   any            `json:"value"` // null where it is not known
	RetryMS int64          `json:"retry_ms,omitempty"`
	Error   *problemDetail `json:"error,omitempty"`
}

func (s *Server) writePoint(w http.ResponseWriter, r *http.Request) {
	var in orderJSON
	if !readJSON(w, r, &in) || !cleanAuthor(w, &in.By, &in.Note) {
		return
	}
	inv, o := s.view.Load().inv, Order{Device: r.PathValue("device"), Point: r.PathValue("point"), By: in.By, Note: in.Note, Force: in.Force}
	device, ok := inv.DeviceByID(o.Device)
	def := -1
	if ok {
		def = inv.Devices[device].Class.Point(o.Point)
	}
	if def < 0 {
		writeProblem(w, http.StatusNotFound, errNoPoint, o.Device+"."+o.Point)
		return
	}
	if o.By == "" {
		writeError(w, http.StatusBadRequest, errNeedsName)
		return
	}
	var err error
	if o.Value, err = DecodeValue(in.Value, &inv.Devices[device].Class.Points[def]); err != nil {
		writeProblem(w, http.StatusBadRequest, errBadValue, err.Error())
		return
	}
	o.ID = inv.Devices[device].Points[def]
	result := OrderResult{Outcome: "refused", Err: fmt.Errorf("%w: nothing provides this point", ErrNotWritable)}
	if o.ID != telemetry.NoPoint {
		result = s.src.Control.Write(r.Context(), o)
	}
	out := orderResultJSON{Outcome: result.Outcome, Value: result.Value.JSON(), RetryMS: result.Retry.Milliseconds()}
	if result.Err != nil {
		_, code := controlCode(result.Err)
		out.Error = &problemDetail{Code: code, Message: code.message(), Detail: result.Err.Error()}
	}
	s.writeJSON(w, r, http.StatusOK, out)
}

// DecodeValue reads a value of def's kind from JSON.
func DecodeValue(raw json.RawMessage, def *telemetry.PointDef) (telemetry.Value, error) {
	wrong := func(want string) (telemetry.Value, error) {
		return telemetry.Value{}, fmt.Errorf("value of %s: want %s", def.Name, want)
	}
	if len(raw) == 0 || bytes.Equal(raw, []byte("null")) {
		return wrong("a value: {\"value\": ..., \"by\": \"name\"}")
	}
	var text string
	isText := json.Unmarshal(raw, &text) == nil
	switch def.Kind {
	case telemetry.Bool:
		var b bool
		if json.Unmarshal(raw, &b) != nil {
			return wrong("true or false")
		}
		return telemetry.BoolValue(b), nil
	case telemetry.KindText:
		if !isText {
			return wrong("a text")
		}
		return telemetry.TextValue(text), nil
	case telemetry.Float:
		var f float64
		if json.Unmarshal(raw, &f) != nil {
			return wrong("a number")
		}
		return telemetry.FloatValue(f), nil
	case telemetry.Enum:
		for _, e := range def.Enum {
			if isText && e.Name == text {
				return telemetry.EnumValue(e.Code), nil
			}
		}
	}
	n, err := strconv.ParseInt(string(raw), 10, 64)
	switch {
	case err != nil && def.Kind == telemetry.Enum:
		return wrong("the code of one of its names, or the name")
	case err != nil:
		return wrong("a whole number")
	case def.Kind == telemetry.Enum:
		return telemetry.EnumValue(n), nil
	}
	return telemetry.IntValue(n), nil
}

// auditJSON is the newest part of the record.
type auditJSON struct {
	Entries []json.RawMessage `json:"entries"` // newest first
	// Incomplete: a part of the record could not be read.
	Incomplete bool `json:"incomplete,omitempty"`
}

func (s *Server) getAudit(w http.ResponseWriter, r *http.Request) {
	n := auditShown
	if q := r.URL.Query().Get("n"); q != "" {
		var err error
		if n, err = strconv.Atoi(q); err != nil || n < 1 || n > auditMost {
			writeProblem(w, http.StatusBadRequest, errBadRequest, fmt.Sprintf("n: 1 to %d", auditMost))
			return
		}
	}
	entries, err := s.src.Control.Audit(n)
	if err != nil && len(entries) == 0 {
		s.log.Error("read the audit record", zap.Error(err))
		writeProblem(w, http.StatusInternalServerError, errUnreadable, err.Error())
		return
	}
	if entries == nil {
		entries = []json.RawMessage{}
	}
	s.writeJSON(w, r, http.StatusOK, auditJSON{Entries: entries, Incomplete: err != nil})
}

// controlFailed answers for an error of Control.
func (s *Server) controlFailed(w http.ResponseWriter, r *http.Request, err error) {
	status, code := controlCode(err)
	if r.Context().Err() != nil && code == errNotDone {
		// Either the client has gone, and nobody hears it, or the console is stopping.
		status, code = http.StatusServiceUnavailable, errStopping
	}
	if status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeProblem(w, status, code, err.Error())
}

// controlCode returns how an error of Control is answered.
func controlCode(err error) (int, apiError) {
	for _, e := range [...]struct {
		err    error
		status int
		code   apiError
	}{
		{ErrNoBus, http.StatusNotFound, errNoBus},
		{ErrNotHost, http.StatusConflict, errNotHost},
		{ErrBusBusy, http.StatusServiceUnavailable, errBusBusy},
		{ErrStopping, http.StatusServiceUnavailable, errStopping},
		{ErrFunction, http.StatusForbidden, errFunction},
		{ErrUndeclared, http.StatusForbidden, errUndeclared},
		{ErrBadRequest, http.StatusBadRequest, errBadRequest},
		{ErrNotWritable, http.StatusConflict, errNotWritable},
		{ErrValue, http.StatusBadRequest, errBadValue},
		{ErrTooSoon, http.StatusTooManyRequests, errTooSoon},
		{ErrLocked, http.StatusConflict, errLocked},
		{ErrSuspended, http.StatusConflict, errSuspended},
		{ErrSuspendedBy, http.StatusConflict, errSuspendedBy},
		{ErrNoAnswer, http.StatusBadGateway, errOutcomeUnknown},
		{ErrNotTaken, http.StatusBadGateway, errNotTaken},
		{ErrSilent, http.StatusBadGateway, errUnitSilent},
		{ErrReserved, http.StatusBadRequest, errReserved},
	} {
		if errors.Is(err, e.err) {
			return e.status, e.code
		}
	}
	return http.StatusBadGateway, errNotDone
}
