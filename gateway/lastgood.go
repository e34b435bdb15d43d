package main

import (
	"archive/zip"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"linli/internal/inplace"
)

// lastGoodName is the file in the state directory that holds the site file as the gateway last started from it, with the
// site-local classes, profiles and packs beside it: one archive, so that it is there as a whole or not at all. Its comment
// is the path of the site file.
const lastGoodName = "last-good-site.zip"

// lastGoodMax bounds what is read of it, in bytes.
const lastGoodMax = 64 << 20

// keepLastGood writes down in the state directory what the gateway starts from, for outputs safe: a crash must not leave a
// siren on because somebody is in the middle of an edit. A plan that comes from no file (the demo's) is not kept.
func keepLastGood(dir string, p *plan) error {
	if p.source == nil {
		return nil
	}
	file, err := filepath.Abs(p.site.File)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	add := func(name string, data []byte) error {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()})
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return err
	}
	errs := []error{w.SetComment(file), add("site.yaml", p.source.text())}
	local := os.DirFS(filepath.Dir(file))
	for _, folder := range []string{"classes", "profiles", "packs"} {
		for _, pattern := range []string{"*.yaml", "*.yml"} {
			names, err := fs.Glob(local, path.Join(folder, pattern))
			errs = append(errs, err)
			for _, name := range names {
				data, err := fs.ReadFile(local, name)
				if err == nil {
					err = add(name, data)
				}
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(append(errs, w.Close())...); err != nil {
		return fmt.Errorf("keep the site file for outputs safe: %w", err)
	}
	if err := inplace.Replace(filepath.Join(dir, lastGoodName), buf.Bytes(), 0o640); err != nil {
		return fmt.Errorf("keep the site file for outputs safe: %w", err)
	}
	return nil
}

// lastGood returns what keepLastGood wrote down for the site file, and when. Paths in the file are relative to the folder
// of the site file, as ever.
func lastGood(dir, file string) (p *plan, when time.Time, err error) {
	data, err := readAtMost(filepath.Join(dir, lastGoodName), lastGoodMax)
	if err != nil {
		return nil, time.Time{}, err
	}
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("%s: %w", filepath.Join(dir, lastGoodName), err)
	}
	abs, err := filepath.Abs(file)
	if err != nil {
		return nil, time.Time{}, err
	}
	if archive.Comment != abs {
		return nil, time.Time{}, fmt.Errorf("the last start from %s was of another site file, %s", dir, archive.Comment)
	}
	src, err := fs.ReadFile(archive, "site.yaml")
	if err != nil {
		return nil, time.Time{}, err
	}
	for _, f := range archive.File {
		if f.Name == "site.yaml" {
			when = f.Modified
		}
	}
	p, err = resolveAll(abs, src, archive)
	if p == nil {
		return nil, time.Time{}, err
	}
	return p, when, nil // Mistakes that a newer version of the program finds in it do not matter here.
}

// readAtMost reads a file of at most limit bytes.
func readAtMost(name string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", name, limit)
	}
	return data, err
}
