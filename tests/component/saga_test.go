// Package component tests the service as a whole, over HTTP, on the embedded default, on real services, or on docker-compose;
// tests/harness says how that is chosen.
package component

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/kittest"
	"github.com/millrace/millrace/tests/harness"
)

var steps = []string{"reserve stock", "authorise payment", "book shipment", "capture payment", "take stock out", "confirm order"}

// statuses are the steps up to the nth one done and undone again, and the nth as given.
func statuses(n int, how string) map[string]string {
	want := map[string]string{"cancel order": "completed"}
	for i, name := range steps {
		switch {
		case i < n:
			want[name] = "compensated"
		case i == n:
			want[name] = how
		default:
			want[name] = "waiting"
		}
	}
	return want
}

// Each row of the saga's table, gone through and refused.
func TestEveryStepRefused(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	i.Stock(1000, "MUG-01", "TEE-02", "HEAVY-99")

	t.Run("gone through", func(t *testing.T) {
		order := i.Decided(i.Place("pm_ok", "MUG-01", "TEE-02"))
		require.Equal(t, "confirmed", order.Status)
		require.Equal(t, int64(2000), order.Total)
		saga := eventually(t, i, order.ID, "completed")
		for _, step := range steps {
			require.Equal(t, "completed", saga.Statuses()[step], step)
		}
		history := i.Do(http.MethodGet, "/v1/orders/"+order.ID+"/history", "")
		require.Contains(t, history.Body, `"type":"order.placed"`)
		require.Contains(t, history.Body, `"type":"order.confirmed"`)
	})
	for n, c := range []struct {
		name, method string
		skus         []string
		reason       string
	}{
		{"reserve stock", "pm_ok", []string{"MUG-01", "VOID-00"}, "out of stock: VOID-00"},
		{"authorise payment", "pm_declined", []string{"MUG-01"}, "payment declined"},
		{"book shipment", "pm_ok", []string{"HEAVY-99"}, "too heavy for the carrier"},
		{"capture payment", "pm_capture_refused", []string{"MUG-01", "TEE-02"}, "capture refused"},
	} {
		t.Run("refused: "+c.name, func(t *testing.T) {
			order := i.Decided(i.Place(c.method, c.skus...))
			require.Equal(t, "cancelled", order.Status)
			require.Contains(t, order.Reason, c.reason)
			saga := eventually(t, i, order.ID, "compensated")
			require.Equal(t, statuses(n, "refused"), saga.Statuses())
			require.Contains(t, saga.Reason, c.reason)
		})
	}
	t.Run("compensated in reverse order", func(t *testing.T) {
		order := i.Decided(i.Place("pm_capture_refused", "MUG-01"))
		saga := eventually(t, i, order.ID, "compensated")
		var detail struct {
			Steps []struct {
				Name    string
				EndedAt time.Time `json:"ended_at"`
			}
		}
		i.Do(http.MethodGet, "/v1/sagas/"+saga.ID, "").JSON(t, &detail)
		require.True(t, detail.Steps[2].EndedAt.Before(detail.Steps[1].EndedAt), "the shipment is cancelled before the payment is voided")
		require.True(t, detail.Steps[1].EndedAt.Before(detail.Steps[0].EndedAt), "the payment is voided before the stock is released")
		require.True(t, detail.Steps[0].EndedAt.Before(detail.Steps[6].EndedAt), "the order receives the last command")
	})
	if kittest.External() == "" {
		i.Consistent()
	}
}

// eventually waits until an order's saga stands at a status.
func eventually(t *testing.T, i *harness.Instance, orderID, status string) kittest.Saga {
	t.Helper()
	id := i.SagaOf(orderID).ID
	var saga kittest.Saga
	kittest.Eventually(t, func() error {
		if saga = i.Saga(id); saga.Status != status {
			return fmt.Errorf("saga is %s", saga.Status)
		}
		return nil
	})
	return saga
}

// inStep waits until a step of an order's saga is in progress and stays so for now.
func inStep(t *testing.T, i *harness.Instance, orderID, step string) {
	t.Helper()
	id := i.SagaOf(orderID).ID
	kittest.Eventually(t, func() error {
		if status := i.Saga(id).Statuses()[step]; status != "in_progress" {
			return fmt.Errorf("%s is %s", step, status)
		}
		return nil
	})
}

