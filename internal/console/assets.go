package console

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
)

// assets are the files of the page, compressed once.
type assets struct {
	dir     fs.FS
	files   map[string]asset // by URL path
	version string           // of all files together: a page of another version reloads itself
}

type asset struct {
	name         string
	zipped, body []byte // body is kept where compression does not pay only
	kind, etag   string
	immutable    bool // the name carries a hash of the content
}

// loadAssets reads the built files.
func loadAssets(dir fs.FS) (*assets, error) {
	a := &assets{dir: dir, files: map[string]asset{}}
	all := sha256.New()
	err := fs.WalkDir(dir, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || name == "sources.sha256" {
			return err
		}
		body, err := fs.ReadFile(dir, name)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(body)
		fmt.Fprintf(all, "%s %x\n", name, sum)
		f := asset{name: name, etag: `"` + hex.EncodeToString(sum[:12]) + `"`, immutable: strings.HasPrefix(name, "assets/"),
			kind: contentType(name)}
		zipped, err := zip(body)
		if err != nil {
			return err
		}
		if len(zipped) < len(body)*9/10 {
			f.zipped = zipped
		} else {
			f.body = body
		}
		a.files["/"+name] = f
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("built page: %w", err)
	}
	index, ok := a.files["/index.html"]
	if !ok {
		return nil, fmt.Errorf("built page: index.html is missing; run `make web`")
	}
	a.files["/"] = index
	a.version = hex.EncodeToString(all.Sum(nil)[:8])
	return a, nil
}

// zip returns body compressed, in no more memory than it needs: it is kept.
func zip(body []byte) ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err = z.Write(body); err == nil {
		err = z.Close()
	}
	return bytes.Clone(buf.Bytes()), err
}

// contentType is by the name alone: the tables of the operating system are not to be relied on.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".html":
		return "text/html; charset=utf-8"
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".json", ".webmanifest":
		return "application/json"
	}
	if t := mime.TypeByExtension(path.Ext(name)); t != "" {
		return t
	}
	return "application/octet-stream"
}

// ServeHTTP answers with a file of the page.
func (a *assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, ok := a.files[r.URL.Path]
	if !ok {
		writeError(w, http.StatusNotFound, errNoPage)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		writeError(w, http.StatusMethodNotAllowed, errMethod)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("ETag", f.etag)
	h.Add("Vary", "Accept-Encoding")
	if f.immutable {
		h.Set("Cache-Control", "public, max-age=31536000, immutable")
	} else {
		h.Set("Cache-Control", "no-cache")
	}
	if strings.Contains(r.Header.Get("If-None-Match"), f.etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.body
	switch {
	case f.zipped == nil:
	case acceptsGzip(r):
		h.Set("Content-Encoding", "gzip")
		body = f.zipped
	default:
		body, _ = fs.ReadFile(a.dir, f.name) // It was there at the start, and is in the program.
	}
	h.Set("Content-Length", fmt.Sprint(len(body)))
	if r.Method == http.MethodGet {
		w.Write(body)
	}
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(name) == "gzip" {
			q := strings.ReplaceAll(params, " ", "")
			return q != "q=0" && !strings.HasPrefix(q, "q=0.000")
		}
	}
	return false
}
