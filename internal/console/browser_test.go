package console_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"linli/internal/alert"
	"linli/internal/console"
	"linli/internal/telemetry"
)

// browser is one Chromium that the browser tests share, each in a tab of its own with its own storage.
func browser(t *testing.T) context.Context {
	t.Helper()
	opts := []chromedp.ExecAllocatorOption{chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox,
		chromedp.DisableGPU, chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.UserDataDir(t.TempDir())}
	alloc, stopAlloc := chromedp.NewExecAllocator(context.Background(), opts...)
	ctx, stop := chromedp.NewContext(alloc)
	t.Cleanup(func() {
		// Waits until the browser has ended, so that its directory can go.
		bound, free := context.WithTimeout(ctx, 10*time.Second)
		defer free()
		if err := chromedp.Cancel(bound); err != nil && !errors.Is(err, context.Canceled) {
			t.Logf("closing Chromium: %v", err)
		}
		stop()
		stopAlloc()
	})
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start Chromium (the tests need Debian's chromium): %v", err)
	}
	return ctx
}

// view is how a tab looks at the console.
type view struct {
	lang          string // of the browser
	width, height int64
	dark          bool
	text          int    // percent, 0 is 100
	path          string // "" is /
	name          string // of the person, already known; "" asks
	refused       bool   // the first answer is a refusal
}

// tab is one open page, watched: what it requests, and what it complains about.
type tab struct {
	t      *testing.T
	ctx    context.Context
	origin string

	mu       sync.Mutex
	foreign  []string // guarded by mu: requests that left the origin
	problems []string // guarded by mu: console errors, exceptions
	deaf     bool     // guarded by mu: network errors are expected
}

// open opens the console in a tab.
func open(t *testing.T, parent context.Context, origin string, v view) *tab {
	t.Helper()
	b := &tab{t: t, origin: origin, deaf: v.refused}
	ctx, cancel := chromedp.NewContext(parent, chromedp.WithNewBrowserContext(), chromedp.WithListener(b.watch))
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(stop)
	b.ctx = ctx
	if v.lang == "" {
		v.lang = "zh-CN"
	}
	if v.path == "" {
		v.path = "/"
	}
	scheme := "light"
	if v.dark {
		scheme = "dark"
	}
	prepare := "Object.defineProperty(navigator,'language',{get:()=>" + fmt.Sprintf("%q", v.lang) + "});"
	if v.name != "" {
		prepare += fmt.Sprintf("try{localStorage.setItem('linli.name',%q)}catch(e){}", v.name)
	}
	if v.text != 0 {
		prepare += fmt.Sprintf("document.addEventListener('DOMContentLoaded',()=>{document.documentElement.style.fontSize='%d%%'});", v.text)
	}
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	call(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: prepare})
	b.run(chromedp.EmulateViewport(v.width, v.height), chromedp.Navigate(origin+v.path))
	return b
}

// call sends one command of the browser's protocol.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) {
	b.t.Helper()
	if _, err := chromedp.Call(b.ctx, command, params); err != nil {
		b.t.Fatal(err)
	}
}

func (b *tab) watch(ev any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch ev := ev.(type) {
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(ev.Request.URL)
		if err == nil && u.Scheme != "data" && u.Scheme != "blob" && u.Scheme+"://"+u.Host != b.origin {
			b.foreign = append(b.foreign, ev.Request.URL)
		}
	case *cdpruntime.EventExceptionThrown:
		b.problems = append(b.problems, "exception: "+fmt.Sprintf("%s %s:%d %v", ev.ExceptionDetails.Text, ev.ExceptionDetails.URL, ev.ExceptionDetails.LineNumber, ev.ExceptionDetails.Exception))
	case *cdpruntime.EventConsoleAPICalled:
		if ev.Type == cdpruntime.ConsoleAPICalledTypeError || ev.Type == cdpruntime.ConsoleAPICalledTypeWarning {
			b.problems = append(b.problems, fmt.Sprintf("console.%s: %s", ev.Type, ev.Args[0].Value))
		}
	case *log.EventEntryAdded:
		if b.deaf && ev.Entry.Source == log.EntrySourceNetwork {
			return
		}
		if ev.Entry.Level == log.EntryLevelError || ev.Entry.Level == log.EntryLevelWarning {
			b.problems = append(b.problems, fmt.Sprintf("%s: %s %s", ev.Entry.Source, ev.Entry.Text, ev.Entry.URL))
		}
	}
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		b.t.Fatal(err)
	}
}

