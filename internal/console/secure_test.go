package console_test

import (
	"net/http"
	"strings"
	"testing"

	"linli/internal/console"
)

func TestNamesOfThisConsole(t *testing.T) {
	c := newCommunity(t, console.Config{Hosts: []string{"linli.local"}}, false)
	for host, want := range map[string]int{"127.0.0.1:8080": 200, "localhost:8080": 200, "[::1]:8080": 200, "192.168.1.20": 200,
		"Linli.Local:8080": 200, "linli.local.": 200, "example.com": 421, "127.0.0.1.example.com": 421, "": 421} {
		if w := do(c, "GET", "/healthz", "", "Host", host); w.Code != want {
			t.Errorf("Host %q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestToken(t *testing.T) {
	c := newCommunity(t, console.Config{Token: "right", Listen: "0.0.0.0:8080"}, true)
	for _, x := range []struct {
		name, path string
		header     []string
		want       int
	}{
		{"health is free", "/healthz", nil, 200},
		{"page", "/", nil, 401},
		{"script", "/assets/x.js", nil, 401},
		{"state", "/api/v1/state", nil, 401},
		{"metrics", "/metrics", nil, 401},
		{"token on another path", "/api/v1/state?token=right", nil, 401},
		{"wrong token", "/?token=wrong", nil, 401},
		{"wrong bearer", "/api/v1/state", []string{"Authorization", "Bearer wrong"}, 401},
		{"right bearer", "/api/v1/state", []string{"Authorization", "Bearer right"}, 200},
		{"basic", "/api/v1/state", []string{"Authorization", "Basic right"}, 401},
		{"token as cookie", "/api/v1/state", []string{"Cookie", "linli_console=right"}, 401},
		{"forged cookie", "/api/v1/state", []string{"Cookie", "linli_console=" + strings.Repeat("0", 64)}, 401},
		{"any name", "/api/v1/state", []string{"Authorization", "Bearer right", "Host", "box.example.com"}, 200},
	} {
		if w := do(c, "GET", x.path, "", x.header...); w.Code != x.want {
			t.Errorf("%s: %d, want %d", x.name, w.Code, x.want)
		}
	}
	w := do(c, "GET", "/?token=right", "")
	cookies := w.Result().Cookies()
	if w.Code != 200 || len(cookies) != 1 {
		t.Fatalf("visit with token: %d, cookies %v", w.Code, cookies)
	}
	k := cookies[0]
	if !k.HttpOnly || k.SameSite != http.SameSiteStrictMode || strings.Contains(k.Value, "right") {
		t.Errorf("cookie = %v", k)
	}
	for _, path := range []string{"/", "/api/v1/state", "/metrics"} {
		if w := do(c, "GET", path, "", "Cookie", k.Name+"="+k.Value); w.Code != 200 {
			t.Errorf("%s with cookie: %d", path, w.Code)
		}
	}
	if w := do(c, "GET", "/api/v1/state", "", "Cookie", k.Name+"="+k.Value[:62]); w.Code != 401 {
		t.Errorf("shortened cookie: %d", w.Code)
	}
}

func TestNewRefusesUnsafeSettings(t *testing.T) {
	c := newCommunity(t, console.Config{}, false)
	src := console.Sources{Inventory: c.inv, Clock: c.clock, Live: c.live, Alerts: c.book}
	for listen, ok := range map[string]bool{"": true, "127.0.0.1:0": true, "localhost:1": true, "[::1]:1": true,
		":8080": false, "0.0.0.0:8080": false, "192.168.1.1:80": false, "box:80": false, "nonsense": false} {
		if _, err := console.New(console.Config{Listen: listen}, src, nil); (err == nil) != ok {
			t.Errorf("New(Listen %q) = %v", listen, err)
		}
	}
	if _, err := console.New(console.Config{}, console.Sources{}, nil); err == nil {
		t.Error("New without sources succeeded")
	}
}
