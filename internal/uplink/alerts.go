package uplink

import (
	"encoding/json"
	"slices"
	"time"

	"linli/internal/alert"
	"linli/internal/wire"
)

// sendAlerts sends what the book has for us, and the list of open alerts when it has changed.
func (c *connection) sendAlerts() {
	u := c.u
	if !c.bookChanged {
		return
	}
	c.bookChanged = false
	open := []string{}
	for _, a := range u.book.OpenAlerts() {
		open = append(open, a.ID)
	}
	slices.Sort(open)
	if c.room(false) && (!c.openTold || !slices.Equal(open, c.open)) {
		if b, err := json.Marshal(wire.OpenList{Node: u.node, Time: time.Now().UTC(), Open: open}); err == nil {
			c.open, c.openTold = open, true
			c.send(u.topic(wire.AlertsOpen, ""), true, b, nil, nil)
		}
	}
	for _, o := range u.book.Pending(Channel, u.cfg.Window) {
		if c.inFlight+2 > u.cfg.Window {
			return // the next acknowledgement goes on
		}
		if c.alerts[o.Alert.ID] > 0 {
			continue // in order: the next transition of this alert waits for this one
		}
		c.sendAlert(&o, func() {
			u.book.Told(Channel, o.Alert.ID, o.Seq)
			u.onceMore(o.Alert.ID)
			u.setStatus(func(s *Status) { s.AlertsTold++ })
		})
	}
	c.sendRepeats()
}

// sendRepeats sends the messages of open alerts again, as many as the window has room for; news goes first.
func (c *connection) sendRepeats() {
	for len(c.repeat) > 0 && c.inFlight < c.u.cfg.Window*7/8 {
		id := c.repeat[0]
		c.repeat = c.repeat[1:]
		if c.alerts[id] > 0 {
			continue // its newest message is on its way
		}
		a, lines, err := c.u.book.Get(id)
		if err != nil || !a.Open() || len(lines) == 0 {
			continue // closed since: that is still to be told
		}
		last := lines[len(lines)-1]
		c.sendAlert(&alert.Outgoing{Alert: a, What: last.What, At: last.Time}, nil)
	}
}

// sendChanged sends alerts again that changed when something was lost, slowly.
func (c *connection) sendChanged() {
	u := c.u
	u.takeFound()
	for i := 0; i < len(u.repeat) && c.inFlight < u.cfg.Window/2; {
		now := time.Now()
		if now.Before(c.nextRepeat) {
			return
		}
		id := u.repeat[i]
		if c.alerts[id] > 0 {
			i++ // its newest message is on its way
			continue
		}
		a, lines, err := u.book.Get(id)
		if err != nil || len(lines) == 0 {
			u.repeat = slices.Delete(u.repeat, i, i+1) // thrown away since
			continue
		}
		// Some at a time where the loop comes around rarely.
		c.nextRepeat = c.nextRepeat.Add(repeatEvery)
		if now.Sub(c.nextRepeat) > 5*repeatEvery {
			c.nextRepeat = now.Add(-5 * repeatEvery)
		}
		last := lines[len(lines)-1]
		c.sendAlert(&alert.Outgoing{Alert: a, What: last.What, At: last.Time}, func() {
			u.repeat = slices.DeleteFunc(u.repeat, func(other string) bool { return other == id })
		})
		i++
	}
}

func (c *connection) sendAlert(o *alert.Outgoing, told func()) {
	a := &o.Alert
	event := wire.NewAlertEvent(c.u.node, a, o.What, o.At)
	payload, err := event.Encode()
	if err != nil {
		return // only text and times: cannot happen
	}
	messages := 1
	if !a.Open() {
		messages = 2
	}
	c.alerts[a.ID] += messages
	left := messages
	done := func() {
		if left--; left == 0 && told != nil {
			told()
		}
	}
	free := func() {
		c.bookChanged = true
		if c.alerts[a.ID]--; c.alerts[a.ID] == 0 {
			delete(c.alerts, a.ID)
		}
	}
	topic := c.u.topic(wire.Alert, a.ID)
	c.send(topic, a.Open(), payload, done, free)
	if !a.Open() {
		c.send(topic, true, nil, done, free)
	}
}
