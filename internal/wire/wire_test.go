package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"linli/internal/alert"
	"linli/internal/telemetry"
	"linli/internal/wire"
)

func TestTopics(t *testing.T) {
	for _, c := range []struct {
		name string
		want wire.Topic
	}{
		{"linli/v1/riverside.gw1/telemetry", wire.Topic{Kind: wire.Telemetry, Node: "riverside.gw1"}},
		{"linli/v1/riverside.gw1/alert/01J9Z0", wire.Topic{Kind: wire.Alert, Node: "riverside.gw1", ID: "01J9Z0"}},
		{"linli/v1/riverside.gw1/alerts/open", wire.Topic{Kind: wire.AlertsOpen, Node: "riverside.gw1"}},
		{"linli/v1/riverside.gw1/event", wire.Topic{Kind: wire.Event, Node: "riverside.gw1"}},
		{"linli/v1/riverside.gw1/status", wire.Topic{Kind: wire.StatusTopic, Node: "riverside.gw1"}},
		{"linli/v1/riverside.gw1/cmd/resend", wire.Topic{Kind: wire.CommandTopic, Node: "riverside.gw1", ID: "resend"}},
		{"linli/v1/riverside.gw1/reply/a-1", wire.Topic{Kind: wire.ReplyTopic, Node: "riverside.gw1", ID: "a-1"}},
		{"linli/v1/dead/riverside.gw1", wire.Topic{Kind: wire.Dead, Node: "riverside.gw1"}},
	} {
		got, err := wire.ParseTopic(c.name)
		if err != nil || got != c.want {
			t.Errorf("ParseTopic(%q) = %+v, %v", c.name, got, err)
		}
		if s := c.want.String(); s != c.name {
			t.Errorf("String() = %q, want %q", s, c.name)
		}
	}
	// RabbitMQ makes slashes of the dots in a topic.
	for name, want := range map[string]wire.Topic{
		"linli/v1/riverside/gw1/telemetry":    {Kind: wire.Telemetry, Node: "riverside.gw1"},
		"linli/v1/riverside/gw1/alert/01J9Z0": {Kind: wire.Alert, Node: "riverside.gw1", ID: "01J9Z0"},
		"linli/v1/riverside/gw1/alerts/open":  {Kind: wire.AlertsOpen, Node: "riverside.gw1"},
		"linli/v1/riverside/gw1/cmd/resend":   {Kind: wire.CommandTopic, Node: "riverside.gw1", ID: "resend"},
		"linli/v1/dead/riverside/gw1":         {Kind: wire.Dead, Node: "riverside.gw1"},
	} {
		if got, err := wire.ParseTopic(name); err != nil || got != want {
			t.Errorf("ParseTopic(%q) = %+v, %v; want %+v", name, got, err, want)
		}
	}
	for _, bad := range []string{
		"linli/v1/a/b", "linli/v1/a//telemetry", "linli/v1/a/b/c/telemetry", "linli/v1/a/b.c/telemetry", "linli/v1/dead/a/b/c", "linli/v1/dead/a.b/c",
		"", "linli/v1/", "linli/v2/a.b/telemetry", "linli/v1/a.b", "linli/v1/ab/telemetry", "linli/v1/a.b.c/telemetry",
		"linli/v1/A.b/telemetry", "linli/v1/a.b/telemetry/x", "linli/v1/a.b/alert/", "linli/v1/a.b/alert/x/y", "linli/v1/a.b/alert/+",
		"linli/v1/a.b/cmd", "linli/v1/dead", "linli/v1/dead/", "linli/v1/a./telemetry", "linli/v1/a.b/nonsense", "linli/v1/+/telemetry",
	} {
		if got, err := wire.ParseTopic(bad); !errors.Is(err, wire.ErrTopic) {
			t.Errorf("ParseTopic(%q) = %+v, %v; want ErrTopic", bad, got, err)
		}
	}
}

