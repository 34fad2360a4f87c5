package main

import (
	"cmp"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// generatedImports are the names under which generated files import packages. A package of the service with such a name would not build beside them.
var generatedImports = strings.Fields(`aggregate aggregatetest command consumer context cqrs cqrstest errors eventstore gateway http httpapi httpclient
	httpclienttest httptest opsui projection query readmodel require runner saga sagatest sandbox settings slices sqlx testing time views`)

// ofAggregates are the names that every package of an aggregate declares.
var ofAggregates = strings.Fields("event types category rebuild")

// withoutPackage are names of folders that Go treats in another way than packages, and names that no import can have.
var withoutPackage = strings.Fields("ctx events init internal main testdata vendor")

// scope has the identifiers of the files in a directory: those that the package declares, and the names of imports.
type scope struct {
	declared map[string]string            // the file that declares it
	imported map[string]map[string]string // the file that imports a package under the name, and the path of the package
}

// scopeOf reads the Go files of a directory, without external tests and generated files. A directory that does not exist has an empty scope.
func scopeOf(dir string) (scope, error) {
	s := scope{map[string]string{}, map[string]map[string]string{}}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return s, err
	}
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return s, err
		}
		if strings.HasSuffix(file.Name.Name, "_test") {
			continue
		}
		for _, i := range file.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return s, err
			}
			as := path.Base(imported)
			if i.Name != nil {
				as = i.Name.Name
			}
			if s.imported[as] == nil {
				s.imported[as] = map[string]string{}
			}
			s.imported[as][filepath.ToSlash(name)] = imported
		}
		for _, d := range file.Decls {
			for _, id := range identifiers(d) {
				s.declared[id] = filepath.ToSlash(name)
			}
		}
	}
	return s, nil
}

// identifiers are the identifiers that a declaration adds to the scope of the package.
func identifiers(d ast.Decl) (names []string) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		if d.Recv == nil {
			names = append(names, d.Name.Name)
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				names = append(names, spec.Name.Name)
			case *ast.ValueSpec:
				for _, n := range spec.Names {
					names = append(names, n.Name)
				}
			}
		}
	}
	return names
}

// free returns an error if an identifier cannot be declared in a file of the package: another file declares it, or a file imports a package under this name.
// A file that is own, or that is empty, is not another one.
func (s scope) free(what, name, identifier string, own ...string) error {
	if in := s.declared[identifier]; in != "" && !slices.Contains(own, in) {
		return fmt.Errorf("%s: %q needs the name %s, which %s declares; choose another name", what, name, identifier, in)
	}
	for in, imported := range s.imported[identifier] {
		return fmt.Errorf("%s: %q needs the name %s, under which %s imports %s; choose another name", what, name, identifier, in, imported)
	}
	return nil
}

// declares checks that a file of a directory can declare identifiers.
func declares(what, name, file string, identifiers ...string) error {
	s, err := scopeOf(filepath.Dir(file))
	if err != nil {
		return err
	}
	var faults []error
	for _, id := range identifiers {
		faults = append(faults, s.free(what, name, id, filepath.ToSlash(file), strings.TrimSuffix(filepath.ToSlash(file), ".go")+"_test.go"))
	}
	return errors.Join(faults...)
}

// importable checks that the files of the service can import the package of the aggregate under its name.
func (p *piece) importable(name string) error {
	refused := func(why string) error {
		return fmt.Errorf("AGGREGATE: %q %s; choose another name", name, why)
	}
	switch {
	case len(p.Package) < 2:
		return fmt.Errorf("AGGREGATE: %q must have two letters at least, because parameters have names of one letter", name)
	case slices.Contains(withoutPackage, p.Package):
		return refused("is a name that Go or the package of an aggregate uses in another way")
	case slices.Contains(ofAggregates, p.Package):
		return refused("is the name of a declaration that every aggregate has")
	case slices.Contains(generatedImports, p.Package):
		return refused("is the name of a package that generated files import")
	}
	own := p.Module + "/domain/" + p.Package
	for _, dir := range []string{"service", "app/command", "app/projection", "sagas"} {
		s, err := scopeOf(dir)
		if err != nil {
			return err
		}
		if in := s.declared[p.Package]; in != "" {
			return refused("is the name of a declaration in " + in)
		}
		for in, imported := range s.imported[p.Package] {
			if imported != own {
				return refused("is the name of a package that " + in + " imports, " + imported)
			}
		}
	}
	return nil
}

// pluralNames sets the names that the plural of an aggregate has: the variable in the service, and the field of command.Deps. They are those of the existing
// aggregate, or names that are free.
func (p *piece) pluralNames(many string) error {
	p.Category, p.Plurals = many, pascal(many)
	p.Plural = camel(p.Plurals)
	s, err := scopeOf("service")
	if err != nil {
		return err
	}
	others, err := filepath.Glob("domain/*/*.go")
	if err != nil {
		return err
	}
	for _, file := range others {
		text, err := os.ReadFile(file) //nolint:gosec // a file of the service
		if err != nil {
			return err
		}
		if found := category.FindSubmatch(text); found != nil && string(found[1]) == many && filepath.Base(filepath.Dir(file)) != p.Package {
			return fmt.Errorf("--plural: %s has the plural %q already, which names streams and topics; choose another plural", filepath.ToSlash(file), many)
		}
	}
	_, imported := s.imported[p.Plural]
	if p.Plural == p.Package || imported || slices.Contains(generatedImports, p.Plural) || slices.Contains(withoutPackage, p.Plural) ||
		s.declared[p.Plural] != "" && !p.isVariable(p.Plural) {
		p.Plural = "all" + p.Plurals
	}
	if in := s.declared[p.Plural]; in != "" && !p.isVariable(p.Plural) {
		return fmt.Errorf("--plural: %q needs the variable %s, which %s declares; choose another plural", many, p.Plural, in)
	}
	source, err := os.ReadFile("app/command/command.go")
	if err != nil {
		return err
	}
	fields, err := attributesOf(string(source), "Deps")
	if err != nil {
		return fmt.Errorf("app/command/command.go: %w", err)
	}
	store := p.storeType()
	if at := slices.IndexFunc(fields, func(f attribute) bool { return f.Type == store }); at >= 0 {
		p.Plurals = fields[at].Go
		return nil
	}
	for _, name := range []string{p.Plurals, "All" + p.Plurals} {
		if !slices.ContainsFunc(fields, func(f attribute) bool { return f.Go == name }) {
			p.Plurals = name
			return nil
		}
	}
	return fmt.Errorf("--plural: %q needs the field %s of command.Deps, which is there with another type; choose another plural", many, p.Plurals)
}

