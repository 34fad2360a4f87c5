package readmodel

import (
	"cmp"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/millrace/millrace/kit/postgres/txn"
)

// The functions below make statements that write rows of type R, a struct, into a table of a read model: all rows of the units that commit together at
// once. Each exported field is a column: its tag db, or else its name in snake case (CustomerID is customer_id). The type of a field is a string, a
// whole number, a float, a bool, a time.Time, or JSON. The field Version is the version of the event in its stream, so that each event counts once.
// The names of the table and its key are part of the statement: never take them from outside.

// Ranks order the statements on a table in a commit.
const (
	rankInsert = 50
	rankUpdate = 51
	rankAdd    = 52
	rankUpsert = 60
)

// Insert adds a row unless one with its key is there.
func Insert[R any](table, key string) *txn.Statement[R] {
	s := shapeOf[R](table, key)
	return statement[R](s, rankInsert, s.fill(`INSERT INTO {table} ({columns}) SELECT {selected} FROM {rows} ON CONFLICT ({key}) DO NOTHING`))
}

// Update changes the columns of R in the row with its key, unless the row has that version or a newer one. That there is no such row is an error.
func Update[R any](table, key string) *txn.Statement[R] {
	s := shapeOf[R](table, key)
	return statement[R](s, rankUpdate, s.fill(`
		WITH n AS (
			SELECT DISTINCT ON ({key}) {selected} FROM {rows} ORDER BY {key}, version DESC
		), there AS (
			SELECT demand(t.{key} IS NOT NULL, 'MR001', 'there is no row ' || n.{key} || ' in {table}')
			FROM n LEFT JOIN LATERAL (SELECT {key} FROM {table} WHERE {key} = n.{key} OFFSET 0) t ON true
		), changed AS (
			UPDATE {table} t SET {assigned} FROM n WHERE t.{key} = n.{key} AND t.version < n.version)
		SELECT count(*) FROM there`))
}

// Upsert adds a row, or replaces the one with its key by a newer version. R must have every column that an event can change.
func Upsert[R any](table, key string) *txn.Statement[R] {
	s := shapeOf[R](table, key)
	return statement[R](s, rankUpsert, strings.ReplaceAll(s.fill(`
		INSERT INTO {table} AS t ({columns}) SELECT DISTINCT ON ({key}) {selected} FROM {rows} ORDER BY {key}, version DESC
		ON CONFLICT ({key}) DO UPDATE SET {assigned} WHERE t.version < n.version`), "n.", "excluded."))
}

// Add adds numbers to the row with its key, which begins with zeros: the columns of R beside the key and the version are sums. Events that were added
// already are left out. None may be missing: an event whose predecessor was not added is an error.
//
// Rows are locked before they are compared, in the order of their keys, and a row that another transaction has inserted meanwhile is a conflict. So an
// event counts once, even if two transactions add it at the same time, as while a projection is rebuilt.
func Add[R any](table, key string) *txn.Statement[R] {
	s := shapeOf[R](table, key)
	return statement[R](s, rankAdd, s.fill(`
		WITH e AS (
			SELECT DISTINCT ON ({key}, version) {selected} FROM {rows}
		), there AS MATERIALIZED (
			SELECT t.* FROM (SELECT DISTINCT {key} FROM e ORDER BY {key}) w
			CROSS JOIN LATERAL (SELECT {key}, version FROM {table} WHERE {key} = w.{key} OFFSET 0 FOR UPDATE) t
		), fresh AS MATERIALIZED (
			SELECT e.{key}, {sums}, max(e.version) AS version, min(t.version) IS NULL AS first,
				demand(max(e.version) = COALESCE(min(t.version), 0) + count(*), 'MR001',
					'row ' || e.{key} || ' of {table}: event ' || min(e.version) || ' came after event ' || COALESCE(min(t.version), 0))
			FROM e LEFT JOIN there t ON t.{key} = e.{key} WHERE e.version > COALESCE(t.version, 0) GROUP BY e.{key} ORDER BY e.{key}
		), begun AS (
			INSERT INTO {table} ({columns}) SELECT {columns} FROM fresh WHERE first ON CONFLICT DO NOTHING RETURNING {key}
		), changed AS (
			INSERT INTO {table} AS t ({columns}) SELECT {columns} FROM fresh WHERE NOT first
			ON CONFLICT ({key}) DO UPDATE SET {added}, version = excluded.version)
		SELECT demand((SELECT count(*) FROM begun) = (SELECT count(*) FROM fresh WHERE first), 'MR002', '{table} has changed')`))
}

// JSON is a column of type json or jsonb.
type JSON[T any] struct{ V T }

// Scan implements sql.Scanner.
func (j *JSON[T]) Scan(from any) error {
	switch from := from.(type) {
	case []byte:
		return json.Unmarshal(from, &j.V)
	case string:
		return json.Unmarshal([]byte(from), &j.V)
	}
	return fmt.Errorf("a column of type json, not %T", from)
}

// Value implements driver.Valuer.
func (j JSON[T]) Value() (driver.Value, error) {
	text, err := json.Marshal(j.V)
	return string(text), err
}

// shape is how the rows of a table are written.
type shape struct {
	table, key string
	columns    []column
	keyField   []int
}

