// Package failpoint builds a latchfs that dies, panics or stops at places in its code that a test names.
//
// The code marks such a place with a comment that holds a Go statement, as gofail does:
//
//	// failpoint: crashAt("open before")
//
// The product never runs the statement. A test build compiles a copy of the file in which it is code (go build
// -overlay), together with a file that declares what the statement calls: fs.go.txt in this package.
package failpoint

import (
	_ "embed"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

const mark = "// failpoint: "

//go:embed fs.go.txt
var declarations []byte

// BuildFlags are the flags of go build with which the failpoints of the module at root are code. The files they name
// are written into dir, which has to exist during the build.
func BuildFlags(root, dir string) ([]string, error) {
	overlay := struct{ Replace map[string]string }{make(map[string]string)}
	replace := func(path string, text []byte) error {
		with := filepath.Join(dir, strings.ReplaceAll(path, "/", "_"))
		overlay.Replace[filepath.Join(root, path)] = with
		return os.WriteFile(with, text, 0o644)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	sources, err := filepath.Glob(filepath.Join(root, "fs", "*.go"))
	if err != nil {
		return nil, err
	}
	for _, source := range sources {
		text, err := os.ReadFile(source)
		if err != nil {
			return nil, err
		}
		if with := strings.ReplaceAll(string(text), mark, ""); with != string(text) {
			if err := replace("fs/"+filepath.Base(source), []byte(with)); err != nil {
				return nil, err
			}
		}
	}
	if err := replace("fs/failpoint.go", declarations); err != nil {
		return nil, err
	}
	text, err := json.Marshal(overlay)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "overlay.json")
	return []string{"-overlay", file}, os.WriteFile(file, text, 0o644)
}
