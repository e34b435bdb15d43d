package rules_test

import (
	"strings"
	"testing"
	"time"
)

const horizonPack = `version: 1
pack: h
title: {zh: 包, en: Pack}
params: {limit: 5}
schedules:
  night: [{from: "22:00", to: "06:00"}]
rules:
  - alert: A
    for_each: meter
    expr: avg_over_time(power_w, 10m) > ${limit} and schedule("night")
    for: 3m
    keep_firing_for: 5m
    severity: notice
    severity_when: {warning: "max_over_time(power_w, 1h) > 7"}
    title: {zh: 甲, en: A}
  - record: r
    for_each: meter
    expr: duration_true(power_w > 1, 2h) / 1m
`

func TestHorizonAndWait(t *testing.T) {
	s := newSite()
	s.zone("z", "area", "")
	s.device("m1", "meter", "z", "power_w", "voltage_v")
	e := s.compile(t, horizonPack)
	if got, want := e.Horizon(), 3*time.Hour+5*time.Minute; got != want {
		t.Errorf("horizon %v, want %v", got, want)
	}
	if e.Wait("A") != 3*time.Minute || e.Wait("B") != 0 {
		t.Errorf("wait %v and %v", e.Wait("A"), e.Wait("B"))
	}
}

// TestFingerprint: whatever a rule decides by changes it, and nothing else does.
func TestFingerprint(t *testing.T) {
	print := func(old, new string) string {
		s := newSite()
		s.zone("z", "area", "")
		s.device("m1", "meter", "z", "power_w", "voltage_v")
		text := strings.Replace(horizonPack, old, new, 1)
		if old != "" && text == horizonPack {
			t.Fatalf("%q is not in the pack", old)
		}
		return s.compile(t, text).Fingerprint()
	}
	same := print("", "")
	for _, c := range [][2]string{{"甲", "乙"}, {"title: {zh: 包", "title: {zh: 另一包"}, {"expr: avg", "expr:  avg"}, {"rules:\n", "rules: # of it\n"}} {
		if print(c[0], c[1]) != same {
			t.Errorf("%q for %q changes the fingerprint", c[1], c[0])
		}
	}
	for _, c := range [][2]string{{"limit: 5", "limit: 6"}, {"for: 3m", "for: 4m"}, {"keep_firing_for: 5m", "keep_firing_for: 6m"}, {"severity: notice", "severity: notice\n    severity_for: 1m"},
		{"> 7", "> 8"}, {"{warning:", "{critical:"}, {"22:00", "23:00"}, {"severity: notice", "severity: notice\n    coverage: 0.5"}, {"alert: A", "alert: B"}, {"2h", "3h"}, {"for_each: meter\n    expr: avg", "for_each: meter\n    expr: 1 < 2 and avg"}} {
		if print(c[0], c[1]) == same {
			t.Errorf("%q for %q leaves the fingerprint as it is", c[1], c[0])
		}
	}
}