// column is a column and the field that it is written from.
type column struct {
	name  string
	field []int
	kind  string                                // of PostgreSQL
	cast  string                                // from kind to the type of the column
	array func(rows reflect.Value) (any, error) // the parameter for a slice of rows
}

func shapeOf[R any](table, key string) shape {
	s := shape{table: table, key: key}
	for _, f := range reflect.VisibleFields(reflect.TypeFor[R]()) {
		if !f.IsExported() || f.Anonymous {
			continue
		}
		c := columnOf(cmp.Or(f.Tag.Get("db"), snake(f.Name)), f)
		if c.array == nil {
			panic(fmt.Sprintf("read model %s: the field %s has the type %s, which no column has", table, f.Name, f.Type))
		}
		if c.name == key {
			s.keyField = f.Index
		}
		s.columns = append(s.columns, c)
	}
	if s.keyField == nil || !slices.ContainsFunc(s.columns, func(c column) bool { return c.name == "version" }) {
		panic(fmt.Sprintf("read model %s: %s needs the fields %s and version", table, reflect.TypeFor[R](), key))
	}
	return s
}

func columnOf(name string, f reflect.StructField) column {
	c := column{name: name, field: f.Index}
	switch kind := f.Type.Kind(); {
	case f.Type == reflect.TypeFor[time.Time]():
		c.kind, c.array = "timestamptz", arrayOf(c.field, func(v reflect.Value) (time.Time, error) { return *v.Addr().Interface().(*time.Time), nil })
	case strings.HasPrefix(f.Type.Name(), "JSON[") && f.Type.Implements(reflect.TypeFor[driver.Valuer]()):
		c.kind, c.cast = "text", "::json"
		c.array = arrayOf(c.field, func(v reflect.Value) (string, error) {
			text, err := v.Addr().Interface().(driver.Valuer).Value()
			if err != nil {
				return "", err
			}
			return text.(string), nil
		})
	case kind == reflect.String:
		c.kind, c.array = "text", arrayOf(c.field, func(v reflect.Value) (string, error) { return v.String(), nil })
	case f.Type.ConvertibleTo(reflect.TypeFor[int64]()) && kind >= reflect.Int && kind <= reflect.Int64:
		c.kind, c.array = "bigint", arrayOf(c.field, func(v reflect.Value) (int64, error) { return v.Int(), nil })
	case kind == reflect.Float64 || kind == reflect.Float32:
		c.kind, c.array = "double precision", arrayOf(c.field, func(v reflect.Value) (float64, error) { return v.Float(), nil })
	case kind == reflect.Bool:
		c.kind, c.array = "boolean", arrayOf(c.field, func(v reflect.Value) (bool, error) { return v.Bool(), nil })
	}
	return c
}

// arrayOf makes the parameter of a column.
func arrayOf[E any](field []int, element func(reflect.Value) (E, error)) func(rows reflect.Value) (any, error) {
	return func(rows reflect.Value) (any, error) {
		out := make([]E, rows.Len())
		for i := range out {
			e, err := element(rows.Index(i).FieldByIndex(field))
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	}
}

// snake is the name of a column for the name of a field: CustomerID becomes customer_id.
func snake(name string) string {
	runes, out := []rune(name), []rune{}
	for i, r := range runes {
		if unicode.IsUpper(r) && i > 0 && (!unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1])) {
			out = append(out, '_')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

// fill replaces the placeholders of a statement.
func (s shape) fill(query string) string {
	list := func(skip []string, form string) string {
		var parts []string
		for _, c := range s.columns {
			if !slices.Contains(skip, c.name) {
				parts = append(parts, strings.NewReplacer("?", c.name, "!", c.cast).Replace(form))
			}
		}
		return strings.Join(parts, ", ")
	}
	arrays := make([]string, len(s.columns))
	for i, c := range s.columns {
		arrays[i] = fmt.Sprintf("$%d::%s[]", i+1, c.kind)
	}
	none, key, both := []string{}, []string{s.key}, []string{s.key, "version"}
	return strings.NewReplacer(
		"{table}", s.table, "{key}", s.key, "{columns}", list(none, "?"), "{selected}", list(none, "?! AS ?"), "{assigned}", list(key, "? = n.?"),
		"{sums}", list(both, "sum(e.?) AS ?"), "{added}", list(both, "? = t.? + excluded.?"),
		"{rows}", "unnest("+strings.Join(arrays, ", ")+") AS rows("+list(none, "?")+")",
	).Replace(query)
}

func statement[R any](s shape, rank int, query string) *txn.Statement[R] {
	return &txn.Statement[R]{
		Doing: "write " + s.table, Rank: rank,
		Locks: func(row R) string {
			key := reflect.ValueOf(&row).Elem().FieldByIndex(s.keyField)
			if key.Kind() == reflect.String {
				return key.String()
			}
			return fmt.Sprint(key)
		},
		Query: func(rows []R) (string, []any, error) {
			values, args := reflect.ValueOf(rows), make([]any, len(s.columns))
			for i, c := range s.columns {
				var err error
				if args[i], err = c.array(values); err != nil {
					return "", nil, err
				}
			}
			return query, args, nil
		},
	}
}
