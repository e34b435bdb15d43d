package modbus

// More names for what tests look at from outside.
var (
	NextRTU    = nextRTU
	FrameRTU   = frameRTU
	EndRTU     = endRTU
	CheckAsked = checkAsked
)

// The verdicts of NextRTU.
const (
	Partial = partial
	Answer  = answer
	Other   = other
	Damaged = damaged
)

// Found is FindRTU's verdict on a whole answer.
const Found = answer

// FindRTU returns the answer within buf, and how many bytes stand before its frame.
func FindRTU(buf []byte, unit byte, req []byte) (pdu []byte, skipped int, k kind) {
	at, n, k := nextRTU(buf, unit, req)
	if k != answer {
		return nil, 0, k
	}
	return buf[at+1 : at+n-2], at, k
}
