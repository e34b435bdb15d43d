package console_test

import (
	"fmt"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/console"
	"linli/internal/telemetry"
)

// TestSuppressedStandsApart: what another alert explains stands below the others, says what explains it, and makes no
// sound; when that ends it rings like a new one.
func TestSuppressedStandsApart(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	lane := c.raiseLane(t)
	smoke := c.raiseSmoke(t)
	suppress := func(a alert.Alert) alert.Alert {
		a.Suppressed, a.SuppressedBy = true, lane.Identity
		c.book.put(a, alert.WhatSuppressed, alert.ByGateway, "")
		return a
	}
	smoke = suppress(smoke)
	for i := range 4 {
		suppress(c.raise(t, fmt.Sprintf("01METER%d", i), "MeterSilent", "meter_1", telemetry.Warning, text("电表失联", "Meter silent"), telemetry.Text{}, time.Minute))
	}
	b := c.visit(t, view{width: 1440, height: 900, name: "王工"})
	b.see("消防通道被占用")
	eval[bool](b, `(()=>{window.chimes=0;const make=AudioContext.prototype.createOscillator;AudioContext.prototype.createOscillator=function(){window.chimes++;return make.call(this)};return true})()`)
	b.click("h1") // Lets the page play.
	sound := "document.querySelector('header [data-testid=sound]').innerText"
	b.until("sound is on, and nothing rings", sound+".includes('声音开')&&!document.querySelector('header .loud')")
	if got, want := eval[string](b, cardIDs), "01LANE,01SMOKE,01METER3,01METER2"; got != want {
		t.Errorf("order = %s, want %s: the suppressed ones last, three of them", got, want)
	}
	card := `document.querySelector('[data-testid=suppressed] [data-id="01SMOKE"]')`
	b.until("what explains it", card+`?.querySelector('[data-testid=because]')?.innerText==='被“东门消防通道 消防通道被占用”抑制'&&`+card+`.classList.contains('suppressed')`)
	b.until("not counted with the others", `document.querySelector('.count.critical b').innerText==='0'&&document.title.startsWith('(1)')`)
	b.until("all of them on demand", `document.querySelector('[data-testid=suppressed] h2').innerText.includes('5 条')`)
	b.shot("suppressed.png")
	b.click("[data-testid=suppressed] > button")
	b.until("all of them", `document.querySelectorAll('[data-testid=suppressed] [data-testid=alert]').length===5`)

	smoke.Suppressed, smoke.SuppressedBy = false, telemetry.Identity{}
	c.book.put(smoke, alert.WhatUnsuppressed, alert.ByGateway, "")
	b.until("it rings, first in the list", `!!document.querySelector('header .loud')&&`+cardIDs+`.startsWith('01SMOKE,01LANE,')&&!!document.querySelector('[data-id="01SMOKE"].fresh.waiting')`)

	// Its climb is told, and what it drives.
	c.status = func() console.Status {
		return console.Status{Outputs: []console.OutputStatus{{Point: uint32(c.point(t, "door_1", "open")), Device: "door_1", Name: "open", Value: true, Alert: "SmokeAlarm", Subject: "smoke_3_1"}}}
	}
	smoke.Tier = alert.Street
	c.book.put(smoke, alert.WhatEscalated, alert.ByGateway, "")
	b.until("climbed", `document.querySelector('[data-id="01SMOKE"] [data-testid=tier]')?.innerText==='已升级至街道'`)
	b.until("drives", `document.querySelector('[data-id="01SMOKE"] [data-testid=driven]')?.innerText.includes('联动：单元门 门开')&&document.querySelector('[data-id="01SMOKE"] [data-testid=driven]').innerText.includes('正在重试')`)
	b.quiet()

	phone := c.visit(t, view{width: 360, height: 740, name: "王工"})
	phone.see("已升级至街道")
	phone.fits("phone")
	phone.shot("suppressed-phone.png")
}

// TestDryRunIsSaid: nobody takes a site under commissioning for one that acts.
func TestDryRunIsSaid(t *testing.T) {
	c := newCommunity(t, console.Config{}, true)
	c.readAll()
	status := c.status()
	status.DryRun = true
	c.status = func() console.Status { return status }
	b := c.visit(t, view{width: 360, height: 740, name: "王工"})
	b.see("调试模式：规则联动只记录、不动作")
	b.fits("phone")
	b.shot("dry-run-phone.png")
	b.quiet()
}
