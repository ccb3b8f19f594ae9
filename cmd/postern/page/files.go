package page

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"
)

// The files are the page as the browser gets it: there is no build, and nothing comes from elsewhere.
// uplot.js and uplot.css are uPlot 1.6.32 as published, whose licence lies beside them.
//
//go:embed files
var embedded embed.FS

// file is one of them.
type file struct {
	text, kind, tag string
}

var kinds = map[string]string{
	".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8",
	".svg": "image/svg+xml", ".txt": "text/plain; charset=utf-8",
}

// files are those that are served, by their path. They are read when a browser first asks for one: most
// proxies that run are looked at by nobody.
var files = sync.OnceValue(readFiles)

func readFiles() map[string]file {
	all := map[string]file{}
	entries, err := embedded.ReadDir("files")
	if err != nil {
		panic(err) // they are in the program
	}
	for _, e := range entries {
		text, err := embedded.ReadFile("files/" + e.Name())
		if err != nil {
			panic(err)
		}
		sum := sha256.Sum256(text)
		f := file{string(text), kinds[path.Ext(e.Name())], `"` + hex.EncodeToString(sum[:8]) + `"`}
		if e.Name() == "index.html" {
			all["/"] = f
		} else {
			all["/page/"+e.Name()] = f
		}
	}
	return all
}

// serveFile serves the file of the path. A browser may keep it, and asks whether it is still the same.
func serveFile(w http.ResponseWriter, r *http.Request) {
	f, ok := files()[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("ETag", f.tag)
	h.Set("Cache-Control", "no-cache")
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(f.text))
}
