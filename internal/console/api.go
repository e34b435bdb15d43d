package console

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"go.uber.org/zap"

	"linli/internal/alert"
)

const (
	maxBody = 16 << 10 // bytes of a request's body
	maxName = 40       // runes of a person's name
	maxNote = 500      // runes of a note
)

// routes returns the addresses the console answers.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	get := func(path string, h http.HandlerFunc) { mux.Handle(path, only(h, http.MethodGet, http.MethodHead)) }
	post := func(path string, h http.HandlerFunc) { mux.Handle(path, only(h, http.MethodPost)) }

	get("/healthz", s.healthz)
	get("/readyz", s.readyz)
	get("/metrics", s.metrics)
	get("/api/v1/site", s.getSite)
	get("/api/v1/state", s.getState)
	mux.Handle("/api/v1/stream", only(s.stream, http.MethodGet))
	get("/api/v1/alerts/{id}", s.getAlert)
	post("/api/v1/alerts/{id}/acknowledge", s.acknowledge)
	post("/api/v1/alerts/{id}/close", s.closeAlert)
	get("/api/v1/demo", s.getDemo)
	post("/api/v1/demo/scenarios/{name}", s.startScenario)
	s.controlRoutes(mux)
	s.rulesRoutes(mux)
	mux.Handle("/", s.assets)
	return mux
}

// only lets the methods through and answers others as an API does.
func only(h http.HandlerFunc, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", strings.Join(methods, ", "))
			writeError(w, http.StatusMethodNotAllowed, errMethod)
			return
		}
		h(w, r)
	})
}

// healthz says that the process answers.
func (s *Server) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, "ok\n")
}

// readyz says whether the first result of any device has come in, a failed read included. What the gateway says of its
// own buses is none.
func (s *Server) readyz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	inv := s.view.Load().inv
	for i, e := range s.src.Live.All() {
		if e.Known && inv.IsInstalled(i) {
			io.WriteString(w, "ready\n")
			return
		}
	}
	if devices, _ := inv.Installed(); devices == 0 {
		io.WriteString(w, "ready: nothing is installed\n")
		return
	}
	w.WriteHeader(http.StatusServiceUnavailable)
	io.WriteString(w, "not ready: nothing has been read yet\n")
}

// metrics writes the gateway's metrics and the console's own.
func (s *Server) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if s.src.Metrics != nil {
		s.src.Metrics(w)
	}
	c := &s.counters
	for _, m := range []struct {
		name, kind string
		value      int64
	}{
		{"linli_console_streams", "gauge", c.streams.Load()},
		{"linli_console_streams_opened_total", "counter", c.streamsTotal.Load()},
		{"linli_console_streams_refused_total", "counter", c.streamsRefused.Load()},
		{"linli_console_streams_dropped_total", "counter", c.streamsDropped.Load()},
		{"linli_console_denied_total", "counter", c.denied.Load()},
		{"linli_console_cross_origin_refused_total", "counter", c.crossOrigin.Load()},
		{"linli_console_wrong_host_total", "counter", c.badHost.Load()},
	} {
		fmt.Fprintf(w, "# TYPE %s %s\n%s %d\n", m.name, m.kind, m.name, m.value)
	}
}

func (s *Server) getSite(w http.ResponseWriter, r *http.Request) {
	h, site := w.Header(), s.view.Load().site
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept-Encoding")
	if acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", strconv.Itoa(len(site)))
		w.Write(site)
		return
	}
	z, err := gzip.NewReader(bytes.NewReader(site))
	if err == nil {
		_, err = io.Copy(w, z)
	}
	if err != nil && r.Context().Err() == nil {
		s.log.Error("the inventory cannot be unpacked", zap.Error(err))
	}
}

func (s *Server) getState(w http.ResponseWriter, r *http.Request) {
	v := s.view.Load()
	s.writeJSON(w, r, http.StatusOK, s.state(v, v.feed.values()))
}

// alertJSON is one alert with everything that happened to it.
type alertJSON struct {
	Alert   openAlert     `json:"alert"`
	History []alert.Entry `json:"history"` // oldest first
}

func (s *Server) getAlert(w http.ResponseWriter, r *http.Request) {
	a, history, err := s.src.Alerts.Get(r.PathValue("id"))
	if err != nil {
		s.alertFailed(w, r, "read", err)
		return
	}
	if history == nil {
		history = []alert.Entry{}
	}
	s.writeJSON(w, r, http.StatusOK, alertJSON{Alert: withHistory(a, history), History: history})
}

// actionJSON is who does something, and what they have to say about it.
type actionJSON struct {
	By   string `json:"by"`
	Note string `json:"note"`
}

