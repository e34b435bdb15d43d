package rules_test

import (
	"strings"
	"testing"
	"time"

	"linli/rules"
)

// TestTitlesShowDerivedPoints: a title may say what a rule has computed, with its unit; one that nothing computes is a
// mistake.
func TestTitlesShowDerivedPoints(t *testing.T) {
	record := "  - {record: kilowatts, for_each: meter, expr: power_w / 1000, unit: kW}\n"
	rule := func(title string) string {
		return "  - {alert: High, for_each: meter, expr: kilowatts > 1, severity: warning, title: {zh: '" + title + "', en: a}}\n"
	}
	p := newPlay(t, record, rule("功率 {{kilowatts}}"))
	p.step(0, p.sample(0, "m1.power_w", 2500.0))
	if len(p.out.Transitions) != 1 || p.out.Transitions[0].Title.Zh != "功率 2.5 kW" {
		t.Errorf("%+v", p.out.Transitions)
	}
	p.step(time.Second, p.sample(time.Second, "m1.power_w", 100.0))
	for title, want := range map[string]string{"{{kilowat}}": `unknown {{kilowat}}`, "{{kilowatts": "is not closed"} {
		s := newSite()
		parsed, err := rules.ParsePack("p.yaml", []byte(pack(record+rule(title))))
		if err != nil {
			t.Fatal(err)
		}
		_, err = rules.Compile(rules.Config{Packs: []*rules.Pack{parsed}, Inventory: s.Inventory, Classes: s.classes})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", title, err, want)
		}
	}
}

// TestTitlesNameAPlaceOnce: before a device whose name begins with its place the place is not said once more.
func TestTitlesNameAPlaceOnce(t *testing.T) {
	for device, want := range map[string]string{"1号楼总表": "1号楼总表过载", "总表": "1号楼总表过载"} {
		st := newSite()
		st.zone("1号楼", "building", "")
		st.device(device, "meter", "1号楼", "power_w")
		rule := "  - {alert: High, for_each: meter, expr: power_w > 1, severity: warning, title: {zh: '{{place}}{{device}}过载', en: a}}\n"
		p := &play{t: t, s: st, e: st.compile(t, pack(rule))}
		p.step(0, p.sample(0, device+".power_w", 2500.0))
		if len(p.out.Transitions) != 1 || p.out.Transitions[0].Title.Zh != want {
			t.Errorf("%+v, want %q", p.out.Transitions, want)
		}
	}
}
