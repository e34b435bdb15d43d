package wire

import (
	"errors"
	"fmt"
	"strings"
)

// Prefix begins every topic of this version of the wire.
const Prefix = "linli/v1/"

// TopicKind says what a topic carries.
type TopicKind uint8

// The kinds of topic, in the order of the package comment.
const (
	Telemetry TopicKind = iota + 1
	Alert
	AlertsOpen
	Event
	StatusTopic
	CommandTopic
	ReplyTopic
	Dead
)

// Topic is a parsed topic name.
type Topic struct {
	Kind TopicKind
	Node string
	ID   string // alert id, verb of a command, id of a reply; empty otherwise
}

// ErrTopic is wrapped by every error of ParseTopic.
var ErrTopic = errors.New("not a linli topic")

const maxTopicID = 64

// String returns the topic's name. The zero Topic and unknown kinds are the empty string.
func (t Topic) String() string {
	base := Prefix + t.Node
	switch t.Kind {
	case Telemetry:
		return base + "/telemetry"
	case Alert:
		return base + "/alert/" + t.ID
	case AlertsOpen:
		return base + "/alerts/open"
	case Event:
		return base + "/event"
	case StatusTopic:
		return base + "/status"
	case CommandTopic:
		return base + "/cmd/" + t.ID
	case ReplyTopic:
		return base + "/reply/" + t.ID
	case Dead:
		return Prefix + "dead/" + t.Node
	}
	return ""
}

// ParseTopic parses a topic name and checks the node and the id in it. For RabbitMQ, which hands over each dot of a
// topic as a slash, the node may be site/gateway.
func ParseTopic(name string) (Topic, error) {
	rest, ok := strings.CutPrefix(name, Prefix)
	if !ok {
		return Topic{}, fmt.Errorf("%w: %.80q does not begin with %s", ErrTopic, name, Prefix)
	}
	node, what, ok := strings.Cut(rest, "/")
	if !ok {
		return Topic{}, fmt.Errorf("%w: %.80q names no kind", ErrTopic, name)
	}
	if node == "dead" {
		node, what = strings.Replace(what, "/", ".", 1), "dead"
	} else if !strings.Contains(node, ".") {
		var gateway string
		gateway, what, _ = strings.Cut(what, "/")
		node += "." + gateway
	}
	if _, _, ok := SplitNode(node); !ok {
		return Topic{}, fmt.Errorf("%w: %.80q: the node must be site.gateway", ErrTopic, name)
	}
	t := Topic{Node: node}
	switch what {
	case "telemetry":
		t.Kind = Telemetry
	case "alerts/open":
		t.Kind = AlertsOpen
	case "event":
		t.Kind = Event
	case "status":
		t.Kind = StatusTopic
	case "dead":
		t.Kind = Dead
	default:
		word, id, _ := strings.Cut(what, "/")
		switch word {
		case "alert":
			t.Kind = Alert
		case "cmd":
			t.Kind = CommandTopic
		case "reply":
			t.Kind = ReplyTopic
		default:
			return Topic{}, fmt.Errorf("%w: %.80q: unknown kind", ErrTopic, name)
		}
		if !validTopicID(id) {
			return Topic{}, fmt.Errorf("%w: %.80q: the id must be 1 to %d letters, digits, _ or -", ErrTopic, name, maxTopicID)
		}
		t.ID = id
	}
	return t, nil
}

// SplitNode splits a node into its site and gateway ids, and reports whether it is a node.
func SplitNode(node string) (site, gateway string, ok bool) {
	site, gateway, ok = strings.Cut(node, ".")
	return site, gateway, ok && ValidID(site) && ValidID(gateway)
}

// ValidID reports whether s is an id as sites, gateways, zones, devices and points have it.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > 32 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_') {
			return false
		}
	}
	return true
}

func validTopicID(s string) bool {
	if len(s) == 0 || len(s) > maxTopicID {
		return false
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; !nameByte(c) || c == '.' {
			return false
		}
	}
	return true
}

// nameByte reports whether c may stand in a measurement, a tag key or a field key.
func nameByte(c byte) bool { return nameBytes[c] }

// nameBytes is a constant: a table, since a check of lines spends most of its time here.
var nameBytes = [256]bool{
	'a': true, 'b': true, 'c': true, 'd': true, 'e': true, 'f': true, 'g': true, 'h': true, 'i': true,
	'j': true, 'k': true, 'l': true, 'm': true, 'n': true, 'o': true, 'p': true, 'q': true, 'r': true,
	's': true, 't': true, 'u': true, 'v': true, 'w': true, 'x': true, 'y': true, 'z': true, 'A': true,
	'B': true, 'C': true, 'D': true, 'E': true, 'F': true, 'G': true, 'H': true, 'I': true, 'J': true,
	'K': true, 'L': true, 'M': true, 'N': true, 'O': true, 'P': true, 'Q': true, 'R': true, 'S': true,
	'T': true, 'U': true, 'V': true, 'W': true, 'X': true, 'Y': true, 'Z': true, '0': true, '1': true,
	'2': true, '3': true, '4': true, '5': true, '6': true, '7': true, '8': true, '9': true, '_': true,
	'-': true, '.': true,
}
