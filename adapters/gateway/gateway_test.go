package gateway_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/adapters/gateway"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/sandbox"
)

func euros(n int64) money.Money { return money.Money{Amount: n, Currency: "EUR"} }

func standIns() []*sandbox.Service {
	return []*sandbox.Service{gateway.PaymentsService.StandIn(), gateway.CarrierService.StandIn()}
}

func start(t *testing.T, dir string) (*sandbox.Sandbox, gateway.Payments, gateway.Carrier) {
	t.Helper()
	box, err := sandbox.Open(dir, standIns()...)
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
	require.Equal(t, sandbox.Ledger{"authorised": 500, "held": 500, "captured": 0, "voided": 0, "refunded": 0, "calls": 3, "repeats": 2}, box.Service("payments").Ledger())
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
	for range 2 {
		answer, err = payments.Refund(ctx, "p-1", euros(200))
		require.NoError(t, err)
		require.Equal(t, "refund-p-1", answer.Reference)
	}
	answer, err = payments.Refund(ctx, "p-4", euros(1))
	require.NoError(t, err)
	require.Equal(t, "less is captured for this payment", answer.Refused)
	want := box.Service("payments").Ledger()
	require.Equal(t, int64(200), want["refunded"])
	require.Equal(t, int64(500), want["captured"])
	require.Zero(t, want["held"])

	again, err := sandbox.Open(dir, standIns()...) // as after kill -9: the first sandbox was not closed
	require.NoError(t, err)
	require.Equal(t, want, again.Service("payments").Ledger(), "the ledger is on disk")
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
	ledger := box.Service("carrier").Ledger()
	require.Equal(t, int64(1), ledger["booked"])
	require.Equal(t, int64(1), ledger["cancelled"])
}

func TestTransientErrorsCountForTheBreaker(t *testing.T) {
	box, payments, _ := start(t, t.TempDir())
	down := func(what string, err error) {
		t.Helper()
		require.Equal(t, cqrs.KindUnavailable, cqrs.KindOf(err), "%s: %v", what, err)
	}
	_, err := payments.Authorise(t.Context(), "p", euros(1), "pm_error")
	down("500", err)
	box.Service("payments").SetFaults(sandbox.Faults{Down: true})
	_, err = payments.Authorise(t.Context(), "p", euros(1), "pm_ok")
	down("503", err)
	box.Service("payments").SetFaults(sandbox.Faults{Latency: sandbox.Duration(3 * time.Second)})
	_, err = payments.Authorise(t.Context(), "p", euros(1), "pm_ok")
	down("too slow", err)
	require.Equal(t, int64(1), box.Service("payments").Ledger()["held"], "and yet it was done")
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
