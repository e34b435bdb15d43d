package testservers

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"syscall"
	"testing"
	"time"
)

// VictoriaMetrics is a running single-node VictoriaMetrics that keeps one sample of a moment.
type VictoriaMetrics struct {
	URL string // http://host:port
	p   *process
}

// StartVictoriaMetrics starts a server without data.
func StartVictoriaMetrics(t testing.TB) *VictoriaMetrics {
	t.Helper()
	address := fmt.Sprintf("127.0.0.1:%d", FreePort(t))
	v := &VictoriaMetrics{URL: "http://" + address, p: &process{
		t: t, name: "victoria-metrics", path: FindTool(t, "victoria-metrics"),
		args: []string{"-httpListenAddr=" + address, "-storageDataPath=" + t.TempDir(), "-retentionPeriod=100y", "-dedup.minScrapeInterval=1ms", "-memory.allowedBytes=64MB"},
	}}
	t.Cleanup(func() { v.p.stop(syscall.SIGTERM) })
	v.p.start()
	v.p.waitFor(20*time.Second, func() error { return healthy(v.URL) })
	return v
}

// VMSeries is a series as VictoriaMetrics exports it: labels, values, and their times in milliseconds.
type VMSeries struct {
	Metric     map[string]string
	Values     []any // float64, or a text for what JSON has no number for
	Timestamps []int64
}

// Export returns all samples of the series that the selector names.
func (v *VictoriaMetrics) Export(selector string) ([]VMSeries, error) {
	if err := v.flush(); err != nil {
		return nil, err
	}
	resp, err := http.PostForm(v.URL+"/api/v1/export", url.Values{"match[]": {selector}, "reduce_mem_usage": {"0"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var all []VMSeries
	for d := json.NewDecoder(resp.Body); ; {
		var s VMSeries
		switch err := d.Decode(&s); {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
		all = append(all, s)
	}
}

// Ask evaluates a query at a moment and returns the values by the text of their labels.
func (v *VictoriaMetrics) Ask(query string, at time.Time) (map[string]string, error) {
	if err := v.flush(); err != nil {
		return nil, err
	}
	resp, err := http.PostForm(v.URL+"/api/v1/query", url.Values{"query": {query}, "time": {fmt.Sprint(at.Unix())}, "nocache": {"1"}})
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return nil, err
	}
	if answer.Error != "" {
		return nil, errors.New(answer.Error)
	}
	out := map[string]string{}
	for _, r := range answer.Data.Result {
		out[fmt.Sprint(r.Metric)] = fmt.Sprint(r.Value[1])
	}
	return out, nil
}

// flush makes what was written visible to queries.
func (v *VictoriaMetrics) flush() error {
	resp, err := http.Get(v.URL + "/internal/force_flush")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
