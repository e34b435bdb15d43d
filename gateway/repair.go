package main

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/yamlfile"
)

// repairLook is how often the site file is looked at while it has mistakes.
const repairLook = time.Second

// waitForRepair serves a page with the mistakes of the site file, and nothing else, until the file can be loaded; then
// it returns the plan, or nil where ctx ended first. A box in a street cabinet that only ended here would show nobody why. The mistakes are also
// printed on out, each set of them once.
//
// It listens on loopback only, because nothing protects it (see repairListen). An address that is taken is no reason to
// give up.
func waitForRepair(ctx context.Context, file, listen string, out io.Writer, log *zap.Logger) (*plan, error) {
	var shown atomic.Pointer[string]
	empty := ""
	shown.Store(&empty)
	if l, err := net.Listen("tcp", listen); err != nil {
		log.Error("the page with the mistakes cannot be shown", zap.Error(err))
	} else {
		fmt.Fprintf(out, "Waiting for %s to be repaired. The mistakes are shown at http://%s too.\n", file, l.Addr())
		srv := &http.Server{Handler: repairPage(file, &shown), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second}
		served := make(chan error, 1)
		go func() { served <- srv.Serve(l) }()
		defer func() {
			srv.Close()
			<-served
		}()
	}
	tick := time.NewTicker(repairLook)
	defer tick.Stop()
	for {
		p, err := loadPlan(file)
		if err == nil {
			log.Info("the site file has been repaired", zap.String("file", file))
			return p, nil
		}
		if text := err.Error(); text != *shown.Load() {
			shown.Store(&text)
			fmt.Fprintln(out, text)
			var mistakes yamlfile.Errors
			errors.As(err, &mistakes)
			log.Error("the site file cannot be started", zap.String("file", file), zap.Int("mistakes", len(mistakes)))
		}
		select {
		case <-ctx.Done():
			return nil, nil // Ended while waiting: an end like any other.
		case <-tick.C:
		}
	}
}

// repairPage is the console while there is no gateway.
func repairPage(file string, shown *atomic.Pointer[string]) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not ready: the site file has mistakes", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this page is for this machine", http.StatusMisdirectedRequest) // DNS rebinding
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintf(w, `<!doctype html><html lang="zh-CN"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5"><meta name="color-scheme" content="light dark"><title>邻里 Linli</title>
<style>body{font:1rem/1.5 "PingFang SC","Noto Sans SC","Microsoft YaHei",sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}li{font-family:monospace;margin:.5rem 0;overflow-wrap:anywhere}</style></head>
<body><h1>站点文件有错误，网关没有启动</h1><p>改好 %[1]s 后会自动启动。现在没有读取设备，也不会有告警。</p>
<h2 lang="en">The site file has mistakes; the gateway has not been started</h2><p lang="en">It starts by itself once %[1]s is right. No device is being read and there will be no alerts until then.</p><ol>`, html.EscapeString(file))
		for _, line := range strings.Split(*shown.Load(), "\n") {
			fmt.Fprintf(w, "<li>%s</li>", html.EscapeString(line))
		}
		fmt.Fprint(w, "</ol></body></html>")
	})
	return mux
}

// repairListen returns where the mistakes of the site file are shown: on this machine, at the console's port as far as the
// file says one.
func repairListen(file string) string {
	src, err := os.ReadFile(file)
	if err != nil {
		return defaultConsole
	}
	library, err := firmwareconfig.Load(firmwareconfig.Shipped())
	if err != nil {
		return defaultConsole
	}
	s, _ := site.Load(file, src, library, nil) // It has mistakes; what could be read is enough.
	host, port, err := net.SplitHostPort(s.Console.Listen)
	if err != nil {
		return defaultConsole
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// siteFileExists reports whether there is a file to wait for.
func siteFileExists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}
