// Package rename gives a service another module path and another name. The kit keeps its own.
package rename

import (
	"bytes"
	"fmt"
	"go/format"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Module and Name of this service. A renaming changes these two constants as well, so that it can be repeated.
const (
	Module = "github.com/millrace/millrace"
	Name   = "millrace"
)

// kept are the names of the kit: its module path, and what it calls things in metrics, message headers and databases; and the address from which the
// template is cloned. They are the same in every service, and also in this list after a renaming.
var kept = []string{
	"github.com/millrace/millrace/kit", "git clone https://github.com/millrace/millrace", "millrace_", "millrace rebuild", "millrace.test_clock_ahead", `db_name="millrace"`, `db_name=\"millrace\"`,
}

// Renaming renames a service.
type Renaming struct {
	Old          []string // module paths to replace by Module
	Module, Name string

	Changed, Moved int // files; Changed counts those that were moved too
}

// skipped are directories that hold no text of the service, and the kit.
var skipped = map[string]bool{".git": true, "node_modules": true, "data": true, "data.example": true, ".bin": true, "dist": true}

// Files renames in all files below a directory, and the files.
func (r *Renaming) Files(dir string) error {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (skipped[d.Name()] || path == filepath.Join(dir, "kit")):
			return filepath.SkipDir
		case d.Type().IsRegular() && d.Name() != "LICENSE":
			paths = append(paths, path)
		}
		return nil
	})
	for i := 0; err == nil && i < len(paths); i++ {
		if err = r.file(paths[i]); err != nil {
			err = fmt.Errorf("%s: %w", paths[i], err)
		}
	}
	return err
}

func (r *Renaming) file(path string) error {
	old, err := os.ReadFile(path) //nolint:gosec // below the directory of the service
	if err != nil {
		return err
	}
	changed := false
	if utf8.Valid(old) {
		text := r.Text(string(old))
		if strings.HasSuffix(path, ".go") && text != string(old) {
			formatted, err := format.Source([]byte(text)) // imports are sorted by the new path
			if err != nil {
				return err
			}
			text = string(formatted)
		}
		if changed = text != string(old); changed {
			info, err := os.Stat(path)
			if err == nil {
				err = os.WriteFile(path, []byte(text), info.Mode()) //nolint:gosec // below the directory of the service
			}
			if err != nil {
				return err
			}
		}
	} else if bytes.Contains(old, []byte(Name)) {
		fmt.Fprintf(os.Stderr, "%s is not text, so it is not changed\n", path)
	}
	if base := r.Text(filepath.Base(path)); base != filepath.Base(path) {
		if err := os.Rename(path, filepath.Join(filepath.Dir(path), base)); err != nil {
			return err
		}
		changed = true
		r.Moved++
	}
	if changed {
		r.Changed++
	}
	return nil
}

// Text renames in a text. A Replacer prefers earlier pairs, so the kit's names come first and the module path, which contains the name,
// before the name.
func (r *Renaming) Text(s string) string {
	var pairs []string
	for _, k := range kept {
		pairs = append(pairs, k, k)
	}
	for _, m := range r.Old {
		// gonew renames imports of the kit too, because its path begins with the module's. That is taken back.
		pairs = append(pairs, m+"/kit/", kept[0]+"/", m+`/kit"`, kept[0]+`"`)
		pairs = append(pairs, m, r.Module)
	}
	pairs = append(pairs, Name, r.Name, capital(Name), capital(r.Name), strings.ToUpper(Name), strings.ToUpper(r.Name))
	return strings.NewReplacer(pairs...).Replace(s)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