func TestHeaderAndLostRoundTrip(t *testing.T) {
	for _, h := range []wire.Header{
		{Epoch: 1, From: 1, To: 1, Count: 3, T0: 1, T1: 2},
		{Epoch: 0xffffffffffffffff, From: 17, To: 16, Late: true, T0: -5, T1: 1 << 62},
		{Epoch: 7, From: 17, To: 17, Count: 9, Part: 2, Parts: 3, T0: 1, T1: 2},
		{Epoch: 7, From: 17, To: 17, Count: 9, T0: 1, T1: 2, Uncertain: true},
		{Epoch: 7, From: 17, To: 17, Count: 9, T0: 1, T1: 2, Settled: 1_790_000_000_000_000_000},
	} {
		line := wire.AppendHeader(nil, &h)
		got, err := wire.ParseHeader(line)
		if err != nil || got != h {
			t.Errorf("%q parsed as %+v, %v; want %+v", line, got, err, h)
		}
	}
	l := wire.Lost{Epoch: 9, From: 3, To: 7, Count: 1760, Reason: "pending_full", T0: 1, T1: 2}
	line := wire.AppendLost(nil, &l)
	if got, err := wire.ParseLost(line); err != nil || got != l || !wire.IsLost(line) {
		t.Errorf("%q parsed as %+v, %v", line, got, err)
	}
	for _, bad := range []string{
		"", "# linli", "# linli epoch=0000000000000001 seq=1-1 count=1 late=0 t0=1", "# linli epoch=1 seq=1-1 count=1 late=0 t0=1 t1=2",
		"# linli epoch=0000000000000001 seq=5-3 count=1 late=0 t0=1 t1=2", "# linli epoch=0000000000000001 seq=1-1 count=-1 late=0 t0=1 t1=2",
		"# linli epoch=0000000000000001 seq=1-1 count=1 late=2 t0=1 t1=2", "# linli epoch=0000000000000001 seq=1-1 seq=2-2 count=1 late=0 t0=1 t1=2",
		"# linli epoch=0000000000000001 seq=1-1 count=1 late=0 part=4/3 t0=1 t1=2", string(line),
		"# linli epoch=0000000000000001 seq=1-1 count=1 late=0 t0=1 t1=2 settled=0", "# linli epoch=0000000000000001 seq=1-1 count=1 late=0 t0=1 t1=2 settled=soon",
		"# linli epoch=0000000000000001 seq=1-18446744073709551615 count=1 late=0 t0=1 t1=2",
	} {
		if got, err := wire.ParseHeader([]byte(bad)); !errors.Is(err, wire.ErrHeader) {
			t.Errorf("ParseHeader(%q) = %+v, %v; want ErrHeader", bad, got, err)
		}
	}
}

func TestCheckLine(t *testing.T) {
	for line, want := range map[string]error{
		`m,device=d,gateway=g,site=s,zone=z a=1,b=2i,c=true,d="x, \"y\" \\" 1790000000123456789`: nil,
		`m,gateway=g,site=s a=1.5e-7 -5`:                      nil,
		`m,gateway=g,site=other a=1 1`:                        wire.ErrForeign,
		`m,gateway=g a=1 1`:                                   wire.ErrForeign,
		`m,gateway=g,site=s,site=other a=1 1`:                 wire.ErrLine,
		`m,gateway=g\,site=s a=1 1`:                           wire.ErrLine,
		`alert,gateway=g,site=s a=1 1`:                        wire.ErrReserved,
		`linli_ledger,gateway=g,site=s a=1 1`:                 wire.ErrReserved,
		`linli_ingest,gateway=g,site=s probe="x" 1`:           wire.ErrReserved,
		`linli_anything,gateway=g,site=s a=1 1`:               wire.ErrReserved,
		`_internal,gateway=g,site=s a=1 1`:                    wire.ErrReserved,
		`m,device=d,device=e,gateway=g,site=s a=1 1`:          wire.ErrLine,
		`m,gateway=g,site=s a=1`:                              wire.ErrLine,
		`m,gateway=g,site=s a=1 `:                             wire.ErrLine,
		`m,gateway=g,site=s a=1 1 1`:                          wire.ErrLine,
		`m,gateway=g,site=s a=NaN 1`:                          wire.ErrLine,
		`m,gateway=g,site=s a=0x1p4 1`:                        wire.ErrLine,
		`m,gateway=g,site=s a=1e999 1`:                        wire.ErrLine,
		`m,gateway=g,site=s a=-1e309 1`:                       wire.ErrLine,
		`m,gateway=g,site=s a=1.7e308,b=1e-999 1`:             nil,
		`m,gateway=g,site=s a=1,a_q=6i 1`:                     nil,
		`m,gateway=g,site=s a=1,a_q=7i 1`:                     wire.ErrQuality,
		`m,gateway=g,site=s a_q=-1i 1`:                        wire.ErrQuality,
		`m,gateway=g,site=s a_q=10i 1`:                        wire.ErrQuality,
		`m,gateway=g,site=s a=1u 1`:                           wire.ErrLine,
		`m,gateway=g,site=s a=99999999999999999999i 1`:        wire.ErrLine,
		`m,gateway=g,site=s a= 1`:                             wire.ErrLine,
		`m,gateway=g,site=s a="x 1`:                           wire.ErrLine,
		`m,gateway=g,site=s  a=1 1`:                           wire.ErrLine,
		`m,gateway=g,site=s,zone= a=1 1`:                      wire.ErrLine,
		`m,gateway=g,site=s,zone="z a=1 1`:                    wire.ErrLine,
		"m,gateway=g,site=s,zone=z\nm,gateway=g,site=t a=1 1": wire.ErrLine,
		`,gateway=g,site=s a=1 1`:                             wire.ErrLine,
		``:                                                    wire.ErrLine,
		`m`:                                                   wire.ErrLine,
		`m,gateway=g,site=s a=1 +1`:                           wire.ErrLine,
		`m,gateway=g,site=s a=1 99999999999999999999`:         wire.ErrLine,
	} {
		if err := wire.CheckOwn([]byte(line), "s", "g"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", line, err, want)
		}
	}
}

