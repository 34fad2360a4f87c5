package aggregate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
)

// ErrUnknownType says that no type is registered under a name or schema version.
var ErrUnknownType = errors.New("unknown type")

// Upcaster turns the JSON object of one schema version into that of the next.
type Upcaster func(fields map[string]any) error

// Type is the registration of an event or message: its Go type, its stored name, its schema version, and the upcasters of older versions.
type Type struct {
	// Name is the name in tables and on topics. It never changes, also when the Go type is renamed.
	Name string
	// Schema is the version of the payload's shape, from 1.
	Schema int

	goType    reflect.Type
	upcasters []Upcaster
	decode    func([]byte) (any, error)
}

// NewType registers T under name. Each upcaster is the step from one schema version to the next, oldest first, so their number gives the
// current version.
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

// Types are registrations that can be found by name and by Go type.
type Types struct {
	byName map[string]Type
	byGo   map[reflect.Type]Type
}

// TypesOf collects registrations. It panics on a duplicate name or Go type, which is a mistake in a package variable and shows at the first
// start.
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

// Merge returns one collection of all.
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

// Of finds the registration of v, which may be a value or a pointer.
func (ts Types) Of(v any) (Type, bool) {
	goType := reflect.TypeOf(v)
	if goType != nil && goType.Kind() == reflect.Pointer {
		goType = goType.Elem()
	}
	t, ok := ts.byGo[goType]
	return t, ok
}

// Named finds the registration of a stored name.
func (ts Types) Named(name string) (Type, bool) {
	t, ok := ts.byName[name]
	return t, ok
}

// Encode returns v's registration and its JSON. The error wraps ErrUnknownType if v is not registered.
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

// Decode upcasts a stored payload to the current schema version and returns the value (not a pointer). The error wraps ErrUnknownType if the
// name, or a newer schema version, is not registered.
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

// withoutNUL replaces NUL characters, which JSON carries as \u0000, by U+FFFD. New text is checked where it comes in; in a payload that was
// stored before that, the character would stop every read model whose columns cannot hold it. This is the one place where that is done:
// projections, rebuilds, aggregates and sagas all get events from Decode.
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
		default: // another escape: two characters of it are enough to tell a backslash that is escaped itself
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
	// UseNumber: amounts are int64, and float64 would bend those above 2^53.
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
