package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

func makeQuery(p *piece, args []string, flags map[string]string) error {
	if err := p.named(args[0]); err != nil {
		return err
	}
	file := filepath.Join("app/query", p.File)
	if err := declares("NAME", p.Name, file, p.Name, p.Lower, p.Name+"Answer", p.Name+"Row", p.Name+"Rows"); err != nil {
		return err
	}
	if flags["projection"] != "" {
		return makeViewQuery(p, flags["projection"], flags["by"])
	}
	if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "type "+p.Name+"Rows interface") { //nolint:gosec // a file of the service
		return fmt.Errorf("%s is there already and selects from a projection: repeat --projection and --by, or choose another name", file)
	}
	if err := p.withTest("app/query", "query"); err != nil {
		return err
	}
	return edit("app/query/query.go", returned("All", fmt.Sprintf("cqrs.HandleQuery(%q, %s{}.handle)", p.Name, p.Lower)))
}

// makeViewQuery makes a query that selects rows of a read model by a column: one row by the first column, which is the key, or a list of rows by another
// column.
func makeViewQuery(p *piece, projection, by string) error {
	if err := checkName("--projection", projection, "open-invoices", dashed); err != nil {
		return err
	}
	p.Type, p.Stored = pascal(projection), snake(pascal(projection))
	p.Table = p.Stored + "_view"
	source, err := os.ReadFile(filepath.Join("app/projection", p.Stored+".go"))
	if err != nil {
		return fmt.Errorf("there is no projection %s yet: go run ./tools/scaffold projection AGGREGATE %s", projection, projection)
	}
	fields, err := attributesOf(string(source), p.Type+"Row")
	if err != nil {
		return err
	}
	p.Columns = slices.DeleteFunc(fields, func(a attribute) bool { return a.Name == "version" })
	var names []string
	for i, c := range p.Columns {
		names = append(names, c.Name)
		if c.Name == by {
			p.By = &p.Columns[i]
		}
	}
	if p.By == nil {
		return fmt.Errorf("--by: %q is no column of %s, which has %s", by, projection, strings.Join(names, ", "))
	}
	if err := p.checkViewQuery(projection); err != nil {
		return err
	}
	if err := p.write("view_query.tmpl", filepath.Join("app/query", p.File)); err != nil {
		return err
	}
	if p.List() {
		migration, err := nextMigration(p.Table + "_by_" + by)
		if err != nil {
			return err
		}
		if err := p.write("migration_index.tmpl", migration); err != nil {
			return err
		}
	}
	return errors.Join(
		edit("app/query/query.go", field("Deps", p.Name, p.Name+"Rows"), returned("All", fmt.Sprintf("cqrs.HandleQuery(%q, %s{d.%s}.handle)", p.Name, p.Lower, p.Name))),
		p.attach("view_select", filepath.Join("adapters/views", p.Stored+".go"), "func (r "+p.Type+") "+p.Name+"(", needs(p.Module+"/app/query")),
		edit(literal, entry("query.Deps", p.Name, "views."+p.Type+"{DB: k.DB()}")),
	)
}

// checkViewQuery checks that a query of a read model can be made, or was made before by the same arguments.
func (p *piece) checkViewQuery(projection string) error {
	if p.By.Go == "Result" {
		return fmt.Errorf("--by: %q is the name of a field that every query has; choose another column", p.By.Name)
	}
	file := filepath.Join("app/query", p.File)
	if text, err := os.ReadFile(file); err == nil { //nolint:gosec // a file of the service
		fields, err := attributesOf(string(text), p.Name)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !slices.ContainsFunc(fields, func(f attribute) bool { return f.Go == p.By.Go }) {
			return fmt.Errorf("--by: %s is there already, and %s does not select by %s: change it by hand, or choose another name", file, p.Name, p.By.Name)
		}
	}
	view := filepath.Join("adapters/views", p.Stored+".go")
	views, err := filepath.Glob("adapters/views/*.go")
	if err != nil {
		return err
	}
	for _, path := range views {
		text, err := os.ReadFile(path) //nolint:gosec // a file of the service
		if err != nil {
			return err
		}
		if filepath.Clean(path) != view && strings.Contains(string(text), ") "+p.Name+"(ctx context.Context, q query."+p.Name+")") {
			return fmt.Errorf("--projection: %s selects the rows of %s already, not %s: choose another name", filepath.ToSlash(path), p.Name, projection)
		}
	}
	return nil
}

// ByOwner reports whether the query selects by the customer, so that an empty value means the rows of all customers.
func (p *piece) ByOwner() bool { return p.By != nil && isOwner(*p.By) }

// List reports whether the result of the query is a list.
func (p *piece) List() bool { return p.By != nil && p.By.Name != p.Columns[0].Name }

// Selected are the columns of a read model, separated by commas, for SQL.
func (p *piece) Selected() string {
	var names []string
	for _, c := range p.Columns {
		names = append(names, c.Name)
	}
	return strings.Join(names, ", ")
}

func makeProjection(p *piece, args []string, flags map[string]string) error {
	if err := errors.Join(p.aggregate(args[0], ""), checkName("NAME", args[1], "open-invoices", dashed), p.columns(flags["fields"])); err != nil {
		return err
	}
	if err := p.there(); err != nil {
		return err
	}
	p.Name, p.Stored = pascal(args[1]), args[1]
	p.Lower, p.File, p.Table = camel(p.Name), snake(p.Name)+".go", snake(p.Name)+"_view"
	if err := p.checkProjection(); err != nil {
		return err
	}
	migration, err := nextMigration(p.Table)
	if err != nil {
		return err
	}
	if err := p.writeAll(
		"projection", filepath.Join("app/projection", p.File), "readmodel", filepath.Join("adapters/views", p.File),
		"readmodel_test", filepath.Join("adapters/views", snake(p.Name)+"_test.go"), "migration", migration,
	); err != nil {
		return err
	}
	return edit("adapters/views/views.go", needs(p.Module+"/app/projection"),
		returned("All", fmt.Sprintf("{Projection: projection.%s(%s{}), Table: %q}", p.Name, p.Name, p.Table)))
}

// checkProjection checks that a projection can be made, or was made before by the same arguments.
func (p *piece) checkProjection() error {
	reserved := p.idField()
	reserved["version"] = "a row has a column version"
	file := filepath.Join("app/projection", p.File)
	if err := errors.Join(p.reservedFields(reserved), p.sqlColumns(), checkFile(p.Name, p.File), declares("NAME", p.Name, file, p.Name, p.Name+"Row", p.Name+"Rows"),
		declares("NAME", p.Name, filepath.Join("adapters/views", p.File), p.Name, p.Lower+"Table")); err != nil || !exists(file) {
		return err
	}
	return p.hasColumns(file, p.Name+"Row", true)
}

// nextMigration is the path of the migration that creates a table: an existing file, or the next free number.
func nextMigration(table string) (path string, err error) {
	there, err := filepath.Glob("migrations/*.sql")
	if err != nil {
		return "", err
	}
	last := 0
	for _, path := range there {
		if strings.HasSuffix(path, "_"+table+".sql") {
			return path, nil
		}
		if n, err := strconv.Atoi(filepath.Base(path)[:5]); err == nil {
			last = max(last, n)
		}
	}
	return fmt.Sprintf("migrations/%05d_%s.sql", last+1, table), nil
}
