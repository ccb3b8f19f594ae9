package doctor

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// unit is what systemd does for the proxy when it starts it. Before the first start the folders
// of the unit are not there, and nobody has its limits: no fault of the installation.
type unit struct {
	file    string   // empty: there is none
	folders []string // that it makes, with the rights of the proxy's user
	files   uint64   // LimitNOFILE; 0: it does not say
}

// unitFolders are where systemd looks, the strongest first (systemd.unit(5)).
var unitFolders = []string{"/etc/systemd/system", "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// readUnit reads the proxy's unit, and what the site has set beside it (postern.service.d).
func readUnit(folders []string) (u unit) {
	const name = "postern.service"
	for _, folder := range folders {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			continue
		}
		u.file = filepath.Join(folder, name)
		u.take(string(text))
		break
	}
	if u.file == "" {
		return u
	}
	for i := range folders { // the strongest last
		drops, _ := filepath.Glob(filepath.Join(folders[len(folders)-1-i], name+".d", "*.conf")) // the pattern is ours
		for _, file := range drops {
			if text, err := os.ReadFile(file); err == nil {
				u.take(string(text))
			}
		}
	}
	return u
}

func (u *unit) take(text string) {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			continue
		}
		above := map[string]string{"StateDirectory": "/var/lib", "RuntimeDirectory": "/run", "LogsDirectory": "/var/log", "CacheDirectory": "/var/cache"}[key]
		switch {
		case above != "":
			for _, name := range strings.Fields(value) {
				u.folders = append(u.folders, filepath.Join(above, name))
			}
		case key == "LimitNOFILE":
			hard := value[strings.LastIndexByte(value, ':')+1:] // soft:hard; Go raises the one to the other
			if n, err := strconv.ParseUint(hard, 10, 64); err == nil {
				u.files = n
			}
		}
	}
}

// makes says whether the unit makes a folder, or one above it.
func (u *unit) makes(dir string) bool {
	for _, f := range u.folders {
		if dir == f || strings.HasPrefix(dir, f+"/") {
			return true
		}
	}
	return false
}
