// Package telemetry holds the nouns that every other package speaks in: classes and point definitions, zones,
// devices and points of one site, samples with their quality, events, and what the rules engine says about
// alerts.
//
// It is plain data with a little arithmetic: no I/O, no clock, no logging, and it imports the standard library
// alone. Everything here is safe to read from several goroutines once built; nothing here locks.
package telemetry

// Text is a name or a sentence for people, in Chinese and in English. Chinese is written first; neither is a
// translation of the other.
type Text struct {
	Zh string `yaml:"zh" json:"zh"`
	En string `yaml:"en" json:"en"`
}

// In returns the text in lang ("zh" or "en"), or in the other language where that one is missing.
func (t Text) In(lang string) string {
	if lang == "en" && t.En != "" || t.Zh == "" {
		return t.En
	}
	return t.Zh
}

// IsZero reports whether the text is empty in both languages.
func (t Text) IsZero() bool { return t.Zh == "" && t.En == "" }
