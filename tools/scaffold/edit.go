package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// write makes a file from a template, unless the file exists.
func (p *piece) write(name, path string) error {
	if exists(path) {
		fmt.Println("is there already:", path)
		return nil
	}
	var text bytes.Buffer
	if err := templates.ExecuteTemplate(&text, name, p); err != nil {
		return err
	}
	formatted, err := text.Bytes(), error(nil)
	if strings.HasSuffix(path, ".go") {
		if formatted, err = format.Source(formatted); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil { //nolint:gosec,nolintlint // a file of the service, which gosec follows in some runs only
		return err
	}
	fmt.Println("wrote:", path)
	return os.WriteFile(path, formatted, 0o600) //nolint:gosec // a file of the service
}

// exists reports whether the service has a file or a directory.
func exists(path string) bool {
	_, err := fs.Stat(os.DirFS("."), filepath.ToSlash(path))
	return err == nil
}

// writeAll makes files from templates. The arguments are alternately the name of a template and the path of a file.
func (p *piece) writeAll(namesAndPaths ...string) error {
	for i := 0; i < len(namesAndPaths); i += 2 {
		if err := p.write(namesAndPaths[i]+".tmpl", namesAndPaths[i+1]); err != nil { //nolint:gosec // an even number
			return err
		}
	}
	return nil
}

// writeOr makes a file from a template, or calls change if the file exists.
func (p *piece) writeOr(name, path string, change func() error) error {
	if exists(path) {
		return change()
	}
	return p.write(name+".tmpl", path)
}

// withTest makes the file of a use case and the file of its test.
func (p *piece) withTest(dir, name string) error {
	return p.writeAll(name, filepath.Join(dir, p.File), name+"_test", filepath.Join(dir, strings.TrimSuffix(p.File, ".go")+"_test.go"))
}

// rewrite changes a file that is not Go. Change returns the new text, or the same text if it was applied before.
func rewrite(path string, change func(text string) (string, error)) error {
	before, err := os.ReadFile(path) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	after, err := change(string(before))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", path, err)
	case after == string(before):
		fmt.Println("is there already:", path)
		return nil
	}
	fmt.Println("changed:", path)
	return os.WriteFile(path, []byte(after), 0o600)
}

// exampleSetting adds a setting to .env.example.
func exampleSetting(name, value, comment string) error {
	return rewrite(".env.example", func(text string) (string, error) {
		if strings.Contains(text, "\n"+name+"=") {
			return text, nil
		}
		return strings.TrimRight(text, "\n") + "\n\n# " + comment + "\n" + name + "=" + value + "\n", nil
	})
}

// change returns a text to insert and its offset. The text is empty if the change was applied before.
type change func(file *ast.File, source string, at func(token.Pos) int) (text string, offset int, err error)

// edit applies changes to a Go file one after the other.
func edit(path string, changes ...change) error {
	before, err := os.ReadFile(path) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	source := string(before)
	for _, c := range changes {
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, path, source, parser.ParseComments)
		if err != nil {
			return err
		}
		text, offset, err := c(file, source, func(pos token.Pos) int { return set.Position(pos).Offset })
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		source = source[:offset] + text + source[offset:]
	}
	formatted, err := format.Source([]byte(source))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(formatted, before) {
		fmt.Println("is there already:", path)
		return nil
	}
	fmt.Println("changed:", path)
	return os.WriteFile(path, formatted, 0o600) //nolint:gosec // a file of the service
}

// needs imports a package. Packages of the standard library come first, and the other packages are in a second block.
func needs(path string) change {
	return func(file *ast.File, _ string, at func(token.Pos) int) (string, int, error) {
		if len(file.Imports) == 0 {
			return "\n\nimport (\n\t\"" + path + "\"\n)", at(file.Name.End()), nil
		}
		for _, i := range file.Imports {
			if i.Path.Value == `"`+path+`"` {
				return "", 0, nil
			}
		}
		if block, ok := find(file, func(d *ast.GenDecl) bool { return d.Tok == token.IMPORT }); ok && !block.Lparen.IsValid() {
			return "import \"" + path + "\"\n", at(block.Pos()), nil
		}
		first, last := file.Imports[0], file.Imports[len(file.Imports)-1]
		switch {
		case !standard(path) && standard(strings.Trim(last.Path.Value, `"`)):
			return "\n\n\t\"" + path + "\"", at(last.End()), nil
		case !standard(path):
			return "\n\t\"" + path + "\"", at(last.End()), nil // gofmt sorts
		case standard(strings.Trim(first.Path.Value, `"`)):
			return "\"" + path + "\"\n\t", at(first.Pos()), nil
		default:
			return "\"" + path + "\"\n\n\t", at(first.Pos()), nil
		}
	}
}

