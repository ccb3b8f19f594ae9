package configs

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// Options says where the configuration comes from.
type Options struct {
	File string // a YAML file; empty: none
	// Set holds what flags said, by key ("listeners", "dns.timeout"), in the form that
	// the file would have it. It goes before environment and file.
	Set map[string]any
	// NoEnvironment leaves the POSTERN_ variables unread.
	NoEnvironment bool
}

// keyDelimiter keeps viper from taking a dot inside a key for a level.
const keyDelimiter = "\x1f"

// Load reads the file, then the environment, then the flags, on top of the
// defaults. Whatever is wrong with them comes back as Faults, all at once and in
// the order of the file; an unreadable file as an error that says so.
func Load(opt Options) (*Config, error) {
	l := newLoader()
	var file map[string]any
	if opt.File != "" {
		src, err := ReadFile(opt.File, maxFile)
		if err != nil {
			return nil, fmt.Errorf("the configuration cannot be read: %w", err)
		}
		file = l.document(opt.File, src)
	}
	cfg := l.assemble(file, opt)
	l.validate(cfg)
	if len(l.faults) > 0 {
		return nil, l.faults.Sorted()
	}
	return cfg, nil
}

// loader gathers values, the places where they were said, and faults.
type loader struct {
	faults Faults
	places map[string]Position // of the value, by key path
	texts  map[string]Position // of the first octet of a text, behind a quote or block mark
	said   map[string]bool     // single values, by key path: a zero that was said is no default
	bad    map[string]bool     // key paths that have a fault already
	nodes  int                 // visited so far
}

func newLoader() *loader {
	return &loader{places: map[string]Position{}, texts: map[string]Position{}, said: map[string]bool{}, bad: map[string]bool{}}
}

// fault notes what is wrong at a key path. What follows from an earlier fault at
// the same place or around it would only confuse, and is left out.
func (l *loader) fault(path, format string, args ...any) {
	for p := path; ; p = parent(p) {
		if l.bad[p] {
			return
		}
		if p == "" {
			break
		}
	}
	l.bad[path] = true
	l.faults = append(l.faults, &Fault{Position: place(l.places, path), Text: fmt.Sprintf(format, args...)})
}

// parent cuts the last step off a key path.
func parent(path string) string {
	return path[:max(strings.LastIndexAny(path, ".["), 0)]
}

// place finds where path was said, or the nearest thing around it.
func place(places map[string]Position, path string) Position {
	for {
		if p, ok := places[path]; ok || path == "" {
			return p
		}
		path = parent(path)
	}
}

// At returns the place at which a key was said, such as "tls.certificates[0].key";
// where it was not, that of the section around it, or of nothing at all.
func (c *Config) At(path string) Position { return place(c.places, path) }

// assemble lays file, environment and flags over the defaults.
func (l *loader) assemble(file map[string]any, opt Options) *Config {
	// A fresh viper each time, that nobody keeps: its global one is shared state,
	// and its getters race with a reload.
	v := viper.NewWithOptions(viper.KeyDelimiter(keyDelimiter))
	v.AllowEmptyEnv(true) // POSTERN_ADMIN_ADDRESS= means no admin address
	if err := v.MergeConfigMap(file); err != nil {
		l.fault("", "%v", err)
	}
	if !opt.NoEnvironment {
		l.environment(v)
	}
	for _, key := range slices.Sorted(maps.Keys(opt.Set)) {
		l.forget(key)
		l.places[key] = Position{File: "command line"}
		v.Set(strings.ReplaceAll(key, ".", keyDelimiter), opt.Set[key])
	}

	cfg := Default()
	err := v.Unmarshal(cfg, l.strict)
	if err != nil {
		// The file was checked node by node: only what the flags set can get here.
		l.faults = append(l.faults, &Fault{Text: err.Error()})
	}

	folder := ""
	if opt.File != "" {
		folder = filepath.Dir(opt.File)
	}
	l.finish(reflect.ValueOf(cfg).Elem(), "", folder, false)
	l.includes(cfg, folder)
	cfg.Policy.Overrides = cfg.Overrides
	cfg.FilterNames()
	cfg.places = l.places
	return cfg
}

// strict makes a decoder take values as they are.
func (l *loader) strict(dc *mapstructure.DecoderConfig) {
	dc.TagName = "yaml"
	dc.WeaklyTypedInput = false // else timeout: 5 is five nanoseconds, and tls: 2 is true
	dc.ErrorUnused = true
	dc.DecodeHook = mapstructure.DecodeHookFuncType(l.fromText)
}

// forget drops what is known below a key whose value was replaced as a whole.
func (l *loader) forget(key string) {
	below := func(p string) bool {
		return p == key || strings.HasPrefix(p, key+".") || strings.HasPrefix(p, key+"[")
	}
	for _, m := range []map[string]Position{l.places, l.texts} {
		maps.DeleteFunc(m, func(p string, _ Position) bool { return below(p) })
	}
	maps.DeleteFunc(l.said, func(p string, _ bool) bool { return below(p) })
}

// FileVariable names the configuration file for the command line, and is no key.
const FileVariable = "POSTERN_CONFIG"

// linked is what Kubernetes makes up in every container for a service named postern. It is made when something is wrong.
var linked = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^POSTERN_(SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)
})

