package site

import (
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"linli/internal/yamlfile"
	"linli/rules"
)

// Defaults and bounds of the settings.
const (
	defaultListen = "127.0.0.1:8080"
	// minJournal is what a journal needs to rotate at all.
	minJournal = 1 << 20
	maxJournal = 16 << 40
	day        = 24 * time.Hour
)

func (r *resolver) rules() {
	seen := map[string]yamlfile.Pos{}
	for i := range r.file.Rules {
		use := &r.file.Rules[i]
		if !present(r, use.Pack) {
			continue
		}
		id := use.Pack.Value
		pack := r.packs[id]
		if pack == nil {
			r.unknown("rule pack", use.Pack, sortedKeys(r.packs))
			continue
		}
		if first, ok := seen[id]; ok {
			r.failf(use.Pack.Pos, "rule pack %s is named already, in line %d", id, first.Line)
			continue
		}
		seen[id] = use.Pack.Pos
		r.site.Packs = append(r.site.Packs, pack)
		if len(use.Params) == 0 {
			continue
		}
		known := sortedKeys(pack.ParamNames())
		params := map[string]string{}
		for _, e := range use.Params {
			err := pack.CheckParam(e.Key.Value, e.Value.text)
			switch {
			case r.refused[e.Value.pos]:
			case err == nil:
				params[e.Key.Value] = e.Value.text
			case slices.Contains(known, e.Key.Value):
				r.failf(e.Value.pos, "%v", err)
			default:
				r.failf(e.Key.Pos, "rule pack %s has no parameter %q%s", id, e.Key.Value, orList(e.Key.Value, known))
			}
		}
		r.site.Params[id] = params
	}
}

// schedules checks the site's schedules. One with mistakes is known by its name.
func (r *resolver) schedules() {
	for _, e := range r.file.Schedules {
		if !validID(e.Key.Value) {
			r.failf(e.Key.Pos, "%q is no name for a schedule: names are a small letter, then up to 31 small letters, digits and _", e.Key.Value)
			continue
		}
		entries := slices.DeleteFunc(e.Value, func(entry rules.ScheduleEntry) bool { return r.troubled(entry.Pos) })
		s, err := rules.NewSchedule(e.Key.Pos, entries)
		r.errs.Append(e.Key.Pos, err)
		s.Zones(func(z yamlfile.At[string]) {
			if _, ok := r.inv.ZoneByID(z.Value); !ok && present(r, z) {
				r.unknown("zone", z, r.zoneList, "zones")
			}
		})
		r.site.Schedules[e.Key.Value] = s
	}
}

func (r *resolver) uplink() {
	u := r.file.Uplink
	if u == nil {
		return
	}
	out := &Uplink{Username: u.Username.Value, Compression: "none"}
	anyTLS, clear := false, yamlfile.Pos{}
	for _, v := range u.Brokers {
		if !present(r, v) {
			continue
		}
		scheme, loopback, problem := broker(v.Value)
		if problem == "" && slices.Contains(out.Brokers, v.Value) {
			problem = "it is named twice"
		}
		if problem != "" {
			r.failf(v.Pos, "broker %q: %s", v.Value, problem)
			continue
		}
		anyTLS = anyTLS || scheme == "tls"
		if scheme == "tcp" && !loopback {
			clear = v.Pos
		}
		out.Brokers = append(out.Brokers, v.Value)
	}
	if len(u.Brokers) == 0 && !r.refused[u.Pos] {
		r.failf(u.Pos, "uplink names no broker; leave uplink out for a box that works alone")
	}
	out.PasswordFile = r.path(u.PasswordFile)
	out.CAFile, out.CertFile, out.KeyFile = r.path(u.CAFile), r.path(u.CertFile), r.path(u.KeyFile)

	if out.PasswordFile != "" && out.Username == "" {
		r.failf(u.PasswordFile.Pos, "password_file needs a username")
	}
	if out.PasswordFile != "" && clear.Line > 0 {
		r.warnf(clear, "the password travels in the clear to this broker: use tls://")
	}
	for _, f := range []struct {
		key string
		yamlfile.At[string]
	}{{"ca_file", u.CAFile}, {"cert_file", u.CertFile}, {"key_file", u.KeyFile}} {
		if present(r, f.At) && !anyTLS && len(out.Brokers) > 0 {
			r.failf(f.Pos, "%s has a meaning with tls:// brokers only, and there is none", f.key)
		}
	}
	switch {
	case out.CertFile != "" && u.KeyFile.Pos.Line == 0:
		r.failf(u.CertFile.Pos, "cert_file needs its key_file")
	case out.KeyFile != "" && u.CertFile.Pos.Line == 0:
		r.failf(u.KeyFile.Pos, "key_file needs its cert_file")
	}
	if r.choice("compression", u.Compression, choices[uplink]("compression")) {
		out.Compression = u.Compression.Value
	}
	out.Commands = r.commands(u.Commands)
	out.Batch = r.among("batch", u.Batch, time.Second, 100*time.Millisecond, 10*time.Second)
	r.site.Uplink = out
}

