// Bom writes, of a binary that Go built, which modules are in it: as a bill of
// materials in CycloneDX 1.5, as a copyright file, and as one with the licence of each. It
// fails where a module has none.
//
//	go run .ci/bom/main.go BINARY BOM COPYRIGHT LICENCES
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bom:", err)
		os.Exit(1)
	}
}

type component struct {
	Type    string `json:"type"`
	Name    string `json:"name"`
	Version string `json:"version"`
	Purl    string `json:"purl"`
	Hashes  []hash `json:"hashes,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

// uPlot is the version of the charts' library, as cmd/postern/page has it.
const uPlot = "1.6.32"

func run(args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("wants a binary, and the names of the three files to write")
	}
	info, err := buildinfo.ReadFile(args[0])
	if err != nil {
		return err
	}
	binary, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	sum := sha256.Sum256(binary)
	var all []component
	var papers, texts bytes.Buffer
	own, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	fmt.Fprintf(&papers, "Postern\n\n%s\nLinked into /usr/bin/postern, with their licences in /usr/share/doc/postern/licences.txt:\n\n", own)
	note := func(name, version, purl string, text []byte) {
		fmt.Fprintf(&papers, "  %s %s\n", name, version)
		fmt.Fprintf(&texts, "%s\n%s %s\n\n%s\n", strings.Repeat("-", 78), name, version, text)
		all = append(all, component{Type: "library", Name: name, Version: version, Purl: purl})
	}
	add := func(name, version, folder string) error {
		text, err := licence(folder)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		note(name, version, "pkg:golang/"+name+"@"+version, text)
		return nil
	}
	if err := add("std", info.GoVersion, runtime.GOROOT()); err != nil {
		return err
	}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", d.Path+"@"+d.Version).Output() //nolint:gosec // the names are those of go.mod
		if err != nil {
			return fmt.Errorf("%s: %w", d.Path, err)
		}
		if err := add(d.Path, d.Version, strings.TrimSpace(string(out))); err != nil {
			return err
		}
	}
	// uPlot is no module: its script lies among the files of the page.
	text, err := os.ReadFile("cmd/postern/page/files/uplot-LICENSE.txt")
	if err != nil {
		return err
	}
	note("uPlot", uPlot, "pkg:npm/uplot@"+uPlot, text)
	version := "unknown"
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			version = s.Value
		}
	}
	bom, err := json.MarshalIndent(map[string]any{
		"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
		"metadata": map[string]any{"component": component{
			Type: "application", Name: "postern", Version: version, Purl: "pkg:generic/postern@" + version, Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}},
		}},
		"components": all,
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(args[1], append(bom, '\n'), 0o644); err != nil { //nolint:gosec // everybody may read it
		return err
	}
	if err := os.WriteFile(args[2], papers.Bytes(), 0o644); err != nil { //nolint:gosec // everybody may read it
		return err
	}
	return os.WriteFile(args[3], texts.Bytes(), 0o644) //nolint:gosec // everybody may read it
}

// licence is the text of the licence in a folder of a module, or above it, as for the standard library on Debian.
func licence(folder string) ([]byte, error) {
	var all []byte
	for _, pattern := range []string{"LICENSE*", "LICENCE*", "COPYING*", "NOTICE*"} {
		names, err := filepath.Glob(filepath.Join(folder, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			text, err := os.ReadFile(name) //nolint:gosec // it is in a module that is built in
			if err != nil {
				return nil, err
			}
			all = append(append(all, text...), '\n')
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no licence in %s", folder)
	}
	return all, nil
}
