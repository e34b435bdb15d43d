package uplink

import "slices"

// maxSpans bounds the set that is kept on disk. Beyond it the smallest gap of acknowledged frames is forgotten, so
// those frames are sent once more; nothing is skipped.
const maxSpans = 64

// span is a range of frames, from <= seq < end.
type span struct{ from, end uint64 }

// spans is a set of frame numbers as sorted, disjoint, not adjacent ranges.
type spans []span

// add puts the range into the set.
func (s spans) add(from, end uint64) spans {
	if from >= end {
		return s
	}
	i := 0
	for i < len(s) && s[i].end < from {
		i++
	}
	j := i
	for j < len(s) && s[j].from <= end {
		from, end = min(from, s[j].from), max(end, s[j].end)
		j++
	}
	return slices.Replace(s, i, j, span{from, end})
}

// remove takes the range out of the set.
func (s spans) remove(from, end uint64) spans {
	if from >= end {
		return s
	}
	var out spans
	for _, r := range s {
		if r.end <= from || r.from >= end {
			out = append(out, r)
			continue
		}
		if r.from < from {
			out = append(out, span{r.from, from})
		}
		if r.end > end {
			out = append(out, span{end, r.end})
		}
	}
	return out
}

// union returns what is in either set.
func (s spans) union(o spans) spans {
	s = slices.Clone(s)
	for _, r := range o {
		s = s.add(r.from, r.end)
	}
	return s
}

// within returns what of the set is in the range.
func (s spans) within(from, end uint64) spans {
	if from >= end {
		return nil
	}
	return slices.Clone(s).remove(0, from).remove(end, ^uint64(0))
}

// bounded closes the smallest gaps until at most n ranges are left.
func (s spans) bounded(n int) spans {
	for len(s) > n {
		best := 1
		for i := 2; i < len(s); i++ {
			if s[i].from-s[i-1].end < s[best].from-s[best-1].end {
				best = i
			}
		}
		s[best-1].end = s[best].end
		s = slices.Delete(s, best, best+1)
	}
	return s
}

// count counts the frames in the set.
func (s spans) count() uint64 {
	var n uint64
	for _, r := range s {
		n += r.end - r.from
	}
	return n
}

// first returns the lowest frame, and false for the empty set.
func (s spans) first() (uint64, bool) {
	if len(s) == 0 {
		return 0, false
	}
	return s[0].from, true
}
