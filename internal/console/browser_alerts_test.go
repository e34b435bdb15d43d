package console_test

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/console"
	"linli/internal/telemetry"
)

// visit serves c and opens it in a tab.
func (c *community) visit(t *testing.T, v view) *tab {
	t.Helper()
	web := httptest.NewServer(c.server)
	t.Cleanup(web.Close)
	t.Cleanup(web.CloseClientConnections)
	return open(t, browser(t), web.URL, v)
}

// move takes an alert to another state.
func (c *community) move(a alert.Alert, s alert.State, what string) alert.Alert {
	a.State, a.ReturnedAt = s, time.Time{}
	if s == alert.ReturnedUnacknowledged {
		a.ReturnedAt = time.Now().UTC()
	}
	if s == alert.ActiveAcknowledged {
		a.AcknowledgedAt, a.AcknowledgedBy = time.Now().UTC(), "李师傅"
	}
	c.book.put(a, what, alert.BySensor, "")
	return a
}

// cardIDs is the order of the cards.
const cardIDs = `[...document.querySelectorAll('[data-testid=alert]')].map(e=>e.dataset.id).join()`

// TestCardSaysWhichValueIsWhen: the value at which an alert began is told as such, and beside it what holds now.
func TestCardSaysWhichValueIsWhen(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	c.read(t, "bin_2_3", "fill_pct", telemetry.FloatValue(97))
	c.raise(t, "01BIN", "BinFull", "bin_2_3", telemetry.Warning, text("厨余垃圾桶满", "Kitchen bin full"), text("满溢度 92 %（限 90），已 3 秒", "Fill level 92 % (limit 90), for 3 s"), time.Minute)
	c.read(t, "lane_e1", "occupied", telemetry.BoolValue(true))
	lane := c.raise(t, "01LANE", "FireLaneBlocked", "lane_e1", telemetry.Warning, text("消防通道被占用", "Fire lane blocked"), text("占用，已 10 秒", "Occupied, for 10 s"), 2*time.Minute)
	zone := lane
	zone.ID, zone.Subject, zone.Device, zone.Class, zone.Zone = "01ZONE", "b1", "", "", "b1"
	zone.Detail = text("2 个探测器报警", "2 detectors")
	c.book.put(zone, alert.WhatRaised, alert.BySensor, "")
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})

	says := func(what, id, present, then string) {
		t.Helper()
		b.until(what, fmt.Sprintf(`(()=>{const e=document.querySelector('[data-id="%s"]');const n=e?.querySelector('[data-testid=present]')?.innerText??'',w=e?.querySelector('[data-testid=then]')?.innerText??'';
			return (%[2]q===''?n==='':n.includes(%[2]q))&&w===%[3]q})()`, id, present, then))
	}
	says("the bin", "01BIN", "现在：满溢度 97.0 %", "发生时：满溢度 92 %（限 90），已 3 秒")
	says("the lane", "01LANE", "现在：占用 是", "发生时：占用，已 10 秒")
	says("a zone has no value of its own", "01ZONE", "", "发生时：2 个探测器报警")
	if got := b.text(`[data-id="01BIN"] [data-testid=present]`); !strings.Contains(got, "厨余垃圾桶") {
		t.Errorf("which device: %q", got)
	}

	bin, _, _ := c.book.Get("01BIN")
	bin.Severity, bin.Detail = telemetry.Critical, text("满溢度 96 %（限 95）", "Fill level 96 % (limit 95)")
	c.book.put(bin, alert.WhatChanged, alert.BySensor, "")
	says("a detail that came with another severity", "01BIN", "现在：满溢度 97.0 %", "转为紧急时：满溢度 96 %（限 95）")
	if !eval[bool](b, `!!document.querySelector('[data-id="01BIN"].fresh')`) {
		t.Error("what became worse does not stand out")
	}

	c.read(t, "lane_e1", "occupied", telemetry.BoolValue(false))
	c.move(lane, alert.ReturnedUnacknowledged, alert.WhatReturned)
	says("after the car", "01LANE", "现在：占用 否", "发生时：占用，已 10 秒")
	b.shot("card-returned.png")

	c.quality(t, "lane_e1", telemetry.BadComm)
	b.until("silence is unknown, hatched", `document.querySelector('[data-id="01LANE"] [data-testid=present] .badge-unknown')?.innerText==='未知'&&document.querySelector('[data-id="01LANE"] [data-testid=present]').innerText.includes('设备失联')`)
	b.click("header [data-testid=lang]")
	says("in English", "01BIN", "Now: Fill level 97.0 %", "When it became critical: Fill level 96 % (limit 95)")
	says("in English", "01LANE", "Occupied", "When it began: Occupied, for 10 s")
	b.quiet()
}

