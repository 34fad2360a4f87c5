package cqrs

import (
	"fmt"
	"reflect"
	"strings"
	"unicode/utf8"
)

// MaxKey is how many bytes an id or a key that comes from outside may have. PostgreSQL refuses to index a row of more than about 2,700
// bytes (error 54000), and an index row here holds at most three such texts.
const MaxKey = 512

// TextError is text from outside that cannot be stored. It is permanent: the same text is refused each time.
type TextError struct {
	Field  string // the field, header or setting that the text came in
	Reason string
}

func (e *TextError) Error() string { return e.Field + ": " + e.Reason }

// Is makes errors.Is(err, ErrPermanent) true.
func (e *TextError) Is(target error) bool { return target == ErrPermanent }

// CheckText checks text that comes from outside before it is stored or joins a query with the text of others: PostgreSQL's text holds
// neither a NUL character nor bytes that are not UTF-8, and fails the whole statement. Limit is in bytes; 0 means no limit. The error is a
// *TextError that names the field.
func CheckText(field, value string, limit int) error {
	switch {
	case limit > 0 && len(value) > limit:
		return &TextError{field, fmt.Sprintf("has %d bytes, at most %d are allowed", len(value), limit)}
	case strings.IndexByte(value, 0) >= 0:
		return &TextError{field, "contains a NUL character"}
	case !utf8.ValidString(value):
		return &TextError{field, "is not valid UTF-8"}
	}
	return nil
}

// withoutNUL returns v with each NUL character in its texts replaced by U+FFFD. V is not changed.
func withoutNUL(v any) any {
	if v == nil || !hasNUL(reflect.ValueOf(v)) {
		return v
	}
	return replaceNUL(reflect.ValueOf(v)).Interface()
}

func hasNUL(v reflect.Value) bool {
	switch v.Kind() { //nolint:exhaustive // the other kinds hold no text
	case reflect.String:
		return strings.IndexByte(v.String(), 0) >= 0
	case reflect.Pointer, reflect.Interface:
		return !v.IsNil() && hasNUL(v.Elem())
	case reflect.Struct:
		for _, field := range v.Fields() {
			if hasNUL(field) {
				return true
			}
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return false // bytes are no text
		}
		for i := range v.Len() {
			if hasNUL(v.Index(i)) {
				return true
			}
		}
	case reflect.Map:
		for entries := v.MapRange(); entries.Next(); {
			if hasNUL(entries.Key()) || hasNUL(entries.Value()) {
				return true
			}
		}
	}
	return false
}

func replaceNUL(v reflect.Value) reflect.Value {
	if !hasNUL(v) {
		return v
	}
	out := reflect.New(v.Type()).Elem()
	switch v.Kind() { //nolint:exhaustive // the other kinds hold no text
	case reflect.String:
		out.SetString(strings.ReplaceAll(v.String(), "\x00", "\uFFFD"))
	case reflect.Pointer:
		out.Set(reflect.New(v.Type().Elem()))
		out.Elem().Set(replaceNUL(v.Elem()))
	case reflect.Interface:
		out.Set(replaceNUL(v.Elem()))
	case reflect.Struct:
		out.Set(v) // unexported fields too, which stay as they are
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				out.Field(i).Set(replaceNUL(v.Field(i)))
			}
		}
	case reflect.Slice:
		out.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		fallthrough
	case reflect.Array:
		for i := range v.Len() {
			out.Index(i).Set(replaceNUL(v.Index(i)))
		}
	case reflect.Map:
		out.Set(reflect.MakeMap(v.Type()))
		for entries := v.MapRange(); entries.Next(); {
			out.SetMapIndex(replaceNUL(entries.Key()), replaceNUL(entries.Value()))
		}
	}
	return out
}
