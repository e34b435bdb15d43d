package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"linli/internal/telemetry"
	"linli/rules/response"
)

func keeperIn(dir string) *keeper {
	k := newKeeper(dir, 1)
	return &k
}

func listed(left []leftOver) string {
	var s []string
	for _, l := range left {
		s = append(s, l.Point)
	}
	return strings.Join(s, " ")
}

// The file is read as it was written, the newer half counts, and where that is torn the one before.
func TestLeftFile(t *testing.T) {
	dir := t.TempDir()
	k := keeperIn(dir)
	if got := k.load(zap.NewNop()); got != nil {
		t.Errorf("without a file: %v", got)
	}
	for i, left := range [][]leftOver{{}, {{Point: "a.on"}}, {{Point: "a.on"}}, {{Point: "a.on"}, {Point: "b.on", Rest: true, Since: 7}}} {
		if err := k.write(left); err != nil {
			t.Fatal(i, err)
		}
		if got := keeperIn(dir).load(zap.NewNop()); fmt.Sprint(got) != fmt.Sprint(left) {
			t.Errorf("%d: read %+v, want %+v", i, got, left)
		}
	}
	path := filepath.Join(dir, leftName)
	data, err := os.ReadFile(path)
	if err != nil || len(data) != 64<<10 {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
	data[bytes.LastIndex(data, []byte("b.on"))] ^= 1 // in the newer half
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	again := keeperIn(dir)
	if got := listed(again.load(zap.NewNop())); got != "a.on" {
		t.Errorf("the newer half is torn: %s", got)
	}
	if err := again.write([]leftOver{{Point: "c.on"}}); err != nil {
		t.Fatal(err)
	}
	if got := listed(keeperIn(dir).load(zap.NewNop())); got != "c.on" {
		t.Errorf("written after that: %s", got)
	}
	// What does not fit is an error, and nothing is written.
	if err := again.write([]leftOver{{Point: strings.Repeat("x", leftMost)}}); err == nil {
		t.Error("too long a list was written")
	}
	if got := listed(keeperIn(dir).load(zap.NewNop())); got != "c.on" {
		t.Errorf("after too long a list: %s", got)
	}
}

// The form of earlier versions is read and replaced.
func TestLeftFileOfEarlierVersions(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, leftName), []byte(`[{"point":"a.on","alert":"A","subject":"s"}]`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := keeperIn(dir)
	if got := listed(k.load(zap.NewNop())); got != "a.on" {
		t.Errorf("read %q", got)
	}
	if err := k.write([]leftOver{{Point: "b.on"}}); err != nil {
		t.Fatal(err)
	}
	if got := listed(keeperIn(dir).load(zap.NewNop())); got != "b.on" {
		t.Errorf("read %q", got)
	}
}

// A disk that becomes full does not keep the file from being written.
func TestLeftFileOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("cannot mount a small file system, which needs root: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	k := keeperIn(dir)
	if err := k.write([]leftOver{}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	for _, name := range []string{"a.on", "b.on", "c.on"} {
		if err := k.write([]leftOver{{Point: name}}); err != nil {
			t.Fatal(err)
		}
		if got := listed(keeperIn(dir).load(zap.NewNop())); got != name {
			t.Errorf("read %q, want %q", got, name)
		}
	}
	// The next process goes on in the same file.
	next := keeperIn(dir)
	next.load(zap.NewNop())
	if err := next.write([]leftOver{{Point: "d.on"}}); err != nil {
		t.Fatal(err)
	}
	if got := listed(keeperIn(dir).load(zap.NewNop())); got != "d.on" {
		t.Errorf("read %q", got)
	}
}

// FuzzDriveLeftFile: no bytes are too strange, and what is read can be written and read again.
func FuzzDriveLeftFile(f *testing.F) {
	dir := f.TempDir()
	if err := keeperIn(dir).write([]leftOver{{Point: "a.on", Since: 1}}); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, leftName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte("LOD1"))
	f.Add([]byte("[null,{}]"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, leftName), b, 0o600); err != nil {
			t.Fatal(err)
		}
		k := keeperIn(dir)
		left := k.load(zap.NewNop())
		if len(left) > 0 && b[0] != '[' && !bytes.Contains(b, []byte(leftMagic)) {
			t.Error("read from nowhere")
		}
		if list, err := json.Marshal(left); err != nil || len(list) > leftMost {
			return
		}
		if err := k.write(left); err != nil {
			t.Fatal(err)
		}
		if again := keeperIn(dir).load(zap.NewNop()); len(left) > 0 && fmt.Sprint(again) != fmt.Sprint(left) {
			t.Errorf("read %+v, want %+v", again, left)
		}
	})
}

// What is in the file after an orderly stop is what is on then.
func TestDriveLeftAfterAStop(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.occupy(0, true)
		settled(11 * time.Second)
		r.line("raised", "true")
		file := func() string { return listed(keeperIn(r.dir).load(zap.NewNop())) }
		if got := file(); got != "siren_1.on" {
			t.Errorf("while it is on: %q", got)
		}
		r.orders.stop()
		if res := r.orders.Do(t.Context(), order{Point: r.siren, Value: offValue, By: byGateway, last: true}); res.Outcome != orderDone {
			t.Fatalf("on_stop: %+v", res)
		}
		r.stop()
		if got := file(); got != "" {
			t.Errorf("after the stop has set it to rest: %q", got)
		}
		r.start()
	})
}

// A dry run says what was left, and leaves the file to whoever acts again.
func TestDriveLeftInADryRun(t *testing.T) {
	plans := map[telemetry.Identity]*response.Plan{blocked1: {Outputs: []response.Output{{Value: onValue, Rest: offValue}}}}
	responding(t, plans, func(t *testing.T, r *respondRig) {
		r.stop()
		if err := keeperIn(r.dir).write([]leftOver{{Point: "siren_1.on", Alert: "FireLaneBlocked", Subject: "lane_1", Rest: true}}); err != nil {
			t.Fatal(err)
		}
		before, _ := os.ReadFile(filepath.Join(r.dir, leftName))
		r.dry = true
		r.start()
		settled(2 * time.Minute)
		if list := r.f.respond.drive.inDemand(); len(list) != 1 || !list[0].Left || list[0].Alert != "FireLaneBlocked" {
			t.Errorf("shown: %+v", list)
		}
		r.line("in a dry run", "")
		if res := r.orders.Do(t.Context(), order{Point: r.siren, Value: onValue, By: "Wang"}); res.Outcome != orderDone {
			t.Fatalf("%+v", res)
		}
		settled(time.Second)
		r.stop()
		if after, err := os.ReadFile(filepath.Join(r.dir, leftName)); err != nil || string(after) != string(before) {
			t.Errorf("the file was written anew (%v)", err)
		}
		r.dry, r.bus = false, &fakeOutputs{online: true}
		r.start()
		settled(time.Second)
		r.line("acting again", "false")
	})
}