// Each row timed out: the payment by a provider that is slow, the rest by holding back what the handler needs.
func TestEveryStepTimedOut(t *testing.T) {
	t.Parallel()
	kittest.Long(t)
	i := harness.Shared(t)
	skus := []string{"SLOW-1", "SLOW-2", "SLOW-3", "SLOW-4"}
	i.Stock(1000, skus...)
	db := kittest.OpenDB(t, i.DSN())
	hold := func(query string, args ...any) (release func()) {
		tx, err := db.BeginTx(context.Background(), nil)
		require.NoError(t, err)
		_, err = tx.ExecContext(context.Background(), query, args...)
		require.NoError(t, err)
		return func() { _ = tx.Rollback() }
	}
	const lock = `SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' ' || $1, 0))`

	slow := i.Place("pm_slow", "SLOW-1")
	releaseStock := hold(lock, "inventory/SLOW-2")
	blocked := i.Place("pm_ok", "SLOW-2")
	inStep(t, i, blocked, "reserve stock")

	// The carrier does its work and answers too late, every time.
	i.SetFaults("carrier", `{"latency":"2.5s"}`)
	unbooked := i.Place("pm_ok", "SLOW-3")
	inStep(t, i, unbooked, "book shipment")

	// The stock is still locked: its command expires, so the compensation finds nothing and needs no lock.
	for n, c := range []struct{ order, step string }{{blocked, "reserve stock"}, {slow, "authorise payment"}} {
		order := i.Decided(c.order)
		require.Equal(t, "cancelled", order.Status)
		require.Equal(t, c.step+": no answer in time", order.Reason)
		require.Equal(t, statuses(n, "compensated"), eventually(t, i, order.ID, "compensated").Statuses(), "the step in doubt is compensated too")
	}
	releaseStock()
	kittest.Eventually(t, func() error { // compensations are asked until they answer, which the carrier keeps them from
		if status := i.SagaOf(unbooked).Statuses()["book shipment"]; status != "compensating" {
			return fmt.Errorf("book shipment is %s", status)
		}
		return nil
	})
	i.SetFaults("carrier", `{"latency":"0s"}`)
	require.Equal(t, "confirmed", i.Decided(unbooked).Status, "the courier stands in")
	stoodIn := eventually(t, i, unbooked, "completed").Statuses()
	require.Equal(t, "compensated", stoodIn["book shipment"], "the step in doubt is compensated first")
	require.Equal(t, "completed", stoodIn["book courier"])

	t.Run("from the pivot on it is asked again", func(t *testing.T) {
		i.SetFaults("carrier", `{"latency":"1s"}`)
		id := i.Place("pm_ok", "SLOW-4")
		inStep(t, i, id, "book shipment")
		i.SetFaults("payments", `{"down":true}`)
		i.SetFaults("carrier", `{"latency":"0s"}`)
		releaseStock := hold(lock, "inventory/SLOW-4")
		// Somebody else is about to append to the order: its handler waits to see whether he does.
		releaseOrder := hold(`INSERT INTO events (position, stream, version, type, schema, payload, meta, at)
			VALUES (nextval('events_position'), 'orders/' || $1, 2, 'order.confirmed', 1, '{}', '{}', now())`, id)
		asked := func(step string) {
			t.Helper()
			kittest.Eventually(t, func() error {
				for _, s := range i.SagaOf(id).Steps {
					if s.Name == step && s.Attempts > 1 {
						return nil
					}
				}
				return fmt.Errorf("%s was not asked again", step)
			})
		}
		asked("capture payment")
		i.SetFaults("payments", `{"down":false}`)
		asked("take stock out")
		releaseStock()
		asked("confirm order")
		releaseOrder()
		require.Equal(t, "confirmed", i.Decided(id).Status)
	})
	i.Consistent()
}