func standard(path string) bool { return !strings.Contains(strings.Split(path, "/")[0], ".") }

// find returns the first node of type N for which f returns true.
func find[N ast.Node](root ast.Node, f func(N) bool) (found N, ok bool) {
	ast.Inspect(root, func(n ast.Node) bool {
		if node, is := n.(N); is && !ok && f(node) {
			found, ok = node, true
		}
		return !ok
	})
	return found, ok
}

func text(source string, n ast.Node, at func(token.Pos) int) string {
	return source[at(n.Pos()):at(n.End())]
}

// field adds a field to a struct.
func field(structName, name, typeText string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		spec, ok := find(file, func(t *ast.TypeSpec) bool { return t.Name.Name == structName })
		if !ok {
			return "", 0, fmt.Errorf("there is no type %s", structName)
		}
		s, ok := spec.Type.(*ast.StructType)
		if !ok {
			return "", 0, fmt.Errorf("%s is no struct", structName)
		}
		for _, f := range s.Fields.List {
			for _, n := range f.Names {
				switch there := text(source, f.Type, at); {
				case n.Name == name && !strings.HasPrefix(typeText+" ", there+" "):
					return "", 0, fmt.Errorf("%s has the field %s already, with the type %s, not %s", structName, name, there, typeText)
				case n.Name == name:
					return "", 0, nil
				}
			}
		}
		return "\t" + name + " " + typeText + "\n", at(s.Fields.Closing), nil
	}
}

// entry adds a key and its value to the first composite literal in the file whose type ends with typeText.
func entry(typeText, key, value string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		literal, ok := find(file, func(l *ast.CompositeLit) bool {
			return l.Type != nil && strings.HasSuffix(text(source, l.Type, at), typeText)
		})
		if !ok {
			return "", 0, fmt.Errorf("there is no %s{…}", typeText)
		}
		for _, e := range literal.Elts {
			if pair, ok := e.(*ast.KeyValueExpr); ok && text(source, pair.Key, at) == key {
				return "", 0, nil
			}
		}
		return asLast(literal, source, at, key+": "+value), at(literal.Rbrace), nil
	}
}

// element adds an element to the list that is the value of a key in a composite literal. If the literal does not have the key, element adds the key with a list
// of type listType.
func element(owner, key, listType, value string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		pair, ok := find(file, func(p *ast.KeyValueExpr) bool {
			_, list := p.Value.(*ast.CompositeLit)
			return list && text(source, p.Key, at) == key
		})
		if !ok {
			return entry(owner, key, listType+"{\n"+value+",\n}")(file, source, at)
		}
		return listElement(pair.Value.(*ast.CompositeLit), source, at, value)
	}
}

// returned adds an element to the list literal that a function returns.
func returned(function, value string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		f, ok := find(file, func(f *ast.FuncDecl) bool { return f.Name.Name == function })
		if !ok {
			return "", 0, fmt.Errorf("there is no function %s", function)
		}
		literal, ok := find(f, func(*ast.CompositeLit) bool { return true })
		if !ok {
			return "", 0, fmt.Errorf("%s returns no list", function)
		}
		return listElement(literal, source, at, value)
	}
}

// same reports whether a registration is there already, perhaps with options that were added by hand: it begins like the registration, up to the first argument.
func same(there, value string) bool {
	head, _, _ := strings.Cut(value, ",")
	head = strings.TrimRight(head, ")")
	after, begins := strings.CutPrefix(there, head)
	return begins && (after == "" || !token.IsIdentifier("a"+after[:1]) || strings.HasSuffix(head, "("))
}

