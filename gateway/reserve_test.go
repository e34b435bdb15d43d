package main

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestReserveIsReleasedOnAFullDisk: the space comes free while alerts wait for a full disk, once, and is taken again when
// there is enough.
func TestReserveIsReleasedOnAFullDisk(t *testing.T) {
	waiting, free := 0, int64(100<<20)
	core, logs := observer.New(zap.WarnLevel)
	r := &reserve{path: filepath.Join(t.TempDir(), reserveName), waiting: func() int { return waiting }, free: func() int64 { return free }, log: zap.New(core)}
	there := func(want bool, why string) {
		t.Helper()
		r.look()
		info, err := os.Stat(r.path)
		if (err == nil) != want || want && info.Size() != reserveBytes {
			t.Errorf("%s: %v %v, want a reserve %v", why, info, err, want)
		}
	}
	there(true, "at the start")
	free = 0
	there(true, "the disk is full, and nobody waits")
	waiting = 3
	there(true, "alerts wait for a moment")
	there(false, "they wait still")
	there(false, "they wait still")
	free = 5 << 20
	waiting = 0
	there(false, "there is little space")
	free = 20 << 20
	waiting = 1
	there(false, "there is space, and a change on its way")
	waiting = 0
	there(true, "there is space")
	waiting = 9
	there(true, "the disk is slow, not full")
	there(true, "the disk is slow, not full")
	free = -1
	there(true, "nobody knows how full it is")
	if logs.Len() != 1 {
		t.Errorf("%d log lines", logs.Len())
	}
}

// TestStartOnAFullDiskReleasesTheReserve.
func TestStartOnAFullDiskReleasesTheReserve(t *testing.T) {
	dir := t.TempDir()
	if releaseReserve(dir, zap.NewNop()) {
		t.Error("released what is not there")
	}
	if err := makeReserve(filepath.Join(dir, reserveName)); err != nil {
		t.Fatal(err)
	}
	if !releaseReserve(dir, zap.NewNop()) || releaseReserve(dir, zap.NewNop()) {
		t.Error("not released, or twice")
	}
}