// eval returns what a JavaScript expression gives.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// text is what a person reads in the first element that matches.
func (b *tab) text(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("(document.querySelector(%q)?.innerText ?? '')", selector))
}

// until waits until a JavaScript expression is true.
func (b *tab) until(what, js string) {
	b.t.Helper()
	limit := time.Now().Add(20 * time.Second)
	for {
		// An error is a page that is being left for the next one: there is nothing to ask yet.
		if ok, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("!!("+js+")")); err == nil && ok {
			return
		} else if b.ctx.Err() != nil {
			b.t.Fatalf("waited in vain: %s: %v", what, b.ctx.Err())
		}
		if time.Now().After(limit) {
			b.shot("failed.png")
			b.t.Fatalf("waited in vain: %s\n%s", what, b.text("body"))
		}
		_ = chromedp.Do(b.ctx, chromedp.Sleep(50*time.Millisecond))
	}
}

// see waits until the page says words.
func (b *tab) see(words string) {
	b.t.Helper()
	b.until(fmt.Sprintf("%q on the page", words), fmt.Sprintf("document.body.innerText.includes(%q)", words))
}

func (b *tab) click(selector string) {
	b.t.Helper()
	// A click goes to a place: what still moves (a panel that opens, a list that grows) would be missed.
	b.until("rest of "+selector, fmt.Sprintf(`(()=>{const e=document.querySelector(%q);if(!e)return false;
		const r=e.getBoundingClientRect(),at=[r.x,r.y,r.width,r.height].join();
		const rests=e.linliWasAt===at;e.linliWasAt=at;return rests})()`, selector))
	b.run(chromedp.Click(chromedp.CSS(selector)))
}

// shot keeps a picture for people, where LINLI_SHOTS names a directory.
func (b *tab) shot(name string) {
	dir := os.Getenv("LINLI_SHOTS")
	if dir == "" {
		return
	}
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// fits checks that nothing makes the page wider than the screen.
func (b *tab) fits(where string) {
	b.t.Helper()
	over := eval[[]string](b, `[...document.querySelectorAll('body *')].filter(e=>e.getBoundingClientRect().right>innerWidth+1&&!e.closest('.sr')&&!e.matches('option')).map(e=>e.tagName+'.'+e.className).slice(0,5)`)
	if wide := eval[float64](b, "document.documentElement.scrollWidth-innerWidth"); wide > 0 || len(over) > 0 {
		b.shot("failed.png")
		b.t.Errorf("%s: the page is %v px wider than the screen: %v", where, wide, over)
	}
}

// quiet checks that the page complained of nothing and asked nobody else for anything.
func (b *tab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.foreign) > 0 {
		b.t.Errorf("requests to elsewhere: %v", b.foreign)
	}
	if len(b.problems) > 0 {
		b.t.Errorf("the browser complains: %s", strings.Join(b.problems, "\n"))
	}
}

// expectLoss says that failing requests are part of the test from here on.
func (b *tab) expectLoss() { b.mu.Lock(); defer b.mu.Unlock(); b.deaf = true }

