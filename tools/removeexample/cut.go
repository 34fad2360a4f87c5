package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// cut takes parts out of a Go file: declarations, fields, statements, elements of lists and arguments, each the outermost whose text
// begins so. Imports that nothing needs any more go too. The error names what is not there.
func cut(file string, beginnings ...string) error {
	return rewrite(file, func(source string) (string, error) {
		for _, beginning := range beginnings {
			var err error
			if source, err = cutOne(source, beginning); err != nil {
				return "", err
			}
		}
		return withoutImports(source)
	})
}

// rewrite changes a Go file and formats it.
func rewrite(file string, change func(string) (string, error)) error {
	before, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	after, err := change(string(before))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	formatted, err := format.Source([]byte(after))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return os.WriteFile(file, formatted, 0o600)
}

func cutOne(source, beginning string) (string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", source, parser.ParseComments)
	if err != nil {
		return "", err
	}
	from, to := -1, -1
	offset := func(p token.Pos) int { return set.Position(p).Offset }
	consider := func(n ast.Node, doc *ast.CommentGroup) {
		if from >= 0 || !strings.HasPrefix(source[offset(n.Pos()):], beginning) {
			return
		}
		if from, to = offset(n.Pos()), offset(n.End()); doc != nil {
			from = offset(doc.Pos())
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.File:
			for _, d := range n.Decls {
				consider(d, docOf(d))
			}
		case *ast.FieldList:
			for _, f := range n.List {
				consider(f, f.Doc)
			}
		case *ast.BlockStmt:
			considerAll(n.List, consider)
		case *ast.CompositeLit:
			considerAll(n.Elts, consider)
		case *ast.CallExpr:
			considerAll(n.Args, consider)
		}
		return from < 0
	})
	if from < 0 {
		return "", fmt.Errorf("nothing begins with %q", beginning)
	}
	rest := strings.TrimPrefix(source[to:], ",")
	if line, after, _ := strings.Cut(rest, "\n"); strings.HasPrefix(strings.TrimSpace(line), "//") {
		rest = "\n" + after // its comment
	}
	before := strings.TrimRight(source[:from], " \t")
	if strings.HasSuffix(before, "\n") && strings.HasPrefix(rest, "\n") {
		rest = rest[1:]
	}
	if strings.HasPrefix(strings.TrimSpace(rest), ")") { // it was the last one of a line
		before = strings.TrimSuffix(before, ",")
	}
	return before + rest, nil
}

func considerAll[N ast.Node](nodes []N, consider func(ast.Node, *ast.CommentGroup)) {
	for _, n := range nodes {
		consider(n, nil)
	}
}

func docOf(d ast.Decl) *ast.CommentGroup {
	switch d := d.(type) {
	case *ast.FuncDecl:
		return d.Doc
	case *ast.GenDecl:
		return d.Doc
	}
	return nil
}

// withoutImports takes out those that nothing uses.
func withoutImports(source string) (string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", source, parser.ParseComments)
	if err != nil {
		return "", err
	}
	used := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok {
				used[x.Name] = true
			}
		}
		return true
	})
	for _, i := range slices.Backward(file.Imports) {
		imported, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return "", err
		}
		name := path.Base(imported)
		if strings.HasPrefix(name, "v") && len(name) == 2 {
			name = path.Base(path.Dir(imported))
		}
		if i.Name != nil {
			name = i.Name.Name
		}
		if name == "_" || used[name] {
			continue
		}
		from, to := set.Position(i.Pos()).Offset, set.Position(i.End()).Offset
		line := strings.LastIndex(source[:from], "\n") + 1
		source = source[:line] + strings.TrimPrefix(source[to:], "\n")
	}
	return source, nil
}

// swap puts a text in the place of another one, which must be there.
func swap(file, old, with string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), old) {
		return fmt.Errorf("%s: there is no %q", file, old)
	}
	return os.WriteFile(file, []byte(strings.Replace(string(text), old, with, 1)), 0o600) //nolint:gosec // a file of the service
}

// dropLines takes out the lines that contain one of these, each of which must be there, together with comments right above them.
func dropLines(file string, containing ...string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	var kept []string
	found := map[string]bool{}
	for _, line := range strings.SplitAfter(string(text), "\n") {
		at := slices.IndexFunc(containing, func(c string) bool { return strings.Contains(line, c) })
		if at < 0 {
			kept = append(kept, line)
			continue
		}
		found[containing[at]] = true
		for len(kept) > 0 && strings.HasPrefix(strings.TrimSpace(kept[len(kept)-1]), "#") {
			kept = kept[:len(kept)-1]
		}
	}
	if len(found) < len(containing) {
		return fmt.Errorf("%s: not all of %q are there", file, containing)
	}
	return os.WriteFile(file, []byte(strings.Join(kept, "")), 0o600) //nolint:gosec // a file of the service
}

// dropParagraphs takes out the paragraphs (of a Makefile: the targets) that begin with one of these.
func dropParagraphs(file string, beginnings ...string) error {
	text, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	var kept []string
	dropped := 0
	for paragraph := range strings.SplitSeq(string(text), "\n\n") {
		if slices.ContainsFunc(beginnings, func(b string) bool { return strings.HasPrefix(strings.TrimLeft(paragraph, "\n"), b) }) {
			dropped++
			continue
		}
		kept = append(kept, paragraph)
	}
	if dropped != len(beginnings) {
		return fmt.Errorf("%s: %d of %d paragraphs are there: %q", file, dropped, len(beginnings), beginnings)
	}
	return os.WriteFile(file, []byte(strings.TrimRight(strings.Join(kept, "\n\n"), "\n")+"\n"), 0o600)
}

var errNotThere = errors.New("is not there: was the example removed already?")
