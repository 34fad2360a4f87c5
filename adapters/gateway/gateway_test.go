package gateway_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/gateway"
	"github.com/millrace/millrace/adapters/sandbox"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
)

func euros(n int64) money.Money { return money.Money{Amount: n, Currency: "EUR"} }

func start(t *testing.T, dir string) (*sandbox.Sandbox, gateway.Payments, gateway.Carrier) {
	t.Helper()
	box, err := sandbox.Open(dir)
	require.NoError(t, err)
	server := httptest.NewServer(box.Handler())
	t.Cleanup(func() { server.Close(); _ = box.Close() })
	return box, gateway.NewPayments(server.URL + "/payments"), gateway.NewCarrier("carrier", server.URL+"/carrier/")
}

func TestPaymentsTakeEffectOnce(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	box, payments, _ := start(t, dir)
	for range 3 {
		answer, err := payments.Authorise(ctx, "p-1", euros(500), "pm_ok")
		require.NoError(t, err)
		require.Equal(t, "auth-p-1", answer.Reference)
	}
	require.Equal(t, sandbox.PaymentsLedger{Authorised: 500, Held: 500, Calls: 3, Repeats: 2}, box.Payments.Ledger())
	for range 2 {
		_, err := payments.Capture(ctx, "p-1", euros(500))
		require.NoError(t, err)
	}
	require.Error(t, payments.Void(ctx, "p-1"), "captured money is not voided")
	answer, err := payments.Authorise(ctx, "p-2", euros(700), "pm_declined")
	require.NoError(t, err)
	require.Equal(t, "payment declined", answer.Refused)
	require.NoError(t, payments.Void(ctx, "p-3"), "what was never authorised is voided all the same …")
	answer, err = payments.Authorise(ctx, "p-3", euros(700), "pm_ok")
	require.NoError(t, err)
	require.Equal(t, "voided", answer.Refused, "… and stays so")
	answer, err = payments.Authorise(ctx, "p-4", euros(100), "pm_capture_refused")
	require.NoError(t, err)
	require.Empty(t, answer.Refused)
	answer, err = payments.Capture(ctx, "p-4", euros(100))
	require.NoError(t, err)
	require.Equal(t, "capture refused", answer.Refused)
	require.NoError(t, payments.Void(ctx, "p-4"))
	want := box.Payments.Ledger()
	require.Equal(t, int64(500), want.Captured)
	require.Zero(t, want.Held)

	again, err := sandbox.Open(dir) // as after kill -9: nothing was closed
	require.NoError(t, err)
	require.Equal(t, want, again.Payments.Ledger(), "the ledger is on disk")
}

func TestCarrierTakesEffectOnce(t *testing.T) {
	ctx := t.Context()
	box, _, carrier := start(t, t.TempDir())
	lines := []order.Line{{SKU: "MUG-01", Quantity: 1}}
	for range 2 {
		answer, err := carrier.Book(ctx, "s-1", lines)
		require.NoError(t, err)
		require.Equal(t, "track-s-1", answer.Reference)
	}
	for range 2 {
		require.NoError(t, carrier.Cancel(ctx, "s-1"))
	}
	answer, err := carrier.Book(ctx, "s-1", lines)
	require.NoError(t, err)
	require.Equal(t, "cancelled", answer.Refused)
	answer, err = carrier.Book(ctx, "s-2", []order.Line{{SKU: "HEAVY-99", Quantity: 1}})
	require.NoError(t, err)
	require.Contains(t, answer.Refused, "too heavy")
	require.NoError(t, carrier.Cancel(ctx, "s-3"))
	ledger := box.Carrier.Ledger()
	require.Equal(t, int64(1), ledger.Booked)
	require.Equal(t, int64(1), ledger.Cancelled)
}

func TestTransientErrorsCountForTheBreaker(t *testing.T) {
	box, payments, _ := start(t, t.TempDir())
	down := func(what string, err error) {
		t.Helper()
		require.Equal(t, cqrs.KindUnavailable, cqrs.KindOf(err), "%s: %v", what, err)
	}
	_, err := payments.Authorise(t.Context(), "p", euros(1), "pm_error")
	down("500", err)
	box.Payments.Turn(sandbox.Knobs{Down: true})
	_, err = payments.Authorise(t.Context(), "p", euros(1), "pm_ok")
	down("503", err)
	box.Payments.Turn(sandbox.Knobs{Latency: sandbox.Duration(3 * time.Second)})
	_, err = payments.Authorise(t.Context(), "p", euros(1), "pm_ok")
	down("too slow", err)
	require.Equal(t, int64(1), box.Payments.Ledger().Held, "and yet it was done")
	_, err = gateway.NewPayments("http://127.0.0.1:1").Capture(t.Context(), "p", euros(1))
	down("nobody there", err)
	odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }))
	defer odd.Close()
	_, err = gateway.NewPayments(odd.URL).Capture(t.Context(), "p", euros(1))
	down("not JSON", err)
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = payments.Capture(stopped, "p", euros(1))
	require.Equal(t, cqrs.KindShuttingDown, cqrs.KindOf(err))
}