// TestNowInTheBrowser is the guard's day: quiet, an alert, one tap, a lost connection.
func TestNowInTheBrowser(t *testing.T) {
	chrome := browser(t)
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	c.quality(t, "smoke_1_2", telemetry.BadComm)
	web := httptest.NewUnstartedServer(c.server)
	web.Start()
	address := web.Listener.Addr().String()
	b := open(t, chrome, web.URL, view{width: 1440, height: 900})

	b.see("没有告警")
	b.see("走廊烟感")
	b.until("the silent device is unknown", `document.querySelector('[data-id=smoke_1_2]').innerText.includes('设备失联')`)
	if got := b.text(`[data-testid=link]`); got != "在线" {
		t.Errorf("link = %q", got)
	}
	eval[bool](b, "window.stayed=true")

	// Arrives without reload, place first, with sound asked for and the count in the title.
	smoke := c.raiseSmoke(t)
	card := fmt.Sprintf("[data-id=%q]", smoke.ID)
	b.until("the alert", fmt.Sprintf("document.querySelector('%s')", card))
	if got := b.text(card); !strings.HasPrefix(got, "3号楼 · 1层") || !strings.Contains(got, "烟感报警") || !strings.Contains(got, "待确认") || !strings.Contains(got, "2 分钟前") || strings.Contains(got, "3号楼1层") {
		t.Errorf("card = %q", got)
	}
	b.until("the title", `document.title==="(1) 阳光社区"`)

	// A failure does not look like success.
	c.book.failWith(errors.New("disk I/O error"))
	b.expectLoss()
	b.click(card + " [data-testid=ack]")
	b.see("您是哪位？")
	b.run(chromedp.SendKeys(chromedp.CSS("[data-testid=name]"), "王工\r"))
	b.see("没有记录成功，请再试一次。")
	if got := b.text(card + " [data-testid=state]"); got != "待确认" {
		t.Errorf("state after a failure = %q", got)
	}
	c.book.failWith(nil)

	// The first touch allowed sound; the alert rings until it is acknowledged.
	b.until("it rings", `document.querySelector('header [data-testid=sound]').innerText.includes('静音 3 分钟')`)
	b.click("header [data-testid=sound]")
	b.until("silenced", `document.querySelector('header [data-testid=sound]').innerText.includes('已静音')`)
	c.raise(t, "01SMOKE2", "SmokeAlarm", "smoke_2_1", telemetry.Critical, text("烟感报警", "Smoke alarm"), telemetry.Text{}, 0)
	b.until("a new alert: 2", `document.title.startsWith("(2)")`)

	// One tap, now that the name is known.
	b.click(card + " [data-testid=ack]")
	b.until("acknowledged", fmt.Sprintf("document.querySelector('%s [data-testid=state]').innerText==='已确认 · 王工'", card))
	if a, _, _ := c.book.Get(smoke.ID); a.State != alert.ActiveAcknowledged || a.AcknowledgedBy != "王工" {
		t.Errorf("in the book: %v by %q", a.State, a.AcknowledgedBy)
	}
	b.click(card + " [data-testid=details]")
	b.until("history", fmt.Sprintf("document.querySelector('%s .history')?.innerText.includes('确认 · 王工')", card))

	// The alert closes by itself when the smoke has gone.
	smoke, _, _ = c.book.Get(smoke.ID)
	smoke.State, smoke.ReturnedAt, smoke.ClosedAt, smoke.CloseReason = alert.Closed, time.Now(), time.Now(), alert.ReasonReturned
	c.book.put(smoke, alert.WhatClosed, alert.BySensor, "")
	b.see("最近办结")

	// A lost connection is said at once, and the page goes grey.
	web.CloseClientConnections()
	web.Close()
	b.until("lost", `document.querySelector('[data-testid=lost]')&&document.querySelector('main.stale')`)
	if got := b.text("[data-testid=lost]"); !strings.Contains(got, "连接中断") || !strings.Contains(got, "现场可能已经变化") {
		t.Errorf("banner = %q", got)
	}
	if got := eval[string](b, "getComputedStyle(document.querySelector('main')).filter"); got != "grayscale(1)" {
		t.Errorf("filter = %q", got)
	}
	if got := eval[string](b, "document.querySelector('[aria-live=assertive]').innerText"); !strings.Contains(got, "连接中断") {
		t.Errorf("announced: %q", got)
	}
	b.click("[data-id=\"01SMOKE2\"] [data-testid=ack]")
	b.see("没有送到网关")
	if a, _, _ := c.book.Get("01SMOKE2"); a.State != alert.ActiveUnacknowledged {
		t.Error("acknowledged without a connection")
	}
	b.shot("desktop-disconnected.png")

	// The gateway comes back as another process; the page finds its way without a reload.
	c.open(t, console.Config{})
	c.read(t, "lane_e2", "distance_mm", telemetry.IntValue(777))
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.server.Serve(ctx, ln) }()
	b.until("back", `document.querySelector('[data-testid=link]').innerText==='在线'&&!document.querySelector('[data-testid=lost]')`)
	b.see("777")
	if !eval[bool](b, "window.stayed===true") {
		t.Error("the page was reloaded")
	}
	b.quiet()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestListDoesNotMoveUnderAFinger: while the list is touched, a new alert waits behind a pill.
