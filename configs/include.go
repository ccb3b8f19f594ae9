package configs

import (
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
)

// maxIncluded bounds how many files a pattern may bring in.
const maxIncluded = 1000

// included is what a file that policy.include names may hold. It cannot include
// others, so that no loop can be.
type included struct {
	Let       []Let      `yaml:"let"`
	Rules     []Rule     `yaml:"rules"`
	Lists     []List     `yaml:"lists"`
	Overrides []Override `yaml:"overrides"`
}

// includes appends what the files of policy.include hold, in the order of the
// patterns and of the names that fit each; a file that fits twice counts once.
func (l *loader) includes(cfg *Config, folder string) {
	seen := map[string]bool{}
	for i, pattern := range cfg.Policy.Include {
		path := fmt.Sprintf("policy.include[%d]", i)
		if !filepath.IsAbs(pattern) {
			pattern = filepath.Join(folder, pattern)
		}
		cfg.included = append(cfg.included, pattern)
		files, err := filepath.Glob(pattern)
		switch {
		case err != nil:
			l.fault(path, "policy.include: %q is no pattern: *, ? and [a-z] stand for parts of a name, \\ takes their meaning away", pattern)
		case len(files) == 0 && !strings.ContainsAny(pattern, `*?[`):
			l.fault(path, "policy.include: there is no file %s", pattern)
		case len(files) > maxIncluded:
			l.fault(path, "policy.include: %d files fit %s; at most %d", len(files), pattern, maxIncluded)
			continue
		}
		slices.Sort(files)
		for _, file := range files {
			if !seen[file] {
				seen[file] = true
				l.include(cfg, path, file)
			}
		}
	}
}

// include appends one file.
func (l *loader) include(cfg *Config, path, file string) {
	src, err := ReadFile(file, maxFile)
	if err != nil {
		l.fault(path, "policy.include: %v", err)
		return
	}
	var inc included
	sub := newLoader()
	sub.nodes = l.nodes // the bound is for all together
	sub.decode(&inc, file, src)
	l.nodes = sub.nodes
	for _, f := range sub.faults {
		if strings.HasPrefix(f.Text, `unknown key "include"`) {
			f.Text = `unknown key "include": a file that is included cannot include others`
		}
	}
	l.faults = append(l.faults, sub.faults...)
	for p, at := range sub.places {
		key, rest, _ := strings.Cut(p, "[")
		for _, list := range []struct {
			key, in string
			length  int
		}{
			{"let", "policy.let", len(cfg.Policy.Let)}, {"rules", "policy.rules", len(cfg.Policy.Rules)},
			{"lists", "lists", len(cfg.Lists)}, {"overrides", "overrides", len(cfg.Overrides)},
		} {
			var index int
			if key != list.key || rest == "" {
				continue
			}
			number, rest, _ := strings.Cut(rest, "]")
			if _, err := fmt.Sscanf(number, "%d", &index); err == nil {
				l.places[fmt.Sprintf("%s[%d]%s", list.in, list.length+index, rest)] = at
			}
		}
	}
	cfg.Policy.Let = append(cfg.Policy.Let, inc.Let...)
	cfg.Policy.Rules = slices.Concat(cfg.Policy.Rules, inc.Rules)
	cfg.Lists = append(cfg.Lists, inc.Lists...)
	cfg.Overrides = append(cfg.Overrides, inc.Overrides...)
}

// Included returns the patterns of policy.include as Watch wants them.
func (c *Config) Included() []string { return c.included }

// Decode reads a YAML document into a struct with the tags that Config has, as
// strictly as Load: an unknown key, a key said twice, a value of another type
// are Faults with their places. A relative path is taken from the folder of the file.
func Decode(file string, src []byte, into any) error {
	l := newLoader()
	l.decode(into, file, src)
	if len(l.faults) == 0 {
		l.bounds(reflect.ValueOf(into).Elem(), "")
	}
	if len(l.faults) > 0 {
		return l.faults.Sorted()
	}
	return nil
}

func (l *loader) decode(into any, file string, src []byte) {
	v := reflect.ValueOf(into).Elem()
	values := l.documentOf(v.Type(), file, src)
	dc := &mapstructure.DecoderConfig{Result: into}
	l.strict(dc)
	dec, err := mapstructure.NewDecoder(dc)
	if err == nil {
		err = dec.Decode(values)
	}
	if err != nil {
		l.faults = append(l.faults, &Fault{Position: Position{File: file}, Text: err.Error()})
	}
	l.finish(v, "", filepath.Dir(file), false)
}
