// Kitdiff prints what a newer version of the template has changed in the pieces that know nothing of the example, as a patch for a service
// that was made from it: make kit-diff UPSTREAM=https://… | git apply -3. The list of pieces is the one of tests/arch.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/millrace/millrace/tools/rename"
)

func main() {
	upstream := flag.String("upstream", "", "the template's repository: a URL, or a directory")
	from := flag.String("from", "", "the template's commit that this service began with; .template says it")
	original := flag.String("original", "", "the template's own module path, if it is not that of its go.mod")
	flag.Parse()
	if err := run(*upstream, *from, *original); err != nil {
		fmt.Fprintln(os.Stderr, "kit-diff:", err)
		os.Exit(1)
	}
}

func run(upstream, from, original string) error {
	if upstream == "" {
		return errors.New("UPSTREAM: say where the template is: make kit-diff UPSTREAM=https://…")
	}
	if from == "" {
		text, err := os.ReadFile(".template")
		if err != nil {
			return errors.New("FROM: .template is not there; say which commit of the template this began with")
		}
		from = strings.TrimSpace(string(text))
	}
	paths, err := pieces("tests/arch/arch_test.go")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "kit-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	if _, err := git("clone", "-q", "--no-checkout", upstream, dir); err != nil {
		return err
	}
	if original == "" {
		text, err := git("-C", dir, "show", "HEAD:go.mod")
		if err != nil {
			return err
		}
		first, _, _ := strings.Cut(text, "\n")
		original = strings.TrimPrefix(first, "module ")
	}
	patch, err := git(append([]string{"-C", dir, "diff", from, "HEAD", "--"}, paths...)...)
	if err != nil {
		return fmt.Errorf("%w\nIs %s a commit of %s?", err, from, upstream)
	}
	_, err = fmt.Print(translate(patch, original))
	return err
}

// translate has a patch of the template speak of this service.
func translate(patch, original string) string {
	name := original[strings.LastIndex(original, "/")+1:]
	patch = strings.ReplaceAll(patch, original, rename.Module)
	return strings.NewReplacer(name, rename.Name, capital(name), capital(rename.Name), strings.ToUpper(name), strings.ToUpper(rename.Name)).Replace(patch)
}

func capital(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

func git(args ...string) (string, error) {
	out, err := exec.CommandContext(context.Background(), "git", args...).Output() //nolint:gosec // what the person at the keyboard has asked for
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("git %s: %s", strings.Join(args, " "), strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}

// pieces reads the list of what knows nothing of the example.
func pieces(path string) (paths []string, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(path), nil, 0)
	if err != nil {
		return nil, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Names[0].Name != "pieces" || len(spec.Values) == 0 {
			return true
		}
		ast.Inspect(spec.Values[0], func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok {
				if s, err := strconv.Unquote(l.Value); err == nil {
					paths = append(paths, s)
				}
			}
			return true
		})
		return false
	})
	if len(paths) == 0 {
		err = fmt.Errorf("%s lists no pieces", path)
	}
	return paths, err
}