// broker checks a broker's URL and says what is wrong with it.
func broker(s string) (scheme string, loopback bool, problem string) {
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return "", false, "write tls://host:8883 or tcp://host:1883"
	case u.Scheme == "mqtts" || u.Scheme == "ssl":
		return "", false, "write tls:// for MQTT over TLS"
	case u.Scheme == "mqtt":
		return "", false, "write tcp:// for MQTT without TLS, tls:// with"
	case u.Scheme != "tcp" && u.Scheme != "tls":
		return "", false, "only tls:// and tcp:// are known"
	case u.User != nil:
		return "", false, "the name goes into username and the password into password_file"
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return "", false, "nothing follows the port"
	case u.Port() == "":
		return "", false, "the port is missing (8883 is usual for tls://, 1883 for tcp://)"
	}
	host, port, problem := splitHostPort(u.Host)
	if problem == "" && (host == "" || port == "0") {
		problem = "write tls://host:8883 or tcp://host:1883"
	}
	return u.Scheme, isLoopback(host), problem
}

func (r *resolver) console() {
	c := &r.file.Console
	r.site.Console = Console{Listen: defaultListen, TokenFile: r.path(c.TokenFile)}
	if !present(r, c.Listen) {
		return
	}
	host, _, problem := splitHostPort(c.Listen.Value)
	if problem != "" {
		r.failf(c.Listen.Pos, "%q is no address to listen on: %s (host:port, as 0.0.0.0:8080)", c.Listen.Value, problem)
		return
	}
	r.site.Console.Listen = c.Listen.Value
	if !isLoopback(host) && c.TokenFile.Pos.Line == 0 {
		r.failf(c.Listen.Pos, "%s can be reached from other machines, and without a token anybody there could read the site and acknowledge alerts: set token_file, or listen on %s", c.Listen.Value, defaultListen)
	}
}

// isLoopback reports whether only this machine reaches host. No host at all is every interface.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

func (r *resolver) journal() {
	j := &r.file.Journal
	out := Journal{MaxBytes: 1 << 30}
	if present(r, j.MaxBytes) {
		out.MaxBytes = int64(j.MaxBytes.Value)
		if out.MaxBytes < minJournal || out.MaxBytes > maxJournal {
			r.failf(j.MaxBytes.Pos, "max_bytes is %s to %s, not %s", sizeText(minJournal), sizeText(maxJournal), sizeText(out.MaxBytes))
		}
	}
	out.MaxAge = r.among("max_age", j.MaxAge, 7*day, time.Hour, 3650*day)
	out.CommitEvery = r.among("commit_every", j.CommitEvery, time.Second, time.Second, 10*time.Second)
	r.site.Journal = out
}
