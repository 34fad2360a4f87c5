package order_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/aggregate/aggregatetest"
)

func back(sku string, quantity int64, replace bool) order.ReturnLine {
	return order.ReturnLine{Line: order.Line{SKU: sku, Quantity: quantity}, Replace: replace}
}

func request(lines ...order.ReturnLine) func(*order.Order) error {
	return func(o *order.Order) error { return o.RequestReturn(lines) }
}

var (
	bought = order.Placed{OrderID: "o-1", Total: money.Money{Amount: 4499, Currency: "EUR"}, Lines: []order.Line{
		{SKU: "MUG-01", Quantity: 2, UnitPrice: 1250}, {SKU: "TEE-02", Quantity: 1, UnitPrice: 1999},
	}}
	confirmed = order.Confirmed{OrderID: "o-1"}
	requested = order.ReturnRequested{
		OrderID: "o-1", ParcelNumber: "R-o-1", Refund: money.Money{Amount: 1250, Currency: "EUR"},
		Lines: []order.ReturnLine{{Line: order.Line{SKU: "MUG-01", Quantity: 1, UnitPrice: 1250}}, {Line: order.Line{SKU: "TEE-02", Quantity: 1, UnitPrice: 1999}, Replace: true}},
	}
	goodsAccepted = order.GoodsAccepted{OrderID: "o-1", Damaged: true}
	returned      = order.Returned{OrderID: "o-1", Refund: requested.Refund}
	rejected      = order.ReturnRejected{OrderID: "o-1", Reason: "no"}
)

func TestReturn(t *testing.T) {
	anOrder := aggregatetest.For(order.Rebuild)
	ask := request(back("TEE-02", 1, true), back("MUG-01", 1, false)) // the lines are in the order of the order's lines
	accept := func(o *order.Order) error { return o.AcceptGoods(true) }
	rejectGoods := func(o *order.Order) error { return o.RejectGoods("no") }
	reject := func(o *order.Order) error { return o.RejectReturn("no") }
	remind, closes := (*order.Order).RemindReturn, (*order.Order).CloseReturn
	given := func(more ...order.Event) aggregatetest.Scenario[*order.Order, order.Event] {
		return anOrder.Given(append([]order.Event{bought, confirmed}, more...)...)
	}

	t.Run("confirmed: requested", given().When(ask).Then(requested))
	t.Run("new", anOrder.Given().When(ask).Refused(order.ErrUnknown))
	t.Run("pending", anOrder.Given(bought).When(ask).Refused(order.ErrNotConfirmed))
	t.Run("cancelled", anOrder.Given(bought, order.Cancelled{}).When(ask).Refused(order.ErrNotConfirmed))
	t.Run("requested again", given(requested).When(ask).Nothing())
	t.Run("requested again after it was closed", given(requested, goodsAccepted, returned).When(ask).Nothing())
	t.Run("another return", given(requested).When(request(back("MUG-01", 2, false))).Refused(order.ErrReturned))
	t.Run("another return after a rejection", given(requested, rejected).When(request(back("MUG-01", 2, false))).Refused(order.ErrReturned))

	t.Run("reminded", given(requested).When(remind).Then(order.ReturnReminded{OrderID: "o-1", ParcelNumber: "R-o-1"}))
	t.Run("accepted: not reminded", given(requested, goodsAccepted).When(remind).Nothing())
	t.Run("accepted", given(requested).When(accept).Then(goodsAccepted))
	t.Run("accepted again", given(requested, goodsAccepted).When(accept).Nothing())
	t.Run("rejected: not accepted", given(requested, rejected).When(accept).Refused(order.ErrNoReturn))
	t.Run("goods rejected", given(requested).When(rejectGoods).Then(order.GoodsRejected{OrderID: "o-1", Reason: "no"}))
	t.Run("accepted: goods not rejected", given(requested, goodsAccepted).When(rejectGoods).Refused(order.ErrNoReturn))
	t.Run("closed", given(requested, goodsAccepted).When(closes).Then(returned))
	t.Run("closed again", given(requested, goodsAccepted, returned).When(closes).Nothing())
	t.Run("not accepted: not closed", given(requested).When(closes).Refused(order.ErrNoReturn))
	t.Run("rejected", given(requested, order.GoodsRejected{}).When(reject).Then(rejected))
	t.Run("rejected again", given(requested, rejected).When(reject).Nothing())
	t.Run("accepted: not rejected", given(requested, goodsAccepted).When(reject).Refused(order.ErrNoReturn))
	t.Run("no return: not accepted", given().When(accept).Refused(order.ErrNoReturn))

	o := order.Rebuild([]order.Event{bought, confirmed, requested, goodsAccepted, returned})
	require.Equal(t, order.IsConfirmed, o.Status(), "the order stays confirmed")
	require.Equal(t, order.Return{Status: order.ReturnIsClosed, ParcelNumber: "R-o-1", Lines: requested.Lines, Refund: requested.Refund, Damaged: true}, o.Return())
}

func TestWhatAReturnRefusesNamesTheField(t *testing.T) {
	for name, c := range map[string]struct {
		lines []order.ReturnLine
		field string
		want  error
	}{
		"no lines":    {nil, "lines", order.ErrReturnLines},
		"not ordered": {[]order.ReturnLine{back("MUG-01", 1, false), back("CAP-03", 1, false)}, "lines[1].sku", order.ErrNotOrdered},
		"twice":       {[]order.ReturnLine{back("MUG-01", 1, false), back("MUG-01", 1, true)}, "lines[1].sku", order.ErrTwice},
		"none":        {[]order.ReturnLine{back("MUG-01", 0, false)}, "lines[0].quantity", order.ErrReturnQuantity},
		"too many":    {[]order.ReturnLine{back("MUG-01", 3, false)}, "lines[0].quantity", order.ErrReturnQuantity},
	} {
		t.Run(name, func(t *testing.T) {
			err := request(c.lines...)(order.Rebuild([]order.Event{bought, confirmed}))
			var field *aggregate.FieldError
			require.ErrorAs(t, err, &field)
			require.Equal(t, c.field, field.Field)
			require.ErrorIs(t, err, c.want)
		})
	}
}
