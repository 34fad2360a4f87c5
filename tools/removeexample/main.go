// Removeexample deletes order fulfilment from the service: make remove-example. It deletes the files that files.txt lists and the texts that
// cuts.txt lists, and touches nothing else, so that it can run at any time. Before it changes anything it checks that git has everything and
// that every file and text is there.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/millrace/millrace/tools/rename"
)

func main() {
	check := flag.Bool("check", false, "only check that every file and text is there")
	flag.Parse()
	if err := run(".", *check); err != nil {
		fmt.Fprintln(os.Stderr, "remove-example:", err)
		os.Exit(1)
	}
}

// files.txt has a file in each line, relative to the root of the service.
//
//go:embed files.txt
var listed string

//go:embed cuts.txt
var cuts string

//go:embed after/README.md
var readme string

//go:embed after/run
var checks string

//go:embed after/service_test.go.txt
var componentTest string

// files are the files to delete that are there. Those with a question mark in front may be missing: make init deletes them.
func files(dir string) (all []string) {
	for path := range strings.FieldsSeq(listed) {
		path, optional := strings.CutPrefix(path, "?")
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil && optional {
			continue
		}
		all = append(all, path)
	}
	return all
}

func run(dir string, check bool) error {
	if err := clean(dir); err != nil && !check {
		return err
	}
	edits, err := parse(cuts)
	if err != nil {
		return err
	}
	gone := files(dir)
	changed, err := plan(dir, gone, edits)
	if err != nil {
		return fmt.Errorf("nothing was changed: %w", err)
	}
	if check {
		return nil
	}
	for _, path := range gone {
		if err := os.Remove(filepath.Join(dir, path)); err != nil {
			return err
		}
		removeEmpty(dir, filepath.Dir(path))
	}
	for path, text := range changed {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o600); err != nil { // an existing file keeps its mode
			return err
		}
	}
	if err := document(dir); err != nil {
		return err
	}
	if err := finish(dir); err != nil {
		return fmt.Errorf("the example is removed, but %w\nif your own code uses the example, change it now; git restore . takes the removal back", err)
	}
	fmt.Println("the example is removed; your own files are as they were. next: go run ./tools/scaffold aggregate invoice")
	fmt.Print(dataNote(dir, os.Getenv("DATA_DIR")))
	return nil
}

// dataNote says what to do with the data of the example, if the example has run here: without its migrations, the service may refuse the database as newer.
func dataNote(dir, dataDir string) string {
	data := cmp.Or(dataDir, "data")
	at := data
	if !filepath.IsAbs(at) {
		at = filepath.Join(dir, at)
	}
	if _, err := os.Stat(filepath.Join(at, "postgres")); err != nil { //nolint:gosec // the setting of the person who runs it
		return ""
	}
	data = strings.TrimRight(data, "/")
	return fmt.Sprintf("%[1]s/ has the database of the example. Its schema may be newer than that of this service, and then go run . refuses it.\n"+
		"If nothing in it is your own, move it away before the next start: mv %[1]s %[1]s.example\n", data)
}

// clean refuses a working tree that git could not restore.
func clean(dir string) error {
	status, err := git(dir, "status", "--porcelain", "--untracked-files=normal")
	if err != nil {
		return fmt.Errorf("git is needed, so that the removal can be taken back: %w", err)
	}
	if status != "" {
		if lines := strings.Split(status, "\n"); len(lines) > 10 {
			status = strings.Join(lines[:10], "\n") + fmt.Sprintf("\n and %d more", len(lines)-10)
		}
		return fmt.Errorf("there are changes that are not committed; commit or stash them first:\n%s", status)
	}
	return nil
}

func git(dir string, args ...string) (string, error) {
	command := exec.CommandContext(context.Background(), "git", args...) //nolint:gosec // arguments of this program
	command.Dir = dir
	out, err := command.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, strings.TrimSpace(string(out)))
	}
	return strings.TrimRight(string(out), "\n"), nil
}

