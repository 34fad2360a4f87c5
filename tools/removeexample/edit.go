package main

import (
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// edit replaces one text of a file, which must be there exactly once.
type edit struct {
	file, old, with string

	// block is for YAML: old is a key with its indentation, and everything that is indented deeper below it goes as well. A component of
	// openapi.yaml that something refers to stays.
	block bool
}

// parse reads cuts.txt:
//
//	file: PATH     the file of the lines below
//	|LINE          whole lines to delete; lines in a row are one text
//	+LINE          whole lines to put in the place of those above
//	~TEXT          a part of a line to delete
//	=TEXT          the text to put in its place
//	@KEY:          a key of a YAML file, with its indentation, to delete with its value
//	# …            a comment; an empty line separates texts
func parse(text string) (edits []edit, err error) {
	file, kind := "", byte(0) // of the line before
	for n, line := range strings.Split(text, "\n") {
		last := len(edits) - 1
		switch {
		case line == "" || line[0] == '#':
			kind = 0
			continue
		case strings.HasPrefix(line, "file: "):
			file, kind = line[len("file: "):], 0
			continue
		case file == "":
			return nil, fmt.Errorf("cuts.txt:%d: there is no file: yet", n+1)
		case line[0] == '|' && kind == '|':
			edits[last].old += line[1:] + "\n"
		case line[0] == '|':
			edits = append(edits, edit{file: file, old: line[1:] + "\n"})
		case line[0] == '+' && (kind == '|' || kind == '+'):
			edits[last].with += line[1:] + "\n"
		case line[0] == '~':
			edits = append(edits, edit{file: file, old: line[1:]})
		case line[0] == '=' && kind == '~':
			edits[last].with = line[1:]
		case line[0] == '@':
			edits = append(edits, edit{file: file, old: line[1:] + "\n", block: true})
		default:
			return nil, fmt.Errorf("cuts.txt:%d: %q cannot stand here", n+1, line)
		}
		kind = line[0]
	}
	return edits, nil
}

var blanks = regexp.MustCompile(`[ \t]+`)

// form matches the text. In Go files a run of blanks matches any other, because gofmt aligns columns by their longest entry.
func (e edit) form() *regexp.Regexp {
	quoted := regexp.QuoteMeta(e.old)
	if path.Ext(e.file) == ".go" {
		quoted = blanks.ReplaceAllString(quoted, `[ \t]+`)
	}
	if strings.HasSuffix(e.old, "\n") {
		quoted = `(?m:^)` + quoted
	}
	if e.block {
		indent := len(e.old) - len(strings.TrimLeft(e.old, " "))
		quoted = strings.TrimSuffix(quoted, "\n") + `.*\n(?:(?: {` + strconv.Itoa(indent+1) + `,}.*)?\n)*`
	}
	return regexp.MustCompile(quoted)
}

func (e edit) apply(text string) (string, error) {
	found := e.form().FindAllStringIndex(text, 2)
	if len(found) != 1 {
		return "", fmt.Errorf("this text must be there once, and is there %s:\n%s", []string{"not at all", "", "more often"}[len(found)], strings.TrimRight(e.old, "\n"))
	}
	from, to := found[0][0], found[0][1]
	if e.block && referred(text[:from]+text[to:], strings.TrimSpace(e.old)) {
		return text, nil
	}
	return text[:from] + e.with + text[to:], nil
}

// referred tells whether a component of openapi.yaml is in use.
func referred(text, key string) bool {
	return regexp.MustCompile(`#/components/[a-zA-Z]+/` + regexp.QuoteMeta(strings.TrimSuffix(key, ":")) + `\b`).MatchString(text)
}

// comma is one that was left behind the beginning of a list, and lonely one behind an element that is gone.
var (
	comma  = regexp.MustCompile(`([{(])([ \t]*(?:\n[ \t]*)*),[ \t]*`)
	lonely = regexp.MustCompile(`,[ \t]*,`)
)

// emptied is an entry of a literal whose list has no element left, noVariables a block of variables without one.
var (
	emptied     = regexp.MustCompile(`(?m)^\t+\w+:\s+(?:\[\]|map\[string\])[\w.*]+\{\s*\},\n`)
	noVariables = regexp.MustCompile(`(?m)^var \(\s*\)\n+`)
)

// tidy makes what is left of a Go file well-formed: commas, empty lists, imports, format.
func tidy(source string) (string, error) {
	source = lonely.ReplaceAllString(comma.ReplaceAllString(source, "$1$2"), ",")
	source, err := withoutImports(noVariables.ReplaceAllString(emptied.ReplaceAllString(source, ""), ""))
	if err != nil {
		return "", err
	}
	formatted, err := format.Source([]byte(source))
	return string(formatted), err
}

// withoutImports deletes imports that nothing uses.
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
		if regexp.MustCompile(`^v[0-9]+$`).MatchString(name) {
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
		if strings.HasPrefix(source[line:from], "import ") { // the only one
			source = source[:line] + strings.TrimPrefix(source[to:], "\n")
			continue
		}
		source = source[:line] + strings.TrimPrefix(source[to:], "\n")
	}
	return strings.Replace(source, "import (\n)\n", "", 1), nil
}