func listElement(literal *ast.CompositeLit, source string, at func(token.Pos) int, value string) (string, int, error) {
	for _, e := range literal.Elts {
		if same(text(source, e, at), value) {
			return "", 0, nil
		}
	}
	return asLast(literal, source, at, value), at(literal.Rbrace), nil
}

// variable adds a variable to the first block of variables. If there is none, it adds a block before the first function.
func variable(name, value string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		block, ok := find(file, func(d *ast.GenDecl) bool { return d.Tok == token.VAR && d.Lparen.IsValid() })
		if !ok {
			first, ok := find(file, func(*ast.FuncDecl) bool { return true })
			if !ok {
				return "", 0, errors.New("there is no function")
			}
			before := first.Pos()
			if first.Doc != nil {
				before = first.Doc.Pos()
			}
			return "var (\n\t" + name + " = " + value + "\n)\n\n", at(before), nil
		}
		if _, there := find(block, func(v *ast.ValueSpec) bool { return v.Names[0].Name == name }); there {
			return "", 0, nil
		}
		return newLine(source, at(block.Rparen)) + "\t" + name + " = " + value + "\n", at(block.Rparen), nil
	}
}

// newLine returns a line break, unless a line begins at the offset.
func newLine(source string, offset int) string {
	if strings.HasSuffix(strings.TrimRight(source[:offset], " \t"), "\n") {
		return ""
	}
	return "\n"
}

// asLast is the text of an element on a line of its own after the last element.
func asLast(literal *ast.CompositeLit, source string, at func(token.Pos) int, element string) string {
	before := "\n"
	if n := len(literal.Elts); n > 0 {
		between := source[at(literal.Elts[n-1].End()):at(literal.Rbrace)]
		switch {
		case strings.Contains(between, "\n"):
			before = ""
		case !strings.Contains(between, ","):
			before = ",\n"
		}
	}
	return before + element + ",\n"
}

// addStage adds a stage to the definition of a saga, after the last stage.
func addStage(added sagaStage) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		steps, ok := find(file, func(p *ast.KeyValueExpr) bool { return text(source, p.Key, at) == "Steps" })
		if !ok {
			return "", 0, errors.New("there is no definition with Steps")
		}
		list, ok := steps.Value.(*ast.CompositeLit)
		if !ok {
			return "", 0, errors.New("the field Steps is not a list")
		}
		there := 0
		for _, st := range added {
			if _, found := find(list, func(p *ast.KeyValueExpr) bool {
				return text(source, p.Key, at) == "Name" && text(source, p.Value, at) == strconv.Quote(st.Name)
			}); found {
				there++
			}
		}
		switch there {
		case 0:
		case len(added):
			return "", 0, nil
		default:
			return "", 0, fmt.Errorf("of the parallel steps of %q some are there: add the others by hand", added[0].Name)
		}
		var b strings.Builder
		err := templates.ExecuteTemplate(&b, "stage", added)
		return b.String(), at(list.Rbrace), err
	}
}

func callOf(source, function string, at func(token.Pos) int) func(*ast.CallExpr) bool {
	return func(c *ast.CallExpr) bool { return text(source, c.Fun, at) == function }
}

// argument adds an argument on a line of its own to the first call of a function.
func argument(function, value string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		call, ok := find(file, callOf(source, function, at))
		if !ok {
			return "", 0, fmt.Errorf("it does not call %s", function)
		}
		for _, a := range call.Args {
			if same(text(source, a, at), value) {
				return "", 0, nil
			}
		}
		switch n := len(call.Args); {
		case n == 0:
			value = "\n" + value
		case !strings.Contains(source[at(call.Args[n-1].End()):at(call.Rparen)], ","):
			value = ",\n" + value
		}
		return value + ",\n", at(call.Rparen), nil
	}
}

