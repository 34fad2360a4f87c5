package order_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

var (
	mugs   = []order.Line{{SKU: "MUG-01", Quantity: 2, UnitPrice: 1250}}
	placed = order.Placed{
		OrderID: "o-1", CustomerID: "guest", Lines: mugs, Total: money.Money{Amount: 2500, Currency: "EUR"}, PaymentMethod: "pm_ok",
	}
)

func place(currency string, lines ...order.Line) func(*order.Order) error {
	return func(o *order.Order) error { return o.Place("o-1", "guest", currency, "pm_ok", lines) }
}

func cancel(o *order.Order) error { return o.Cancel("changed my mind") }

func TestOrder(t *testing.T) {
	anOrder := aggregatetest.For(order.Rebuild)
	confirm := (*order.Order).Confirm
	cancelled := order.Cancelled{OrderID: "o-1", Reason: "changed my mind"}
	confirmed := order.Confirmed{OrderID: "o-1"}

	t.Run("new: placed", anOrder.Given().When(place("EUR", mugs...)).Then(placed))
	for name, method := range map[string]string{"no method": "", "method too long": strings.Repeat("x", 65), "method with a line break": "pm\nok"} {
		t.Run(name, anOrder.Given().When(func(o *order.Order) error { return o.Place("o-1", "guest", "EUR", method, mugs) }).Refused(order.ErrMethod))
	}
	t.Run("placed: not placed again", anOrder.Given(placed).When(place("EUR", mugs...)).Refused(order.ErrPlaced))
	t.Run("pending: confirmed", anOrder.Given(placed).When(confirm).Then(confirmed))
	t.Run("pending: cancelled", anOrder.Given(placed).When(cancel).Then(cancelled))
	t.Run("confirmed: confirmed again", anOrder.Given(placed, confirmed).When(confirm).Nothing())
	t.Run("cancelled: cancelled again", anOrder.Given(placed, cancelled).When(cancel).Nothing())
	t.Run("confirmed: not cancelled", anOrder.Given(placed, confirmed).When(cancel).Refused(order.ErrDecided))
	t.Run("cancelled: not confirmed", anOrder.Given(placed, cancelled).When(confirm).Refused(order.ErrDecided))
	t.Run("new: not confirmed", anOrder.Given().When(confirm).Refused(order.ErrUnknown))
	t.Run("new: not cancelled", anOrder.Given().When(cancel).Refused(order.ErrUnknown))
	t.Run("no reason", anOrder.Given(placed).When(func(o *order.Order) error { return o.Cancel(" ") }).Refused(order.ErrReason))
}

func TestWhatAnOrderRefusesNamesTheField(t *testing.T) {
	line := func(sku string, quantity, price int64) order.Line {
		return order.Line{SKU: sku, Quantity: quantity, UnitPrice: price}
	}
	for name, c := range map[string]struct {
		currency string
		lines    []order.Line
		field    string
		want     error
	}{
		"no lines":          {"EUR", nil, "lines", order.ErrNoLines},
		"too many lines":    {"EUR", make([]order.Line, 10_000), "lines", order.ErrLines},
		"zero":              {"EUR", []order.Line{line("A", 0, 1)}, "lines[0].quantity", order.ErrQuantity},
		"negative":          {"EUR", []order.Line{line("A", 1, 1), line("B", -1, 1)}, "lines[1].quantity", order.ErrQuantity},
		"negative price":    {"EUR", []order.Line{line("A", 1, -1)}, "lines[0].unit_price", money.ErrNegative},
		"overflow of one":   {"EUR", []order.Line{line("A", 1000, 1<<62)}, "lines[0].unit_price", money.ErrTooMuch},
		"overflow of a sum": {"EUR", []order.Line{line("A", 1, 1<<62), line("B", 1, 1<<62)}, "lines[1].unit_price", money.ErrTooMuch},
		"twice":             {"EUR", []order.Line{line("A", 1, 1), line("A", 1, 1)}, "lines[1].sku", order.ErrTwice},
		"no SKU":            {"EUR", []order.Line{line("", 1, 1)}, "lines[0].sku", order.ErrSKU},
		"odd SKU":           {"EUR", []order.Line{line("A B", 1, 1)}, "lines[0].sku", order.ErrSKU},
		"currency":          {"euros", mugs, "currency", money.ErrCurrency},
		"lower case":        {"eur", mugs, "currency", money.ErrCurrency},
	} {
		t.Run(name, func(t *testing.T) {
			err := place(c.currency, c.lines...)(order.Rebuild(nil))
			var field *aggregate.FieldError
			require.ErrorAs(t, err, &field)
			require.Equal(t, c.field, field.Field)
			require.ErrorIs(t, err, c.want)
		})
	}
}

// After any sequence of commands the order is decided at most once, and a rebuild gives the state that recorded the events.
func TestOrderProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := order.Rebuild(nil)
		var decided order.Status
		for range rapid.IntRange(0, 20).Draw(t, "commands") {
			switch rapid.SampledFrom([]string{"place", "confirm", "cancel"}).Draw(t, "command") {
			case "place":
				_ = place("EUR", mugs...)(o)
			case "confirm":
				_ = o.Confirm()
			case "cancel":
				_ = cancel(o)
			}
			if decided != "" && o.Status() != decided {
				t.Fatalf("%s after it was %s", o.Status(), decided)
			}
			if o.Status() == order.IsConfirmed || o.Status() == order.IsCancelled {
				decided = o.Status()
			}
		}
		var history []order.Event
		for _, e := range o.Changes() {
			history = append(history, e.(order.Event))
		}
		again := order.Rebuild(history)
		if again.Status() != o.Status() || again.Total() != o.Total() || again.Reason() != o.Reason() || again.Version() != len(history) {
			t.Fatalf("folded to %+v, was %+v", again, o)
		}
	})
}

func TestPlacedOfSchemaVersion1IsUpcasted(t *testing.T) {
	const stored = `{"order_id":"o-1","customer_id":"guest","lines":[{"sku":"MUG-01","quantity":2,"unit_price":1250}],"total":9007199254740993,"payment_method":"pm_ok"}`
	upcasted, err := order.Types.Decode("order.placed", 1, []byte(stored))
	require.NoError(t, err)
	want := placed
	want.Total = money.Money{Amount: 9007199254740993, Currency: "EUR"} // more than a float64 can represent
	require.Equal(t, want, upcasted)
}

// Whatever an old event contains, it is upcast to the newest schema or refused. It never silently becomes an order that breaks its rules: encoding and
// decoding a decoded event gives the same event.
func FuzzUpcasting(f *testing.F) {
	f.Add(1, []byte(`{"order_id":"o","customer_id":"c","lines":[{"sku":"A","quantity":1,"unit_price":5}],"total":5,"currency":"EUR","payment_method":"pm"}`))
	f.Add(2, []byte(`{"order_id":"o","lines":null,"total":{"amount":1,"currency":"EUR"}}`))
	f.Add(1, []byte(`{"total":"x"}`))
	f.Add(0, []byte(`null`))
	f.Fuzz(func(t *testing.T, schema int, payload []byte) {
		event, err := order.Types.Decode("order.placed", schema, payload)
		if err != nil {
			return
		}
		typ, encoded, err := order.Types.Encode(event)
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		again, err := order.Types.Decode(typ.Name, typ.Schema, encoded)
		if err != nil || !reflect.DeepEqual(event, again) {
			t.Fatalf("%+v became %+v: %v", event, again, err)
		}
		order.Rebuild([]order.Event{event.(order.Event)}) // never fails
	})
}