func TestListDoesNotMoveUnderAFinger(t *testing.T) {
	chrome := browser(t)
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	lane := c.raiseLane(t)
	web := httptest.NewServer(c.server)
	defer web.Close()
	defer web.CloseClientConnections()
	b := open(t, chrome, web.URL, view{width: 360, height: 740, name: "王工"})
	b.see("消防通道被占用")
	eval[bool](b, fmt.Sprintf(`(()=>{const l=document.querySelector('.cards');l.dispatchEvent(new PointerEvent('pointerdown',{bubbles:true}));
		window.top0=document.querySelector('[data-id=%q]').getBoundingClientRect().top;return true})()`, lane.ID))
	c.raiseSmoke(t)
	b.until("the pill", `document.querySelector('[data-testid=pill]')?.innerText.includes('1 条新告警')`)
	if n := eval[float64](b, "document.querySelectorAll('[data-testid=alert]').length"); n != 1 {
		t.Errorf("%v cards while touched, want 1", n)
	}
	if moved := eval[float64](b, fmt.Sprintf("document.querySelector('[data-id=%q]').getBoundingClientRect().top-window.top0", lane.ID)); math.Abs(moved) > 0.5 {
		t.Errorf("the card moved %v px under the finger", moved)
	}
	eval[bool](b, `document.querySelector('.cards').dispatchEvent(new PointerEvent('pointerup',{bubbles:true}))`)
	b.click("[data-testid=pill]")
	b.until("both, the worse first", `[...document.querySelectorAll('[data-testid=alert]')].map(e=>e.dataset.id).join()==='01SMOKE,01LANE'`)
	b.quiet()
}

// TestAccessCodeInTheBrowser: without the code there is a form, with it the page, and the address keeps no code.
func TestAccessCodeInTheBrowser(t *testing.T) {
	chrome := browser(t)
	c := newCommunity(t, console.Config{Token: "open sesame"}, true)
	web := httptest.NewServer(c.server)
	defer web.Close()
	defer web.CloseClientConnections()
	b := open(t, chrome, web.URL, view{width: 360, height: 740, refused: true})
	b.see("请输入访问口令")
	b.shot("code.png")
	b.run(chromedp.SendKeys(chromedp.CSS("[name=token]"), "wrong\r"))
	b.see("口令不对")
	b.run(chromedp.SendKeys(chromedp.CSS("[name=token]"), "open sesame\r"))
	b.see("没有告警")
	if got := eval[string](b, "location.href"); got != web.URL+"/" {
		t.Errorf("address = %s", got)
	}
	if got := eval[string](b, "document.cookie"); got != "" {
		t.Errorf("scripts can read the cookie: %s", got)
	}
	b.quiet()
}

// TestKeyboardAlone: acknowledging needs no pointer, and what has the focus is seen.
func TestKeyboardAlone(t *testing.T) {
	chrome := browser(t)
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	smoke := c.raiseSmoke(t)
	web := httptest.NewServer(c.server)
	defer web.Close()
	defer web.CloseClientConnections()
	b := open(t, chrome, web.URL, view{width: 1440, height: 900, name: "王工"})
	b.see("烟感报警")
	for n := 0; ; n++ {
		if n > 40 {
			t.Fatal("the button is not reached by Tab")
		}
		b.run(chromedp.KeyEvent("\t"))
		if eval[bool](b, "document.activeElement?.dataset.testid==='ack'") {
			break
		}
	}
	if got := eval[string](b, "getComputedStyle(document.activeElement).outlineStyle"); got != "solid" {
		t.Errorf("outline of the focused button = %q", got)
	}
	b.run(chromedp.KeyEvent("\r"))
	b.see("已确认 · 王工")
	if a, _, _ := c.book.Get(smoke.ID); a.AcknowledgedBy != "王工" {
		t.Errorf("acknowledged by %q", a.AcknowledgedBy)
	}
	b.quiet()
}

