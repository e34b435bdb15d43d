package main

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"linli/internal/journal"
	"linli/internal/telemetry"
)

// keptJournal returns a state directory with the journal of two runs of a gateway in the last hour: 300 samples each of a
// temperature and of a door, one a second, and a loss between them.
func keptJournal(t *testing.T) (state string) {
	t.Helper()
	state = t.TempDir()
	inv := &telemetry.Inventory{Site: "s1", Gateway: "g1"}
	zone := inv.AddZone(telemetry.Zone{ID: "hall", Parent: -1})
	class := &telemetry.Class{ID: "room", Points: []telemetry.PointDef{{Name: "temperature_c", Kind: telemetry.Float}, {Name: "door_open", Kind: telemetry.Bool}}}
	d := inv.AddDevice(telemetry.Device{ID: "room_1", Class: class, Zone: zone})
	inv.ProvidePoint(d, 0)
	inv.ProvidePoint(d, 1)
	begin := time.Now().Add(-50 * time.Minute)
	for run := range 2 {
		clock := telemetry.NewClock("boot1", telemetry.Mono(time.Hour), time.Unix(0, 0))
		j, err := journal.Open(journal.Config{Dir: filepath.Join(state, "journal"), MaxPending: 500}, inv, clock)
		if err != nil {
			t.Fatal(err)
		}
		now := clock.Now()
		for i := range 300 {
			at := now.Mono.Add(begin.Add(time.Duration(run*600+i) * time.Second).Sub(now.Wall))
			j.Append(telemetry.Now{Mono: at + 1000, Wall: now.Wall.Add(at.Sub(now.Mono))}, []telemetry.Sample{
				{Point: 0, Time: at, Value: telemetry.FloatValue(20 + float64(i)/10)},
				{Point: 1, Time: at, Value: telemetry.BoolValue(i%100 == 99)},
			})
			if run == 0 || i%10 == 0 { // The first 300 of the second run are too many for the memory.
				if err := j.Commit(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if run == 1 {
			for i := range 600 {
				j.Append(telemetry.Now{Mono: now.Mono.Add(time.Duration(i))}, []telemetry.Sample{{Point: 0, Quality: telemetry.BadComm, Time: now.Mono}})
			}
		}
		if err := j.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return state
}

func TestJournalCommands(t *testing.T) {
	state := keptJournal(t)
	at := func(args ...string) []string { return append(append([]string{"journal"}, args...), "--state", state) }

	code, out, errs := linli(t, at("ls")...)
	if code != exitGood || strings.Count(out, ".seg") != 2 || !strings.Contains(out, "boot1") || !strings.HasPrefix(out, "epoch ") {
		t.Errorf("ls: exit code %d\n%s%s", code, out, errs)
	}
	var list struct {
		Segments []struct {
			Frames  int
			Samples int
			State   string
			From    time.Time
		}
	}
	code, out, _ = linli(t, at("ls", "--json")...)
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != exitGood || len(list.Segments) != 2 || list.Segments[0].Frames != 300 ||
		list.Segments[0].Samples != 600 || list.Segments[0].State != "sealed" || time.Since(list.Segments[0].From) > time.Hour {
		t.Errorf("ls --json: exit code %d, %v, %s", code, err, out)
	}

	var st journalStat
	code, out, _ = linli(t, at("stat", "--json")...)
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != exitGood || st.Segments != 2 || st.BytesPerSample <= 0 ||
		len(st.Losses) != 1 || st.Losses[0].Reason != journal.LossPendingFull || st.Losses[0].Samples == 0 {
		t.Errorf("stat --json: exit code %d, %v, %s", code, err, out)
	}
	if code, out, _ = linli(t, at("stat")...); code != exitGood || !strings.Contains(out, "lost, pending_full: 1 time, ") {
		t.Errorf("stat: exit code %d\n%s", code, out)
	}

	code, out, errs = linli(t, at("cat", "room_1.door_open")...)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	gaps := 0
	for _, l := range lines {
		gaps += strings.Count(l, "gap: stopped")
	}
	if code != exitGood || len(lines) < 500 || gaps != 1 || lines[0] != strings.Join(sampleColumns(), ",") || strings.Contains(out, "temperature_c") ||
		!strings.Contains(lines[100], ",room_1,door_open,true,good,") || !strings.HasPrefix(errs, "samples from ") {
		t.Errorf("cat: exit code %d, %d lines, %d gaps, %s\n%.1000s", code, len(lines), gaps, errs, out)
	}
	code, out, _ = linli(t, at("cat", "--format", "jsonl", "--every", "raw", "room_?")...)
	if code != exitGood || !strings.Contains(out, `"point":"temperature_c","value":20.1,"quality":"good"}`) {
		t.Errorf("cat as JSON lines: exit code %d\n%.1000s", code, out)
	}
	code, out, errs = linli(t, at("cat", "--every", "1m", "room_1.temperature_c")...)
	lines = strings.Split(strings.TrimSpace(out), "\n")
	if code != exitGood || len(lines) < 10 || len(lines) > 14 || lines[0] != strings.Join(intervalColumns(), ",") || !strings.HasPrefix(errs, "minutes from ") ||
		!strings.Contains(out, ",60,0,60,0,0,0\n") { // a whole minute: 60 readings, good all the time
		t.Errorf("cat of minutes: exit code %d, %s\n%s", code, errs, out)
	}
	code, out, errs = linli(t, at("cat", "--json", "--since", "30d", "room_1.door_open")...)
	if code != exitGood || !strings.HasPrefix(errs, "hours from ") || !strings.Contains(out, `"point":"door_open","every":"1h","mean":0.0`) || !strings.Contains(out, `"min":false,"max":true,`) {
		t.Errorf("cat of a month: exit code %d, %s\n%s", code, errs, out)
	}
	for _, args := range [][]string{{"cat", "--every", "2h"}, {"cat", "--format", "xml"}, {"cat", "["}, {"cat", "--format", "line"}, {"cat", "--since", "soon"}, {"ls", "x"}} {
		if code, _, _ := linli(t, at(args...)...); code != exitUsage {
			t.Errorf("%v: exit code %d, want %d", args, code, exitUsage)
		}
	}
	if code, _, errs := linli(t, at("cat", "room_2")...); code != exitNo || !strings.Contains(errs, "nothing was found") {
		t.Errorf("cat of nothing: exit code %d, %s", code, errs)
	}
	if code, _, errs := linli(t, "journal", "ls", "--state", t.TempDir()); code != exitNo || !strings.Contains(errs, "there is no journal") {
		t.Errorf("ls without a journal: exit code %d, %s", code, errs)
	}

	if code, out, _ := linli(t, at("verify")...); code != exitGood || !strings.HasPrefix(out, "good. 2 segments, ") {
		t.Errorf("verify: exit code %d\n%s", code, out)
	}
	names, _ := filepath.Glob(filepath.Join(state, "journal", "*.seg"))
	b, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	b[5000] ^= 4
	if err := os.WriteFile(names[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ = linli(t, at("verify")...)
	if code != exitNo || !strings.Contains(out, filepath.Base(names[0])+": frames ") || !strings.Contains(out, "damaged: 1 place.") {
		t.Errorf("verify after damage: exit code %d\n%s", code, out)
	}
	var r struct {
		Good     bool
		Problems []string
	}
	code, out, _ = linli(t, at("verify", "--json")...)
	if err := json.Unmarshal([]byte(out), &r); err != nil || code != exitNo || r.Good || len(r.Problems) != 1 {
		t.Errorf("verify --json after damage: exit code %d, %v, %s", code, err, out)
	}
}

// That the newest segment is gone is known from what was sent.
func TestVerifyMissesTheNewestSegment(t *testing.T) {
	state := keptJournal(t)
	j, err := journal.Open(journal.Config{Dir: filepath.Join(state, "journal"), ReadOnly: true}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	segs := j.Segments()
	taken := fmt.Sprintf("linli-uplink 1\nepoch %016x\nnext %d\n", j.Epoch(), segs[1].Next)
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	taken += fmt.Sprintf("crc %08x\n", crc32.Checksum([]byte(taken), crc32.MakeTable(crc32.Castagnoli)))
	path := filepath.Join(state, "uplink.state")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(taken)
	verify := func(want int, words string) {
		t.Helper()
		if code, out, errs := linli(t, "journal", "verify", "--state", state); code != want || !strings.Contains(out, words) {
			t.Errorf("exit code %d, want %d and %q\n%s%s", code, want, words, out, errs)
		}
	}
	verify(exitGood, "good. ")
	remove := func(name string) {
		if err := os.Remove(filepath.Join(state, "journal", name)); err != nil {
			t.Fatal(err)
		}
	}
	remove(segs[1].Name)
	verify(exitNo, fmt.Sprintf("frames %d to %d of epoch ", segs[1].First, segs[1].Next-1))
	write("rubbish")
	verify(exitNo, "uplink.state: damaged state file")
	write(taken)
	remove(segs[0].Name)
	verify(exitNo, fmt.Sprintf("frames 1 to %d of epoch ", segs[1].Next-1))
}

// A loss that does not say how many samples it is of is not one of none.
func TestStatSaysWhatIsUnknown(t *testing.T) {
	state := keptJournal(t)
	path := filepath.Join(state, "journal")
	clock := telemetry.NewClock("boot2", telemetry.Mono(time.Hour), time.Unix(0, 0))
	j, err := journal.Open(journal.Config{Dir: path}, &telemetry.Inventory{}, clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := j.Skip(5000); err != nil {
		t.Fatal(err)
	}
	if err := j.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, _ := linli(t, "journal", "stat", "--state", state)
	if code != exitGood || !strings.Contains(out, "lost, damage: 1 time, unknown number 数量未知 in ") || strings.Contains(out, " 0 samples") {
		t.Errorf("stat: exit code %d\n%s", code, out)
	}
	code, out, _ = linli(t, "journal", "stat", "--json", "--state", state)
	if code != exitGood || !strings.Contains(out, `{"reason":"damage","times":1,"unknown":1,"frames":`) {
		t.Errorf("stat --json: exit code %d\n%s", code, out)
	}
}
