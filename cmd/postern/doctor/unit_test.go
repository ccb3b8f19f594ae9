package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"postern/cmd/postern/service"
	"postern/configs"
)

// Before the first start the folders and limits are not there that the unit brings: the
// doctor is asked then, and has no reason to cry. The unit is the one that is installed.
func TestWhatTheUnitBringsIsNoFault(t *testing.T) {
	etc, lib := t.TempDir(), t.TempDir()
	shipped, err := os.ReadFile("../../../deploy/systemd/postern.service")
	if err != nil {
		t.Fatal(err)
	}
	put := func(file, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if u := readUnit([]string{etc, lib}); u.file != "" || u.makes("/var/lib/postern") {
		t.Errorf("no unit, and yet %+v", u)
	}
	put(filepath.Join(lib, "postern.service"), string(shipped))
	u := readUnit([]string{etc, lib})
	if !u.makes("/var/lib/postern/journal") || !u.makes("/run/postern") || u.makes("/var/lib/posterns") || u.makes("/var/lib") || u.files < 31000 {
		t.Errorf("the shipped unit: %+v", u)
	}
	put(filepath.Join(lib, "postern.service.d", "a.conf"), "[Service]\nLimitNOFILE=100000\n")
	put(filepath.Join(etc, "postern.service.d", "a.conf"), "[Service]\nLimitNOFILE=1024:200000\nStateDirectory=more\n")
	if u := readUnit([]string{etc, lib}); u.files != 200000 || !u.makes("/var/lib/more") || !u.makes("/var/lib/postern") {
		t.Errorf("with drop-ins: %+v", u)
	}

	d := &patient{Parts: &service.Parts{Config: configs.Default()}, unit: u}
	journal := "/var/lib/postern/a-folder-that-no-test-machine-has"
	if f := d.folder("journal", journal, 1, 1, "so"); f.Status != OK || !strings.Contains(f.Seen, "makes it at the first start") {
		t.Errorf("%+v", f)
	}
	d.running.up = true // it was started, and the folder is missing
	if f := d.folder("journal", journal, 1, 1, "so"); strings.Contains(f.Seen, "makes it") {
		t.Errorf("%+v", f)
	}
}
