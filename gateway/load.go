package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	firmwareconfig "linli/firmware-config"
	"linli/internal/site"
	"linli/internal/wire"
	"linli/internal/yamlfile"
	"linli/rules"
)

// plan is a site file with everything it refers to, checked as a whole: what `linli check` accepts and `linli run`
// starts from.
type plan struct {
	library *firmwareconfig.Library
	site    *site.Site
	engine  *rules.Engine // compiled; its derived points are in the inventory
}

// loadPlan reads the site file and compiles its rules. Beside the site file, classes/, profiles/ and packs/ may hold
// site-local entries, which go over the shipped ones of the same id. The error is yamlfile.Errors with every mistake
// that can be told at once, or an error of reading a file.
func loadPlan(file string) (*plan, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the site file: %w", err)
	}
	return resolvePlan(file, src, os.DirFS(filepath.Dir(file)))
}

// resolvePlan is loadPlan for a site file in memory. local may be nil.
func resolvePlan(file string, src []byte, local fs.FS) (*plan, error) {
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
			}
		}
	}
	if library == nil {
		return nil, problems.Err()
	}

	s, err := site.Load(file, src, library, packs)
	problems.Append(at, err)
	p := &plan{library: library, site: s}
	// Rules are compiled even where the site file has mistakes, as far as it could be resolved: mistakes in rules
	// are told in the same go.
	if s != nil && s.Inventory != nil {
		p.engine, err = rules.Compile(rules.Config{Packs: s.Packs, Params: s.Params, Inventory: s.Inventory, Classes: library.Classes})
		problems.Append(at, err)
	}
	if err := problems.Err(); err != nil {
		return nil, err
	}
	return p, nil
}
