package httpapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// trip has the tags that oapi-codegen gives to required and optional fields.
type trip struct {
	Legs []leg   `json:"legs"`
	Note *string `json:"note,omitempty"`
	Name string  `json:"name"`
	Last *leg    `json:"last,omitempty"`
}

type leg struct {
	From  string `json:"from"`
	Miles int    `json:"miles"`
}

func TestDecodeRequiredNamesEveryMissingField(t *testing.T) {
	for body, want := range map[string]string{
		`{"legs":[{"from":"a","miles":0}],"name":""}`:                      "",
		`{"legs":[],"name":"x","note":null,"last":{"from":"b","miles":1}}`: "",
		`{}`:                        "legs name",
		`{"legs":null,"name":null}`: "legs name",
		`{"legs":[{"from":"a","miles":1},{"miles":2},{}],"name":"x"}`: "legs[1].from legs[2].from legs[2].miles",
		`{"legs":[null],"name":"x","last":{}}`:                        "last.from last.miles",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		var got []string
		err := DecodeRequired(httptest.NewRecorder(), r, &trip{})
		if fault, ok := errors.AsType[*RequestError](err); ok {
			require.Equal(t, http.StatusBadRequest, fault.Status)
			for _, f := range fault.Fields {
				require.Equal(t, "is missing", f.Message)
				got = append(got, f.Field)
			}
			require.Equal(t, got[0]+": is missing", fault.Detail)
		} else {
			require.NoError(t, err)
		}
		require.Equal(t, want, strings.Join(got, " "), body)
	}
}

func TestDecodeRequiredIsStrict(t *testing.T) {
	for body, want := range map[string]string{
		``: "the body is empty", `{"legs":[],"name":"x","colour":1}`: "unknown field", `{"legs":[],"name":7}`: "name", `[]`: "must be a JSON object",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		require.ErrorContains(t, DecodeRequired(httptest.NewRecorder(), r, &trip{}), want)
	}
}