// TestEveryScreen: nothing is wider than the screen on a phone, with text of double size, on a wall; in both
// languages; in light and dark; and the browser never complains.
func TestEveryScreen(t *testing.T) {
	chrome := browser(t)
	busy := newCommunity(t, console.Config{}, true)
	busy.readAll()
	busy.quality(t, "smoke_1_2", telemetry.BadComm)
	busy.quality(t, "bin_3_2", telemetry.BadSensor)
	busy.read(t, "bin_2_3", "fill_pct", telemetry.FloatValue(96))
	busy.raiseSmoke(t)
	lane := busy.raiseLane(t)
	busy.raise(t, "01BIN", "BinFull", "bin_2_3", telemetry.Notice, text("厨余垃圾桶满 96 %", "Kitchen bin 96 % full"), telemetry.Text{}, 40*time.Minute)
	door := busy.raise(t, "01DOOR", "DoorHeldOpen", "door_2", telemetry.Notice, text("门长时间未关", "Door held open"), telemetry.Text{}, 3*time.Hour)
	door.State, door.AcknowledgedBy, door.AcknowledgedAt = alert.ActiveAcknowledged, "李师傅", time.Now()
	busy.book.put(door, alert.WhatAcknowledged, "李师傅", "")
	silent := busy.raise(t, "01UNK", "SmokeAlarm", "smoke_1_2", telemetry.Critical, text("烟感报警", "Smoke alarm"), telemetry.Text{}, 12*time.Minute)
	silent.Unknown, silent.State, silent.AcknowledgedBy = true, alert.ActiveAcknowledged, "王工"
	busy.book.put(silent, alert.WhatUnknown, alert.BySensor, "")
	lane.ID, lane.State, lane.RaisedAt, lane.ClosedAt, lane.CloseReason = "01OLD", alert.Closed, time.Now().Add(-26*time.Hour), time.Now().Add(-26*time.Hour+6*time.Minute), alert.ReasonReturned
	busy.book.put(lane, alert.WhatClosed, alert.BySensor, "")

	calm := newCommunity(t, console.Config{}, true)
	calm.readAll()
	calm.book.put(lane, alert.WhatClosed, alert.BySensor, "")

	empty := newCommunity(t, console.Config{}, false)
	empty.stories = nil
	var err error
	if empty.server, err = console.New(console.Config{Version: "0.1.0"}, console.Sources{Inventory: empty.inv, Clock: empty.clock, Live: empty.live, Alerts: empty.book}, nil); err != nil {
		t.Fatal(err)
	}

	for _, site := range []struct {
		name string
		c    *community
		zh   string
		en   string
	}{
		{"alerts", busy, "烟感报警", "Smoke alarm"},
		{"normal", calm, "没有告警", "No alerts"},
		{"empty", empty, "还没有安装设备", "No devices are installed yet"},
	} {
		web := httptest.NewServer(site.c.server)
		for _, v := range []struct {
			name string
			view
		}{
			{"phone", view{width: 360, height: 740, name: "王工"}},
			{"phone-dark-en", view{width: 360, height: 740, dark: true, lang: "en-GB"}},
			{"phone-200", view{width: 360, height: 740, text: 200, name: "王工"}},
			{"phone-200-en", view{width: 360, height: 740, text: 200, lang: "en-US", name: "Wang"}},
			{"desktop", view{width: 1440, height: 900, name: "王工"}},
			{"desktop-dark-en", view{width: 1440, height: 900, dark: true, lang: "de", name: "Wang"}},
			{"wall", view{width: 1920, height: 1080, name: "王工"}},
			{"wall-dark", view{width: 1280, height: 720, path: "/?wall=1", dark: true}},
		} {
			t.Run(site.name+"/"+v.name, func(t *testing.T) {
				b := open(t, chrome, web.URL, v.view)
				if v.lang == "" {
					b.see(site.zh)
				} else {
					b.see(site.en)
					if got := eval[string](b, "document.documentElement.lang"); got != "en" {
						t.Errorf("lang = %q", got)
					}
				}
				b.fits(v.name)
				b.shot(v.name + "-" + site.name + ".png")
				if site.name == "alerts" {
					if small := eval[float64](b, "Math.min(...[...document.querySelectorAll('[data-testid=ack]')].map(e=>e.getBoundingClientRect().height))"); small < 48 {
						t.Errorf("the main button is %v px high", small)
					}
					eval[bool](b, "(window.scrollTo(0,document.querySelector('.right').getBoundingClientRect().top-100),true)")
					b.shot(v.name + "-" + site.name + "-2.png")
					eval[bool](b, "(window.scrollTo(0,document.querySelector('.devices').getBoundingClientRect().top+scrollY-100),true)")
					b.shot(v.name + "-" + site.name + "-3.png")
				}
				b.quiet()
			})
		}
		web.CloseClientConnections()
		web.Close()
	}
}
