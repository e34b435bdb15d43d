package console

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net"
	"net/http"
	"slices"
	"strings"
)

// cookieName is the cookie that stands for the access token in a browser.
const cookieName = "linli_console"

// contentPolicy keeps a page to what this server gives it.
const contentPolicy = "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'"

// sessionOf derives what the cookie carries from the token, so that the token itself is not kept in browsers.
func sessionOf(token string) [32]byte {
	return sha256.Sum256([]byte("linli console session\x00" + token))
}

// secure puts everything in front of the routes that every request must pass: which name was used, headers, where
// a changing request comes from, and the token.
func (s *Server) secure(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.counters.crossOrigin.Add(1)
		writeError(w, http.StatusForbidden, errCrossOrigin)
	}))
	next = s.authenticate(origin.Handler(next))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		if !s.hostAllowed(r.Host) {
			s.counters.badHost.Add(1)
			writeError(w, http.StatusMisdirectedRequest, errHost)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// hostAllowed keeps a foreign web page from reaching a console without a token through a name that its owner points
// at this machine (DNS rebinding). With a token the browser keeps the cookie to the name it was set for.
func (s *Server) hostAllowed(hostport string) bool {
	if s.cfg.Token != "" {
		return true
	}
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	return host == "localhost" || net.ParseIP(host) != nil || slices.ContainsFunc(s.cfg.Hosts, func(name string) bool {
		return strings.EqualFold(name, host)
	})
}

// authenticate lets a request through that carries the token, as a bearer token or as the cookie that visiting
// /?token=... sets.
func (s *Server) authenticate(next http.Handler) http.Handler {
	if s.cfg.Token == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz", "/readyz", "/plain.css", "/favicon.svg": // They tell nothing of the site.
			next.ServeHTTP(w, r)
			return
		}
		if token := r.URL.Query().Get("token"); token != "" && r.URL.Path == "/" && r.Method == http.MethodGet {
			if !s.rightToken(token) {
				s.deny(w, r, true)
				return
			}
			http.SetCookie(w, &http.Cookie{Name: cookieName, Value: hex.EncodeToString(s.token[:]), Path: "/",
				MaxAge: 180 * 24 * 3600, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
			// Not a redirect: a browser that came from another site would not send the strict cookie after one.
			s.plainPage(w, http.StatusOK, `<meta http-equiv="refresh" content="0;url=/">`,
				`<p>正在打开… · Opening…</p><p><a href="/">继续 · Continue</a></p>`)
			return
		}
		if scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") && s.rightToken(token) {
			next.ServeHTTP(w, r)
			return
		}
		if c, err := r.Cookie(cookieName); err == nil {
			var got [32]byte
			if n, err := hex.Decode(got[:], []byte(c.Value[:min(len(c.Value), 64)])); err == nil && n == len(got) &&
				subtle.ConstantTimeCompare(got[:], s.token[:]) == 1 {
				next.ServeHTTP(w, r)
				return
			}
		}
		s.deny(w, r, false)
	})
}

func (s *Server) rightToken(token string) bool {
	got := sessionOf(strings.TrimSpace(token))
	return subtle.ConstantTimeCompare(got[:], s.token[:]) == 1
}

// deny answers a request without the right token: a form for people, an error for programs.
func (s *Server) deny(w http.ResponseWriter, r *http.Request, wrong bool) {
	s.counters.denied.Add(1)
	if r.URL.Path != "/" {
		w.Header().Set("WWW-Authenticate", `Bearer realm="linli"`)
		writeError(w, http.StatusUnauthorized, errToken)
		return
	}
	hint := ""
	if wrong {
		hint = `<p class="wrong" role="alert">口令不对，请再试一次。<small>That is not the access code; please try again.</small></p>`
	}
	s.plainPage(w, http.StatusUnauthorized, "", `<h1>请输入访问口令<small>Please enter the access code</small></h1>`+hint+
		`<form method="get" action="/"><input type="password" name="token" required autofocus aria-label="访问口令 · access code">`+
		`<button>打开 · Open</button></form><p class="dim">口令由安装人员设置。<br>The installer has set it.</p>`)
}

// plainPage writes one of the two pages that are there without the application. Nothing in them comes from a request.
func (s *Server) plainPage(w http.ResponseWriter, code int, head, body string) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	w.Write([]byte(`<!doctype html><html lang="zh-CN"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">` +
		`<meta name="color-scheme" content="light dark"><title>邻里 Linli</title><link rel="icon" href="/favicon.svg"><link rel="stylesheet" href="/plain.css">` + head +
		`</head><body><main>` + body + `</main></body></html>`))
}