// The same key for every attempt, another one for every operation.
func TestIdempotencyKey(t *testing.T) {
	var keys []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		_, _ = w.Write([]byte(`{"reference":"r"}`))
	}))
	defer server.Close()
	payments := gateway.NewPayments(server.URL)
	for range 2 {
		_, err := payments.Authorise(t.Context(), "p", euros(1), "pm_ok")
		require.NoError(t, err)
	}
	require.NoError(t, payments.Void(t.Context(), "p"))
	require.Equal(t, []string{"authorisations/p", "authorisations/p", "voids/p"}, keys)
}

// An order must not be confirmed by an answer that does not say that the provider did anything.
func TestRedirectsAndAnswersWithoutAReferenceAreFailures(t *testing.T) {
	ctx := t.Context()
	var status int
	var body string
	var calls []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls = append(calls, r.Method+" "+r.URL.Path)
		if r.URL.Path == "/elsewhere" {
			_, _ = w.Write([]byte(`{"reference":"never"}`))
			return
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	payments, carrier := gateway.NewPayments(server.URL), gateway.NewCarrier("carrier", server.URL)
	actions := map[string]func() error{
		"authorise": func() error { _, err := payments.Authorise(ctx, "p", euros(1), "pm_ok"); return err },
		"capture":   func() error { _, err := payments.Capture(ctx, "p", euros(1)); return err },
		"book":      func() error { _, err := carrier.Book(ctx, "s", nil); return err },
	}
	undos := map[string]func() error{
		"void":   func() error { return payments.Void(ctx, "p") },
		"cancel": func() error { return carrier.Cancel(ctx, "s") },
	}
	check := func(call map[string]func() error, wrong bool) {
		t.Helper()
		for name, do := range call {
			calls = nil
			err := do()
			require.Len(t, calls, 1, "%s: a redirect is not followed", name)
			if wrong {
				require.Equal(t, cqrs.KindUnavailable, cqrs.KindOf(err), "%s: %d %q: %v", name, status, body, err)
			} else {
				require.NoError(t, err, "%s: %d %q", name, status, body)
			}
		}
	}
	for _, status = range []int{301, 302, 303, 307, 308} {
		body = `{"reference":"r"}`
		check(actions, true)
		check(undos, true)
	}
	status = 200
	for _, body = range []string{
		`{}`, `null`, ``, `{"reference":""}`, `{"reference":null}`, `{"reference":"a\u0000b"}`, "{\"reference\":\"a\xffb\"}", `{"reference":"` + strings.Repeat("x", 5000) + `"}`, `[]`, `"r"`,
	} {
		check(actions, true)
		check(undos, true)
	}
	status, body = 204, ""
	check(actions, true)
	check(undos, false)
	status, body = 201, `{"reference":"r"}`
	check(actions, false)
	check(undos, false)
}

// A refusal counts whatever its reason holds, and the reason can be stored.
func TestARefusalsReasonIsValidText(t *testing.T) {
	var body string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusPaymentRequired)
		_, _ = w.Write([]byte(body))
	}))
	defer server.Close()
	for _, body = range []string{`{"reason":"no\u0000money"}`, "{\"reason\":\"no\xffmoney\"}", `{"reason":"` + strings.Repeat("ä", 5000) + `"}`, `null`, ``, `{}`} {
		answer, err := gateway.NewPayments(server.URL).Authorise(t.Context(), "p", euros(1), "pm_ok")
		require.NoError(t, err)
		require.NotEmpty(t, answer.Refused)
		require.LessOrEqual(t, len(answer.Refused), 500)
		require.True(t, utf8.ValidString(answer.Refused) && !strings.Contains(answer.Refused, "\x00"), "%q", answer.Refused)
	}
}

func TestFaultSettingsNameTheInvalidField(t *testing.T) {
	box, _, _ := start(t, t.TempDir())
	for body, want := range map[string]string{`{"failure_rate":1.5}`: "failure_rate", `{"latency":"x"}`: "latency", `{"colour":1}`: "colour"} {
		recorder := httptest.NewRecorder()
		box.Control().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/v1/sandbox/payments", strings.NewReader(body)))
		require.Equal(t, http.StatusBadRequest, recorder.Code)
		var problem struct{ Detail string }
		require.NoError(t, json.Unmarshal(recorder.Body.Bytes(), &problem))
		require.Contains(t, problem.Detail, want)
	}
}

// An answer about one request does not count for the breaker: a bad element must not keep the others from the provider.
func TestBreakerDoesNotCountAnswersAboutOneRequest(t *testing.T) {
	for status, want := range map[int]cqrs.Kind{
		http.StatusBadRequest: cqrs.KindUnknown, http.StatusRequestEntityTooLarge: cqrs.KindUnknown, http.StatusRequestHeaderFieldsTooLarge: cqrs.KindUnknown,
		http.StatusUnauthorized: cqrs.KindUnavailable, http.StatusNotFound: cqrs.KindUnavailable, http.StatusTooManyRequests: cqrs.KindUnavailable, http.StatusInternalServerError: cqrs.KindUnavailable,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		_, err := gateway.NewPayments(server.URL).Authorise(t.Context(), "p-1", euros(1), "pm_ok")
		require.Equal(t, want, cqrs.KindOf(err), "%d: %v", status, err)
		server.Close()
	}
}
