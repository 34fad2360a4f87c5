package readmodel

import (
	"cmp"
	"context"
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

// Table writes the rows of a table of a read model. R is a struct. Each exported field is a column: its tag db, or else its name in snake case
// (CustomerID is customer_id). The type of a field is a string, a whole number, a float, a bool, a time.Time, or JSON. The first field is the primary
// key, the key of an aggregate. The field Version is the version of the event in its stream, so that each event counts once.
//
// Each method writes when the unit of work of ctx commits: one statement for all rows of the units that commit together.
type Table[R any] struct {
	name    string
	columns []column

	put, update, add *txn.Statement[tableWrite[R]]
}

// tableWrite is the row of an event and, by column, whether the event writes it.
type tableWrite[R any] struct {
	row R
	set []bool
}

// version is the column with the version of the last event.
const version = "version"

// Ranks order the statements on a table in a commit.
const (
	rankPut    = 50
	rankUpdate = 51
	rankAdd    = 52
)

// The statements. {key}, {table} and the lists of columns are filled in. Rows are locked before they are compared, in the order of their keys. So an event
// counts once, even if two transactions write it at the same time, as while a projection is rebuilt. A row that another transaction has inserted meanwhile
// is a conflict, and the unit is retried.
const (
	locked = `
		), there AS MATERIALIZED (
			SELECT t.* FROM (SELECT DISTINCT {key} FROM e ORDER BY {key}) w
			CROSS JOIN LATERAL (SELECT {key}, version FROM {table} WHERE {key} = w.{key} OFFSET 0 FOR UPDATE) t
		), fresh AS MATERIALIZED (
			SELECT e.{key}, max(e.version) AS version, min(t.version) IS NULL AS first`
	unseen = `
			FROM e LEFT JOIN there t ON t.{key} = e.{key} WHERE e.version > COALESCE(t.version, 0) GROUP BY e.{key} ORDER BY e.{key}
		), `
	inserted = `
		SELECT demand((SELECT count(*) FROM begun) = (SELECT count(*) FROM fresh WHERE first), 'MR002', '{table} has changed')`

	// merge takes the newest value of each column that an event has written.
	merge = `
		WITH e AS (
			SELECT {selected} FROM {rows}` + locked + `{newest}` + unseen + `changed AS (
			UPDATE {table} t SET version = f.version{changed} FROM fresh f WHERE NOT f.first AND t.{key} = f.{key}
		)`
	mergeOrInsert = merge + `, begun AS (
			INSERT INTO {table} ({key}, version{others}) SELECT {key}, version{first} FROM fresh WHERE first ON CONFLICT DO NOTHING RETURNING {key}
		)` + inserted
	mergeOrFail = merge + `
		SELECT demand(NOT first, 'MR001', 'there is no row ' || {key} || ' in {table}') FROM fresh`

	// upsert is for whole rows: the newest one has all columns.
	upsert = `
		INSERT INTO {table} AS t ({columns}) SELECT DISTINCT ON ({key}) {selected} FROM {rows} ORDER BY {key}, version DESC
		ON CONFLICT ({key}) DO UPDATE SET version = excluded.version{replaced} WHERE t.version < excluded.version`

	sum = `
		WITH e AS (
			SELECT DISTINCT ON ({key}, version) {selected} FROM {rows}` + locked + `{sums},
				demand(max(e.version) = COALESCE(min(t.version), 0) + count(*), 'MR001',
					'row ' || e.{key} || ' of {table}: event ' || min(e.version) || ' came after event ' || COALESCE(min(t.version), 0))` + unseen + `begun AS (
			INSERT INTO {table} ({key}, version{others}) SELECT {key}, version{others} FROM fresh WHERE first ON CONFLICT DO NOTHING RETURNING {key}
		), changed AS (
			INSERT INTO {table} AS t ({key}, version{others}) SELECT {key}, version{others} FROM fresh WHERE NOT first
			ON CONFLICT ({key}) DO UPDATE SET version = excluded.version{added}
		)` + inserted
)

// NewTable describes a table. It panics if a field of R can be no column. The name is part of statements: never take it from outside.
func NewTable[R any](name string) *Table[R] {
	t := &Table[R]{name: name, columns: columnsOf(reflect.TypeFor[R](), name)}
	t.put = t.statement(rankPut, mergeOrInsert, upsert)
	t.update = t.statement(rankUpdate, mergeOrFail, mergeOrFail)
	t.add = t.statement(rankAdd, sum, sum)
	return t
}

// Put writes columns of a row: the named ones, or all if none is named. A row that is not there yet is inserted; its other columns are empty. An event
// that is not newer than the row changes nothing.
func (t *Table[R]) Put(ctx context.Context, row R, columns ...string) error {
	return t.write(ctx, t.put, row, columns)
}

// Update writes columns of a row as Put does. That there is no such row is an error.
func (t *Table[R]) Update(ctx context.Context, row R, columns ...string) error {
	return t.write(ctx, t.update, row, columns)
}

// Add adds numbers to a row, which begins with zeros: the columns of R beside the key and the version are sums. An event that was added already is
// left out. None may be missing: an event whose predecessor was not added is an error.
func (t *Table[R]) Add(ctx context.Context, row R) error { return t.write(ctx, t.add, row, nil) }

func (t *Table[R]) write(ctx context.Context, s *txn.Statement[tableWrite[R]], row R, columns []string) error {
	for _, name := range columns {
		if !slices.ContainsFunc(t.columns, func(c column) bool { return c.name == name }) {
			return fmt.Errorf("write %s: it has no column %q", t.name, name)
		}
	}
	w := tableWrite[R]{row, make([]bool, len(t.columns))}
	for i, c := range t.columns {
		w.set[i] = len(columns) == 0 || i == 0 || c.name == version || slices.Contains(columns, c.name)
	}
	return s.Write(ctx, w)
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

// column is a column and the field that it is written from.
type column struct {
	name  string
	field []int
	kind  string // of PostgreSQL
	cast  string // from kind to the type of the column
	empty string // the value, in SQL, of a row that no event has given one

	// array makes the parameter for the values of some rows, with NULL for a row that does not set the column.
	array func(n int, row func(int) reflect.Value, set func(int) bool) (any, error)
}

func columnsOf(row reflect.Type, table string) (columns []column) {
	if row.Kind() != reflect.Struct {
		panic(fmt.Sprintf("read model %s: %s is not a struct", table, row))
	}
	for _, f := range reflect.VisibleFields(row) {
		if !f.IsExported() || f.Anonymous {
			continue
		}
		c := columnOf(f)
		if c.array == nil {
			panic(fmt.Sprintf("read model %s: the field %s has the type %s, which no column has", table, f.Name, f.Type))
		}
		columns = append(columns, c)
	}
	if at := slices.IndexFunc(columns, func(c column) bool { return c.name == version }); at < 1 {
		panic(fmt.Sprintf("read model %s: %s needs its key as the first field, and the field Version", table, row))
	}
	return columns
}

func columnOf(f reflect.StructField) column {
	c := column{name: cmp.Or(f.Tag.Get("db"), snake(f.Name)), field: f.Index}
	switch kind := f.Type.Kind(); {
	case f.Type == reflect.TypeFor[time.Time]():
		c.kind, c.empty = "timestamptz", "'epoch'"
		c.array = arrayOf(c.field, func(v reflect.Value) (time.Time, error) { return *v.Addr().Interface().(*time.Time), nil })
	case strings.HasPrefix(f.Type.Name(), "JSON[") && f.Type.Implements(reflect.TypeFor[driver.Valuer]()):
		c.kind, c.cast, c.empty = "text", "::json", "'null'"
		c.array = arrayOf(c.field, func(v reflect.Value) (string, error) {
			text, err := v.Addr().Interface().(driver.Valuer).Value()
			if err != nil {
				return "", err
			}
			return text.(string), nil
		})
	case kind == reflect.String:
		c.kind, c.empty, c.array = "text", "''", arrayOf(c.field, func(v reflect.Value) (string, error) { return v.String(), nil })
	case kind >= reflect.Int && kind <= reflect.Int64:
		c.kind, c.empty, c.array = "bigint", "0", arrayOf(c.field, func(v reflect.Value) (int64, error) { return v.Int(), nil })
	case kind == reflect.Float64 || kind == reflect.Float32:
		c.kind, c.empty, c.array = "double precision", "0", arrayOf(c.field, func(v reflect.Value) (float64, error) { return v.Float(), nil })
	case kind == reflect.Bool:
		c.kind, c.empty, c.array = "boolean", "false", arrayOf(c.field, func(v reflect.Value) (bool, error) { return v.Bool(), nil })
	}
	return c
}

// arrayOf makes the parameter of a column.
func arrayOf[E any](field []int, element func(reflect.Value) (E, error)) func(int, func(int) reflect.Value, func(int) bool) (any, error) {
	return func(n int, row func(int) reflect.Value, set func(int) bool) (any, error) {
		values, some, all := make([]E, n), make([]*E, n), true
		for i := range values {
			if !set(i) {
				all = false
				continue
			}
			e, err := element(row(i).FieldByIndex(field))
			if err != nil {
				return nil, err
			}
			values[i], some[i] = e, &values[i]
		}
		if all {
			return values, nil
		}
		return some, nil
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

// statement makes a statement of its texts: for events of which some write a part of a row, and for events that all write whole rows, whose newest
// event is enough. Each placeholder for a list of columns begins with a comma, because the list may be empty.
func (t *Table[R]) statement(rank int, partial, whole string) *txn.Statement[tableWrite[R]] {
	key := t.columns[0]
	list := func(form string) string {
		var b strings.Builder
		for _, c := range t.columns {
			if c.name != key.name && c.name != version {
				b.WriteString(", " + strings.NewReplacer("?", c.name, "!", c.cast, "~", c.empty).Replace(form))
			}
		}
		return b.String()
	}
	var arrays, names, selected []string
	for i, c := range t.columns {
		arrays = append(arrays, fmt.Sprintf("$%d::%s[]", i+1, c.kind))
		names, selected = append(names, c.name), append(selected, c.name+c.cast+" AS "+c.name)
	}
	fill := strings.NewReplacer(
		"{table}", t.name, "{key}", key.name, "{columns}", strings.Join(names, ", "), "{selected}", strings.Join(selected, ", "),
		"{rows}", "unnest("+strings.Join(arrays, ", ")+") AS rows("+strings.Join(names, ", ")+")",
		"{newest}", list("(array_agg(e.? ORDER BY e.version DESC) FILTER (WHERE e.? IS NOT NULL))[1] AS ?"),
		"{others}", list("?"), "{first}", list("COALESCE(?, ~)"), "{changed}", list("? = COALESCE(f.?, t.?!)"),
		"{sums}", list("sum(e.?) AS ?"), "{added}", list("? = t.? + excluded.?"), "{replaced}", list("? = excluded.?"),
	)
	partial, whole = fill.Replace(partial), fill.Replace(whole)
	return &txn.Statement[tableWrite[R]]{
		Doing: "write " + t.name, Rank: rank,
		Locks: func(w tableWrite[R]) string {
			return fmt.Sprint(reflect.ValueOf(&w.row).Elem().FieldByIndex(key.field)) // a reflect.Value is printed as what it holds
		},
		Query: func(writes []tableWrite[R]) (string, []any, error) {
			query, args := whole, make([]any, len(t.columns))
			if slices.ContainsFunc(writes, func(w tableWrite[R]) bool { return slices.Contains(w.set, false) }) {
				query = partial
			}
			for i, c := range t.columns {
				var err error
				row := func(n int) reflect.Value { return reflect.ValueOf(&writes[n].row).Elem() }
				if args[i], err = c.array(len(writes), row, func(n int) bool { return writes[n].set[i] }); err != nil {
					return "", nil, err
				}
			}
			return query, args, nil
		},
	}
}