// TestSoundButtonTellsTheTruth: while it rings the button silences, whatever was silenced before.
func TestSoundButtonTellsTheTruth(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	c.raiseSmoke(t)
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})
	button := "document.querySelector('header [data-testid=sound]').innerText"
	b.see("烟感报警")
	b.click("h1")
	b.until("it rings", button+".includes('静音 3 分钟')")
	b.click("header [data-testid=sound]")
	b.until("silenced", button+".includes('已静音')")
	c.raise(t, "01SMOKE2", "SmokeAlarm", "smoke_2_1", telemetry.Critical, text("烟感报警", "Smoke alarm"), telemetry.Text{}, 0)
	b.until("the second rings, and the button offers silence", button+".includes('静音 3 分钟')&&!!document.querySelector('header .loud')")
	b.click("header [data-testid=sound]")
	b.until("one press silences both", button+".includes('已静音')&&!document.querySelector('header .loud')")
	for _, id := range []string{"01SMOKE", "01SMOKE2"} {
		b.click(fmt.Sprintf("[data-id=%q] [data-testid=ack]", id))
	}
	b.until("nothing is silenced any more", button+".includes('声音开')")
	b.quiet()
}

// TestRaisedAgainIsNew: a warning whose condition comes back chimes, is outlined, and says when.
func TestRaisedAgainIsNew(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	lane := c.raiseLane(t)
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})
	b.see("消防通道被占用")
	eval[bool](b, `(()=>{window.chimes=0;const make=AudioContext.prototype.createOscillator;AudioContext.prototype.createOscillator=function(){window.chimes++;return make.call(this)};return true})()`)
	b.click("h1") // Lets the page play.
	b.until("sound is on", `document.querySelector('header [data-testid=sound]').innerText.includes('声音开')`)
	since := `document.querySelector('[data-id="01LANE"] .since').innerText`
	if got := eval[string](b, since); got != "8 分钟前" {
		t.Errorf("since = %q", got)
	}
	c.move(lane, alert.ReturnedUnacknowledged, alert.WhatReturned)
	b.until("returned", `document.querySelector('[data-id="01LANE"] [data-testid=state]').innerText==='已恢复，待确认'`)
	if n := eval[float64](b, "window.chimes"); n != 0 {
		t.Errorf("%v chimes for what returned", n)
	}
	c.move(lane, alert.ActiveUnacknowledged, alert.WhatRaisedAgain)
	b.until("raised again: chime, outline, time", `window.chimes===1&&!!document.querySelector('[data-id="01LANE"].fresh')&&`+since+`==='再次发生 · 刚刚'`)
	b.shot("raised-again.png")
	b.quiet()

	// Who opens the page later is told the same.
	later := c.visit(t, view{width: 360, height: 740, name: "王工"})
	later.until("the time of the last raising", since+`.startsWith('再次发生 · ')`)
	later.fits("phone")
}

