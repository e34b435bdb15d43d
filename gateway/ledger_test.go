package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/testservers"
	"linli/internal/wire"
)

// The day's answer on several gateways, one of which the database has never heard of.
func TestLedgerCommand(t *testing.T) {
	db := testservers.StartInfluxDB(t)
	shanghai, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	yesterday := time.Now().In(shanghai).AddDate(0, 0, -1)
	begin := time.Date(yesterday.Year(), yesterday.Month(), yesterday.Day(), 0, 0, 0, 0, shanghai)
	var lines []byte
	row := func(site string, from, to uint64, at time.Duration) {
		ns := begin.Add(at).UnixNano()
		lines = wire.AppendLedgerLine(lines, site, "gw1", &wire.Header{Epoch: 0xc0ffee, From: from, To: to, Count: 1, T0: ns, T1: ns, Settled: ns})
	}
	for _, site := range []string{"whole", "lost", "gap"} {
		row(site, 1, 100, -time.Hour)
	}
	row("whole", 101, 200, 24*time.Hour)
	row("lost", 111, 200, 24*time.Hour)
	at := begin.Add(time.Hour).UnixNano()
	lines = wire.AppendLossLine(lines, "lost", "gw1", &wire.Lost{Epoch: 0xc0ffee, From: 101, To: 110, Count: 77, Reason: "space", T0: at, T1: at}, at)
	row("damaged", 1, 100, -time.Hour)
	row("damaged", 111, 200, 24*time.Hour)
	lines = wire.AppendLossLine(lines, "damaged", "gw1", &wire.Lost{Epoch: 0xc0ffee, From: 101, To: 110, Reason: "damage", T0: at, T1: at}, at)
	row("gap", 101, 110, time.Hour)
	row("gap", 113, 200, 24*time.Hour)
	row("unheard", 1, 100, -time.Hour)
	row("unheard", 101, 200, 24*time.Hour)
	count := func(raised, closed int, at time.Duration) {
		lines = fmt.Appendf(lines, "gateway,device=gw1,gateway=gw1,site=unheard alerts_raised=%di,alerts_closed=%di %d\n", raised, closed, begin.Add(at).UnixNano())
	}
	count(40, 38, -30*time.Second)
	count(42, 38, time.Hour)
	count(43, 40, 23*time.Hour)
	for i, id := range []string{"A", "B"} { // of three
		raised := begin.Add(time.Duration(1+i) * time.Hour)
		lines = wire.AppendAlertLine(lines, "unheard", "gw1", &wire.AlertEvent{Time: raised, Data: alert.Alert{ID: id, Revision: 1, RaisedAt: raised, State: alert.Closed, ClosedAt: raised}})
	}
	resp, err := http.Post(db.URL+"/api/v2/write?bucket=linli/autogen&precision=ns", "text/plain", bytes.NewReader(lines))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()

	nodes := writeFile(t, "nodes", "# who ought to be there\nwhole.gw1\nnever.gw1  # not yet\n")
	base := []string{"ledger", "--influx-url", db.URL, "--bucket", db.Bucket, "--timezone", "Asia/Shanghai"}
	ask := func(more ...string) (int, string, string) {
		return linli(t, append(append([]string{}, base...), more...)...)
	}
	code, out, stderr := ask("--nodes", nodes)
	if code != exitNo || stderr != "" {
		t.Errorf("code %d, %s", code, stderr)
	}
	day := begin.Format(time.DateOnly)
	for _, want := range []string{
		"damaged.gw1              losses     完整（有报告的丢失）  0 frames 帧, 10 lost (unknown number of samples) 丢失 10 帧 数量未知\n",
		"    damage       网关报告丢失  frames 帧 101-110 of 0000000000c0ffee  unknown number 数量未知  " + day + " 01:00:00 .. ",
		"gap.gw1                  missing    缺失  10 frames 帧, 2 missing 缺 2\n",
		"    missing      缺失  frames 帧 111-112 of 0000000000c0ffee  " + day + " 01:00:00 .. ",
		"lost.gw1                 losses     完整（有报告的丢失）  0 frames 帧, 10 lost (77 samples) 丢失 10 帧 77 点\n",
		"    space        网关报告丢失  frames 帧 101-110 of 0000000000c0ffee  samples 点 77  " + day + " 01:00:00 .. " + day + " 01:00:00\n",
		"never.gw1                silent     失联  0 frames 帧\n    silent       失联  nothing was heard of it 没有收到过消息  ? .. ",
		"whole.gw1                complete   完整",
		"unheard.gw1              alerts     告警缺失  0 frames 帧, 3 alerts raised, 2 closed 告警 3 条，关闭 2 条, 1 missing 缺告警 1 条\n",
		day + " 00:00 CST to ", ": 3 of 6 complete 到齐 3/6\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code, out, _ := ask("--node", "whole.gw1,lost.gw1", "--day", day); code != exitGood || !strings.Contains(out, "2 of 2 complete") {
		t.Errorf("code %d\n%s", code, out)
	}
	code, out, _ = ask("--node", "gap.gw1", "--json", "--query", "flux")
	var a ledgerAnswer
	if err := json.Unmarshal([]byte(out), &a); err != nil || code != exitNo {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	if a.Node != "gap.gw1" || a.State != "missing" || a.Complete || a.Missing != 2 || len(a.Gaps) != 1 || a.Gaps[0].From != 111 || a.Gaps[0].Told || !a.From.Equal(begin) {
		t.Errorf("%+v", a)
	}
	// An hour before the gap is complete.
	if code, out, _ := ask("--node", "gap.gw1", "--from", day+"T00:10", "--to", day+"T00:50"); code != exitGood {
		t.Errorf("code %d\n%s", code, out)
	}
	for _, bad := range [][]string{
		{"--day", "yesterday"}, {"--day", "2031-01-01"}, {"--from", day}, {"--from", day, "--to", day}, {"--timezone", "Mars"}, {"--node", "a"}, {"--parallel", "0"},
		{"--from", "2020-01-01", "--to", "2021-01-01"}, {"--query", "sql"}, {"--influx-url", "localhost"}, {"more"}, {"--what"},
	} {
		if code, out, _ := ask(bad...); code != exitUsage || out != "" {
			t.Errorf("%q: code %d\n%s", bad, code, out)
		}
	}
	// Of today there is an answer as well, and whoever asks for the whole of it is told how.
	if code, _, stderr := ask("--day", time.Now().In(shanghai).Format(time.DateOnly)); code != exitUsage || !strings.Contains(stderr, "not over yet") || !strings.Contains(stderr, "--from and --to") {
		t.Errorf("code %d: %s", code, stderr)
	}
	if code, _, _ := linli(t, "ledger"); code != exitUsage {
		t.Errorf("without a database: code %d", code)
	}
	// A database that does not answer proves nothing.
	db.Stop()
	if code, out, _ := ask("--node", "whole.gw1"); code != exitNo || !strings.Contains(out, "error      查询失败") || !strings.Contains(out, "0 of 1 complete") {
		t.Errorf("code %d\n%s", code, out)
	}
	if code, out, stderr := ask(); code != exitNo || out != "" || stderr == "" {
		t.Errorf("code %d\n%s%s", code, out, stderr)
	}
}