func (s *Server) acknowledge(w http.ResponseWriter, r *http.Request) {
	in, ok := readAction(w, r)
	if !ok {
		return
	}
	a, err := s.src.Alerts.Acknowledge(r.Context(), r.PathValue("id"), in.By, in.Note)
	s.answerAction(w, r, "acknowledge", in, a, err)
}

func (s *Server) closeAlert(w http.ResponseWriter, r *http.Request) {
	in, ok := readAction(w, r)
	if !ok {
		return
	}
	a, err := s.src.Alerts.CloseByHand(r.Context(), r.PathValue("id"), in.By, in.Note)
	s.answerAction(w, r, "close", in, a, err)
}

func (s *Server) answerAction(w http.ResponseWriter, r *http.Request, action string, in actionJSON, a alert.Alert, err error) {
	if err != nil {
		s.alertFailed(w, r, action, err)
		return
	}
	s.log.Info("alert "+action, zap.String("alert", a.ID), zap.String("by", in.By), zap.String("remote", r.RemoteAddr))
	s.writeJSON(w, r, http.StatusOK, struct {
		Alert openAlert `json:"alert"`
	}{s.opened(a)})
}

// alertFailed answers for an error of the alert book.
func (s *Server) alertFailed(w http.ResponseWriter, r *http.Request, action string, err error) {
	switch {
	case errors.Is(err, alert.ErrNotFound):
		writeProblem(w, http.StatusNotFound, errNoAlert, err.Error())
	case errors.Is(err, alert.ErrStillActive):
		writeProblem(w, http.StatusConflict, errStillActive, err.Error())
	case errors.Is(err, alert.ErrBadInput):
		writeProblem(w, http.StatusBadRequest, errBadInput, err.Error())
	case r.Context().Err() != nil: // The client has gone: there is nobody to answer.
	default:
		s.log.Error("alert "+action+" failed", zap.String("alert", r.PathValue("id")), zap.Error(err))
		writeProblem(w, http.StatusInternalServerError, errStore, err.Error())
	}
}

// readAction decodes and checks the body of an action; where that fails it has answered.
func readAction(w http.ResponseWriter, r *http.Request) (actionJSON, bool) {
	var in actionJSON
	if !readJSON(w, r, &in) {
		return in, false
	}
	if !cleanAuthor(w, &in.By, &in.Note) {
		return in, false
	}
	if in.By == "" {
		writeError(w, http.StatusBadRequest, errNeedsName)
		return in, false
	}
	return in, true
}

// CleanText removes control characters and the space around s: it goes into a record that people read.
func CleanText(s string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "")))
}

// readJSON decodes the one JSON value of a request's body strictly; where that fails it has answered.
func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		writeError(w, http.StatusUnsupportedMediaType, errMediaType)
		return false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			writeError(w, http.StatusRequestEntityTooLarge, errTooLarge)
		} else {
			writeProblem(w, http.StatusBadRequest, errBadJSON, err.Error())
		}
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	err = dec.Decode(into)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = errors.New("there is more than one value")
		}
	}
	if err != nil {
		writeProblem(w, http.StatusBadRequest, errBadJSON, err.Error())
		return false
	}
	return true
}

// demoJSON is what the demo offers; nothing outside it.
type demoJSON struct {
	Scenarios []Scenario `json:"scenarios"`
}

func (s *Server) getDemo(w http.ResponseWriter, r *http.Request) {
	out := demoJSON{Scenarios: []Scenario{}}
	if s.src.Scenarios != nil {
		out.Scenarios = append(out.Scenarios, s.src.Scenarios.List()...)
	}
	s.writeJSON(w, r, http.StatusOK, out)
}

func (s *Server) startScenario(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if s.src.Scenarios == nil || !slices.ContainsFunc(s.src.Scenarios.List(), func(sc Scenario) bool { return sc.Name == name }) {
		writeError(w, http.StatusNotFound, errNoScenario)
		return
	}
	if err := s.src.Scenarios.Start(name); err != nil {
		writeProblem(w, http.StatusConflict, errScenario, err.Error())
		return
	}
	s.log.Info("demo scenario started", zap.String("scenario", name))
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) writeJSON(w http.ResponseWriter, r *http.Request, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		s.log.Error("encode answer", zap.String("path", r.URL.Path), zap.Error(err))
		writeProblem(w, http.StatusInternalServerError, errStore, err.Error())
		return
	}
	s.writeBody(w, r, status, body)
}

// writeBody writes JSON, compressed where that pays and the client takes it.
func (s *Server) writeBody(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	h := w.Header()
	h.Set("Content-Type", "application/json; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept-Encoding")
	if len(body) > 4096 && acceptsGzip(r) {
		h.Set("Content-Encoding", "gzip")
		w.WriteHeader(status)
		z, _ := gzip.NewWriterLevel(w, gzip.BestSpeed) // The level is valid: no error.
		z.Write(body)
		z.Close()
		return
	}
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body)
}
