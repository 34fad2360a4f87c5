package httpapi

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/millrace/millrace/kit/cqrs"
)

// scanner compares a JSON text with the Go type that the text will be decoded into. encoding/json alone would merge the values of a repeated name,
// accept names in any case, and replace bytes that are not UTF-8.
type scanner struct {
	text    []byte
	decoder *json.Decoder
	depth   int
}

// maxDepth limits how deep objects and arrays may be nested.
const maxDepth = 32

func (s *scanner) document(t reflect.Type) error {
	token, err := s.next("body")
	if err != nil {
		return err
	}
	if token != json.Delim('{') {
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body must be a JSON object, not " + describe(token)}
	}
	if err := s.object("", t); err != nil {
		return err
	}
	if _, err := s.decoder.Token(); !errors.Is(err, io.EOF) {
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body has more than one JSON value"}
	}
	return nil
}

// next reads a token. It checks a string in its raw form in the text, before the decoder replaces invalid bytes.
func (s *scanner) next(path string) (json.Token, error) {
	before := s.decoder.InputOffset()
	token, err := s.decoder.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	text, isText := token.(string)
	if err != nil || !isText {
		return token, err
	}
	raw := s.text[before:s.decoder.InputOffset()]
	if !utf8.Valid(raw) {
		return nil, &cqrs.TextError{Field: path, Reason: "is not valid UTF-8"}
	}
	// A lone surrogate such as \ud800 is no character. The decoder replaces it by U+FFFD.
	if strings.ContainsRune(text, utf8.RuneError) && !bytes.ContainsRune(raw, utf8.RuneError) && !bytes.Contains(bytes.ToLower(raw), []byte(`\ufffd`)) {
		return nil, &cqrs.TextError{Field: path, Reason: "is not valid Unicode"}
	}
	return token, cqrs.CheckText(path, text, 0)
}

func (s *scanner) object(path string, t reflect.Type) error {
	fields, isStruct := fieldsOf(t)
	seen := map[string]bool{}
	for s.decoder.More() {
		token, err := s.next(join(path, "?"))
		if err != nil {
			return err
		}
		name, _ := token.(string) // the decoder accepts only strings as names
		at := join(path, name)
		inner, known := fields[name]
		if !isStruct {
			known = true
			if inner = t; t.Kind() == reflect.Map {
				inner = t.Elem()
			}
		}
		switch {
		case seen[name]:
			return Invalid(http.StatusBadRequest, at, "stands there twice")
		case !known:
			for other := range fields {
				if strings.EqualFold(other, name) {
					return Invalid(http.StatusBadRequest, at, "unknown field; names count by their exact case: "+other)
				}
			}
			return Invalid(http.StatusBadRequest, at, "unknown field")
		}
		seen[name] = true
		if err := s.value(at, inner); err != nil {
			return err
		}
	}
	_, err := s.next(path)
	return err
}

func (s *scanner) value(path string, t reflect.Type) error {
	token, err := s.next(path)
	if err != nil {
		return err
	}
	if token == nil {
		return nil // null counts as an absent value
	}
	if s.depth++; s.depth > maxDepth {
		return Invalid(http.StatusBadRequest, path, fmt.Sprintf("is nested more than %d deep", maxDepth))
	}
	defer func() { s.depth-- }()
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	kind := t.Kind()
	if _, text := token.(string); t == reflect.TypeFor[time.Time]() && !text {
		return Invalid(http.StatusBadRequest, path, "must be a time, not "+describe(token))
	}
	if kind == reflect.Interface || reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) {
		kind = reflect.Interface // the type decodes itself
	}
	good := kind == reflect.Interface
	switch token := token.(type) {
	case json.Delim:
		switch {
		case token == '{' && (good || kind == reflect.Struct || kind == reflect.Map):
			if good {
				t = reflect.TypeFor[any]()
			}
			return s.object(path, t)
		case token == '[' && (good || kind == reflect.Slice || kind == reflect.Array):
			inner := t
			if !good {
				inner = t.Elem()
			}
			for i := 0; s.decoder.More(); i++ {
				if err := s.value(fmt.Sprintf("%s[%d]", path, i), inner); err != nil {
					return err
				}
			}
			_, err := s.next(path)
			return err
		}
	case string:
		if read, ok := reflect.TypeAssert[encoding.TextUnmarshaler](reflect.New(t)); ok {
			return checkText(path, token, read)
		}
		good = good || kind == reflect.String
	case bool:
		good = good || kind == reflect.Bool
	case json.Number:
		good = good || number(token, t)
	}
	if !good {
		return Invalid(http.StatusBadRequest, path, "must be "+jsonName(t)+", not "+describe(token))
	}
	return nil
}

// checkText refuses a text that its type refuses, and a time that JSON cannot show in UTC.
func checkText(path, text string, to encoding.TextUnmarshaler) error {
	err := to.UnmarshalText([]byte(text))
	at, isTime := to.(*time.Time)
	switch {
	case isTime && err != nil:
		return Invalid(http.StatusBadRequest, path, "must be a time as in RFC 3339, like 2006-01-02T15:04:05Z")
	case isTime && (at.UTC().Year() < 1 || at.UTC().Year() > 9999):
		return Invalid(http.StatusBadRequest, path, "must be between the years 1 and 9999 in UTC")
	case err != nil:
		return Invalid(http.StatusBadRequest, path, err.Error())
	}
	return nil
}

// number reports whether a number fits into a Go type.
func number(n json.Number, t reflect.Type) bool {
	v, err := reflect.New(t).Elem(), error(nil)
	switch {
	case v.CanInt():
		_, err = strconv.ParseInt(n.String(), 10, t.Bits())
	case v.CanUint():
		_, err = strconv.ParseUint(n.String(), 10, t.Bits())
	case v.CanFloat():
		_, err = strconv.ParseFloat(n.String(), t.Bits())
	default:
		return false
	}
	return err == nil
}

// fieldsOf returns the types of a struct's fields by their names in JSON.
func fieldsOf(t reflect.Type) (fields map[string]reflect.Type, isStruct bool) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil, false
	}
	fields = map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" || !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		fields[name] = f.Type
	}
	return fields, true
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// jsonName is the name in JSON of the values of a Go type.
func jsonName(t reflect.Type) string {
	kind := t.Kind()
	switch name := kind.String(); {
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return "a string"
	case strings.HasPrefix(name, "int"), strings.HasPrefix(name, "uint"):
		return "a whole number of at most 64 bits"
	case strings.HasPrefix(name, "float"):
		return "a number"
	case kind == reflect.Slice, kind == reflect.Array:
		return "an array"
	case kind == reflect.Struct, kind == reflect.Map:
		return "an object"
	case kind == reflect.Bool:
		return "a boolean"
	default:
		return "a " + name
	}
}

func describe(token json.Token) string {
	switch token := token.(type) {
	case nil:
		return "null"
	case json.Delim:
		if token == '[' {
			return "an array"
		}
		return "an object"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	default:
		return fmt.Sprintf("the number %.40v", token)
	}
}
