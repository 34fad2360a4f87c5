package inventory_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

func reserve(order string, n int64) func(*inventory.Stock) error {
	return func(s *inventory.Stock) error { return s.Reserve("MUG-01", order, n) }
}

func release(order string) func(*inventory.Stock) error {
	return func(s *inventory.Stock) error { return s.Release("MUG-01", order) }
}

func commit(order string) func(*inventory.Stock) error {
	return func(s *inventory.Stock) error { return s.Commit("MUG-01", order) }
}

func putBack(n int64) func(*inventory.Stock) error {
	return func(s *inventory.Stock) error { return s.PutBack("MUG-01", "a", n) }
}

func TestStock(t *testing.T) {
	aStock := aggregatetest.For(inventory.Rebuild)
	ten := inventory.Received{SKU: "MUG-01", Quantity: 10}
	seven := inventory.Reserved{SKU: "MUG-01", OrderID: "a", Quantity: 7}

	t.Run("reserved", aStock.Given(ten).When(reserve("a", 7)).Then(seven))
	t.Run("reserved once an order", aStock.Given(ten, seven).When(reserve("a", 7)).Nothing())
	t.Run("too little left: rejected", aStock.Given(ten, seven).When(reserve("b", 4)).
		Then(inventory.Rejected{SKU: "MUG-01", OrderID: "b", Wanted: 4, Available: 3, Reason: "out of stock: MUG-01"}))
	t.Run("never received: rejected, and says so", aStock.Given().When(reserve("b", 4)).
		Then(inventory.Rejected{SKU: "MUG-01", OrderID: "b", Wanted: 4, Reason: "out of stock: MUG-01, of which nothing was ever received"}))
	t.Run("released", aStock.Given(ten, seven).When(release("a")).Then(inventory.Released{SKU: "MUG-01", OrderID: "a", Quantity: 7}))
	t.Run("released what was never reserved", aStock.Given(ten).When(release("a")).Then(inventory.Released{SKU: "MUG-01", OrderID: "a"}))
	t.Run("committed", aStock.Given(ten, seven).When(commit("a")).Then(inventory.Committed{SKU: "MUG-01", OrderID: "a", Quantity: 7}))
	t.Run("not reserved: not committed", aStock.Given(ten).When(commit("a")).Refused(inventory.ErrNotReserved))
	t.Run("put back", aStock.Given(ten).When(putBack(3)).Then(inventory.PutBack{SKU: "MUG-01", OrderID: "a", Quantity: 3}))
	t.Run("nothing is not put back", aStock.Given(ten).When(putBack(0)).Refused(inventory.ErrQuantity))
	t.Run("more than can be counted is not put back", aStock.Given(ten).When(putBack(math.MaxInt64)).Refused(inventory.ErrTooMuch))
	t.Run("nothing is no quantity", aStock.Given(ten).When(reserve("a", 0)).Refused(inventory.ErrQuantity))
	t.Run("nothing is not received", aStock.Given().When(func(s *inventory.Stock) error { return s.Receive("MUG-01", 0) }).Refused(inventory.ErrQuantity))
}

// After any sequence of commands the reserved quantity is at most the quantity on hand, no quantity is negative, the reservations add up, and both a rebuild
// from all events and a rebuild from a snapshot give the state that recorded the events.
func TestStockProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := inventory.Rebuild(nil)
		received, committed := int64(0), int64(0)
		for range rapid.IntRange(0, 60).Draw(t, "commands") {
			order := fmt.Sprint("order-", rapid.IntRange(1, 4).Draw(t, "order"))
			n := rapid.Int64Range(-1, 9).Draw(t, "quantity")
			switch rapid.SampledFrom([]string{"receive", "reserve", "release", "commit", "put back"}).Draw(t, "command") {
			case "receive":
				if s.Receive("MUG-01", n) == nil {
					received += n
				}
			case "put back":
				if putBack(n)(s) == nil {
					committed -= n
				}
			case "reserve":
				_ = reserve(order, n)(s)
			case "release":
				_ = release(order)(s)
			case "commit":
				kept := s.Reservations()[order]
				if commit(order)(s) == nil {
					committed += kept
				}
			}
			sum := int64(0)
			for _, kept := range s.Reservations() {
				sum += kept
			}
			if s.Reserved() > s.OnHand() || s.Reserved() < 0 || s.Reserved() != sum || s.OnHand() != received-committed {
				t.Fatalf("on hand %d, reserved %d, reservations %d, received %d, committed %d", s.OnHand(), s.Reserved(), sum, received, committed)
			}
		}
		var history []inventory.Event
		for _, e := range s.Changes() {
			history = append(history, e.(inventory.Event))
		}
		cut := rapid.IntRange(0, len(history)).Draw(t, "snapshot")
		older := inventory.Rebuild(history[:cut])
		snapshot, err := json.Marshal(older.State())
		require.NoError(t, err)
		restored := inventory.Rebuild(nil)
		require.NoError(t, json.Unmarshal(snapshot, restored.State()))
		restored.SetVersion(cut)
		restored.Continue(history[cut:])
		for name, again := range map[string]*inventory.Stock{"fold": inventory.Rebuild(history), "snapshot": restored} {
			if again.OnHand() != s.OnHand() || again.Reserved() != s.Reserved() || again.Version() != len(history) {
				t.Fatalf("%s: %+v, was %+v", name, again, s)
			}
			require.Equal(t, s.Reservations(), again.Reservations(), name)
		}
	})
}
