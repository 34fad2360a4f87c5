package httpapi_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

type request struct {
	Lines *[]struct {
		SKU      *string `json:"sku"`
		Quantity *int64  `json:"quantity"`
	} `json:"lines"`
	Reason string            `json:"reason"`
	Rate   float64           `json:"rate"`
	Sure   bool              `json:"sure"`
	Labels map[string]string `json:"labels"`
	Any    any               `json:"any"`
	At     *time.Time        `json:"at"`
	ID     uuid.UUID         `json:"id"`
}

func decode(contentType, body string) (request, error) {
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	var v request
	return v, httpapi.Decode(httptest.NewRecorder(), r, &v)
}

// fault is the status and the field of an error.
func fault(t *testing.T, err error) (status int, field string) {
	t.Helper()
	if text, ok := errors.AsType[*cqrs.TextError](err); ok {
		return http.StatusBadRequest, text.Field
	}
	f, ok := errors.AsType[*httpapi.RequestError](err)
	require.True(t, ok, "%v", err)
	if len(f.Fields) > 0 {
		field = f.Fields[0].Field
	}
	return f.Status, field
}

func TestStrictJSONNamesTheField(t *testing.T) {
	for body, want := range map[string]string{
		`{"lines":[],"lines":[{"sku":"A","quantity":1}]}`:   "400 lines", // a duplicate key was merged
		`{"lines":[{"sku":"A","quantity":1,"quantity":2}]}`: "400 lines[0].quantity",
		`{"labels":{"a":"1","a":"2"}}`:                      "400 labels.a",
		`{"any":{"a":[{"b":1,"b":2}]}}`:                     "400 any.a[0].b",
		`{"Lines":[]}`:                                      "400 Lines", // another case
		`{"lines":[{"SKU":"A"}]}`:                           "400 lines[0].SKU",
		`{"colour":1}`:                                      "400 colour",
		`{"lines":[{"sku":"A"},{"sku":"a\u0000b"}]}`:        "400 lines[1].sku",
		"{\"reason\":\"a\xffb\"}":                           "400 reason",
		`{"reason":"\ud800"}`:                               "400 reason", // a lone surrogate
		`{"labels":{"a":"\u0000"}}`:                         "400 labels.a",
		`{"any":["\u0000"]}`:                                "400 any[0]",
		`{"a\u0000":1}`:                                     "400 ?",
		`{"lines":[{"quantity":"1"}]}`:                      "400 lines[0].quantity",
		`{"lines":[{"quantity":1.5}]}`:                      "400 lines[0].quantity",
		`{"lines":[{"quantity":99999999999999999999}]}`:     "400 lines[0].quantity",
		`{"lines":{}}`:                                      "400 lines",
		`{"lines":[1]}`:                                     "400 lines[0]",
		`{"reason":1}`:                                      "400 reason",
		`{"rate":"1"}`:                                      "400 rate",
		`{"rate":1e999}`:                                    "400 rate",
		`{"sure":"true"}`:                                   "400 sure",
		`{"at":"2027-13-01T00:00:00Z"}`:                     "400 at",
		`{"at":"tomorrow"}`:                                 "400 at",
		`{"at":1}`:                                          "400 at",
		`{"id":"7"}`:                                        "400 id",
		`{"id":7}`:                                          "400 id",
		`{"at":"9999-12-31T23:59:59-14:00"}`:                "400 at", // the year 10000 in UTC, which JSON cannot show
		`{"at":"0001-01-01T00:00:00+14:00"}`:                "400 at",
		`[]`:                                                "400 ",
		`null`:                                              "400 ",
		`"x"`:                                               "400 ",
		`{}{}`:                                              "400 ",
		`{"reason":`:                                        "400 ",
		`{`:                                                 "400 ",
		``:                                                  "400 ",
		` `:                                                 "400 ",
		`{"reason":"` + strings.Repeat("x", httpapi.MaxBody) + `"}`: "413 ",
		`{"any":` + strings.Repeat(`[`, 100_000):                    "400 any" + strings.Repeat("[0]", 32),
	} {
		_, err := decode("application/json", body)
		require.Error(t, err, "%.80s", body)
		status, field := fault(t, err)
		require.Equal(t, want, fmt.Sprintf("%d %s", status, field), "%.80s: %v", body, err)
	}
	v, err := decode("application/json; charset=UTF-8", `{"lines":[{"sku":"Ä\ufffd\ud83d\ude00","quantity":3}],"reason":null,"rate":1e2,"sure":true,"labels":{"A":"1","a":"2"},"any":{"x":[1,"�"]},"at":"9999-12-31T23:59:59.5Z","id":"0197f6a2-8c5e-7c1e-9d2b-3f4a5b6c7d8e"}`)
	require.NoError(t, err)
	require.Equal(t, "Ä\uFFFD😀", *(*v.Lines)[0].SKU)
	require.Equal(t, int64(3), *(*v.Lines)[0].Quantity)
	require.Equal(t, map[string]string{"A": "1", "a": "2"}, v.Labels)
	require.Equal(t, time.Date(9999, 12, 31, 23, 59, 59, 5e8, time.UTC), *v.At)
}

// A body that cannot be encoded is a 500 with a line in the log, not a 200 without a body.
func TestResponseThatCannotBeEncoded(t *testing.T) {
	var log bytes.Buffer
	border := &httpapi.Border{Log: slog.New(slog.NewTextHandler(&log, nil))}
	w := httptest.NewRecorder()
	border.Recover(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		httpapi.Respond(w, http.StatusOK, time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC))
	})).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", http.NoBody))
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "this is our fault")
	require.Contains(t, log.String(), "encode the response")
}

func TestAnotherContentTypeThanJSONIs415(t *testing.T) {
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "json", "application/xml"} {
		_, err := decode(kind, `{}`)
		status, field := fault(t, err)
		require.Equal(t, http.StatusUnsupportedMediaType, status, kind)
		require.Equal(t, "Content-Type", field)
	}
	for _, kind := range []string{"application/json", "APPLICATION/JSON", "application/merge-patch+json"} {
		_, err := decode(kind, `{}`)
		require.NoError(t, err, kind)
	}
	_, err := decode("", "")
	status, _ := fault(t, err)
	require.Equal(t, http.StatusBadRequest, status, "an empty body has no type: it is missing")
}

func TestNoBodyIsExpected(t *testing.T) {
	for body, want := range map[string]int{"": 0, "  ": 0, "{}": 0, `{"reason":"x"}`: 400, "[]": 400, "x": 400} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		err := httpapi.NoBody(httptest.NewRecorder(), r)
		if want == 0 {
			require.NoError(t, err, body)
			continue
		}
		status, _ := fault(t, err)
		require.Equal(t, want, status, body)
	}
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("a=b"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	status, _ := fault(t, httpapi.NoBody(httptest.NewRecorder(), r))
	require.Equal(t, http.StatusUnsupportedMediaType, status)
}

// DecodeBytes decodes or refuses any body, and never panics.
func FuzzDecode(f *testing.F) {
	f.Add(`{"lines":[{"sku":"A","quantity":1}],"any":{"a":[null,1.5,"\ud800"]}}`)
	f.Add(`{"any":{"any":[[[{}]]]}}`)
	f.Fuzz(func(t *testing.T, body string) {
		v, err := decode("application/json", body)
		if err != nil {
			status, _ := fault(t, err)
			require.Contains(t, []int{400, 413}, status)
			return
		}
		require.NoError(t, cqrs.CheckText("reason", v.Reason, 0))
	})
}
