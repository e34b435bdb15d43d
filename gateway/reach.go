package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os/user"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"linli/drivers"
	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
)

// Bounds of talking to a running gateway.
const (
	// reachWait is how long a gateway may take to say that it is there. It is asked on the box itself.
	reachWait = 2 * time.Second
	// askWait is how long a request may stand in a busy line's queue, on top of its own time.
	askWait = 30 * time.Second
	// leaseTime is for how long a suspension is taken at a time, leaseRenew how often that is renewed: a tool that dies
	// gives the bus back by itself.
	leaseTime  = 20 * time.Second
	leaseRenew = 5 * time.Second
	// resumeWait bounds giving the bus back, and what a request that changes the line may go on after an interruption.
	resumeWait = 5 * time.Second
	// hearMost bounds one Hear: the gateway allows no more.
	hearMost = 10 * time.Second
	// busyTries and busyPause are how long a full queue of the bus is waited for.
	busyTries = 20
	busyPause = 500 * time.Millisecond
)

// busConn is one bus as commissioning tools use it: asked through the running gateway, or opened by the tool itself.
// It is used by one goroutine.
type busConn interface {
	// Ask sends one request PDU and waits at most timeout (0: the usual one) for the answer to begin. Exceptions are
	// answers. A Reply without PDU comes with an error: *lostError where the bus itself cannot be used, anything else
	// where this unit gave no valid answer.
	Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error)
	// Hear listens for d without asking. It returns what was heard also with an error.
	Hear(ctx context.Context, d time.Duration) ([]byte, error)
	// Set changes the settings of a serial line; a running gateway stops polling the bus for as long as
	// reachOptions.suspend says, counted from the first Set. The zero Line gives the bus its own settings back and ends
	// that, also where ctx has ended.
	Set(ctx context.Context, line firmwareconfig.Line) error
	// Close gives the bus back, polled and with its own settings.
	Close() error
}

// reachOptions is how a tool wants to use a bus.
type reachOptions struct {
	by      string        // who asks, for the gateway's record; "" is the user of this machine
	note    string        // why, for the record of writes
	share   float64       // part of a running bus's time that asking may take, 0 for as soon as possible
	suspend time.Duration // how long a running gateway may be kept from polling; 0 refuses Set
}

// lostError says that the bus as a whole cannot be used: the device is gone, the gateway has stopped.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }

func (e *lostError) Unwrap() error { return e.err }

// connectBus connects to bus busID of a site file: through the running gateway of that site file if it answers, else
// alone. An empty busID takes the only Modbus bus of the file.
func connectBus(ctx context.Context, file, busID string, opts reachOptions) (busConn, error) {
	p, err := loadPlan(file)
	if err != nil {
		return nil, err
	}
	b, err := busOf(p.site, busID)
	if err != nil {
		return nil, err
	}
	return reachBus(ctx, p.site, b, opts)
}

// reachBus is connectBus for a site file that is loaded.
func reachBus(ctx context.Context, s *site.Site, b *site.Bus, opts reachOptions) (busConn, error) {
	api, err := findGateway(ctx, s)
	if err != nil {
		return nil, err
	}
	if api != nil {
		if opts.by, err = whoAsks(opts.by); err != nil {
			return nil, err
		}
		return &gatewayConn{api: api, bus: b.ID, opts: opts}, nil
	}
	return openAlone(ctx, b)
}

// busOf returns the bus named id, or the only one that speaks Modbus where id is "".
func busOf(s *site.Site, id string) (*site.Bus, error) {
	var ids []string
	var found *site.Bus
	for i := range s.Buses {
		b := &s.Buses[i]
		if !isModbus(b) {
			if b.ID == id {
				return nil, fmt.Errorf("bus %s is of kind %s: only Modbus buses can be asked", id, b.Transport)
			}
			continue
		}
		ids = append(ids, b.ID)
		if b.ID == id || id == "" {
			found = b
		}
	}
	switch {
	case len(ids) == 0:
		return nil, fmt.Errorf("%s has no Modbus bus", s.File)
	case id == "" && len(ids) > 1:
		return nil, &usageError{fmt.Errorf("say which bus: --bus %s", strings.Join(ids, " or --bus "))}
	case found == nil:
		return nil, fmt.Errorf("%s has no bus %q; it has %s", s.File, id, strings.Join(ids, ", "))
	}
	return found, nil
}

func isModbus(b *site.Bus) bool {
	return b.Transport == site.ModbusRTU || b.Transport == site.ModbusTCP || b.Transport == site.ModbusRTUOverTCP
}

// openAlone opens the line of a bus without a gateway.
func openAlone(ctx context.Context, b *site.Bus) (busConn, error) {
	c, err := driverConfig(b, nil, zap.NewNop())
	if err != nil {
		return nil, err
	}
	c.Units = nil
	a := &aloneConn{own: b.Line}
	if b.Listen != "" {
		l := modbus.NewListener(b.Listen, zap.NewNop())
		c.Inbound = l.Route(b.Registration)
		run, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = l.Run(run) // What it cannot open shows as a connection that never comes.
		}()
		a.stop = func() { cancel(); <-done }
	}
	s, err := modbus.Open(ctx, c)
	if err != nil {
		if a.stop != nil {
			a.stop()
		}
		return nil, explainOpen(c, err)
	}
	a.Session = s
	return a, nil
}

// aloneConn is a line that the tool has opened itself.
type aloneConn struct {
	*modbus.Session
	own  firmwareconfig.Line // the bus's own settings
	stop func()              // ends the listener of a converter that dials in; may be nil
}

