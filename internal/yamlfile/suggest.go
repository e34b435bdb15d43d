package yamlfile

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Suggest returns `, did you mean "x"?` for the member of known nearest to name, or "" where none is near. Of two that
// are equally near it names both, of more the first.
func Suggest(name string, known []string) string {
	best := nearest(name, known)
	switch len(best) {
	case 0:
		return ""
	case 2:
		return fmt.Sprintf(", did you mean %q or %q?", best[0], best[1])
	}
	return fmt.Sprintf(", did you mean %q?", best[0])
}

// language returns the code of the language that people call name in texts, "" for any other word.
func language(name string) string {
	switch strings.ToLower(name) {
	case "cn", "ch", "chn", "zh_cn", "zh-cn", "zh_hans", "zh-hans", "chinese":
		return "zh"
	case "en_us", "en-us", "en_gb", "en-gb", "eng", "english":
		return "en"
	}
	return ""
}

// nearest returns the members of known nearest to name, all equally near; none where nothing is near.
func nearest(name string, known []string) []string {
	if len(name) > 100 {
		return nil
	}
	if other := language(name); other != "" && slices.Contains(known, other) {
		return []string{other}
	}
	var best []string
	bestDistance := min(3, max(1, utf8.RuneCountInString(name)/3))
	for _, k := range known {
		if k == name || len(k) > 100 || slices.Contains(best, k) {
			continue
		}
		switch d := editDistance(strings.ToLower(name), strings.ToLower(k)); {
		case d < bestDistance || d == bestDistance && best == nil:
			best, bestDistance = []string{k}, d
		case d == bestDistance:
			best = append(best, k)
		}
	}
	return best
}

// editDistance is the number of letters to insert, delete, replace or swap with their neighbour to get from a to b.
func editDistance(a, b string) int {
	x, y := []rune(a), []rune(b)
	before, last, row := make([]int, len(y)+1), make([]int, len(y)+1), make([]int, len(y)+1)
	for j := range row {
		last[j] = j
	}
	for i := 1; i <= len(x); i++ {
		row[0] = i
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(y)]
}
