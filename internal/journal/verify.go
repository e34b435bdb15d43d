package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Report is what Verify found.
type Report struct {
	Epoch    uint64 // 0: there is no segment
	Next     uint64 // the number after the last that is there, or was
	Segments int
	Frames   uint64
	Samples  uint64
	Bytes    int64
	Missing  uint64   // frames that cannot be read, between others that can
	Rollups  int      // rollup files
	Aside    int      // files set aside earlier
	Problems []string // one line for each thing that is wrong, with file and place, at most maxProblems
	Wrong    int      // how many things are wrong
}

// maxProblems is how many problems a Report lists.
const maxProblems = 100

// Verify reads every byte of the journal in dir and says what is wrong with it. It changes nothing, and may run
// while another process writes the journal: what that one deletes meanwhile may then be reported. progress, which may be
// nil, is told how many of how many files have been read.
func Verify(ctx context.Context, dir string, progress func(done, total int)) (Report, error) {
	return verify(ctx, dir, osFS{}, progress)
}

func verify(ctx context.Context, dir string, fs fileSystem, progress func(done, total int)) (Report, error) {
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
		if r.Wrong++; len(r.Problems) < maxProblems {
			r.Problems = append(r.Problems, filepath.Base(s.path)+": "+fmt.Sprintf(format, args...))
		}
	}
	dec, err := newDecoder(maxFooter)
	if err != nil {
		return r, err
	}
	defer dec.Close()
	segs := ours(names, dir)
	var rolls []rollID
	for _, n := range names {
		if id, ok := parseRollName(n); ok {
			rolls = append(rolls, id)
		}
	}
	slices.SortFunc(rolls, func(a, b rollID) int { return strings.Compare(a.name(), b.name()) })
	files := len(segs) + len(rolls)
	var records []Record
	for i, s := range segs {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if progress != nil {
			progress(i, files)
		}
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
		switch mended, err := s.parseHeader(b); {
		case errors.Is(err, errNewer):
			problem(s, "%v", err)
			continue
		case mended:
			problem(s, "the header is damaged, by so little that it can still be read")
		case err != nil:
			problem(s, "the header is damaged")
		}
		r.Epoch = s.epoch
		missing, t := s.scan(b, limit, dec)
		for range 3 { // The last frame may be half written: it is not a moment later.
			if !t.torn || i+1 < len(segs) {
				break
			}
			if again, err := readAll(fs, s.path); err == nil {
				b = again
				missing, t = s.scan(b, limit, dec)
			}
		}
		if missing > 0 {
			for k := 0; k < len(s.offs); k++ {
				from := k
				for k < len(s.offs) && s.offs[k] == 0 {
					k++
				}
				if k > from {
					problem(s, "frames %d to %d are damaged, before byte %d", s.first+uint64(from), s.first+uint64(k)-1, s.offs[k])
				}
			}
		}
		if bytes.HasPrefix(b[min(s.end, int64(len(b))):], []byte(footerMagic)) {
			footer := *s
			contents, err := s.readFooter(bytes.NewReader(b), int64(len(b)), dec)
			if err == nil {
				err = footer.parseFooter(contents, int64(len(b)), true)
			}
			if err != nil {
				problem(s, "the footer at byte %d is damaged", s.end)
			}
		}
		r.Next = max(r.Next, s.first, s.next())
		if t.torn {
			r.Next = max(r.Next, t.last+1)
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
				records, err = decodeSamples(raw, &h, s.dict, nil, records[:0])
			}
			if err != nil {
				problem(s, "frame %d at byte %d: %v", s.first+uint64(k), o, err)
				r.Missing++
				continue
			}
			if _, told := section(raw, sectionSteps); told && h.flags&flagTombstone == 0 {
				if _, _, ok := decodeSteps(raw, &h, records, nil); !ok {
					problem(s, "frame %d at byte %d: how its samples came cannot be read", s.first+uint64(k), o)
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
	for i, id := range rolls {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if progress != nil {
			progress(len(segs)+i, files)
		}
		size, err := verifyRoll(fs, dir, id, dec)
		if notExist(err) {
			continue
		}
		r.Rollups++
		r.Bytes += size
		if err != nil {
			if r.Wrong++; len(r.Problems) < maxProblems {
				r.Problems = append(r.Problems, fmt.Sprintf("%s: %v", id.name(), err))
			}
		}
	}
	return r, nil
}

// verifyRoll reads all of a rollup file.
func verifyRoll(fs fileSystem, dir string, id rollID, dec *zstd.Decoder) (int64, error) {
	f, size, err := openRoll(fs, dir, id, dec, true)
	if errors.Is(err, errCorrupt) {
		return size, errors.New("header or index is damaged")
	} else if err != nil {
		return size, err
	}
	defer f.close()
	n := 0
	for i := range f.blocks {
		e := &f.blocks[i]
		b, err := f.unpack(e.at, e.packed, e.unpacked, e.crc)
		if err == nil {
			err = decodeBlock(b, id.level, nil, func(*rollPoint) error {
				n++
				return nil
			})
		}
		if err != nil {
			return size, fmt.Errorf("the block at byte %d is damaged", e.at)
		}
	}
	if n != int(f.head.points) {
		return size, fmt.Errorf("it has %d points and says %d", n, f.head.points)
	}
	return size, nil
}
