package site_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"linli/internal/site"
	"linli/internal/yamlfile"
)

// marks returns the texts that follow each mark in the comments of src, by line.
func marks(src, mark string) map[int][]string {
	found := map[int][]string{}
	for i, line := range strings.Split(src, "\n") {
		for _, part := range strings.Split(line, " # ")[1:] {
			if text, ok := strings.CutPrefix(part, mark); ok {
				found[i+1] = append(found[i+1], strings.TrimSpace(text))
			}
		}
	}
	return found
}

// compare holds the mistakes found against those that the comments of a file announce: each in its line, none more.
func compare(t *testing.T, what string, got yamlfile.Errors, want map[int][]string) {
	t.Helper()
	for _, e := range got {
		found := false
		for i, text := range want[e.Pos.Line] {
			if strings.Contains(e.Msg, text) {
				want[e.Pos.Line] = append(want[e.Pos.Line][:i:i], want[e.Pos.Line][i+1:]...)
				found = true
				break
			}
		}
		if !found {
			t.Errorf("%s that the file does not announce: %v", what, e)
		}
	}
	for line, texts := range want {
		for _, text := range texts {
			t.Errorf("line %d: no %s saying %q", line, what, text)
		}
	}
}

// TestEveryMistakeIsFoundAtItsPlace loads the files in testdata/bad. In them, a comment `# ERROR text` announces a
// mistake in its line, `# WARN text` a warning.
func TestEveryMistakeIsFoundAtItsPlace(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	files = append(files, "testdata/warnings.yaml", "testdata/timing.yaml")
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s, err := site.Load(file, src, testLibrary(), testPacks(t))
			var mistakes yamlfile.Errors
			if err != nil && !errors.As(err, &mistakes) {
				t.Fatalf("the error is %T: %v", err, err)
			}
			compare(t, "mistake", mistakes, marks(string(src), "ERROR"))
			compare(t, "warning", s.Warnings, marks(string(src), "WARN"))
		})
	}
}

// TestMistakesAreToldInOrderWithTheirColumn holds a whole message: file, line, column, text, in the order of the file.
func TestMistakesAreToldInOrderWithTheirColumn(t *testing.T) {
	src := `version: 1
site: a
buses:
  - id: b
    modbus_tcp: {address: "10.0.0.1:502"}
    units: [{id: io1, address: 300, profile: test_io8}]
devices:
  - {id: d1, class: fire_lane_sensor, zone: hall, points: {occupied: io1.di9}}
`
	_, err := site.Load("/etc/linli/site.yaml", []byte(src), testLibrary(), testPacks(t))
	want := `/etc/linli/site.yaml:6:32: unit address 300: addresses are 1 to 247
/etc/linli/site.yaml:8:45: unknown zone "hall"
/etc/linli/site.yaml:8:70: io1 (test_io8) has no channel "di9", did you mean "di8"?`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}