// TestOrderOfAlerts: severity, then what waits, then what is confirmed for a zone, then the newest.
func TestOrderOfAlerts(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	title := text("烟感报警", "Smoke alarm")
	old := c.raise(t, "01SEEN", "SmokeAlarm", "smoke_1_1", telemetry.Critical, title, telemetry.Text{}, 0)
	c.move(old, alert.ActiveAcknowledged, alert.WhatAcknowledged)
	fire := c.raise(t, "01FIRE", "FireConfirmed", "smoke_2_1", telemetry.Critical, text("火警确认", "Fire confirmed"), telemetry.Text{}, 5*time.Minute)
	fire.Subject, fire.Device, fire.Class, fire.Zone = "b2", "", "", "b2"
	c.book.put(fire, alert.WhatChanged, alert.BySensor, "")
	c.raise(t, "01OLD", "SmokeAlarm", "smoke_2_2", telemetry.Critical, title, telemetry.Text{}, 4*time.Minute)
	c.raise(t, "01NEW", "SmokeAlarm", "smoke_3_2", telemetry.Critical, title, telemetry.Text{}, time.Minute)
	c.raiseLane(t)
	b := c.visit(t, view{width: 360, height: 740, name: "王工"})
	b.see("火警确认")
	if got, want := eval[string](b, cardIDs), "01FIRE,01NEW,01OLD,01SEEN,01LANE"; got != want {
		t.Errorf("order = %s, want %s", got, want)
	}
	b.shot("order-phone.png")
	// An acknowledged one steps behind those that wait, but not under the finger that acknowledged it.
	b.click(`[data-id="01FIRE"] [data-testid=ack]`)
	b.until("acknowledged", `document.querySelector('[data-id="01FIRE"] [data-testid=state]').innerText.startsWith('已确认')`)
	if got := eval[string](b, cardIDs); !strings.HasPrefix(got, "01FIRE,") {
		t.Errorf("moved at once: %s", got)
	}
	b.until("stepped behind", cardIDs+`==='01NEW,01OLD,01FIRE,01SEEN,01LANE'`)
	b.quiet()
}

// TestWritingIsNotDisturbed: a list in which somebody writes does not move, however long they think.
func TestWritingIsNotDisturbed(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	lane := c.raiseLane(t)
	c.move(lane, alert.ReturnedUnacknowledged, alert.WhatReturned)
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})
	b.see("消防通道被占用")
	b.click(`[data-id="01LANE"] [data-testid=details]`)
	b.see("办结…")
	eval[bool](b, `([...document.querySelectorAll('.more .quiet')].find(e=>e.innerText==='办结…').click(),true)`)
	b.until("the note", `!!document.querySelector('textarea')`)
	eval[bool](b, `(document.querySelector('textarea').focus(),window.since=performance.now(),true)`)
	c.raiseSmoke(t)
	b.until("after the hold it still waits", `performance.now()-window.since>6000&&!!document.querySelector('[data-testid=pill]')`)
	if got := eval[string](b, cardIDs); got != "01LANE" {
		t.Errorf("cards = %s", got)
	}
	eval[bool](b, `(document.querySelector('textarea').blur(),true)`)
	b.until("then it comes", cardIDs+`==='01SMOKE,01LANE'`)
	b.quiet()
}

// TestDemoPanelMakesRoom: on small screens the stories are one line, and fold away when one has been started.
func TestDemoPanelMakesRoom(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	web := httptest.NewServer(c.server)
	defer web.Close()
	defer web.CloseClientConnections()
	chrome := browser(t)
	for _, v := range []struct {
		name string
		view
		story string // started here; "" where the panel is open from the beginning
	}{
		{"phone", view{width: 360, height: 740}, "smoke"},
		{"phone-en", view{width: 360, height: 740, lang: "en"}, "bins"},
		{"double", view{width: 720, height: 450}, "noise"},
		{"desktop", view{width: 1440, height: 900}, ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			b := open(t, chrome, web.URL, v.view)
			b.until("the demo", `!!document.querySelector('[data-testid=demo]')`)
			closed := `!document.querySelector('.demo details').open`
			if v.story == "" {
				if eval[bool](b, closed) {
					t.Error("closed on a screen with room")
				}
				b.click("[data-testid=demo-fire-lane]")
				b.until("started", `document.querySelector('[data-testid=demo-fire-lane]').disabled`)
				if eval[bool](b, closed) {
					t.Error("it folded on a screen with room")
				}
				return
			}
			oneLine := func(when string) {
				t.Helper()
				if h := eval[float64](b, `document.querySelector('.demo').getBoundingClientRect().height`); h > 50 {
					t.Errorf("%s it is %v px high", when, h)
				}
				b.fits(when)
				b.shot("demo-" + v.name + "-" + strings.Fields(when)[0] + ".png")
			}
			if !eval[bool](b, closed) {
				t.Fatal("open on a small screen")
			}
			oneLine("before it is opened")
			b.click(".demo summary")
			b.until("open", "!("+closed+")")
			b.click("[data-testid=demo-" + v.story + "]")
			b.until("folded by itself", closed)
			oneLine("after a start")
			b.quiet()
		})
	}
}

