package main

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"linli/drivers/modbus"
	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/wire"
	"linli/internal/yamlfile"
	"linli/rules"
)

// plan is a site file with everything it refers to, checked as a whole: what `linli check` accepts and `linli run`
// starts from.
type plan struct {
	source  packed // the site file as it was read; nil where it comes from no file
	library *firmwareconfig.Library
	site    *site.Site
	engine  *rules.Engine // compiled; its derived points are in the inventory
	budgets []busBudget   // parallel to the site's buses
	// unmet is what the buses cannot keep up with, each at its bus: a mistake for check; run reads as fast as it can,
	// since a late reading is better than none.
	unmet yamlfile.Errors
}

// started lets go of what a running gateway has no more use for: what is shipped is in the program.
func (p *plan) started() { p.site.Packs, p.library = nil, p.library.Own() }

// packed is a text that is kept and seldom needed.
type packed []byte

func pack(text []byte) packed {
	var buf bytes.Buffer
	w, _ := flate.NewWriter(&buf, flate.BestSpeed) // The level is valid, and memory takes everything: no error.
	_, _ = w.Write(text)
	_ = w.Close()
	return bytes.Clone(buf.Bytes())
}

// text returns what was packed.
func (p packed) text() []byte {
	text, _ := io.ReadAll(flate.NewReader(bytes.NewReader(p))) // It is as pack wrote it: no error.
	return text
}

// loadPlan reads the site file and compiles its rules. Beside the site file, classes/, profiles/ and packs/ may hold
// site-local entries, which go over the shipped ones of the same id. The error is yamlfile.Errors with every mistake
// that can be told at once, or an error of reading a file.
func loadPlan(file string) (*plan, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the site file: %w", err)
	}
	p, err := resolvePlan(file, src, os.DirFS(filepath.Dir(file)))
	if err != nil {
		return nil, err
	}
	p.source = pack(src)
	p.site.Warnings = append(p.site.Warnings, fileWarnings(file, src, p.site)...)
	p.site.Warnings = append(p.site.Warnings, p.engine.Warnings()...)
	return p, nil
}

// fileWarnings tells of files that the site file names and that cannot be used here. They are warnings, because a site
// file is often checked on another machine than the one it is for.
func fileWarnings(file string, src []byte, s *site.Site) yamlfile.Errors {
	var warnings yamlfile.Errors
	look := func(section, key, path string, use func(string) error) {
		if path == "" {
			return
		}
		if err := use(path); err != nil {
			warnings.Addf(keyPos(file, src, section, key), "%v", err)
		}
	}
	for i := range s.Buses {
		if b := &s.Buses[i]; b.KeyFile != "" {
			if _, err := readKey(b.KeyFile); err != nil {
				warnings.Addf(b.KeyPos, "%v; until it is there the card readers of this chip are not opened", err)
			}
		}
	}
	exists := func(path string) error { _, err := os.ReadFile(path); return err }
	look("console", "token_file", s.Console.TokenFile, func(path string) error { _, err := readToken(path); return err })
	if u := s.Uplink; u != nil {
		look("uplink", "password_file", u.PasswordFile, exists)
		problems := certificateProblems(u, s.Inventory.Node(), time.Now())
		for _, key := range []string{"ca_file", "cert_file", "key_file"} {
			if err := problems[key]; err != nil {
				warnings.Addf(keyPos(file, src, "uplink", key), "%v", err)
			}
		}
		_, unread := commandKeys(u.Commands)
		warnings = append(warnings, unread...)
	}
	return warnings
}

// keyPos returns where key first stands in the given section of src, outside comments.
func keyPos(file string, src []byte, section, key string) yamlfile.Pos {
	inside := false
	for i, line := range strings.Split(string(src), "\n") {
		text, _, _ := strings.Cut(line, "#")
		if text != "" && strings.Trim(text[:1], " \t\r") != "" {
			inside = strings.HasPrefix(text, section+":")
		}
		if col := strings.Index(text, key+":"); inside && col >= 0 {
			return yamlfile.Pos{File: file, Line: i + 1, Col: utf8.RuneCountInString(text[:col]) + 1}
		}
	}
	return yamlfile.Pos{File: file, Line: 1, Col: 1}
}

// resolvePlan is loadPlan for a site file in memory. local may be nil.
func resolvePlan(file string, src []byte, local fs.FS) (*plan, error) {
	p, err := resolveAll(file, src, local)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// resolveAll is resolvePlan, which beside mistakes returns what could be resolved all the same; nil only where there is
// nothing.
func resolveAll(file string, src []byte, local fs.FS) (*plan, error) {
	var problems yamlfile.Errors
	at := yamlfile.Pos{File: file, Line: 1, Col: 1}

	layers := []fs.FS{firmwareconfig.Shipped()}
	if local != nil {
		layers = append(layers, local)
	}
	library, err := firmwareconfig.Load(layers...)
	var mistakes yamlfile.Errors
	if errors.As(err, &mistakes) {
		for _, m := range mistakes { // Of the local layer: the shipped one is tested. Positions there start at its folder.
			m.Pos.File = filepath.Join(filepath.Dir(file), m.Pos.File)
		}
	}
	problems.Append(at, err)
	if library != nil {
		for id := range library.Classes {
			if wire.Reserved(id) {
				problems.Addf(at, "class %s: the city's database uses this measurement name for something else; choose another id", id)
			}
		}
	}

	packs, err := rules.Shipped()
	problems.Append(at, err)
	var own []*rules.Pack // beside the site file
	if local != nil {
		paths, err := fs.Glob(local, "packs/*.yaml")
		problems.Append(at, err)
		for _, path := range paths {
			src, err := fs.ReadFile(local, path)
			if err != nil {
				problems.Append(at, err)
				continue
			}
			pack, err := rules.ParsePack(filepath.Join(filepath.Dir(file), path), src)
			problems.Append(at, err)
			if pack != nil && pack.ID != "" {
				packs[pack.ID] = pack
				own = append(own, pack)
			}
		}
	}
	if library == nil {
		return nil, problems.Err()
	}

	s, err := site.Load(file, src, library, packs)
	problems.Append(at, err)
	for _, pack := range own {
		if s != nil && !slices.Contains(s.Packs, pack) {
			s.Warnings.Addf(yamlfile.Pos{File: pack.File, Line: 1, Col: 1}, "pack %s is not in use, and so not checked either: add {pack: %s} under rules", pack.ID, pack.ID)
		}
	}
	p := &plan{library: library, site: s}
	if s != nil && s.Inventory != nil {
		provideTemperature(s, box{root: "/"})
	}
	if err == nil {
		p.budgets, p.unmet, err = budgetsOf(s, modbus.ComputeBudget)
		problems.Append(at, err)
	}
	// Rules are compiled even where the site file has mistakes, as far as it could be resolved: mistakes in rules
	// are told in the same go.
	if s != nil && s.Inventory != nil {
		p.engine, err = rules.Compile(p.rulesConfig())
		problems.Append(at, err)
	}
	return p, problems.Err()
}

// rulesConfig is what the plan's engine is compiled from.
func (p *plan) rulesConfig() rules.Config {
	return rules.Config{Packs: p.site.Packs, Params: p.site.Params, Schedules: p.site.Schedules, Inventory: p.site.Inventory, Classes: p.library.Classes}
}
