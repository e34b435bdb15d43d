package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The texts that the sites of many tests have in common.
const (
	// siteHead is how the site of a gateway gw1 begins, up to its zones.
	siteHead = `
version: 1
site: test
gateway: gw1
title: {zh: 测试小区, en: Test community}
timezone: Asia/Shanghai
zones:
`
	yardHead = siteHead + `  - {id: yard, kind: area, title: {zh: 院子, en: Yard}}
`
	laneHead = siteHead + `  - {id: lane_east, kind: lane, title: {zh: 东门, en: East gate}}
`

	// profileHead is what a profile of the tests' own says between its id and its channels.
	profileHead = `
vendor: test
model: made for a test
title: {zh: 测试, en: Test}
status: confirmed
sources: [test]
channels:
`

	// buttonsPack gives each call button an alert; what the alert does may follow.
	buttonsPack = `
version: 1
pack: buttons
title: {zh: 测试, en: Test}
rules:
  - alert: ButtonPressed
    for_each: call_button
    expr: pressed
    severity: warning
    life_safety: true
    title: {zh: "{{zone}}求助", en: "Call at {{zone}}"}
`
)

// buttonsAt returns call buttons in the yard, button_0 and on, at the inputs of the unit io1.
func buttonsAt(inputs int) string {
	var b strings.Builder
	for i := range inputs {
		fmt.Fprintf(&b, "  - {id: button_%d, class: call_button, zone: yard, title: {zh: 按钮, en: Button}, points: {pressed: io1.di%d}}\n", i, i+1)
	}
	return b.String()
}

// writeSite writes a site file and the local files beside it into a new directory and returns the site file's path.
func writeSite(t *testing.T, site string, local map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	var errs []error
	for name, content := range local {
		path := filepath.Join(dir, name)
		errs = append(errs, os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(content), 0o600))
	}
	path := filepath.Join(dir, "site.yaml")
	if err := errors.Join(append(errs, os.WriteFile(path, []byte(site), 0o600))...); err != nil {
		t.Fatal(err)
	}
	return path
}
