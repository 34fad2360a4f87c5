package aggregate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// ErrUnknownType is the error for a name, Go type or schema version that is not registered.
var ErrUnknownType = errors.New("unknown type")

// Upcaster changes the JSON object of one schema version, in place, into that of the next version.
type Upcaster func(fields map[string]any) error

// Type is the registration of an event or message: its Go type, its stored name, its schema version, and the upcasters of older versions.
type Type struct {
	// Name is the stored name, in tables and on topics. It must never change, even if the Go type is renamed.
	Name string
	// Schema is the current schema version of the payload, from 1.
	Schema int

	goType    reflect.Type
	upcasters []Upcaster
	decode    func([]byte) (any, error)
}

// NewType registers T under a stored name. Each upcaster converts from one schema version to the next; pass them oldest first. The schema version is
// the number of upcasters plus 1.
func NewType[T any](name string, upcasters ...Upcaster) Type {
	return Type{
		Name: name, Schema: len(upcasters) + 1, goType: reflect.TypeFor[T](), upcasters: upcasters,
		decode: func(payload []byte) (any, error) {
			var v T
			err := json.Unmarshal(payload, &v)
			return v, err
		},
	}
}

// New returns a pointer to a zero value of the registered Go type.
func (t Type) New() any { return reflect.New(t.goType).Interface() }

// Types is a set of registrations, which can be found by name and by Go type. It is safe for concurrent use.
type Types struct {
	byName map[string]Type
	byGo   map[reflect.Type]Type
}

// TypesOf makes a set of registrations. It panics on a duplicate name or Go type: sets are usually package variables, so the panic shows the mistake
// at the first start.
func TypesOf(types ...Type) Types {
	ts := Types{byName: map[string]Type{}, byGo: map[reflect.Type]Type{}}
	for _, t := range types {
		if _, twice := ts.byName[t.Name]; twice {
			panic("aggregate: the name " + t.Name + " is registered twice")
		}
		if _, twice := ts.byGo[t.goType]; twice {
			panic("aggregate: the Go type " + t.goType.String() + " is registered twice")
		}
		ts.byName[t.Name], ts.byGo[t.goType] = t, t
	}
	return ts
}

// Merge returns a set with the registrations of all sets. It panics on a duplicate, as TypesOf does.
func Merge(all ...Types) Types {
	var types []Type
	for _, ts := range all {
		types = append(types, ts.All()...)
	}
	return TypesOf(types...)
}

// Names returns the registered names in alphabetical order.
func (ts Types) Names() []string {
	names := make([]string, 0, len(ts.byName))
	for name := range ts.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// All returns the registrations in the order of their names.
func (ts Types) All() []Type {
	all := make([]Type, 0, len(ts.byName))
	for _, name := range ts.Names() {
		all = append(all, ts.byName[name])
	}
	return all
}

// Of returns the registration of the Go type of v, which may be a value or a pointer.
func (ts Types) Of(v any) (Type, bool) {
	goType := reflect.TypeOf(v)
	if goType != nil && goType.Kind() == reflect.Pointer {
		goType = goType.Elem()
	}
	t, ok := ts.byGo[goType]
	return t, ok
}

// Named returns the registration of a stored name.
func (ts Types) Named(name string) (Type, bool) {
	t, ok := ts.byName[name]
	return t, ok
}

// Encode returns the registration of v and the JSON of v. The error wraps ErrUnknownType if the type of v is not registered.
func (ts Types) Encode(v any) (Type, []byte, error) {
	t, ok := ts.Of(v)
	if !ok {
		return Type{}, nil, fmt.Errorf("encode %T: %w", v, ErrUnknownType)
	}
	payload, err := json.Marshal(v)
	if err != nil {
		return Type{}, nil, fmt.Errorf("encode %s: %w", t.Name, err)
	}
	return t, payload, nil
}

// Decode upcasts a stored payload to the current schema version and returns the decoded value (not a pointer). It replaces NUL characters in strings
// by U+FFFD. The error wraps ErrUnknownType if the name or the schema version is not registered.
func (ts Types) Decode(name string, schema int, payload []byte) (any, error) {
	t, ok := ts.byName[name]
	if !ok {
		return nil, fmt.Errorf("decode %q: %w", name, ErrUnknownType)
	}
	payload, err := t.upcast(schema, withoutNUL(payload))
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", name, err)
	}
	v, err := t.decode(payload)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", name, err)
	}
	return v, nil
}

// withoutNUL replaces NUL characters, which JSON writes as \u0000, by U+FFFD. New text is checked when it arrives, but a payload that was stored
// before that check existed may hold a NUL character, which would stop every read model with a text column. Projections, rebuilds, aggregates and
// sagas all get their events from Decode, so this is the only place that replaces it.
func withoutNUL(payload []byte) []byte {
	escape := []byte(`\u0000`)
	if !bytes.Contains(payload, escape) {
		return payload
	}
	out := make([]byte, 0, len(payload))
	for len(payload) > 0 {
		switch {
		case payload[0] != '\\' || len(payload) == 1:
			out, payload = append(out, payload[0]), payload[1:]
		case bytes.HasPrefix(payload, escape):
			out, payload = append(out, `\ufffd`...), payload[len(escape):]
		default: // another escape: skip two bytes, so that an escaped backslash does not begin the next escape
			out, payload = append(out, payload[:2]...), payload[2:]
		}
	}
	return out
}

func (t Type) upcast(schema int, payload []byte) ([]byte, error) {
	if schema < 1 || schema > t.Schema {
		return nil, fmt.Errorf("schema version %d, this program knows 1 to %d: %w", schema, t.Schema, ErrUnknownType)
	}
	if schema == t.Schema {
		return payload, nil
	}
	// UseNumber: amounts are int64, and float64 is not exact above 2^53.
	decoder := json.NewDecoder(bytes.NewReader(payload))
	decoder.UseNumber()
	var fields map[string]any
	if err := decoder.Decode(&fields); err != nil {
		return nil, err
	}
	if fields == nil {
		return nil, errors.New("the payload is no JSON object")
	}
	for v := schema; v < t.Schema; v++ {
		if err := t.upcasters[v-1](fields); err != nil {
			return nil, fmt.Errorf("upcast from schema version %d: %w", v, err)
		}
	}
	return json.Marshal(fields)
}
