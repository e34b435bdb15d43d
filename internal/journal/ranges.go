package journal

import "slices"

// ranges is a set of sequence numbers, as sorted, disjoint, closed ranges that do not touch each other.
type ranges []seqRange

type seqRange struct{ first, last uint64 }

// add puts first to last into the set.
func (r *ranges) add(first, last uint64) {
	if first == 0 || last < first {
		return
	}
	s := *r
	i := 0
	for i < len(s) && s[i].last+1 < first {
		i++
	}
	k := i
	for k < len(s) && s[k].first <= last+1 {
		first, last = min(first, s[k].first), max(last, s[k].last)
		k++
	}
	*r = slices.Replace(s, i, k, seqRange{first, last})
}

// missing returns the parts of first to last that are not in the set.
func (r ranges) missing(first, last uint64) []seqRange {
	var out []seqRange
	for _, x := range r {
		if x.last < first {
			continue
		}
		if x.first > last {
			break
		}
		if x.first > first {
			out = append(out, seqRange{first, x.first - 1})
		}
		first = x.last + 1
	}
	if first <= last {
		out = append(out, seqRange{first, last})
	}
	return out
}
