// Snapshots. A snapshot is a cached fold. A snapshot of another schema is ignored, and a state that JSON would lose is refused when it is written. TestSnapshots,
// TestSnapshotOfAnotherSchemaIsIgnored and TestStateThatJSONLosesIsRefused show it.

package eventstore

import (
	"cmp"
	"crypto/sha256"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/postgres/txn"
)

// Snapshotter is an aggregate whose state can be stored, because its history grows long.
type Snapshotter interface {
	Aggregate

	// State returns a pointer to the state, all of which is exported fields that JSON keeps. The pointer leads into the aggregate: a
	// snapshot is decoded into it.
	State() any

	// SetVersion sets the number of events that the state is folded from. aggregate.Root has it.
	SetVersion(version int)
}

// restorer is an aggregate that can fold events after a snapshot.
type restorer[E any] interface {
	Snapshotter
	Continue(history []E)
}

type snapshot struct {
	Stream  string
	Version int
	Schema  string
	State   []byte
}

// snapshotOf makes the snapshot of an aggregate as it is after its changes.
func snapshotOf(stream, schema string, a Snapshotter) (snapshot, error) {
	state, err := json.Marshal(a.State())
	if err != nil {
		return snapshot{}, fmt.Errorf("snapshot of %s: %w", stream, err)
	}
	return snapshot{stream, a.Version() + len(a.Changes()), schema, state}, nil
}

// A snapshot of another schema is replaced whatever its version, because this program cannot use it.
var saveSnapshots = &txn.Statement[snapshot]{
	Doing: "save snapshots", Rank: 40, Locks: func(s snapshot) string { return s.Stream },
	Query: func(rows []snapshot) (string, []any, error) {
		n := len(rows)
		names, versions, schemas, states := make([]string, n), make([]int32, n), make([]string, n), make([]string, n)
		for i, r := range rows {
			names[i], versions[i], schemas[i], states[i] = r.Stream, int32(r.Version), r.Schema, string(r.State)
		}
		return `INSERT INTO snapshots (stream, version, schema, state)
			SELECT DISTINCT ON (stream) stream, version, schema, state::json
			FROM unnest($1::text[], $2::int[], $3::text[], $4::text[]) AS s(stream, version, schema, state)
			ORDER BY stream, version DESC
			ON CONFLICT (stream) DO UPDATE SET version = excluded.version, schema = excluded.schema, state = excluded.state
			WHERE snapshots.version < excluded.version OR snapshots.schema <> excluded.schema`,
			[]any{names, versions, schemas, states}, nil
	},
}

// FoldSnapshot returns the schema of the snapshots that a Repository with these options makes (SnapshotVersion counts), and the state that they keep after some events.
func FoldSnapshot[A Snapshotter, E any](rebuild func([]E) A, o Options) (schema string, state func([]cqrs.Event) ([]byte, error)) {
	schema, err := schemaOf(o.SnapshotVersion, rebuild(nil).State())
	return schema, func(events []cqrs.Event) ([]byte, error) {
		history, e := bodies[E]("a snapshot", events)
		if err := cmp.Or(err, e); err != nil {
			return nil, err
		}
		return json.Marshal(rebuild(history).State())
	}
}

// schemaOf identifies the shape of a state: the names and types of all fields that JSON reads and writes. A field that is renamed, added,
// removed or given another type makes another schema. The error names a field that JSON would lose.
func schemaOf(version int, state any) (string, error) {
	t := reflect.TypeOf(state)
	if t == nil || t.Kind() != reflect.Pointer {
		return "", fmt.Errorf("the state is %T, not a pointer", state)
	}
	var shape strings.Builder
	if err := describe(&shape, t.Elem(), map[reflect.Type]bool{}); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d-%.8x", version, sha256.Sum256([]byte(shape.String()))), nil
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// describe writes the shape of a type. A type that marshals itself, or that is part of itself, is only named.
func describe(to *strings.Builder, t reflect.Type, outer map[reflect.Type]bool) error {
	if outer[t] || t.Implements(jsonMarshaler) || reflect.PointerTo(t).Implements(jsonMarshaler) ||
		t.Implements(textMarshaler) || reflect.PointerTo(t).Implements(textMarshaler) {
		to.WriteString(t.PkgPath() + "." + t.Name())
		return nil
	}
	outer[t] = true
	defer delete(outer, t)
	switch t.Kind() {
	case reflect.Struct:
		to.WriteString("{")
		for f := range t.Fields() {
			tag := f.Tag.Get("json")
			if tag == "-" {
				continue
			}
			if !f.IsExported() && (!f.Anonymous || f.Type.Kind() != reflect.Struct) {
				return fmt.Errorf("JSON does not keep the unexported field %s of %s", f.Name, t)
			}
			to.WriteString(f.Name + " " + tag + " ")
			if err := describe(to, f.Type, outer); err != nil {
				return err
			}
			to.WriteString(";")
		}
		to.WriteString("}")
		return nil
	case reflect.Map:
		to.WriteString("map ")
		if err := describe(to, t.Key(), outer); err != nil {
			return err
		}
		to.WriteString(" ")
		return describe(to, t.Elem(), outer)
	case reflect.Array:
		fmt.Fprintf(to, "array of %d ", t.Len())
		return describe(to, t.Elem(), outer)
	case reflect.Slice, reflect.Pointer:
		to.WriteString(t.Kind().String() + " ")
		return describe(to, t.Elem(), outer)
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer, reflect.Interface, reflect.Uintptr, reflect.Invalid:
		return fmt.Errorf("JSON does not restore a %s", t)
	default:
		to.WriteString(t.Kind().String())
		return nil
	}
}
