package simulate

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"linli/internal/telemetry"
)

// Story is a scenario that can be played: something happens, the gateway should notice, and it ends by itself in
// under a minute.
type Story struct {
	Name  string
	Title telemetry.Text
	What  telemetry.Text // what will happen, for the person who starts it
	acts  []act
}

// act is one step of a story: at that moment after the start, set the point or make its unit fall silent.
type act struct {
	at            time.Duration
	device, point string
	value         float64
	unit          unitAct
}

type unitAct uint8

const (
	setPoint unitAct = iota
	goSilent
	goOnline
)

// Stories returns the stories of the embedded community, in the order they are shown.
func Stories() []Story {
	return []Story{
		{
			Name:  "fire-lane",
			Title: telemetry.Text{Zh: "消防通道被占用", En: "Fire lane blocked"},
			What: telemetry.Text{
				Zh: "一辆车停进东门消防通道，约 10 秒后告警，再过 5 秒语音喇叭播放，有人确认就停；45 秒后车开走，已确认的告警自动办结。",
				En: "A car parks in the east gate fire lane: an alert after about 10 seconds, the voice horn 5 seconds later, until somebody acknowledges. It leaves after 45 seconds, and an acknowledged alert closes by itself.",
			},
			acts: []act{
				{at: 0, device: "lane_east_1", point: "occupied", value: 1},
				{at: 45 * time.Second, device: "lane_east_1", point: "occupied", value: 0},
			},
		},
		{
			Name:  "smoke",
			Title: telemetry.Text{Zh: "烟感报警", En: "Smoke"},
			What: telemetry.Text{
				Zh: "2号楼3层烟感报警，8 秒后同层第二个探测器报警，火警确认，楼内警笛鸣响；45 秒后烟散，确认后警笛停。",
				En: "A smoke detector on floor 3 of building 2 goes off, a second one 8 seconds later confirms the fire, and the siren of the building sounds. The smoke clears after 45 seconds; once somebody has acknowledged the siren stops.",
			},
			acts: []act{
				{at: 0, device: "smoke_2_3a", point: "alarm", value: 1},
				{at: 8 * time.Second, device: "smoke_2_3b", point: "alarm", value: 1},
				{at: 44 * time.Second, device: "smoke_2_3b", point: "alarm", value: 0},
				{at: 45 * time.Second, device: "smoke_2_3a", point: "alarm", value: 0},
			},
		},
		{
			Name:  "bins",
			Title: telemetry.Text{Zh: "垃圾桶满", En: "Bin full"},
			What: telemetry.Text{
				Zh: "2号投放点厨余桶在 15 秒内装满，先提示，再转为预警；45 秒后清运。",
				En: "The kitchen waste bin at station 2 fills up within 15 seconds: first a notice, then a warning. It is emptied after 45 seconds.",
			},
			acts: []act{
				{at: 0, device: "bin_2_kitchen", point: "fill_pct", value: 83},
				// Between the two there is time for a read and the delay of the rule.
				{at: 10 * time.Second, device: "bin_2_kitchen", point: "fill_pct", value: 92},
				{at: 15 * time.Second, device: "bin_2_kitchen", point: "fill_pct", value: 97},
				{at: 45 * time.Second, device: "bin_2_kitchen", point: "fill_pct", value: 4},
			},
		},
		{
			Name:  "dead-device",
			Title: telemetry.Text{Zh: "设备失联", En: "Silent device"},
			What: telemetry.Text{
				Zh: "1号楼2层烟感断线 45 秒：数值变为未知，随后发出设备失联预警；同一总线上的其他设备不受影响。",
				En: "A smoke detector in building 1 stops answering for 45 seconds: its values become unknown, then a warning says that it is silent. The others on its bus go on.",
			},
			acts: []act{
				{at: 0, device: "smoke_1_2", point: "alarm", unit: goSilent},
				{at: 45 * time.Second, device: "smoke_1_2", point: "alarm", unit: goOnline},
			},
		},
		{
			Name:  "noise",
			Title: telemetry.Text{Zh: "噪声扰民", En: "Noise"},
			What: telemetry.Text{
				Zh: "中心广场噪声升到 82 分贝，持续 40 秒。",
				En: "Noise on the central square rises to 82 dB for 40 seconds.",
			},
			acts: []act{
				{at: 0, device: "noise_square", point: "noise_dba", value: 82},
				{at: 40 * time.Second, device: "noise_square", point: "noise_dba", value: 41},
			},
		},
	}
}

// Teller plays stories, each at most once at a time.
type Teller struct {
	day     *Day
	stories []Story

	mu      sync.Mutex
	playing map[string]bool // guarded by mu
}

// NewTeller returns a teller of stories on the community of day. Every device that a story names must exist.
func NewTeller(day *Day, stories []Story) (*Teller, error) {
	for _, s := range stories {
		for _, a := range s.acts {
			if _, err := day.community.outputs(a.device, a.point); err != nil {
				return nil, fmt.Errorf("story %s: %w", s.Name, err)
			}
		}
	}
	return &Teller{day: day, stories: stories, playing: map[string]bool{}}, nil
}

// Stories returns what can be played.
func (t *Teller) Stories() []Story { return t.stories }

// Playing reports whether the story is being played just now.
func (t *Teller) Playing(name string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.playing[name]
}

// ErrPlaying: the story is being played already.
var ErrPlaying = fmt.Errorf("this story is being played already")

// Play plays a story to its end, or until ctx ends; then everything is as before it.
func (t *Teller) Play(ctx context.Context, name string) error {
	var story *Story
	var names []string
	for i := range t.stories {
		names = append(names, t.stories[i].Name)
		if t.stories[i].Name == name {
			story = &t.stories[i]
		}
	}
	if story == nil {
		return fmt.Errorf("there is no story %q; there are %s", name, strings.Join(names, ", "))
	}
	t.mu.Lock()
	if t.playing[name] {
		t.mu.Unlock()
		return ErrPlaying
	}
	t.playing[name] = true
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.playing, name)
		t.mu.Unlock()
	}()
	return t.day.play(ctx, story)
}

func (d *Day) play(ctx context.Context, story *Story) error {
	started := time.Now()
	undo := map[[2]string]func(){}
	defer func() {
		for _, f := range undo {
			f()
		}
	}()
	for _, a := range story.acts {
		if !wait(ctx, a.at-time.Since(started)) {
			return ctx.Err()
		}
		key := [2]string{a.device, a.point}
		if a.unit != setPoint {
			unitID, err := d.community.UnitOf(a.device, a.point)
			if err != nil {
				return err
			}
			if err := d.community.Misbehave(unitID, Fault{Silent: a.unit == goSilent}); err != nil {
				return err
			}
			undo[key] = func() { _ = d.community.Misbehave(unitID, Fault{}) }
			continue
		}
		if undo[key] == nil {
			undo[key] = d.hold(a.device, a.point)
		}
		if err := d.community.Set(a.device, a.point, a.value); err != nil {
			return err
		}
		if a.point == "fill_pct" {
			d.mu.Lock()
			d.fill[a.device] = min(a.value, 76) // The day goes on from where the story leaves the bin.
			d.mu.Unlock()
		}
	}
	return nil
}
