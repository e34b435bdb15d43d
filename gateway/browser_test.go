package main

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"linli/internal/alert"
	"linli/internal/testservers"
)

// newBrowser starts Debian's Chromium without a head, with a tab as large as a phone.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(testservers.FindTool(t, "chromium")),
		chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck, chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("accept-lang", "zh-CN"),
		chromedp.UserDataDir(t.TempDir()))
	ctx, stop := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		stop()
		stopAllocator()
	})
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(360, 740)); err != nil {
		t.Fatalf("start the browser: %v", err)
	}
	return ctx
}

// page is what a person can do with an open page. Every step fails the test after 20 s.
type page struct {
	t   *testing.T
	ctx context.Context
}

func testid(id string) chromedp.CSS { return chromedp.CSS(`[data-testid="` + id + `"]`) }

func (p page) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

func (p page) text(selector chromedp.CSS) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 20*time.Second)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Text(selector))
	if err != nil {
		p.t.Fatalf("read %s: %v", selector, err)
	}
	return s
}

// TestGuardSeesAndAcknowledges: a real browser has "Now" open on a real gateway, sees the alert arrive without a
// reload, and acknowledges it.
func TestGuardSeesAndAcknowledges(t *testing.T) {
	t.Parallel()
	broker := testservers.StartMosquitto(t)
	port := freePort(t)
	c := newTown(t, fmt.Sprintf(fireLaneSite, port, broker.Address))
	a := api{t, fmt.Sprintf("http://127.0.0.1:%d", port)}
	gateway := start(t, "run", "-c", c.site, "--state", t.TempDir())
	waitFor(t, 15*time.Second, "the console", func() bool { var v struct{}; return a.get("/api/v1/state", &v) })

	p := page{t, newBrowser(t)}
	p.do("open the page", chromedp.Navigate(a.base+"/"), chromedp.WaitVisible(testid("calm")))
	if _, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](`window.sameDocument = true`)); err != nil {
		t.Fatal(err)
	}

	c.set(t, "lane_1", "occupied", 1)
	p.do("the alert arrives", chromedp.WaitVisible(testid("alert")))
	if place := p.text(`[data-testid="alert"] .place`); place != "东门" {
		t.Errorf("the alert's place is %q", place)
	}
	p.do("acknowledge", chromedp.Click(testid("ack")), chromedp.SendKeys(testid("name"), "王工"), chromedp.Click(testid("save-name")))
	acked := a.alertOf("FireLaneBlocked", "lane_1", "acknowledged", func(x alert.Alert) bool { return x.State == alert.ActiveAcknowledged })
	if acked.AcknowledgedBy != "王工" {
		t.Errorf("acknowledged by %q", acked.AcknowledgedBy)
	}
	p.do("the button goes", chromedp.WaitNotPresent(testid("ack")))
	if state := p.text(`[data-testid="alert"] [data-testid="state"]`); state == "" || state == "待确认" {
		t.Errorf("after one tap the page says %q", state)
	}

	// The car leaves: the card goes. Nothing of this reloaded the page.
	c.set(t, "lane_1", "occupied", 0)
	p.do("the alert goes", chromedp.WaitVisible(testid("calm")))
	if same, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool](`window.sameDocument === true`)); err != nil || !same {
		t.Errorf("the page was reloaded (%v)", err)
	}

	// The gateway dies: the page says so in words.
	gateway.kill()
	p.do("the page says that the connection is lost", chromedp.WaitVisible(testid("lost")))
}
