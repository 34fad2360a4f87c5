package httpclient_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpclient"
)

type body struct {
	ID string `json:"id"`
}

// service answers each request with a status and a body.
func service(t *testing.T, status *int, text *string) (client httpclient.Client, requests *[]*http.Request) {
	t.Helper()
	requests = &[]*http.Request{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*requests = append(*requests, r)
		if r.URL.Path == "/elsewhere" {
			_, _ = w.Write([]byte(`{"reference":"never"}`))
			return
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(*status)
		_, _ = w.Write([]byte(*text))
	}))
	t.Cleanup(server.Close)
	return httpclient.New(server.URL + "/"), requests
}

// All attempts of an operation have the same key, and different operations have different keys.
func TestIdempotencyKey(t *testing.T) {
	status, text := http.StatusOK, `{"reference":"r"}`
	client, requests := service(t, &status, &text)
	for _, path := range []string{"/holds", "/holds", "/releases"} {
		answer, err := client.Post(t.Context(), path, "p", body{"p"}, false)
		require.NoError(t, err)
		require.Equal(t, "r", answer.Reference)
	}
	var keys []string
	for _, r := range *requests {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
	}
	require.Equal(t, []string{"holds/p", "holds/p", "releases/p"}, keys)
}

// A call must not count as successful if the response does not say so.
func TestRedirectsAndAnswersWithoutAReferenceAreFailures(t *testing.T) {
	var status int
	var text string
	client, requests := service(t, &status, &text)
	check := func(noContent bool, want cqrs.Kind) {
		t.Helper()
		*requests = nil
		_, err := client.Post(t.Context(), "/holds", "p", body{"p"}, noContent)
		require.Len(t, *requests, 1, "a redirect is not followed")
		require.Equal(t, want, cqrs.KindOf(err), "%d %q: %v", status, text, err)
	}
	for _, status = range []int{301, 302, 303, 307, 308} {
		text = `{"reference":"r"}`
		check(false, cqrs.KindUnavailable)
		check(true, cqrs.KindUnavailable)
	}
	status = http.StatusOK
	for _, text = range []string{
		`{}`, `null`, ``, `{"reference":""}`, `{"reference":null}`, `{"reference":"a\u0000b"}`, "{\"reference\":\"a\xffb\"}", `{"reference":"` + strings.Repeat("x", 5000) + `"}`, `[]`, `"r"`, `<html>`,
	} {
		check(false, cqrs.KindUnavailable)
		check(true, cqrs.KindUnavailable)
	}
	status, text = http.StatusNoContent, ""
	check(false, cqrs.KindUnavailable)
	check(true, cqrs.KindNone)
	status, text = http.StatusCreated, `{"reference":"r"}`
	check(false, cqrs.KindNone)
}

// A refusal counts whatever its reason contains, and the reason can be stored.
func TestReasonOfARefusalIsValidText(t *testing.T) {
	var text string
	for _, status := range []int{http.StatusPaymentRequired, http.StatusConflict, http.StatusUnprocessableEntity} {
		client, _ := service(t, &status, &text)
		for _, text = range []string{`{"reason":"no\u0000money"}`, "{\"reason\":\"no\xffmoney\"}", `{"reason":"` + strings.Repeat("ä", 5000) + `"}`, `null`, ``, `{}`} {
			answer, err := client.Post(t.Context(), "/holds", "p", body{"p"}, false)
			require.NoError(t, err)
			require.NotEmpty(t, answer.Refused)
			require.LessOrEqual(t, len(answer.Refused), 500)
			require.True(t, utf8.ValidString(answer.Refused) && !strings.Contains(answer.Refused, "\x00"), "%q", answer.Refused)
			require.ErrorContains(t, httpclient.Accepted(answer, nil, "release p"), "release p: refused: ")
		}
	}
}

// The circuit breaker does not count a response about one request: a bad message must not block calls for other messages.
func TestBreakerDoesNotCountAnswersAboutOneRequest(t *testing.T) {
	text := ""
	for status, want := range map[int]cqrs.Kind{
		http.StatusBadRequest: cqrs.KindUnknown, http.StatusRequestEntityTooLarge: cqrs.KindUnknown, http.StatusRequestHeaderFieldsTooLarge: cqrs.KindUnknown,
		http.StatusUnauthorized: cqrs.KindUnavailable, http.StatusNotFound: cqrs.KindUnavailable, http.StatusTooManyRequests: cqrs.KindUnavailable, http.StatusInternalServerError: cqrs.KindUnavailable,
	} {
		client, _ := service(t, &status, &text)
		_, err := client.Post(t.Context(), "/holds", "p", body{"p"}, false)
		require.Equal(t, want, cqrs.KindOf(err), "%d: %v", status, err)
	}
}

func TestServiceThatDoesNotAnswerIsDown(t *testing.T) {
	_, err := httpclient.New("http://127.0.0.1:1").Post(t.Context(), "/holds", "p", body{"p"}, false)
	require.Equal(t, cqrs.KindUnavailable, cqrs.KindOf(err))
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = httpclient.New("http://127.0.0.1:1").Post(stopped, "/holds", "p", body{"p"}, false)
	require.Equal(t, cqrs.KindShuttingDown, cqrs.KindOf(err))
}

func TestClientWithoutAServiceRefuses(t *testing.T) {
	answer, err := httpclient.New("").Post(t.Context(), "/holds", "p", body{"p"}, false)
	require.NoError(t, err)
	require.Equal(t, "there is no such service", answer.Refused)
	require.True(t, httpclient.New("").None())
}
