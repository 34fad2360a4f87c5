// Init makes the template one's own: make init MODULE=github.com/acme/billing NAME=billing. It renames the module, the binary, the topics'
// prefix, metrics, the compose project, documents and files, and may be run again. It works in a copy that gonew has made as well. What is
// under version control can be looked at with git diff afterwards, and taken back with git checkout.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/millrace/millrace/tools/rename"
)

func main() {
	newModule := flag.String("module", "", "the new module path: github.com/acme/billing")
	newName := flag.String("name", "", "the service's name: billing")
	dir := flag.String("dir", ".", "where it is")
	flag.Parse()
	if err := run(*dir, *newModule, *newName); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
		os.Exit(1)
	}
}

var (
	goodName   = regexp.MustCompile(`^[a-z][a-z0-9]{1,30}$`)
	goodModule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._~-]*(/[A-Za-z0-9][A-Za-z0-9._~-]*)*$`)
	moduleLine = regexp.MustCompile(`(?m)^module (\S+)$`)
)

func run(dir, newModule, newName string) error {
	switch {
	case !goodModule.MatchString(newModule):
		return fmt.Errorf("MODULE: %q is no module path like github.com/acme/billing", newModule)
	case !goodName.MatchString(newName):
		return fmt.Errorf("NAME: %q must be 2 to 31 lower-case letters and digits: it becomes the name of a binary, of topics, of a database and of metrics", newName)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod")) //nolint:gosec // the directory that was named
	if err != nil {
		return fmt.Errorf("this is to be run where go.mod is: %w", err)
	}
	found := moduleLine.FindSubmatch(text)
	if found == nil {
		return errors.New("go.mod has no line that begins with module")
	}
	if err := begun(dir); err != nil {
		return err
	}
	r := rename.Renaming{Old: []string{string(found[1]), rename.Module}, Module: newModule, Name: newName}
	if err := r.Files(dir); err != nil {
		return err
	}
	// They test the template, not what is made of it.
	for _, path := range []string{"tests/tools", "examples/two-services"} {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	fmt.Printf("%s is %s now: %d files changed, %d of them under another name\n", newModule, newName, r.Changed, r.Moved)
	fmt.Println("next: go test ./...   then, if this is to be your own history: rm -rf .git && git init && git add -A && git commit")
	return nil
}

// begun notes which version of the template the service began with, for kit-diff.
func begun(dir string) error {
	path := filepath.Join(dir, ".template")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	commit, err := exec.CommandContext(context.Background(), "git", "-C", dir, "rev-parse", "HEAD").Output() //nolint:gosec // the directory that was named
	if err != nil {
		fmt.Fprintln(os.Stderr, "init: not under git, so .template does not say which version this began with; kit-diff will ask for it")
		return nil //nolint:nilerr // it is said
	}
	return os.WriteFile(path, commit, 0o600)
}
