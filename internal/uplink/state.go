package uplink

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
)

// state is what the uplink remembers across restarts: which frames of which journal the broker has not
// acknowledged. Everything from next on is unacknowledged too.
//
// It is kept as text, in the file that stateFile describes:
//
//	linli-uplink 1
//	epoch 00c0ffee00c0ffee
//	next 1234
//	unacked 17-40          (both included; any number of lines up to 64, ascending)
//	gone 11-14             (likewise)
//	asked 17-40            (likewise)
//	tell 1-9               (likewise)
//	life ABCDEFGHIJKLMNOPQRSTUVWXYZ   (instance of a process that ran on this directory; the last maxLives of them)
//	settled 1790000000000000000 1234   (what was measured before this moment was said to be in frames before that number; may be left out)
//	crc 1a2b3c4d           (CRC-32C of every byte before this line)
type state struct {
	epoch   uint64
	next    uint64
	unacked spans
	// gone are frames that vanished from the journal before they were acknowledged and whose loss has not been told yet.
	gone spans
	// asked are those of unacked that the city has asked for again, tell those asked for that are not there any more and
	// of which it has not been told yet.
	asked, tell spans
	// said and saidNext are settling's.
	said     int64
	saidNext uint64
	lives    []string // instances of the processes that ran on this directory, the newest last
}

const (
	maxLives    = 16
	maxInstance = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errState is wrapped by the errors of a damaged state file.
var errState = errors.New("damaged state file")

func (s *state) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "linli-uplink 1\nepoch %016x\nnext %d\n", s.epoch, s.next)
	for _, r := range s.unacked {
		fmt.Fprintf(&b, "unacked %d-%d\n", r.from, r.end-1)
	}
	for _, r := range s.gone {
		fmt.Fprintf(&b, "gone %d-%d\n", r.from, r.end-1)
	}
	for _, r := range s.asked {
		fmt.Fprintf(&b, "asked %d-%d\n", r.from, r.end-1)
	}
	for _, r := range s.tell {
		fmt.Fprintf(&b, "tell %d-%d\n", r.from, r.end-1)
	}
	for _, l := range s.lives {
		fmt.Fprintf(&b, "life %s\n", l)
	}
	if s.said != 0 {
		fmt.Fprintf(&b, "settled %d %d\n", s.said, s.saidNext)
	}
	fmt.Fprintf(&b, "crc %08x\n", crc32.Checksum(b.Bytes(), castagnoli))
	return b.Bytes()
}

func decodeState(b []byte) (*state, error) {
	i := bytes.LastIndex(b, []byte("crc "))
	if i < 0 {
		return nil, fmt.Errorf("%w: no checksum", errState)
	}
	var crc uint32
	if _, err := fmt.Sscanf(string(b[i:]), "crc %08x\n", &crc); err != nil || crc != crc32.Checksum(b[:i], castagnoli) {
		return nil, fmt.Errorf("%w: checksum differs", errState)
	}
	s := &state{}
	lines := bytes.SplitAfter(b[:i], []byte("\n"))
	if len(lines) < 4 || string(lines[0]) != "linli-uplink 1\n" {
		return nil, fmt.Errorf("%w: unknown version", errState)
	}
	if _, err := fmt.Sscanf(string(lines[1])+string(lines[2]), "epoch %016x\nnext %d\n", &s.epoch, &s.next); err != nil {
		return nil, fmt.Errorf("%w: %w", errState, err)
	}
	for _, line := range lines[3:] {
		if len(line) == 0 {
			continue
		}
		if n, err := fmt.Sscanf(string(line), "settled %d %d\n", &s.said, &s.saidNext); n > 0 {
			if err != nil || s.said <= 0 {
				return nil, fmt.Errorf("%w: %q", errState, line)
			}
			continue
		}
		if life, ok := strings.CutPrefix(string(line), "life "); ok {
			life = strings.TrimSuffix(life, "\n")
			if life == "" || len(life) > maxInstance || strings.ContainsAny(life, " \n") || len(s.lives) == maxLives {
				return nil, fmt.Errorf("%w: %q", errState, line)
			}
			s.lives = append(s.lives, life)
			continue
		}
		var from, last uint64
		var kind string
		if _, err := fmt.Sscanf(string(line), "%s %d-%d\n", &kind, &from, &last); err != nil || from > last || last >= s.next {
			return nil, fmt.Errorf("%w: %q", errState, line)
		}
		switch kind {
		case "unacked":
			s.unacked = s.unacked.add(from, last+1)
		case "gone":
			s.gone = s.gone.add(from, last+1)
		case "asked":
			s.asked = s.asked.add(from, last+1)
		case "tell":
			s.tell = s.tell.add(from, last+1)
		default:
			return nil, fmt.Errorf("%w: %q", errState, line)
		}
	}
	return s, nil
}
