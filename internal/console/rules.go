package console

import (
	"context"
	"errors"
	"net/http"

	"linli/rules"
)

// Rules is what people and tools can ask of the rules engine. Its methods are called from any goroutine and end with
// their context. Errors wrap one of the errors below where somebody can do something about them.
type Rules interface {
	// Costs returns every rule that runs with what it costs.
	Costs(ctx context.Context) ([]rules.Cost, error)
	// Explain says why an alert, or a derived point, is as it is for a subject. An empty subject is the rule's only one.
	Explain(ctx context.Context, name, subject string) (*rules.Explanation, error)
	// Reload reads rule packs, their parameters and schedules anew and replaces the running ones, or says everything
	// that is wrong with them and replaces nothing.
	Reload(ctx context.Context, by string) (Reloaded, error)
}

// The errors of Rules.
var (
	ErrNoRule      = errors.New("no such rule")
	ErrNotReloaded = errors.New("the rules were not replaced")
)

// Reloaded is what came of a Reload.
type Reloaded struct {
	Rules   int `json:"rules"`   // that run now
	Kept    int `json:"kept"`    // subjects of rules that went on with their timers and windows
	Removed int `json:"removed"` // open alerts closed because their rule is gone
	// Warnings are what is allowed but probably not meant, each with its place.
	Warnings []string `json:"warnings,omitempty"`
}

func (s *Server) rulesRoutes(mux *http.ServeMux) {
	with := func(method string, h http.HandlerFunc) http.Handler {
		return only(func(w http.ResponseWriter, r *http.Request) {
			if s.src.Rules == nil {
				writeError(w, http.StatusNotFound, errNoPage)
				return
			}
			h(w, r)
		}, method)
	}
	mux.Handle("/api/v1/rules", with(http.MethodGet, s.getRules))
	mux.Handle("/api/v1/rules/{rule}/explain", with(http.MethodGet, s.explain))
	mux.Handle("/api/v1/rules/reload", with(http.MethodPost, s.reload))
}

type ruleJSON struct {
	Pack        string        `json:"pack"`
	Rule        string        `json:"rule"`
	Subjects    int           `json:"subjects"`
	Evaluations uint64        `json:"evaluations"`
	Time        rules.Seconds `json:"cpu_s"` // an estimate: one evaluation in 64 is measured
	Bytes       int           `json:"window_bytes"`
}

func (s *Server) getRules(w http.ResponseWriter, r *http.Request) {
	costs, err := s.src.Rules.Costs(r.Context())
	if err != nil {
		s.rulesFailed(w, err)
		return
	}
	list := make([]ruleJSON, len(costs))
	for i, c := range costs {
		list[i] = ruleJSON{Pack: c.Pack, Rule: c.Rule, Subjects: c.Instances, Evaluations: c.Evaluations, Time: rules.Seconds(c.Time), Bytes: c.Bytes}
	}
	s.writeJSON(w, r, http.StatusOK, struct {
		Rules []ruleJSON `json:"rules"`
	}{list})
}

func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	x, err := s.src.Rules.Explain(r.Context(), r.PathValue("rule"), r.URL.Query().Get("subject"))
	if err != nil {
		s.rulesFailed(w, err)
		return
	}
	s.writeJSON(w, r, http.StatusOK, x)
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) {
	var in struct {
		By   string `json:"by"`
		Note string `json:"note"`
	}
	if !readJSON(w, r, &in) || !cleanAuthor(w, &in.By, &in.Note) {
		return
	}
	if in.By == "" {
		writeError(w, http.StatusBadRequest, errNeedsName)
		return
	}
	done, err := s.src.Rules.Reload(r.Context(), in.By)
	if err != nil {
		s.rulesFailed(w, err)
		return
	}
	s.writeJSON(w, r, http.StatusOK, done)
}

func (s *Server) rulesFailed(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrNoRule):
		writeProblem(w, http.StatusNotFound, errNoRule, err.Error())
	case errors.Is(err, ErrNotReloaded):
		writeProblem(w, http.StatusConflict, errNotReloaded, err.Error())
	default:
		w.Header().Set("Retry-After", "1")
		writeProblem(w, http.StatusServiceUnavailable, errStopping, err.Error())
	}
}