// plan returns the new texts of the files that the edits change. Its error names every file and text that is missing.
func plan(dir string, files []string, edits []edit) (changed map[string]string, err error) {
	var faults []error
	for _, path := range files {
		if _, err := os.Stat(filepath.Join(dir, path)); err != nil {
			faults = append(faults, fmt.Errorf("%s: the file is missing", path))
		}
	}
	changed = map[string]string{}
	for _, e := range edits {
		text, read := changed[e.file]
		if !read {
			content, err := os.ReadFile(filepath.Join(dir, e.file)) //nolint:gosec // a file of cuts.txt
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: the file is missing", e.file))
				continue
			}
			text = string(content)
		}
		after, err := e.apply(text)
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", e.file, err))
			continue
		}
		changed[e.file] = after
	}
	for path, text := range changed {
		switch {
		case path == "Makefile":
			changed[path] = phony(text)
			continue
		case path == "ports/openapi.yaml":
			changed[path] = strings.Replace(text, "\npaths:\ncomponents:", "\npaths: {}\ncomponents:", 1)
			continue
		case filepath.Ext(path) != ".go":
			continue
		}
		if changed[path], err = tidy(text); err != nil {
			faults = append(faults, fmt.Errorf("%s: what remains is not Go: %w", path, err))
		}
	}
	slices.SortFunc(faults, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return changed, errors.Join(faults...)
}

// removeEmpty removes a directory that has become empty, and those above it.
func removeEmpty(dir, path string) {
	for path != "." && os.Remove(filepath.Join(dir, path)) == nil { // Remove fails if something is in it
		path = filepath.Dir(path)
	}
}

// own are files that are written anew, unless they are no longer those of the template: then they lack a text of it.
var own = []struct{ path, marker, text string }{
	{"README.md", "The example is order fulfilment.", readme},
	{".ci/run", "./sagas/fulfilment", checks},
	{"tests/component/service_test.go", "", componentTest},
}

// document writes the files of a service that has nothing of its own yet.
func document(dir string) error {
	for _, o := range own {
		path := filepath.Join(dir, o.path)
		text, err := os.ReadFile(path) //nolint:gosec // one of the files above
		if err == nil && (o.marker == "" || !strings.Contains(string(text), o.marker)) {
			fmt.Println(o.path + " is your own, so it is not changed")
			continue
		}
		mode := os.FileMode(0o600)
		if o.path == ".ci/run" {
			mode = 0o700
		}
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o750), os.WriteFile(path, []byte(strings.ReplaceAll(o.text, "SERVICE", rename.Name)), mode)); err != nil {
			return err
		}
	}
	return unlink(dir)
}

var link = regexp.MustCompile(`\[([^\]]+)\]\(([^):#]+)(?:#[^)]*)?\)`)

// unlink makes links in docs/ to files that are gone plain text.
func unlink(dir string) error {
	return filepath.WalkDir(filepath.Join(dir, "docs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path) //nolint:gosec // in docs/
		if err != nil {
			return err
		}
		changed := link.ReplaceAllStringFunc(string(text), func(l string) string {
			parts := link.FindStringSubmatch(l)
			if _, err := os.Stat(filepath.Join(filepath.Dir(path), parts[2])); err == nil {
				return l
			}
			return parts[1]
		})
		if changed == string(text) {
			return nil
		}
		return os.WriteFile(path, []byte(changed), 0o600) //nolint:gosec // in docs/
	})
}

var (
	phonyLine = regexp.MustCompile(`(?m)^\.PHONY:.*$`)
	target    = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
)

// phony removes names of targets that are gone from a Makefile.
func phony(text string) string {
	there := map[string]bool{}
	for _, found := range target.FindAllStringSubmatch(text, -1) {
		there[found[1]] = true
	}
	return phonyLine.ReplaceAllStringFunc(text, func(line string) string {
		words := strings.Fields(line)
		return strings.Join(append(words[:1:1], slices.DeleteFunc(words[1:], func(w string) bool { return !there[w] })...), " ")
	})
}

// finish brings generated files up to date.
func finish(dir string) error {
	for _, line := range []string{"go mod tidy", "go generate ./ports/...", "go vet ./...", "go test -count=1 -run TestDocumentsAreCurrent ./service"} {
		fmt.Println(line)
		args := strings.Fields(line)
		command := exec.CommandContext(context.Background(), args[0], args[1:]...) //nolint:gosec // the lines above
		command.Dir, command.Env = dir, append(os.Environ(), "WRITE_DOCUMENTS=1")
		if out, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", line, err, out)
		}
	}
	return nil
}
