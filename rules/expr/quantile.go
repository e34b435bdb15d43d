package expr

import "math"

// remember adds d nanoseconds of the present value to a row's means, and puts the row where it belongs.
func (w *Window) remember(row []float64, d float64) {
	slot := w.rows.slot(w.rows.n - 1)
	first := row[colKnown] == d // it was not known before
	lo, hi := w.cur.Lo, w.cur.Hi
	if !first {
		lo, hi = mean(row[colLo], lo, d/row[colKnown]), mean(row[colHi], hi, d/row[colKnown])
		if lo == row[colLo] && hi == row[colHi] {
			return
		}
		w.forget(slot)
	}
	row[colLo], row[colHi] = lo, hi
	w.file(slot)
}

// mean moves m towards v by its share.
func mean(m, v, share float64) float64 {
	if math.IsInf(m, 0) || math.IsInf(v, 0) {
		if math.IsInf(m, 0) {
			return m
		}
		return v
	}
	return m + (v-m)*share
}

// file puts a row in its place by its means.
func (w *Window) file(slot int) {
	row := w.rows.at(slot)
	if row[colLo] != row[colHi] {
		if w.order.wide++; w.order.wide == 1 {
			// So far the order by the upper bounds was the same.
			if w.order.byHi.slots == nil {
				w.order.byHi.slots = make([]uint16, 0, ringSize)
			}
			w.order.byHi.slots = append(w.order.byHi.slots[:0], w.order.byLo.slots...)
		}
	}
	w.order.byLo.insert(&w.rows, slot)
	if w.order.wide > 0 {
		w.order.byHi.insert(&w.rows, slot)
	}
}

// forget takes a row out that file put in, its means still the same.
func (w *Window) forget(slot int) {
	row := w.rows.at(slot)
	w.order.byLo.remove(slot)
	if w.order.wide > 0 {
		w.order.byHi.remove(slot)
	}
	if row[colLo] != row[colHi] {
		w.order.wide--
	}
}

// sort files every row that was known anew.
func (w *Window) sort() {
	w.order.byLo.slots, w.order.byHi.slots, w.order.wide = w.order.byLo.slots[:0], w.order.byHi.slots[:0], 0
	for i := range w.rows.n {
		if w.rows.row(i)[colKnown] > 0 {
			w.file(w.rows.slot(i))
		}
	}
}

// quantileValue returns the smallest value that was not exceeded for the wanted share of the known time.
func (w *Window) quantileValue() Num {
	known := w.within()[colKnown]
	if known <= 0 || known < w.coverage*float64(w.length) {
		return AnyNum()
	}
	lo := w.reached(&w.order.byLo, known)
	if w.order.wide == 0 {
		return Exact(lo)
	}
	return sane(lo, w.reached(&w.order.byHi, known))
}

// reached returns the value of the order at which the wanted share of the known time is reached. What is missing by
// rounding, a trillionth of it, is taken as reached.
func (w *Window) reached(order *sorted, known float64) float64 {
	want, oldest := w.quantile*known-1e-12*known, w.rows.slot(0)
	for _, slot := range order.slots {
		row := w.rows.at(int(slot))
		d := row[colKnown]
		if int(slot) == oldest {
			d -= w.total[colKnown] - known // less what has left
		}
		if want -= d; want <= 0 && d > 0 {
			return row[order.col]
		}
	}
	if len(order.slots) == 0 {
		return math.NaN()
	}
	return w.rows.at(int(order.slots[len(order.slots)-1]))[order.col]
}
