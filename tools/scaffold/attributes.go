package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// attribute is a field of an event, a command or a row of a read model. Examples are behind its fields.
type attribute struct {
	Name string // customer_id
	Go   string // CustomerID
	Type string // string
}

// goTypes are the Go types of fields by the type names of --fields.
var goTypes = map[string]string{"text": "string", "int": "int64", "bool": "bool", "time": "time.Time"}

// columns parses --fields: names separated by commas, each followed by a colon and a type unless the type is text.
func (p *piece) columns(fields string) error {
	for part := range strings.SplitSeq(fields, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, kind, typed := strings.Cut(part, ":")
		if !typed {
			kind = "text"
		}
		goType, ok := goTypes[strings.TrimSpace(kind)]
		if !ok {
			return fmt.Errorf("--fields: the type %q of %s is none of %s", kind, name, strings.Join(slices.Sorted(maps.Keys(goTypes)), ", "))
		}
		if err := checkName("--fields", name, "customer_id", underscored); err != nil {
			return err
		}
		made := attribute{name, pascal(strings.ReplaceAll(name, "_", "-")), goType}
		if slices.ContainsFunc(p.Columns, func(a attribute) bool { return a.Go == made.Go }) {
			return fmt.Errorf("--fields: %q is there twice", name)
		}
		p.Columns = append(p.Columns, made)
	}
	return nil
}

// Key is the column with the id of the aggregate.
func (p *piece) Key() attribute { return attribute{p.ID, p.Type + "ID", "string"} }

// Timed reports whether a column is a time.
func (p *piece) Timed() bool {
	return slices.ContainsFunc(p.Columns, func(a attribute) bool { return a.Type == "time.Time" })
}

// imports are the imports that the columns need.
func (p *piece) imports() []change {
	if p.Timed() {
		return []change{needs("time")}
	}
	return nil
}

// tag is the struct tag of the field for a column, empty if the name of the column follows from the name of the field.
func tag(a attribute) string {
	if snake(a.Go) == a.Name {
		return ""
	}
	return `db:"` + a.Name + `"`
}

// SQL is the type of the column. Columns are never NULL.
func (a attribute) SQL() string {
	switch a.Type {
	case "int64", "int", "int32":
		return "bigint"
	case "bool":
		return "boolean"
	case "float64":
		return "double precision"
	case "time.Time":
		return "timestamptz"
	default:
		return "text"
	}
}

// Schema is the schema of the attribute in openapi.yaml.
func (a attribute) Schema() string {
	switch a.Type {
	case "string":
		return "{type: string}"
	case "int64", "int", "int32":
		return "{type: integer, format: int64}"
	case "bool":
		return "{type: boolean}"
	case "float64":
		return "{type: number, format: double}"
	case "time.Time":
		return "{type: string, format: date-time}"
	default:
		return "{}"
	}
}

// attributesOf returns the fields of a struct in a Go file, without embedded fields.
func attributesOf(source, name string) (fields []attribute, err error) {
	file, err := parser.ParseFile(token.NewFileSet(), "", source, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	spec, ok := find(file, func(t *ast.TypeSpec) bool { return t.Name.Name == name })
	if !ok {
		return nil, fmt.Errorf("there is no type %s", name)
	}
	s, ok := spec.Type.(*ast.StructType)
	if !ok {
		return nil, fmt.Errorf("%s is no struct", name)
	}
	for _, f := range s.Fields.List {
		tagged := ""
		if f.Tag != nil {
			tags, _ := strconv.Unquote(f.Tag.Value)
			for _, key := range []string{"json", "db"} {
				if name, _, _ := strings.Cut(reflect.StructTag(tags).Get(key), ","); name != "" {
					tagged = name
				}
			}
		}
		for _, n := range f.Names {
			a := attribute{tagged, n.Name, source[f.Type.Pos()-1 : f.Type.End()-1]}
			if tagged == "" {
				a.Name = snake(n.Name)
			}
			fields = append(fields, a)
		}
	}
	return fields, nil
}

// splitWords splits a line in the way of a shell: words that contain blanks are quoted, and # begins a comment.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	var quote rune
	within := false
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '"' || r == '\'':
			quote, within = r, true
		case r == '#' && !within:
			return words, nil
		case unicode.IsSpace(r):
			if within {
				words = append(words, word.String())
				word.Reset()
				within = false
			}
		default:
			word.WriteRune(r)
			within = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote %c is not closed", quote)
	}
	if within {
		words = append(words, word.String())
	}
	return words, nil
}
