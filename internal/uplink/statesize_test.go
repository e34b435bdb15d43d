package uplink

import "testing"

// However scattered the frames are, the state fits into its half of the file.
func TestTheLargestStateFits(t *testing.T) {
	var set spans
	for i := range uint64(maxSpans) {
		set = set.add(1<<62-1000+10*i, 1<<62-1000+10*i+5)
	}
	s := state{epoch: 1<<64 - 1, next: 1 << 62, unacked: set, gone: set, asked: set, tell: set}
	if n := len(s.encode()); n > stateMost {
		t.Errorf("%d bytes, there is room for %d", n, stateMost)
	}
}