// storeType is the type of the field of command.Deps with the aggregates.
func (p *piece) storeType() string { return "cqrs.Store[*" + p.Package + "." + p.Type + "]" }

// isVariable reports whether a variable of the service is that of the aggregate.
func (p *piece) isVariable(name string) bool {
	source, err := os.ReadFile(literal)
	return err == nil && regexp.MustCompile(`\b`+name+`\s*=\s*runner\.AggregateOf\(`+p.Package+`\.`).Match(source)
}

// depsField is the field of command.Deps with a gateway: the name of the gateway, or another one if an aggregate has that name already.
func (p *piece) depsField() (string, error) {
	source, err := os.ReadFile("app/command/command.go")
	if err != nil {
		return "", err
	}
	fields, err := attributesOf(string(source), "Deps")
	if err != nil {
		return "", fmt.Errorf("app/command/command.go: %w", err)
	}
	for _, name := range []string{p.Gateway, p.Gateway + "Service"} {
		at := slices.IndexFunc(fields, func(f attribute) bool { return f.Go == name })
		if at < 0 || fields[at].Type == p.Gateway {
			return name, nil
		}
	}
	return "", fmt.Errorf("--gateway: the fields %[1]s and %[1]sService of command.Deps are there with other types", p.Gateway)
}

// platforms are words at the end of a file's name from which go build concludes for which system or processor the file is.
var platforms = strings.Fields(`aix android darwin dragonfly freebsd illumos ios js linux netbsd openbsd plan9 solaris wasip1 windows
	386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x wasm`)

// checkFile returns an error if go build would leave out the file of a part because of the file's name.
func checkFile(name, file string) error {
	words := strings.Split(strings.TrimSuffix(file, ".go"), "_")
	last := words[len(words)-1]
	switch {
	case len(words) > 1 && last == "test":
		return fmt.Errorf("NAME: %q: Go would take its file %s for a test; choose another name", name, file)
	case len(words) > 1 && slices.Contains(platforms, last):
		return fmt.Errorf("NAME: %q: Go would build its file %s for %s only; choose another name", name, file, last)
	}
	return nil
}

// reservedFields returns an error if a field has a name that the code of the part needs. The values say why.
func (p *piece) reservedFields(reserved map[string]string) error {
	var faults []error
	for _, c := range p.Columns {
		if why := cmp.Or(reserved[c.Name], reserved[camel(c.Go)]); why != "" {
			faults = append(faults, fmt.Errorf("--fields: %q is a name that the %s needs: %s; choose another name", c.Name, p.Noun, why))
		}
	}
	return errors.Join(faults...)
}

// sqlWords are the reserved words of PostgreSQL, which no column can have as its name.
//
//nolint:misspell // SQL has both spellings of analyse
var sqlWords = strings.Fields(`all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate collation column
	concurrently constraint create cross current_catalog current_date current_role current_schema current_time current_timestamp current_user default
	deferrable desc distinct do else end except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into is
	isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on only or order outer overlaps placing primary
	references returning right select session_user similar some symmetric system_user table tablesample then to trailing true union unique user using
	variadic verbose when where window with`)

// sqlColumns returns an error if a field cannot be a column.
func (p *piece) sqlColumns() error {
	for _, c := range p.Columns {
		if slices.Contains(sqlWords, c.Name) {
			return fmt.Errorf("--fields: %q is a reserved word of SQL and cannot be a column; choose another name", c.Name)
		}
	}
	return nil
}

// hasColumns checks that a struct that was made before has the fields of --fields. By hand, it may have got others.
func (p *piece) hasColumns(file, structName string, key bool) error {
	source, err := os.ReadFile(file) //nolint:gosec // a file of the service
	if err != nil {
		return err
	}
	fields, err := attributesOf(string(source), structName)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var faults []error
	if key && !slices.ContainsFunc(fields, func(f attribute) bool { return f.Go == p.Type+"ID" }) {
		faults = append(faults, fmt.Errorf("%s is there already, and %s is not of the %s: it has no field %sID; choose another name", file, structName, p.Noun, p.Type))
	}
	for _, c := range p.Columns {
		at := slices.IndexFunc(fields, func(f attribute) bool { return f.Go == c.Go })
		switch {
		case at < 0:
			faults = append(faults, fmt.Errorf("%s is there already, and %s has no field %s: add %q by hand", file, structName, c.Go, c.Name))
		case fields[at].Type != c.Type:
			faults = append(faults, fmt.Errorf("%s is there already, and the field %s of %s has the type %s, not %s: change it by hand", file, c.Go, structName, fields[at].Type, c.Type))
		}
	}
	return errors.Join(faults...)
}
