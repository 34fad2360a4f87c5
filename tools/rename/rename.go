// Package rename gives a service another name.
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

// What the template is called. Both are renamed with everything else, so that a service can be renamed again.
const (
	Module = "github.com/millrace/millrace"
	Name   = "millrace"
)

// Renaming gives everything of a service another name.
type Renaming struct {
	Old          []string // module paths that it may bear
	Module, Name string

	Changed, Moved int
}

// left are directories that are not the service's own text.
var left = map[string]bool{".git": true, "node_modules": true, "data": true, ".bin": true}

// Files renames in all files below a directory.
func (r *Renaming) Files(dir string) error {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && left[d.Name()]:
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
	old, err := os.ReadFile(path) //nolint:gosec // below the directory that was named
	if err != nil {
		return err
	}
	changed := false
	if utf8.Valid(old) {
		text := r.Text(string(old))
		if strings.HasSuffix(path, ".go") && text != string(old) {
			formatted, err := format.Source([]byte(text)) // another path may sort elsewhere
			if err != nil {
				return err
			}
			text = string(formatted)
		}
		if changed = text != string(old); changed {
			info, err := os.Stat(path)
			if err == nil {
				err = os.WriteFile(path, []byte(text), info.Mode()) //nolint:gosec // below the directory that was named
			}
			if err != nil {
				return err
			}
		}
	} else if bytes.Contains(old, []byte(Name)) {
		fmt.Fprintf(os.Stderr, "%s is no text and stays as it is\n", path)
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

// headers are names on the wire that services of different names share. They stay as they are.
var headers = []string{"millrace_saga_id", "millrace_saga_step", "millrace_saga_branch", "millrace_expires_at"}

// Text renames in a text. The module's path stands for itself meanwhile, for it may contain the old name.
func (r *Renaming) Text(s string) string {
	const here = "\x00"
	for _, m := range r.Old {
		s = strings.ReplaceAll(s, m, here)
	}
	var pairs []string
	for _, h := range headers {
		pairs = append(pairs, h, h) // of texts that begin at the same place, the first one counts
	}
	pairs = append(pairs, Name, r.Name, capital(Name), capital(r.Name), strings.ToUpper(Name), strings.ToUpper(r.Name))
	s = strings.NewReplacer(pairs...).Replace(s)
	return strings.ReplaceAll(s, here, r.Module)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