// environment binds the POSTERN_ variables that are set and good. A variable that is no
// key is a fault, as an unknown key of the file is.
func (l *loader) environment(v *viper.Viper) {
	known := map[string]string{}
	for key := range keys(reflect.TypeFor[Config](), "") {
		known["POSTERN_"+strings.ToUpper(strings.ReplaceAll(key, ".", "_"))] = key
	}
	for _, kv := range os.Environ() {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "POSTERN_") {
			continue
		}
		key, ok := known[name]
		if !ok {
			if name == FileVariable {
				continue
			}
			hint := ""
			if near := Nearest(name, maps.Keys(known)); near != "" {
				hint = ": did you mean " + near + "?"
			} else if linked().MatchString(name) {
				hint = ": Kubernetes makes it up for a service named postern; say enableServiceLinks: false in the pod, or name the service otherwise"
			}
			l.faults = append(l.faults, &Fault{Position: Position{File: name}, Text: "no such setting" + hint})
			continue
		}
		l.forget(key)
		l.places[key] = Position{File: name}
		field, _ := fieldOf(reflect.TypeFor[Config](), key)
		if _, ok := l.parseText(text, field, key); !ok {
			continue
		}
		if err := v.BindEnv(strings.ReplaceAll(key, ".", keyDelimiter), name); err != nil {
			l.fault(key, "%v", err)
		}
	}
}

// fromText turns the text of an environment variable into the type of its key.
// Values of the file have their type already.
func (l *loader) fromText(from, to reflect.Type, data any) (any, error) {
	if from.Kind() != reflect.String || from == to {
		return data, nil
	}
	v, ok := newLoader().parseText(data.(string), to, "")
	if !ok {
		return nil, fmt.Errorf("%q does not fit", data)
	}
	return v, nil
}

// finish fills in the defaults of list elements, the positions, and the folder of
// relative paths.
func (l *loader) finish(v reflect.Value, path, folder string, element bool) {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			l.finish(v.Index(i), fmt.Sprintf("%s[%d]", path, i), folder, true)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			l.finish(v.Elem(), path, folder, element)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			sf, f := v.Type().Field(i), v.Field(i)
			key := keyOf(sf)
			if key == "" {
				if sf.Type == reflect.TypeFor[Position]() {
					f.Set(reflect.ValueOf(l.positionFor(v.Type(), sf.Name, path)))
				}
				continue
			}
			if def := sf.Tag.Get("default"); element && def != "" && f.IsZero() && !l.said[join(path, key)] && !l.bad[join(path, key)] {
				if d, err := parseScalar(def, sf.Type); err == nil {
					f.Set(reflect.ValueOf(d))
				}
			}
			if sf.Tag.Get("path") == "file" {
				below(f, folder)
			}
			l.finish(f, join(path, key), folder, element)
		}
	}
}

// below takes a relative path, or each of several, from a folder.
func below(f reflect.Value, folder string) {
	switch {
	case f.Kind() == reflect.Slice:
		for i := range f.Len() {
			below(f.Index(i), folder)
		}
	case f.String() != "" && !filepath.IsAbs(f.String()):
		f.SetString(filepath.Join(folder, f.String()))
	}
}

// File is a file that a configuration names.
type File struct {
	Path     string
	Position Position // where that is said
}

// Files returns the files that are named: of certificates, keys, lists, rules.
func (c *Config) Files() []File {
	var all []File
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i), fmt.Sprintf("%s[%d]", path, i))
			}
		case reflect.Struct:
			for i := range v.NumField() {
				sf := v.Type().Field(i)
				key := keyOf(sf)
				if key == "" {
					continue
				}
				p, f := join(path, key), v.Field(i)
				switch {
				case sf.Tag.Get("path") != "file":
					walk(f, p)
				case f.Kind() == reflect.Slice:
					for k := range f.Len() {
						all = append(all, File{f.Index(k).String(), c.At(fmt.Sprintf("%s[%d]", p, k))})
					}
				case f.String() != "":
					all = append(all, File{f.String(), c.At(p)})
				}
			}
		}
	}
	walk(reflect.ValueOf(*c), "")
	return all
}

// positionFor returns what belongs into a field of type Position: Position is
// the place of the struct itself, XPosition that of the text of X.
func (l *loader) positionFor(t reflect.Type, name, path string) Position {
	if name == "Position" {
		return place(l.places, path)
	}
	sf, ok := t.FieldByName(strings.TrimSuffix(name, "Position"))
	if !ok {
		return Position{}
	}
	p := join(path, keyOf(sf))
	if pos, ok := l.texts[p]; ok {
		return pos
	}
	return place(l.places, p)
}

// keyOf returns the key of a field, empty if it is none.
func keyOf(sf reflect.StructField) string {
	key, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
	if key == "-" || !sf.IsExported() {
		return ""
	}
	return key
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// isSection says whether a type is a struct with keys of its own.
func isSection(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && t != reflect.TypeFor[Position]()
}

// keys returns the paths of the single keys of a section and of those in it, with
// their types. Lists are one key.
func keys(t reflect.Type, path string) map[string]reflect.Type {
	all := map[string]reflect.Type{}
	for i := range t.NumField() {
		sf := t.Field(i)
		key := keyOf(sf)
		switch {
		case key == "":
		case isSection(sf.Type):
			maps.Copy(all, keys(sf.Type, join(path, key)))
		default:
			all[join(path, key)] = sf.Type
		}
	}
	return all
}

// fieldOf returns the type at a key path without indices.
func fieldOf(t reflect.Type, path string) (reflect.Type, bool) {
	f, ok := keys(t, "")[path]
	return f, ok
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	sizeType     = reflect.TypeFor[Size]()
)
