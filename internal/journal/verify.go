package journal

import (
	"errors"
	"fmt"
	"path/filepath"
)

// Report is what Verify found.
type Report struct {
	Segments int
	Frames   uint64
	Samples  uint64
	Bytes    int64
	Missing  uint64   // frames that cannot be read, between others that can
	Aside    int      // files set aside earlier
	Problems []string // one line per segment or frame with something wrong, at most 100
}

// Verify reads every frame of the journal in dir and says what is wrong with it. It changes nothing, and may run
// while another process writes the journal: what that one deletes meanwhile may then be reported.
func Verify(dir string) (Report, error) { return verify(dir, osFS{}) }

func verify(dir string, fs fileSystem) (Report, error) {
	var r Report
	names, err := fs.List(dir)
	if err != nil {
		return r, fmt.Errorf("verify journal %s: %w", dir, err)
	}
	for _, n := range names {
		if filepath.Ext(n) == damagedSuffix {
			r.Aside++
		}
	}
	problem := func(s *segment, format string, args ...any) {
		if len(r.Problems) < 100 {
			r.Problems = append(r.Problems, filepath.Base(s.path)+": "+fmt.Sprintf(format, args...))
		}
	}
	dec, err := newDecoder(maxFooter)
	if err != nil {
		return r, err
	}
	defer dec.Close()
	segs := ours(names, dir)
	var records []Record
	for i, s := range segs {
		limit := uint64(maxSeq)
		if i+1 < len(segs) {
			limit = segs[i+1].first
		}
		b, err := readAll(fs, s.path)
		if notExist(err) {
			continue
		} else if err != nil {
			problem(s, "%v", err)
			continue
		}
		r.Segments++
		r.Bytes += int64(len(b))
		if err := s.parseHeader(b); errors.Is(err, errNewer) {
			problem(s, "%v", err)
			continue
		} else if err != nil {
			problem(s, "the header is damaged")
		}
		missing, t := s.scan(b, limit, dec)
		if missing > 0 {
			problem(s, "%d frames are damaged", missing)
		}
		if t.torn {
			problem(s, "a torn frame at the end, at byte %d", s.end)
		}
		r.Missing += missing
		for k, o := range s.offs {
			if o == 0 {
				continue
			}
			h, payload, _ := parseFrame(b[o:], s.seed)
			raw, err := unpack(&h, payload, nil, dec)
			if err == nil && h.flags&flagTombstone == 0 {
				records, err = decodeSamples(raw, &h, s.dict, records[:0])
			}
			if err != nil {
				problem(s, "frame %d: %v", s.first+uint64(k), err)
				r.Missing++
				continue
			}
			if _, told := section(raw, sectionSteps); told && h.flags&flagTombstone == 0 {
				if _, _, ok := decodeSteps(raw, &h, records, nil); !ok {
					problem(s, "frame %d: how its samples came cannot be read", s.first+uint64(k))
				}
			}
			r.Frames++
			r.Samples += uint64(h.count)
		}
		if i+1 < len(segs) && s.next() < limit && len(s.offs) > 0 {
			r.Missing += limit - s.next()
			problem(s, "frames %d to %d are missing after it", s.next(), limit-1)
		}
	}
	return r, nil
}
