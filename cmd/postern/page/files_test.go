package page

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The page is held to its Content-Security-Policy by what it is, not only by the browser.
func TestFiles(t *testing.T) {
	if len(files()) < 8 {
		t.Fatalf("%d files", len(files()))
	}
	html := files()["/"].text
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(`\bid="([^"]+)"`).FindAllStringSubmatch(html, -1) {
		if ids[m[1]] {
			t.Errorf("the id %s is there twice", m[1])
		}
		ids[m[1]] = true
	}
	for _, bad := range []string{
		`<script(?:[^>]*[^>/])?>[^<]`, // a script's text
		`<style`, `\sstyle=`, `\son[a-z]+=`, `javascript:`, `<iframe`, `<object`, `<base`, `<!--`, `\ssrc="(?:https?:)?//`, `\shref="(?:https?:)?//`, `\saction=`,
	} {
		if m := regexp.MustCompile(`(?i)` + bad).FindString(html); m != "" {
			t.Errorf("the page has %q", m)
		}
	}
	for _, m := range regexp.MustCompile(`\b(?:aria-labelledby|aria-describedby|for|list)="([^"]+)"|href="#([^"]+)"`).FindAllStringSubmatch(html, -1) {
		if id := m[1] + m[2]; !ids[id] {
			t.Errorf("the page names the id %s, which is not there", id)
		}
	}
	for _, m := range regexp.MustCompile(`\b(?:src|href)="(page/[^"]+)"`).FindAllStringSubmatch(html, -1) {
		if _, there := files()["/"+m[1]]; !there {
			t.Errorf("the page wants %s, which is not served", m[1])
		}
	}
	if !strings.Contains(html, `lang="en"`) || !strings.Contains(html, `name="viewport"`) || strings.Contains(html, "user-scalable") || strings.Contains(html, "maximum-scale") {
		t.Error("the page says what its language is, and may be made larger")
	}

	var used []string
	for path, f := range files() {
		if f.kind == "" {
			t.Errorf("%s has no type", path)
		}
		ours := strings.HasSuffix(path, ".js") && path != "/page/uplot.js"
		for _, m := range regexp.MustCompile(`https?://[^\s"')]+`).FindAllString(f.text, -1) {
			// The name of a dialect of XML is fetched by nobody; uPlot says in a comment where it comes from.
			if m != "http://www.w3.org/2000/svg" && m != "https://github.com/leeoniya/uPlot" {
				t.Errorf("%s has the address %s", path, m)
			}
		}
		if strings.HasSuffix(path, ".css") && regexp.MustCompile(`@import|url\(`).MatchString(f.text) {
			t.Errorf("%s fetches something", path)
		}
		if strings.HasSuffix(path, ".js") {
			for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "createContextualFragment", "DOMParser", "setHTML", "srcdoc"} {
				if strings.Contains(f.text, bad) {
					t.Errorf("%s has %s", path, bad)
				}
			}
		}
		if !ours {
			continue
		}
		for _, bad := range []string{`\beval\(`, `\bnew Function\b`, `setTimeout\(['"` + "`]", `\bstyle\b.*=`, `cssText`, `localStorage`, `document\.cookie`} {
			if m := regexp.MustCompile(bad).FindString(f.text); m != "" {
				t.Errorf("%s has %q", path, m)
			}
		}
		for _, m := range regexp.MustCompile(`\bby\('([^']+)'\)|new Chart\('([^']+)'\)`).FindAllStringSubmatch(f.text, -1) {
			used = append(used, m[1]+m[2])
		}
		for _, m := range regexp.MustCompile(`\b(?:refused|put)\('([^']+)'`).FindAllStringSubmatch(f.text, -1) {
			used = append(used, m[1])
		}
		for _, m := range regexp.MustCompile(`from '\./([^']+)'`).FindAllStringSubmatch(f.text, -1) {
			if _, there := files()["/page/"+m[1]]; !there {
				t.Errorf("%s wants %s, which is not served", path, m[1])
			}
		}
	}
	if len(used) < 40 {
		t.Errorf("only %d ids are used: the test does not find them any more", len(used))
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(used))) {
		if !ids[id] {
			t.Errorf("the script wants the id %s, which is not there", id)
		}
	}
	if !strings.Contains(files()["/page/uplot.js"].text, "(v1.6.32)") || !strings.Contains(files()["/page/uplot-LICENSE.txt"].text, "The MIT License") {
		t.Error("uPlot is of another version, or without its licence")
	}
}
