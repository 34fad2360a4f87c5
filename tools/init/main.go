// Init makes the template a service of one's own: make init MODULE=github.com/acme/billing NAME=billing. It renames the module, the binary,
// the prefix of topics, the compose project, documents and files, and can be run again with another name. The kit stays as it is: its module
// path, the folder kit/ and the names that begin with millrace_. It works in a copy that gonew has made as well. git diff shows the changes,
// git checkout takes them back.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/millrace/millrace/tools/rename"
)

func main() {
	newModule := flag.String("module", "", "the new module path: github.com/acme/billing")
	newName := flag.String("name", "", "the service's name: billing")
	dir := flag.String("dir", ".", "the directory of the service")
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
		return fmt.Errorf("NAME: %q must be 2 to 31 lower-case letters and digits: it becomes the name of a binary, of topics and of a database", newName)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod")) //nolint:gosec // the directory that was named
	if err != nil {
		return fmt.Errorf("run it in the directory of the service, where go.mod is: %w", err)
	}
	found := moduleLine.FindSubmatch(text)
	if found == nil {
		return errors.New("go.mod has no module line")
	}
	r := rename.Renaming{Old: []string{string(found[1]), rename.Module}, Module: newModule, Name: newName}
	if err := r.Files(dir); err != nil {
		return err
	}
	// These test the template, not the service that is made from it.
	for _, path := range []string{"tests/tools", "examples/two-services"} {
		if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
			return err
		}
	}
	fmt.Printf("%s is named %s: %d files changed, %d of them renamed\n", newModule, newName, r.Changed, r.Moved)
	fmt.Print(next(newName))
	return nil
}

// next are the commands that follow. The commit comes before remove-example, which refuses changes that git could not restore.
func next(name string) string {
	return "next: go test ./...\n" +
		"then: git add -A && git commit -m 'Make it " + name + "'   (for a history of your own, before it: rm -rf .git && git init)\n" +
		"then: make remove-example, now or later\n"
}
