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

// MaxBody limits the body of a request, in bytes.
const MaxBody = 1 << 20

// ReadBody reads the body of a request. The error is a *RequestError: 413 if the body is larger than MaxBody, otherwise 400.
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

// Decode reads a JSON body strictly into v, a pointer to a struct: Content-Type must be JSON, the body one object in UTF-8, every name known, in its
// exact case and not repeated, every value of the right type, and no text may contain NUL. The error is a *RequestError or a *cqrs.TextError. It names
// the field by its path, such as lines[0].quantity.
func Decode(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := ReadBody(w, r)
	if err != nil {
		return err
	}
	return decode(body, r, v)
}

// decode is Decode for a body that was already read.
func decode(body []byte, r *http.Request, v any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return &RequestError{Status: http.StatusBadRequest, Detail: "the body is empty; a JSON object is expected"}
	}
	if err := checkType(r); err != nil {
		return err
	}
	return DecodeBytes(body, v)
}

// NoBody returns an error if a request that takes no body has one, so that nothing that a client sends is ignored. An empty object is allowed.
func NoBody(w http.ResponseWriter, r *http.Request) error {
	return DecodeOptional(w, r, &struct{}{})
}

// DecodeOptional is Decode for a request whose body is optional. Without a body it leaves v unchanged.
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

// DecodeBytes is Decode for a body that was already read. It does not check the Content-Type.
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
