package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
)

func runLearned(t *testing.T, l *learned) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestHolesSurviveARestart(t *testing.T) {
	state := t.TempDir()
	l := newLearned(state, zap.NewNop())
	stop := runLearned(t, l)
	if got := l.of("b1").Load(); got != nil {
		t.Errorf("before anything was learned: %v", got)
	}
	holes := []modbus.Hole{{Unit: "u1", Profile: "p", Table: firmwareconfig.HoldingRegister, Address: 7, Count: 2},
		{Unit: "u1", Profile: "p", Table: firmwareconfig.Coil, Most: 16}}
	l.of("b1").Save(holes[:0])
	l.of("b1").Save(holes)
	l.of("b2").Save([]modbus.Hole{})
	stop()
	again := newLearned(state, zap.NewNop())
	if got := again.of("b1").Load(); !slices.Equal(got, holes) {
		t.Errorf("after a restart: %v, want %v", got, holes)
	}
	if got := again.of("b2").Load(); len(got) != 0 {
		t.Errorf("of a bus that has forgotten: %v", got)
	}
}

func TestDamagedMemoryIsSetAsideAndIgnored(t *testing.T) {
	for name, content := range map[string]string{
		"torn":         `{"version":1,"holes":[{"unit":"u`,
		"empty":        ``,
		"other":        `{"version":2,"holes":[]}`,
		"wrong":        `{"version":1,"holes":[{"unit":"u1","table":3,"address":-1,"count":2}]}`,
		"beyond":       `{"version":1,"holes":[{"unit":"u1","table":3,"address":65535,"count":2}]}`,
		"neither":      `{"version":1,"holes":[{"unit":"u1","table":3,"address":1}]}`,
		"no table":     `{"version":1,"holes":[{"unit":"u1","table":9,"address":1,"count":2}]}`,
		"far too much": `{"version":1,"holes":[` + string(make([]byte, learnedBytes)) + `]}`,
	} {
		t.Run(name, func(t *testing.T) {
			state := t.TempDir()
			path := filepath.Join(state, "learned", "b1.json")
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := newLearned(state, zap.NewNop()).of("b1").Load(); got != nil {
				t.Errorf("taken for good: %v", got)
			}
			if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != content {
				t.Errorf("it was not set aside: %v", err)
			}
		})
	}
}

func TestMemoryOnAFailingDiskIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(state, nil, 0o600); err != nil { // a file where the directory should be
			t.Fatal(err)
		}
		l := newLearned(state, zap.NewNop())
		stop := runLearned(t, l)
		holes := []modbus.Hole{{Unit: "u1", Table: 3, Address: 1, Count: 1}}
		l.of("b1").Save(holes)
		synctest.Wait()
		if err := os.Remove(state); err != nil {
			t.Fatal(err)
		}
		time.Sleep(learnedRetry)
		synctest.Wait()
		if got := l.of("b1").Load(); !slices.Equal(got, holes) {
			t.Errorf("after the disk came back: %v", got)
		}
		stop()
	})
}

// FuzzLearned: whatever stands in the file, nothing that makes no sense reaches a bus.
func FuzzLearned(f *testing.F) {
	f.Add([]byte(`{"version":1,"holes":[{"unit":"u1","profile":"p","table":3,"address":7,"count":2},{"unit":"u1","table":1,"most":16}]}`))
	f.Add([]byte(`{"version":1,"holes":[{"table":3,"address":9223372036854775807,"count":9223372036854775807}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var file learnedFile
		if decodeLearned(data, &file) != nil {
			return
		}
		for _, h := range file.Holes {
			if h.Address < 0 || h.Count < 0 || h.Address+h.Count > 1<<16 || h.Most < 0 || h.Most > 2000 || (h.Count == 0) == (h.Most == 0) {
				t.Errorf("taken: %+v", h)
			}
		}
	})
}
