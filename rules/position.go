package rules

import "linli/internal/yamlfile"

// at returns the place in the file of byte offset of the expression's text.
func (s *source) at(offset int) yamlfile.Pos {
	return yamlfile.Place(s.file, s.text.Pos, s.text.Value, offset)
}
