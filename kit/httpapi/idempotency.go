package httpapi

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"unicode"

	"github.com/millrace/millrace/kit/cqrs"
)

// Idempotency is middleware: a POST request with an Idempotency-Key takes effect once. The handler and the record of the key are in one unit of work,
// so both are committed or neither is: a repeated request gets the stored answer if and only if the first request took effect. A request that is
// refused stores nothing, and its key can be used again.
type Idempotency struct {
	UnitOfWork cqrs.UnitOfWork
	Store      IdempotencyStore

	// Committed is called after the unit of work of a request was committed. Optional.
	Committed func()

	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// IdempotencyStore stores the answers to requests that had a key, in the unit of work of ctx.
type IdempotencyStore interface {
	// Find returns the stored answer to a request with this key, nil if there is none. The parameter request is a hash of the request. The error wraps
	// cqrs.ErrKeyReused if the key was used for another request.
	Find(ctx context.Context, key cqrs.IdempotencyKey, request []byte) (*cqrs.StoredResponse, error)

	// Keep stores an answer. If another unit of work has used the key in the meantime, it returns an error that wraps cqrs.ErrConflict.
	Keep(ctx context.Context, key cqrs.IdempotencyKey, request []byte, answer cqrs.StoredResponse) error
}

// Names of the headers of idempotent requests.
const (
	headerKey      = "Idempotency-Key"
	headerReplayed = "Idempotency-Replayed"
)

// errRefused rolls back the unit of work of a request whose answer is an error. The answer is still sent.
var errRefused = errors.New("the request was refused")

// Handler applies the middleware to next. All effects of next must be in the unit of work of the request's context. Next may run several times; only
// the last run is committed and answered.
func (i *Idempotency) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		values := r.Header.Values(headerKey)
		if r.Method != http.MethodPost || len(values) == 0 {
			next.ServeHTTP(w, r)
			return
		}
		key := cqrs.IdempotencyKey{Owner: cqrs.PrincipalFromContext(r.Context()).Subject, Scope: r.Method + " " + r.URL.Path, Key: values[0]}
		if len(values) > 1 || key.Key == "" || len(key.Key) > 255 || strings.ContainsFunc(key.Key, func(c rune) bool { return !unicode.IsPrint(c) }) {
			i.Fail(w, r, Invalid(http.StatusBadRequest, headerKey, "must be 1 to 255 printable characters, once"))
			return
		}
		body, err := ReadBody(w, r)
		if err != nil {
			i.Fail(w, r, err)
			return
		}
		answer, err := i.once(r, key, body, next)
		if err != nil && !errors.Is(err, errRefused) {
			i.Fail(w, r, err)
			return
		}
		if err == nil && i.Committed != nil {
			i.Committed()
		}
		answer.WriteTo(w)
	})
}

func (i *Idempotency) once(r *http.Request, key cqrs.IdempotencyKey, body []byte, next http.Handler) (answer *Recorder, err error) {
	request := fingerprint(r, body)
	err = i.UnitOfWork.Within(r.Context(), func(ctx context.Context) error {
		answer = NewRecorder()
		earlier, err := i.Store.Find(ctx, key, request)
		if errors.Is(err, cqrs.ErrKeyReused) {
			return Invalid(http.StatusUnprocessableEntity, headerKey, "was used for another request")
		}
		if err != nil {
			return err
		}
		if earlier != nil {
			answer.replay(*earlier)
			return nil
		}
		again := r.Clone(context.WithValue(ctx, recorderKey{}, answer))
		again.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(answer, again)
		switch {
		case answer.failure != nil:
			return errors.Join(errRefused, answer.failure) // the unit of work is retried after a conflict
		case answer.Status >= http.StatusBadRequest:
			return errRefused
		}
		return i.Store.Keep(ctx, key, request, cqrs.StoredResponse{Status: answer.Status, Location: answer.Header().Get("Location"), Body: answer.json()})
	})
	return answer, err
}

// fingerprint is a hash of the query and of the canonical JSON of the body, so that white space and the order of fields do not matter. It has one byte
// more than the hashes that were stored before migration 00010, so it never equals one of those.
func fingerprint(r *http.Request, body []byte) []byte {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err == nil && !decoder.More() {
		if canonical, err := json.Marshal(v); err == nil {
			body = canonical
		}
	}
	sum := sha256.Sum256([]byte(r.URL.RawQuery + "\n" + string(body)))
	return append(sum[:], 1)
}

type recorderKey struct{}

// Failed records the error that a request is answered with, so that Idempotency rolls back the unit of work of the request. API.Fail calls it. It does
// nothing for a request without an Idempotency-Key.
func Failed(ctx context.Context, err error) {
	if answer, ok := ctx.Value(recorderKey{}).(*Recorder); ok {
		answer.failure = err
	}
}

// Recorder is an http.ResponseWriter that buffers an answer until the unit of work of its request is committed. NewRecorder makes it.
type Recorder struct {
	Status  int
	Body    bytes.Buffer
	header  http.Header
	failure error
}

// NewRecorder returns an empty Recorder with the status 200.
func NewRecorder() *Recorder { return &Recorder{Status: http.StatusOK, header: http.Header{}} }

// Header implements http.ResponseWriter.
func (a *Recorder) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *Recorder) WriteHeader(status int) { a.Status = status }

// Write implements http.ResponseWriter.
func (a *Recorder) Write(p []byte) (int, error) { return a.Body.Write(p) }

// WriteTo sends the buffered answer to w.
func (a *Recorder) WriteTo(w http.ResponseWriter) {
	maps.Copy(w.Header(), a.header)
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body.Bytes()) //nolint:gosec // it is JSON, and its type says so; the client is gone if this fails
}

func (a *Recorder) json() json.RawMessage {
	if body := bytes.TrimSpace(a.Body.Bytes()); json.Valid(body) {
		return body
	}
	return json.RawMessage("null")
}

func (a *Recorder) replay(earlier cqrs.StoredResponse) {
	a.Status = earlier.Status
	a.header.Set(headerReplayed, "true")
	if earlier.Location != "" {
		a.header.Set("Location", earlier.Location)
	}
	if string(earlier.Body) != "null" {
		a.header.Set("Content-Type", "application/json")
		a.Body.Write(append(earlier.Body, '\n'))
	}
}