func TestNextLineKeepsQuotedBreaks(t *testing.T) {
	b := []byte("# it's \"one\nm a=\"x\ny\\\"\nz\" 1\nm b=2 2\nlast")
	var got []string
	for len(b) > 0 {
		var line []byte
		line, b = wire.NextLine(b)
		got = append(got, string(line))
	}
	want := []string{"# it's \"one", "m a=\"x\ny\\\"\nz\" 1", "m b=2 2", "last"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCompressionRoundTripAndBound(t *testing.T) {
	text := bytes.Repeat([]byte("smoke_detector,device=smoke_3f alarm=false 1790000000120000000\n"), 2000)
	for _, name := range []string{"none", "gzip", "zstd"} {
		how, err := wire.ParseCompression(name)
		if err != nil {
			t.Fatal(err)
		}
		c, err := wire.NewCompressor(how)
		if err != nil {
			t.Fatal(err)
		}
		d, err := wire.NewDecompressor(256 << 10)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for range 3 {
			packed := c.Pack(text)
			got, err := d.Unpack(packed)
			if err != nil || !bytes.Equal(got, text) {
				t.Fatalf("%s: %d bytes came back, %v", name, len(got), err)
			}
		}
		bomb := c.Pack(bytes.Repeat([]byte("x"), 64<<20))
		if got, err := d.Unpack(bomb); !errors.Is(err, wire.ErrTooLarge) {
			t.Errorf("%s: a message of 64 MiB gave %d bytes, %v", name, len(got), err)
		}
		if got, err := d.Unpack(c.Pack(text)); err != nil || !bytes.Equal(got, text) {
			t.Errorf("%s: unusable after a refused message: %v", name, err)
		}
	}
}

func TestAlertMessage(t *testing.T) {
	at := time.Date(2026, 11, 21, 8, 0, 0, 5, time.UTC)
	a := alert.Alert{
		ID: "01J9Z0ABCDEF", Identity: telemetry.Identity{Alert: "FireLaneBlocked", Subject: "lane1"},
		Severity: telemetry.Warning, State: alert.ActiveUnacknowledged, Title: telemetry.Text{Zh: "消防通道被占用", En: "Fire lane blocked"},
		Device: "lane1", Class: "fire_lane_sensor", Zone: "north", RaisedAt: at, Revision: 3, Durable: true,
		Tier: alert.Street, Suppressed: true, SuppressedBy: telemetry.Identity{Alert: "BusDown", Subject: "rs485_1"},
	}
	e := wire.NewAlertEvent("riverside.gw1", &a, "raised", at)
	b, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var plain map[string]any
	if err := json.Unmarshal(b, &plain); err != nil || plain["id"] != "01J9Z0ABCDEF/3" || plain["source"] != "riverside.gw1" || plain["type"] != "dev.linli.alert.raised" {
		t.Errorf("message %s, %v", b, err)
	}
	if data := plain["data"].(map[string]any); data["closed_at"] != nil || data["state"] != "active_unacknowledged" || data["severity"] != "warning" {
		t.Errorf("data %v", data)
	}
	got, err := wire.ParseAlert(b)
	if err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("parsed as %+v, %v; want %+v", got, err, e)
	}
	line := wire.AppendAlertLine(nil, "riverside", "gw1", &got)
	want := "alert,alert=FireLaneBlocked,gateway=gw1,severity=warning,site=riverside,subject=lane1,zone=north id=\"01J9Z0ABCDEF\",state=\"active_unacknowledged\",what=\"raised\"," +
		"title_zh=\"消防通道被占用\",title_en=\"Fire lane blocked\",device=\"lane1\",class=\"fire_lane_sensor\",tier=\"street\",suppressed_by=\"BusDown rs485_1\",unknown=false,life_safety=false,suppressed=true,durable=true,time_uncertain=false,revision=3i,raised_at=1795248000000000005i 1795248000000000005\n"
	if string(line) != want {
		t.Errorf("row\n%swant\n%s", line, want)
	}
	a.Tier, a.Suppressed = 0, false
	e.Data = a
	if line := wire.AppendAlertLine(nil, "riverside", "gw1", &e); !bytes.Contains(line, []byte(`class="fire_lane_sensor",unknown=false,life_safety=false,suppressed=false,`)) {
		t.Errorf("row %s", line)
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"specversion":"1.0","type":"other","data":{}}`, strings.Replace(string(b), "warning", "loud", 1), strings.Replace(string(b), "FireLaneBlocked", "a b", 1)} {
		if _, err := wire.ParseAlert([]byte(bad)); !errors.Is(err, wire.ErrAlert) {
			t.Errorf("ParseAlert(%s): %v", bad, err)
		}
	}
}

func TestLedgerRowsOfOneEndStayApart(t *testing.T) {
	h := wire.Header{Epoch: 1, From: 1, To: 7, Count: 9, T0: 1, T1: 3_005_000, Settled: 4}
	a := wire.AppendLedgerLine(nil, "s", "g", &h)
	if want := "linli_ledger,epoch=0000000000000001,gateway=g,site=s from=1i,to=7i,t0=1i,t1=3005000i,count=9i,part=0i,parts=0i,settled=4i,late=false,time_uncertain=false 3756739\n"; string(a) != want {
		t.Errorf("row %q, want %q", a, want)
	}
	stamp := func(h wire.Header) int64 {
		t.Helper()
		line, _ := wire.NextLine(wire.AppendLedgerLine(nil, "s", "g", &h))
		l, err := wire.CheckLine(line)
		if !errors.Is(err, wire.ErrReserved) || l.Time/1e6 != h.T1/1e6 {
			t.Fatalf("row %q: %v", line, err)
		}
		return l.Time
	}
	again := h
	again.Late, again.Settled, again.Count = true, 0, 8
	if stamp(again) != stamp(h) {
		t.Error("the same frames sent again, late, are another row")
	}
	at := map[int64]wire.Header{}
	for _, change := range []func(*wire.Header){
		func(*wire.Header) {}, func(h *wire.Header) { h.From = 5 }, func(h *wire.Header) { h.To = 6 }, func(h *wire.Header) { h.From, h.To = 8, 7 },
		func(h *wire.Header) { h.Part, h.Parts = 1, 3 }, func(h *wire.Header) { h.Part, h.Parts = 2, 3 }, func(h *wire.Header) { h.Part, h.Parts = 2, 4 },
		func(h *wire.Header) { h.From, h.To = 1001, 1007 }, func(h *wire.Header) { h.From, h.To = 1_000_001, 1_000_007 },
	} {
		changed := h
		change(&changed)
		if other, ok := at[stamp(changed)]; ok {
			t.Errorf("%+v and %+v share a row", changed, other)
		}
		at[stamp(changed)] = changed
	}
}

func TestLossRowsOfOneMomentStayApart(t *testing.T) {
	l := wire.AppendLossLine(nil, "s", "g", &wire.Lost{Epoch: 1, From: 2, To: 3, Count: 4, Reason: "space", T1: 7_000_005_000}, 7_000_005_000)
	if want := "linli_loss,epoch=0000000000000001,gateway=g,reason=space,site=s from=2i,to=3i,t0=0i,t1=7000005000i,count=4i 7000000002\n"; string(l) != want {
		t.Errorf("row %q, want %q", l, want)
	}
	at := map[int64]wire.Lost{}
	for _, lost := range []wire.Lost{
		{From: 5, To: 9}, {From: 1005, To: 1009}, {From: 2005, To: 2005}, {From: 900_005, To: 900_006},
		{Count: 1}, {Count: 2}, {Count: 1, T0: 5}, {Count: 2, T0: 9}, {Count: 1, T1: 7_000_005_001},
	} {
		lost.Reason, lost.T1 = "damage", max(lost.T1, 7_000_005_000)
		line, _ := wire.NextLine(wire.AppendLossLine(nil, "s", "g", &lost, lost.T1))
		row, err := wire.CheckLine(line)
		if !errors.Is(err, wire.ErrReserved) {
			t.Errorf("row %q: %v", line, err)
		}
		if other, ok := at[row.Time]; ok {
			t.Errorf("%+v and %+v share the row of %d", lost, other, row.Time)
		}
		at[row.Time] = lost
		again, _ := wire.NextLine(wire.AppendLossLine(nil, "s", "g", &lost, lost.T1))
		if !bytes.Equal(line, again) {
			t.Errorf("the same loss is %q and %q", line, again)
		}
	}
}

func TestScanLine(t *testing.T) {
	for line, want := range map[string]string{
		`m,device=d,gateway=g,site=s,zone=z a=1,b=2i,c=true,d="x",a_q=0i 1`: "a a float, b an integer, c a bool, d a text, a_q an integer, ",
		`m,gateway=g,rule=r,site=s a=-1e5 1`:                                "a a float, rule",
		`m,gateway=g,site=s,who=x a=1 1`:                                    "a a float, who",
		`derived,gateway=g,rule=r,site=s,subject=x,zone=z value=1 1`:        "value a float, ",
		`derived,device=d,gateway=g,site=s value=1 1`:                       "value a float, device",
	} {
		l, fields, err := wire.ScanLine([]byte(line), nil)
		got := ""
		for _, f := range fields {
			got += string(f.Name) + " " + f.Type.String() + ", "
		}
		if got += string(l.OtherTag); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", line, got, err, want)
		}
	}
	for kind, want := range map[telemetry.Kind]wire.FieldType{telemetry.Float: wire.FloatField, telemetry.Int: wire.IntField, telemetry.Enum: wire.IntField, telemetry.Bool: wire.BoolField, telemetry.KindText: wire.TextField, 0: 0} {
		if got := wire.TypeOf(kind); got != want {
			t.Errorf("TypeOf(%v) = %v, want %v", kind, got, want)
		}
	}
}

func FuzzParseTopic(f *testing.F) {
	f.Add("linli/v1/riverside.gw1/telemetry")
	f.Add("linli/v1/dead/a.b")
	f.Add("linli/v1/a.b/alert/01J")
	f.Add("linli/v1/a/b/telemetry")
	f.Add("linli/v1/dead/a/b")
	f.Fuzz(func(t *testing.T, s string) {
		if topic, err := wire.ParseTopic(s); err == nil && topic.String() != s && strings.ReplaceAll(topic.String(), ".", "/") != s {
			t.Errorf("%q became %q", s, topic.String())
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte("# linli epoch=00c0ffee00c0ffee seq=17-19 count=2 late=0 t0=1 t1=2"))
	f.Add([]byte("# linli lost epoch=00c0ffee00c0ffee seq=0-0 count=2 reason=space t0=1 t1=2"))
	f.Add([]byte("# linli epoch=00c0ffee00c0ffee seq=17-17 count=2 late=1 part=1/2 t0=1 t1=2 x=y time=uncertain settled=7"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := wire.ParseHeader(b); err == nil {
			if h.Parts == 1 {
				h.Part, h.Parts = 0, 0
			}
			again, err := wire.ParseHeader(wire.AppendHeader(nil, &h))
			if err != nil || again != h {
				t.Errorf("%+v became %+v, %v", h, again, err)
			}
		}
		if l, err := wire.ParseLost(b); err == nil {
			again, err := wire.ParseLost(wire.AppendLost(nil, &l))
			if err != nil || again != l {
				t.Errorf("%+v became %+v, %v", l, again, err)
			}
		}
	})
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("m,gateway=g,site=s a=1,b=\"x\ny\" 1\nm,gateway=g,site=s a=1 2\n"))
	f.Add([]byte("m,gateway=g,site=s a=\"\\\" 1\n# x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		total, n := 0, len(b)
		for len(b) > 0 {
			line, rest := wire.NextLine(b)
			total += len(line)
			if len(rest) >= len(b) {
				t.Fatal("no progress")
			}
			if wire.CheckOwn(line, "s", "g") == nil {
				// What is accepted stays one line among others.
				joined := append(append(bytes.Clone(line), '\n'), line...)
				first, second := wire.NextLine(joined)
				if !bytes.Equal(first, line) || !bytes.Equal(second, line) {
					t.Errorf("accepted %q splits as %q and %q", line, first, second)
				}
			}
			b = rest
		}
		if total > n {
			t.Errorf("lines of %d bytes from %d", total, n)
		}
	})
}

func FuzzUnpack(f *testing.F) {
	for _, how := range []wire.Compression{wire.Plain, wire.Gzip, wire.Zstd} {
		c, err := wire.NewCompressor(how)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(c.Pack([]byte("# linli epoch=00c0ffee00c0ffee seq=17-19 count=2 late=0")))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := wire.NewDecompressor(4096)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if out, err := d.Unpack(b); err == nil && len(out) > 4096 {
			t.Errorf("%d bytes", len(out))
		}
	})
}

func FuzzParseAlert(f *testing.F) {
	f.Add([]byte(`{"specversion":"1.0","id":"a/1","type":"dev.linli.alert.raised","time":"2026-01-01T00:00:00Z","data":{"id":"a","alert":"b","subject":"c","severity":"warning","state":"closed"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := wire.ParseAlert(b); err == nil {
			line, rest := wire.NextLine(wire.AppendAlertLine(nil, "s", "g", &e))
			if l, err := wire.CheckLine(line); !errors.Is(err, wire.ErrReserved) || len(rest) != 0 || string(l.Site) != "s" {
				t.Errorf("row %q: %v", line, err)
			}
		}
	})
}

func TestStatusRow(t *testing.T) {
	payload := `{"node":"riverside.gw1","state":"online","time":"2026-11-21T08:03:13Z","version":"1.0.0","started_at":"2026-11-20T22:10:05Z",
		"clock_set":true,"epoch":"00C0FFEE00c0ffee","first_seq":1,"next_seq":35588,"backlog_frames":2,"waiting_frames":1,"open_alerts":3,
		"something_new":{"a":[1]},"journal":{"bytes":7,"commit_failures":1,"samples_lost":2,"damaged_frames":0,"error":"write /var: no space"}}`
	s, err := wire.ParseStatus([]byte(payload), "riverside.gw1")
	if err != nil {
		t.Fatal(err)
	}
	want := `linli_status,gateway=gw1,site=riverside state="online",version="1.0.0",epoch="00c0ffee00c0ffee",clock_set=true,` +
		`started_at=1795212605000000000i,first_seq=1i,next_seq=35588i,backlog_frames=2i,waiting_frames=1i,sent_again_frames=0i,open_alerts=3i,` +
		`journal_bytes=7i,commit_failures=1i,samples_lost=2i,damaged_frames=0i,journal_error="write /var: no space" 5` + "\n"
	if row := string(wire.AppendStatusLine(nil, "riverside", "gw1", &s, 5)); row != want {
		t.Errorf("row\n%s\nwant\n%s", row, want)
	}
	will, err := wire.ParseStatus([]byte(`{"node":"riverside.gw1","state":"offline","reason":"lost"}`), "riverside.gw1")
	if err != nil {
		t.Fatal(err)
	}
	if row := string(wire.AppendStatusLine(nil, "riverside", "gw1", &will, 5)); row != `linli_status,gateway=gw1,site=riverside state="offline",reason="lost" 5`+"\n" {
		t.Errorf("row of a will %s", row)
	}
	for change, with := range map[string]string{
		"riverside.gw1": "hillside.gw1", `"online"`: `"asleep"`, "00C0FFEE00c0ffee": "c0ffee", `"next_seq":35588`: `"next_seq":9223372036854775808`,
		`"backlog_frames":2`: `"backlog_frames":-2`, `"2026-11-21T08:03:13Z"`: `"2600-11-21T08:03:13Z"`, `"2026-11-20T22:10:05Z"`: `"0001-01-02T00:00:00Z"`,
		`"open_alerts":3`: `"open_alerts":-3`, `"bytes":7`: `"bytes":-7`, `"1.0.0"`: `"` + strings.Repeat("1", 257) + `"`, `"clock_set":true`: `"clock_set":1`,
		`"time":"2026-11-21T08:03:13Z",`: "", "[1]": "[" + strings.Repeat("1,", 9000) + "1]",
	} {
		if _, err := wire.ParseStatus([]byte(strings.Replace(payload, change, with, 1)), "riverside.gw1"); err == nil {
			t.Errorf("%.80s instead of %s: accepted", with, change)
		}
	}
}
