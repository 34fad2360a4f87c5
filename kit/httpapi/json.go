package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"reflect"
	"strings"

	"github.com/millrace/millrace/kit/cqrs"
)

// MaxBody limits a request's body, in bytes.
const MaxBody = 1 << 20

// ReadBody reads a request's body. The error is a RequestError.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return nil, &RequestError{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("the body is larger than %d bytes", MaxBody)}
	}
	if err != nil {
		return nil, &RequestError{Status: http.StatusBadRequest, Detail: "the body cannot be read: " + err.Error()}
	}
	return body, nil
}

// Decode reads a JSON body into v, a pointer to a struct, strictly: Content-Type is JSON, the body is one object in UTF-8, every name is
// known, in its exact case and only once, every value has its type, and no text has NUL. The error is a RequestError that names the field by
// its path: lines[0].quantity.
func Decode(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := ReadBody(w, r)
	if err != nil {
		return err
	}
	return decode(body, r, v)
}

// decode is Decode for a body that was read already.
func decode(body []byte, r *http.Request, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body is empty; a JSON object is expected"}
	}
	if err := checkType(r); err != nil {
		return err
	}
	return DecodeBytes(body, v)
}

// NoBody refuses a body of a request that takes none, so that nothing that a client sends is ignored. An empty object is allowed.
func NoBody(w http.ResponseWriter, r *http.Request) error {
	return DecodeOptional(w, r, &struct{}{})
}

// DecodeOptional is Decode for a request whose body may be left out.
func DecodeOptional(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := ReadBody(w, r)
	if err != nil || len(bytes.TrimSpace(body)) == 0 {
		return err
	}
	if err := checkType(r); err != nil {
		return err
	}
	return DecodeBytes(body, v)
}

func checkType(r *http.Request) error {
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := strings.ToLower(params["charset"])
	if err != nil || (kind != "application/json" && !strings.HasSuffix(kind, "+json")) || (charset != "" && charset != "utf-8") {
		return &RequestError{
			Status: http.StatusUnsupportedMediaType, Detail: fmt.Sprintf("Content-Type: %.100q is not application/json", r.Header.Get("Content-Type")),
			Fields: []FieldError{{Field: "Content-Type", Message: "must be application/json"}},
		}
	}
	return nil
}

// DecodeBytes is Decode for a body that was read already.
func DecodeBytes(body []byte, v any) error {
	s := &scanner{text: body, decoder: json.NewDecoder(bytes.NewReader(body))}
	s.decoder.UseNumber()
	if err := s.document(reflect.TypeOf(v).Elem()); err != nil {
		if _, ours := errors.AsType[*RequestError](err); ours {
			return err
		}
		if _, ours := errors.AsType[*cqrs.TextError](err); ours {
			return err
		}
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body is not JSON: " + err.Error()}
	}
	if err := json.Unmarshal(body, v); err != nil {
		if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && t.Field != "" {
			return Invalid(http.StatusBadRequest, t.Field, fmt.Sprintf("must be a %s, not a %s", t.Type, t.Value))
		}
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body cannot be read: " + err.Error()}
	}
	return nil
}