// explainOpen says what to do about a line that cannot be opened.
func explainOpen(c modbus.Config, err error) error {
	switch {
	case errors.Is(err, modbus.ErrInUse):
		return fmt.Errorf("%s is in use, by the gateway or another program. With the gateway running, go through it: -c SITE-FILE --bus BUS (%w)", c.Device, err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s may not be opened by this user. Run as the gateway's user, or join the device's group (usually dialout: sudo usermod -aG dialout $USER, then log in again) (%w)", c.Device, err)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("there is no %s: is the adapter plugged in? Those present are under /dev/serial/by-id (%w)", c.Device, err)
	case errors.Is(err, syscall.ENOTTY), errors.Is(err, syscall.EISDIR):
		return fmt.Errorf("%s is no serial port: those present are under /dev/serial/by-id (%w)", c.Device, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nobody listens at %s: check the address, the port and that the converter is in server mode (%w)", c.Address, err)
	}
	return fmt.Errorf("open the line: %w", err)
}

// Ask is busConn's Ask.
func (a *aloneConn) Ask(ctx context.Context, unit byte, pdu []byte, timeout time.Duration) (drivers.Reply, error) {
	r, err := a.Session.Ask(ctx, unit, pdu, timeout)
	return r, lost(err)
}

// Hear is busConn's Hear.
func (a *aloneConn) Hear(ctx context.Context, d time.Duration) ([]byte, error) {
	heard, err := a.Session.Hear(ctx, d)
	return heard, lost(err)
}

// Set is busConn's Set.
func (a *aloneConn) Set(ctx context.Context, line firmwareconfig.Line) error {
	if line == (firmwareconfig.Line{}) {
		line = a.own
	}
	return lost(a.Session.Set(ctx, line))
}

// Close is busConn's Close.
func (a *aloneConn) Close() error {
	err := a.Session.Close()
	if a.stop != nil {
		a.stop()
	}
	return err
}

// lost marks the errors after which there is no use in asking the next unit: the device was pulled out, the endpoint
// is away.
func lost(err error) error {
	for _, gone := range [...]error{modbus.ErrInUse, fs.ErrNotExist, fs.ErrPermission, syscall.EIO, syscall.ENODEV, syscall.ENXIO,
		syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH} {
		if errors.Is(err, gone) {
			return &lostError{err}
		}
	}
	return err
}

// gatewayAPI is the HTTP API of a running gateway.
type gatewayAPI struct {
	base   string // http://host:port
	token  string
	client *http.Client
}

// findGateway returns the API of the gateway that runs from a site file, nil where none answers. A gateway that is
// there and does not let us in is an error: beside it the bus must not be used.
func findGateway(ctx context.Context, s *site.Site) (*gatewayAPI, error) {
	token, err := readToken(s.Console.TokenFile)
	missing := errors.Is(err, fs.ErrNotExist) // A gateway that starts now does not run then; one that runs may.
	if err != nil && !missing && !errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	noToken := err
	api := &gatewayAPI{base: "http://" + localAddress(s.Console.Listen), token: token, client: &http.Client{
		// Redirects would lead away from what was asked.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1},
	}}
	short, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	var answer struct {
		Node string `json:"node"`
	}
	err = api.call(short, http.MethodGet, "/api/v1/site", nil, &answer)
	var refused *apiProblem
	switch {
	case err == nil && answer.Node == s.Inventory.Node():
		return api, nil
	case err == nil:
		return nil, nil // Somebody else's console; it does not hold our bus.
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.As(err, &refused) && refused.status == http.StatusUnauthorized:
		if missing {
			return nil, fmt.Errorf("the gateway at %s wants its access token, and there is no %s", api.base, s.Console.TokenFile)
		}
		if noToken != nil {
			return nil, fmt.Errorf("the gateway at %s wants its access token, which this user may not read: %w", api.base, noToken)
		}
		return nil, fmt.Errorf("the gateway at %s does not take the access token of %s", api.base, cmp.Or(s.Console.TokenFile, "this site file (it has none)"))
	}
	return nil, nil
}

// localAddress is where this machine reaches what listens at address.
func localAddress(address string) string {
	host, port, err := net.SplitHostPort(cmp.Or(address, defaultConsole))
	if err != nil {
		return defaultConsole
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// apiProblem is an answer of the API that says no.
type apiProblem struct {
	status  int
	code    string
	message string
}

func (e *apiProblem) Error() string { return "the gateway says: " + e.message }

// call carries out one request and decodes its answer into out, which may be nil.
func (g *gatewayAPI) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, g.base+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if g.token != "" {
		req.Header.Set("Authorization", "Bearer "+g.token)
	}
	resp, err := g.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return problemOf(resp.StatusCode, data)
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s%s answers what is no JSON of ours: %w", g.base, path, err)
	}
	return nil
}

// problemOf reads the body of an answer that is an error.
func problemOf(status int, body []byte) *apiProblem {
	var p struct {
		Error struct {
			Code    string `json:"code"`
			Message struct {
				En string `json:"en"`
			} `json:"message"`
			Detail string `json:"detail"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &p) // A body of another kind leaves the status.
	message := cmp.Or(p.Error.Message.En, fmt.Sprintf("%d %s", status, http.StatusText(status)))
	if p.Error.Detail != "" {
		message += " (" + p.Error.Detail + ")"
	}
	return &apiProblem{status: status, code: p.Error.Code, message: message}
}

// whoAsks returns the name for the gateway's records: the one given, or the user of this machine.
func whoAsks(by string) (string, error) {
	if by = strings.TrimSpace(by); by != "" {
		return by, nil
	}
	u, err := user.Current()
	if err != nil || u.Username == "" {
		return "", &usageError{errors.New("say who you are: --by NAME")}
	}
	return u.Username, nil
}
