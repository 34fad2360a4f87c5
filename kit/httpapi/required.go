package httpapi

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
)

// DecodeRequired is Decode for a type that oapi-codegen generates. It also checks that every field that the specification requires is present and not
// null; such a field has no omitempty in its tag. The error is a *RequestError with every missing field, including fields of objects in lists.
func DecodeRequired(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := ReadBody(w, r)
	if err != nil {
		return err
	}
	if err := decode(body, r, v); err != nil {
		return err
	}
	var document any
	if err := json.Unmarshal(body, &document); err != nil {
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body is not JSON: " + err.Error()}
	}
	if missing := missing("", reflect.TypeOf(v).Elem(), document); len(missing) > 0 {
		return &RequestError{Status: http.StatusBadRequest, Detail: missing[0].Field + ": " + missing[0].Message, Fields: missing}
	}
	return nil
}

// missing lists the required fields of a type that a JSON value does not have.
func missing(path string, t reflect.Type, value any) (fields []FieldError) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch value := value.(type) {
	case []any:
		if t.Kind() != reflect.Slice && t.Kind() != reflect.Array {
			return nil
		}
		for i, element := range value {
			fields = append(fields, missing(fmt.Sprintf("%s[%d]", path, i), t.Elem(), element)...)
		}
	case map[string]any:
		if t.Kind() != reflect.Struct {
			return nil
		}
		for field := range t.Fields() {
			name, options, tagged := strings.Cut(field.Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			at := join(path, name)
			if value[name] != nil {
				fields = append(fields, missing(at, field.Type, value[name])...)
			} else if !tagged || !strings.Contains(options, "omitempty") {
				fields = append(fields, FieldError{Field: at, Message: "is missing"})
			}
		}
	}
	return fields
}
