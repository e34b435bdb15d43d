package main

import (
	"context"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"linli/internal/ingest"
	"linli/internal/testservers"
)

// What ingest counts can be read by Prometheus, also before it has a broker.
func TestIngestMetrics(t *testing.T) {
	in, err := ingest.New(ingest.Config{Brokers: []string{"tcp://127.0.0.1:1"}, Influx: ingest.Influx{URL: "http://127.0.0.1:1", Bucket: "b"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	l := testservers.Listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serveIngestMetrics(ctx, l, in, nil) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	get := func(path string) string {
		t.Helper()
		resp, err := http.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %v", path, resp.StatusCode, err)
		}
		return string(b)
	}
	if got := get("/healthz"); got != "ok\n" {
		t.Errorf("health is %q", got)
	}
	text := get("/metrics")
	for _, name := range []string{
		"connected", "holding", "messages_total", "acknowledged_total", "lines_total", "bytes_total", "writes_total", "retries_total", "bad_messages_total", "bad_lines_total",
		"foreign_lines_total", "refused_lines_total", "count_wrong_total", "throttled_total", "oversized_total", "queue_messages", "queue_bytes",
	} {
		if !strings.Contains(text, "linli_ingest_"+name+" 0\n") {
			t.Errorf("no linli_ingest_%s in %s", name, text)
		}
	}
}

// What is wrong with the command line is told at once, all of it, and not by rows that do not come.
func TestIngestTellsOfItsFlagsAtOnce(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	for _, test := range []struct {
		code int
		want []string
		args []string
	}{
		{2, []string{"http://x"}, []string{"--broker", "http://x"}},
		{1, []string{"--token-file: ", "--password-file: ", "--ca-file: ", "--command-key: "}, []string{"--broker", "tcp://x", "--repair-horizon", "0",
			"--token-file", missing, "--password-file", missing, "--ca-file", missing, "--command-key", missing}},
	} {
		code, _, errs := linli(t, append([]string{"ingest", "--influx-url", "http://x", "--bucket", "b"}, test.args...)...)
		if code != test.code {
			t.Errorf("%v: exit code %d, %s", test.args, code, errs)
		}
		for _, w := range test.want {
			if !strings.Contains(errs, w) {
				t.Errorf("%v: %s lacks %s", test.args, errs, w)
			}
		}
	}
}