// registered adds a command to the list of all commands, in the group of its destination and aggregate. An empty destination means that of the aggregate.
func registered(destination, category, value string) change {
	const list, of, with = "slices.Concat[[]cqrs.Handler]", "cqrs.ForAggregate", "cqrs.WithDestination"
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		all, ok := find(file, callOf(source, list, at))
		if !ok {
			return "", 0, fmt.Errorf("it does not call %s", list)
		}
		if _, there := find(all, func(c *ast.CallExpr) bool { return same(text(source, c, at), value) }); there {
			return "", 0, nil
		}
		var group *ast.CallExpr
		for _, a := range all.Args {
			call, ok := a.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				continue
			}
			to := ""
			if inner, ok := call.Args[len(call.Args)-1].(*ast.CallExpr); ok && text(source, call.Fun, at) == with {
				to, call = text(source, call.Args[0], at), inner
			}
			if to == destination && text(source, call.Fun, at) == of && text(source, call.Args[0], at) == category {
				group = call
			}
		}
		if group == nil {
			made := of + "(" + category + ",\n" + value + ",\n)"
			if destination != "" {
				made = with + "(" + destination + ", " + made + ")"
			}
			return newLine(source, at(all.Rparen)) + made + ",\n", at(all.Rparen), nil
		}
		return value + ",\n", at(group.Rparen), nil
	}
}

// method adds the call of a command to the interface of its gateway.
func method(p *piece) change {
	return func(file *ast.File, _ string, at func(token.Pos) int) (string, int, error) {
		spec, ok := find(file, func(t *ast.TypeSpec) bool { return t.Name.Name == p.Gateway })
		if !ok {
			return "", 0, fmt.Errorf("there is no type %s", p.Gateway)
		}
		i, ok := spec.Type.(*ast.InterfaceType)
		if !ok {
			return "", 0, fmt.Errorf("%s is no interface", p.Gateway)
		}
		for _, m := range i.Methods.List {
			if len(m.Names) > 0 && m.Names[0].Name == p.Name {
				return "", 0, nil
			}
		}
		return "\t" + p.Name + "(ctx context.Context, c " + p.Name + ") " + p.Returned() + "\n", at(i.Methods.Closing), nil
	}
}

// Returned is the result type of the call of a command.
func (p *piece) Returned() string {
	if p.Compensates != "" {
		return "error"
	}
	return "(cqrs.CallResult, error)"
}

// attach appends the text of a template to a file, unless the file contains mark, and adds the imports that the text needs.
func (p *piece) attach(template, path, mark string, needed ...change) error {
	changes := []change{func(_ *ast.File, source string, _ func(token.Pos) int) (string, int, error) {
		if strings.Contains(source, mark) {
			return "", 0, nil
		}
		var b strings.Builder
		err := templates.ExecuteTemplate(&b, template+".tmpl", p)
		return b.String(), len(source), err
	}}
	return edit(path, append(changes, needed...)...)
}

// event adds the type of an event and its marker method before the registration of the events.
func event(p *piece) change {
	return func(file *ast.File, _ string, at func(token.Pos) int) (string, int, error) {
		if _, ok := find(file, func(t *ast.TypeSpec) bool { return t.Name.Name == p.Name }); ok {
			return "", 0, nil
		}
		types, ok := find(file, func(d *ast.GenDecl) bool {
			v, is := d.Specs[0].(*ast.ValueSpec)
			return is && v.Names[0].Name == "Types"
		})
		if !ok {
			return "", 0, errors.New("it has no variable Types")
		}
		offset := at(types.Pos())
		if types.Doc != nil {
			offset = at(types.Doc.Pos())
		}
		var b strings.Builder
		err := templates.ExecuteTemplate(&b, "event.tmpl", p)
		return b.String(), offset, err
	}
}

// branch adds a case to the type switch of a method.
func branch(function, name string) change {
	return func(file *ast.File, source string, at func(token.Pos) int) (string, int, error) {
		f, ok := find(file, func(f *ast.FuncDecl) bool { return f.Name.Name == function })
		if !ok {
			return "", 0, fmt.Errorf("there is no method %s", function)
		}
		s, ok := find(f, func(*ast.TypeSwitchStmt) bool { return true })
		if !ok {
			return "", 0, fmt.Errorf("%s has no switch over the type of the event", function)
		}
		for _, c := range s.Body.List {
			for _, t := range c.(*ast.CaseClause).List {
				if text(source, t, at) == name {
					return "", 0, nil
				}
			}
		}
		return "case " + name + ":\n", at(s.Body.Rbrace), nil
	}
}
