package wire

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrStatus is wrapped by the errors of ParseStatus.
var ErrStatus = errors.New("bad status message")

const (
	maxStatus     = 16 << 10 // of a message
	maxStatusText = 256      // of each text in it
)

// Bare reports whether the status is a Will, which says neither when nor how it is.
func (s *Status) Bare() bool { return s.Time.IsZero() }

// ParseStatus parses the status of node, or its last will, and checks what the city side relies on. Keys it does not
// know are ignored.
func ParseStatus(payload []byte, node string) (Status, error) {
	var s Status
	if len(payload) > maxStatus {
		return Status{}, fmt.Errorf("%w: larger than %d bytes", ErrStatus, maxStatus)
	}
	if err := json.Unmarshal(payload, &s); err != nil {
		return Status{}, fmt.Errorf("%w: %w", ErrStatus, err)
	}
	texts := []string{s.Reason, s.Version, s.SentAgainReason}
	numbers := []uint64{s.FirstSeq, s.NextSeq, s.BacklogFrames, s.WaitingFrames, s.SentAgainFrames}
	signed := []int64{int64(s.OpenAlerts)}
	if j := s.Journal; j != nil {
		if len(j.Error) > maxStatusText { // it comes from the operating system and may hold a path
			j.Error = strings.ToValidUTF8(j.Error[:maxStatusText], "")
		}
		numbers = append(numbers, j.CommitFailures, j.SamplesLost, j.DamagedFrames)
		signed = append(signed, j.Bytes)
	}
	var epoch uint64
	switch {
	case s.Node != node:
		return Status{}, ErrForeign
	case s.State != "online" && s.State != "offline":
		return Status{}, fmt.Errorf("%w: state %.32q", ErrStatus, s.State)
	case s.Epoch != "" && !parseEpoch([]byte(s.Epoch), &epoch):
		return Status{}, fmt.Errorf("%w: epoch %.32q", ErrStatus, s.Epoch)
	case s.State == "online" && s.Bare():
		return Status{}, fmt.Errorf("%w: time is missing", ErrStatus)
	case !s.StartedAt.IsZero() && !nanoseconds(s.StartedAt) || !s.Bare() && !nanoseconds(s.Time):
		return Status{}, fmt.Errorf("%w: impossible time", ErrStatus)
	}
	for _, t := range texts {
		if len(t) > maxStatusText {
			return Status{}, fmt.Errorf("%w: a text of %d bytes", ErrStatus, len(t))
		}
	}
	for _, n := range numbers {
		if n >= 1<<63 {
			return Status{}, fmt.Errorf("%w: number %d", ErrStatus, n)
		}
	}
	for _, n := range signed {
		if n < 0 {
			return Status{}, fmt.Errorf("%w: number %d", ErrStatus, n)
		}
	}
	if s.Epoch != "" {
		s.Epoch = string(appendEpoch(nil, epoch)) // in lower case
	}
	return s, nil
}

// nanoseconds reports whether t can be told in nanoseconds since 1970.
func nanoseconds(t time.Time) bool {
	y := t.UTC().Year()
	return y >= 1970 && y <= 2200
}
