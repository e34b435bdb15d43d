package expr

import "unsafe"

// Bytes returns about how much memory the window takes now.
func (w *Window) Bytes() int {
	return int(unsafe.Sizeof(*w)) + cap(w.ring)*int(unsafe.Sizeof(span{})) +
		(cap(w.lo.ring)+cap(w.hi.ring))*int(unsafe.Sizeof(reach{}))
}