func TestCustomerCancels(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	i.Stock(1000, "MUG-01")

	t.Run("before the pivot, at every step", func(t *testing.T) {
		if kittest.External() != "" {
			t.Skip("turns knobs that others use")
		}
		cancel := func(id string) { // at whichever step it is
			accepted := func(when string) {
				t.Helper()
				response := i.Do(http.MethodPost, "/v1/orders/"+id+"/cancel", "")
				require.Equal(t, http.StatusAccepted, response.Status, "%s: %s", when, response.Body)
			}
			accepted("the first time")
			accepted("repeated while it compensates")
			order := i.Decided(id)
			require.Equal(t, "cancelled", order.Status)
			require.Equal(t, "cancelled by the customer", order.Reason)
			require.Equal(t, "compensated", eventually(t, i, id, "compensated").Status)
			accepted("repeated after its end")
		}
		cancel(i.Place("pm_ok", "MUG-01")) // perhaps before its saga has begun
		i.SetFaults("payments", `{"latency":"1s"}`)
		id := i.Place("pm_ok", "MUG-01")
		inStep(t, i, id, "authorise payment")
		cancel(id)
		i.SetFaults("payments", `{"latency":"0s"}`)
		i.SetFaults("carrier", `{"latency":"1s"}`)
		id = i.Place("pm_ok", "MUG-01")
		inStep(t, i, id, "book shipment")
		cancel(id)
		i.SetFaults("carrier", `{"latency":"0s"}`)
	})
	t.Run("afterwards it is too late", func(t *testing.T) {
		id := i.Place("pm_ok", "MUG-01")
		require.Equal(t, "confirmed", i.Decided(id).Status)
		response := i.Do(http.MethodPost, "/v1/orders/"+id+"/cancel", "")
		require.Equal(t, http.StatusConflict, response.Status)
		require.Contains(t, response.Body, "too late to cancel")
		require.Equal(t, "confirmed", i.Order(id).Status)
	})
	i.Consistent()
}

// Many orders for the same few SKUs at the same time: all are served, exactly as many as there is stock for.
func TestHotStock(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	const orders, stock = 120, 100
	hot := fmt.Sprint("HOT-", time.Now().UnixNano())
	i.Stock(stock, hot)
	i.Stock(10*orders, "MUG-01")
	ids := make([]string, orders)
	var placing sync.WaitGroup
	for n := range ids {
		placing.Go(func() {
			skus := []string{hot, "MUG-01"}
			if n%2 == 1 {
				skus = []string{"MUG-01", hot} // in the other order: who locks as he reads would meet the others head on
			}
			ids[n] = i.Place("pm_ok", skus...)
		})
	}
	placing.Wait()
	confirmed, late := 0, 0
	for _, id := range ids {
		switch order := i.Decided(id); {
		case order.Status == "confirmed":
			confirmed++
		case strings.Contains(order.Reason, "no answer in time"): // a slow computer; what they held is released
			late++
		default:
			require.Contains(t, order.Reason, "out of stock: "+hot)
		}
	}
	require.LessOrEqual(t, confirmed, stock)
	require.GreaterOrEqual(t, confirmed+late, stock)
	if kittest.External() == "" {
		i.Consistent()
	}
}

func TestStreamTellsEveryChange(t *testing.T) {
	t.Parallel()
	i := harness.Shared(t)
	i.Stock(1000, "MUG-01")
	id := i.Place("pm_declined", "MUG-01")
	response := i.Do(http.MethodGet, "/v1/orders/"+id+"/stream", "") // ends by itself
	require.Equal(t, "text/event-stream", response.Header.Get("Content-Type"))
	var lastOrder harness.Order
	var lastSaga kittest.Saga
	events := 0
	for block := range strings.SplitSeq(strings.TrimSpace(response.Body), "\n\n") {
		name, data := "", ""
		for line := range strings.SplitSeq(block, "\n") {
			if rest, ok := strings.CutPrefix(line, "event: "); ok {
				name = rest
			}
			if rest, ok := strings.CutPrefix(line, "data: "); ok {
				data = rest
			}
		}
		events++
		switch name {
		case "order":
			require.NoError(t, json.Unmarshal([]byte(data), &lastOrder))
		case "saga":
			require.NoError(t, json.Unmarshal([]byte(data), &lastSaga))
		default:
			t.Fatalf("event %q", name)
		}
	}
	require.Equal(t, "cancelled", lastOrder.Status)
	require.Equal(t, "compensated", lastSaga.Status)
	require.GreaterOrEqual(t, events, 3)
}
