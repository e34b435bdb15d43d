package ledger

import (
	"cmp"
	"slices"
)

// span is a range of frames that are there, from <= seq < end.
type span struct {
	from, end uint64
	first     int64 // the frames before it were written before this moment; forever: unknown
	last      int64 // what is in the frames after it was measured after this moment; never: unknown
}

// spans is a set of frames as sorted, disjoint, not adjacent ranges.
type spans struct{ all []span }

// hole is a range of frames that are not in a set.
type hole struct{ from, end uint64 }

// add puts a range with the times of its ends into the set. Of two ranges with one end the narrower time stands.
func (s *spans) add(from, end uint64, first, last int64) {
	if from >= end {
		return
	}
	i := len(s.all)
	// Rows come nearly in order: the place is at the end, or close to it.
	if i == 0 || s.all[i-1].end >= from {
		i, _ = slices.BinarySearchFunc(s.all, from, func(r span, from uint64) int {
			if r.end < from {
				return -1
			}
			return 1
		})
	}
	j := i
	n := span{from, end, first, last}
	for ; j < len(s.all) && s.all[j].from <= end; j++ {
		o := s.all[j]
		if o.from < n.from {
			n.from, n.first = o.from, o.first
		} else if o.from == n.from {
			n.first = min(n.first, o.first)
		}
		if o.end > n.end {
			n.end, n.last = o.end, o.last
		} else if o.end == n.end {
			n.last = max(n.last, o.last)
		}
	}
	if i == j && len(s.all) >= maxSpans {
		return
	}
	s.all = slices.Replace(s.all, i, j, n)
}

func (s *spans) clone() *spans { return &spans{slices.Clone(s.all)} }

// holes returns what of from..to is not in the set.
func (s *spans) holes(from, to uint64) []hole {
	var out []hole
	for _, r := range s.all {
		if r.from > to || from > to {
			break
		}
		if r.from > from {
			out = append(out, hole{from, r.from})
		}
		from = max(from, r.end)
	}
	if from <= to {
		out = append(out, hole{from, to + 1})
	}
	return out
}

// before returns the moment after which frame seq and later ones were measured, as the nearest frames before it tell.
func (s *spans) before(seq uint64) int64 {
	i, _ := slices.BinarySearchFunc(s.all, seq, func(r span, seq uint64) int { return cmp.Compare(r.end, seq+1) })
	for i--; i >= 0; i-- {
		if s.all[i].last != never {
			return s.all[i].last
		}
	}
	return never
}

// after returns the moment before which the frames before seq were written, as the nearest frames from seq on tell.
func (s *spans) after(seq uint64) int64 {
	i, _ := slices.BinarySearchFunc(s.all, seq, func(r span, seq uint64) int { return cmp.Compare(r.from, seq) })
	for ; i < len(s.all); i++ {
		if s.all[i].first != forever {
			return s.all[i].first
		}
	}
	return forever
}

// count counts the frames in the set.
func (s *spans) count() (n uint64) {
	for _, r := range s.all {
		n += r.end - r.from
	}
	return n
}