// TestHeaderOfAPhone: counts and filter are one row in both languages.
func TestHeaderOfAPhone(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	c.quality(t, "smoke_1_2", telemetry.BadComm)
	c.raiseSmoke(t)
	web := httptest.NewServer(c.server)
	defer web.Close()
	defer web.CloseClientConnections()
	chrome := browser(t)
	for _, lang := range []string{"zh-CN", "en-GB"} {
		b := open(t, chrome, web.URL, view{width: 360, height: 740, lang: lang, name: "王工"})
		b.until("the page", `!!document.querySelector('[data-testid=alert]')`)
		if d := eval[float64](b, `document.querySelector('.filter-button').getBoundingClientRect().top-document.querySelector('.count.unknown').getBoundingClientRect().top`); d != 0 {
			t.Errorf("%s: the filter is %v px below the counts", lang, d)
		}
		if got := eval[string](b, `document.querySelector('.filter-button').getAttribute('aria-label')??''`); got != "筛选" && got != "Filter" {
			t.Errorf("%s: the filter is called %q", lang, got)
		}
		b.click(".filter-button")
		b.until("the choices", `document.querySelector('#filters select').getBoundingClientRect().height>0`)
		b.fits(lang)
		b.shot("phone-header-" + lang + ".png")
	}
}

// TestClassIsSaidOnce: a device that is called like its class does not repeat it.
func TestClassIsSaidOnce(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})
	name := func(id, want string) {
		t.Helper()
		if got := strings.Join(strings.Fields(b.text(fmt.Sprintf(`[data-testid=device][data-id=%q] .name`, id))), " "); got != want {
			t.Errorf("%s is called %q, want %q", id, got, want)
		}
	}
	b.see("走廊烟感")
	name("meter_1", "电表 1")
	name("door_1", "单元门")
	name("smoke_1_1", "走廊烟感 烟感探测器")
	b.click("header [data-testid=lang]")
	b.see("Corridor smoke detector")
	name("meter_1", "Meter 1")
	name("smoke_1_1", "Corridor smoke detector")
	name("bin_1_1", "Bin 1")
	name("lane_e1", "Entry sensor Fire lane sensor")
}

// TestWallIsNotCovered: on a wall nobody scrolls or taps, so what is said about sound takes a place of its own.
func TestWallIsNotCovered(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	b := c.visit(t, view{width: 1920, height: 1080, path: "/?wall=1", name: "王工"})
	b.see("走廊烟感")
	b.until("the bar about sound", `!!document.querySelector('[data-testid=sound-banner]')`)
	if got := eval[string](b, `[...document.querySelectorAll('header,.demo,main')].filter(e=>{const a=e.getBoundingClientRect(),b=document.querySelector('.dock').getBoundingClientRect();return a.top<b.bottom&&b.top<a.bottom}).map(e=>e.tagName).join()`); got != "" {
		t.Errorf("the bar lies over %s", got)
	}
	b.shot("wall-sound.png")
}

// TestAlertOfTheGatewaysOwnWorks: an alert about a bus, which is on no board and in no zone, is a card like any other.
func TestAlertOfTheGatewaysOwnWorks(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	bus := alert.Alert{ID: "01BUS", Identity: telemetry.Identity{Alert: "BusSuspended", Subject: "rs485_1"}, Severity: telemetry.Notice, State: alert.ActiveUnacknowledged,
		Title: text("现场总线 rs485_1 正在调试，暂停轮询", "Field bus rs485_1: polling suspended"), Detail: text("暂停轮询", "Polling suspended"), Device: "rs485_1", Class: "field_bus",
		Place: c.inv.Title, RaisedAt: time.Now().UTC()}
	c.book.put(bus, alert.WhatRaised, alert.BySensor, "")
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})
	b.see("现场总线 rs485_1 正在调试，暂停轮询")
	b.see("阳光社区")
	b.click(`[data-id="01BUS"] [data-testid=ack]`)
	b.until("acknowledged", `document.querySelector('[data-id="01BUS"] [data-testid=state]').innerText.includes('已确认')`)
	b.quiet()
}
