package pages

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/fulfilment"
	"github.com/millrace/millrace/sagas/orderreturn"
)

var statuses = []order.Status{order.Pending, order.IsConfirmed, order.IsCancelled}

// outcome is an order whose outcome in the sandbox is known.
type outcome struct{ Name, Text, SKU, Method string }

var outcomes = []outcome{
	{"confirmed", "confirmed: paid and shipped", "MUG-01", "pm_ok"},
	{"declined", "cancelled: payment declined", "MUG-01", "pm_declined"},
	{"carrier", "cancelled: carrier refuses", "HEAVY-99", "pm_ok"},
	{"stock", "cancelled: not in stock", "VOID-00", "pm_ok"},
	{"error", "cancelled: payment provider fails", "MUG-01", "pm_error"},
	{"slow", "cancelled: payment provider times out", "MUG-01", "pm_slow"},
}

// ordersData is the data of the page with the list of orders and the form to place an order.
type ordersData struct {
	opsui.List[query.Order]
	Outcomes []outcome // empty: the sandbox does not run
}

func (p Pages) orders() opsui.Page {
	return opsui.Page{Path: "/ui/orders", Title: "Orders", Nav: "/ui/orders", Template: "orders", Streams: opsui.AnyStream, Load: func(r *http.Request) (any, error) {
		list, page, err := opsui.NewList[query.Order](r, opsui.Names(statuses...)...)
		if err != nil {
			return nil, err
		}
		d := ordersData{List: list}
		if p.Sandbox {
			d.Outcomes = outcomes
		}
		rows, err := cqrs.Execute(r.Context(), p.Queries, query.ListOrders{Status: order.Status(d.Status), Search: d.Search, Page: page})
		d.SetRows(r, rows, func(row query.Order) cqrs.Cursor { return cqrs.Cursor{At: row.PlacedAt, ID: row.ID} })
		return d, err
	}}
}

// orderData is the data of the page of an order.
type orderData struct {
	Order   query.Order
	History []cqrs.Event
	Saga    *opsui.SagaView // nil: the saga has not started yet
	Open    bool            // the order can be cancelled, unless its saga has passed its pivot in the meantime

	Returnable   bool   // a return can be requested
	ReturnSaga   string // id of the saga of the return
	ParcelButton bool   // the page has the button that simulates the arrival of the parcel in the sandbox
}

// Title implements the title of a page.
func (d orderData) Title() string { return "Order " + opsui.Short(d.Order.ID) }

func (p Pages) order() opsui.Page {
	return opsui.Page{Path: "/ui/orders/{id}", Title: "Order", Nav: "/ui/orders", Template: "order", Streams: func(r *http.Request) []string {
		id := r.PathValue("id")
		return []string{order.Category + "/" + id, saga.Category + "/" + sagaOf(id)}
	}, Load: func(r *http.Request) (any, error) {
		ctx, id := r.Context(), r.PathValue("id")
		o, err := cqrs.Execute(ctx, p.Queries, query.OrderByID{ID: id})
		if err != nil {
			return nil, err
		}
		d := orderData{
			Order: o, Open: o.Status == order.Pending, Returnable: o.Status == order.IsConfirmed && o.Return.Status == "",
			ReturnSaga: saga.ID(orderreturn.Name, id), ParcelButton: p.ParcelArrived != nil && o.Return.Status == order.ReturnIsRequested,
		}
		if d.History, err = cqrs.Execute(ctx, p.Queries, query.OrderHistory{ID: id}); err != nil {
			return nil, err
		}
		d.Saga, err = opsui.LoadSaga(ctx, p.Queries, p.Sagas, sagaOf(id))
		if errors.Is(err, cqrs.ErrNotFound) {
			return d, nil
		}
		return d, err
	}}
}

// sagaOf is the id of the saga of an order.
func sagaOf(orderID string) string { return saga.ID(fulfilment.Name, orderID) }

// placeOrder handles the form that places an order.
func (p Pages) placeOrder(r *http.Request) (notice, next string, err error) {
	quantity, err := strconv.ParseInt(r.PostForm.Get("quantity"), 10, 64)
	if err != nil {
		return "", "", opsui.Invalid("quantity", "must be a whole number")
	}
	sku, method := r.PostForm.Get("sku"), r.PostForm.Get("payment_method")
	for _, o := range outcomes {
		if p.Sandbox && o.Name == r.PostForm.Get("outcome") {
			sku, method = o.SKU, o.Method
		}
	}
	id := uuid.Must(uuid.NewV7()).String()
	err = p.Commands.Execute(r.Context(), cqrs.Command{Body: command.PlaceOrder{
		OrderID: id, CustomerID: cqrs.PrincipalFromContext(r.Context()).Subject, Currency: "EUR", PaymentMethod: method,
		Lines: []order.Line{{SKU: sku, Quantity: quantity, UnitPrice: 1250}},
	}})
	return "The order is placed.", "/ui/orders/" + id, err
}

func (p Pages) cancelOrder() opsui.Action {
	return opsui.Action{
		Irreversible: true,
		Confirm: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Cancel order %s? Its completed steps are compensated. After the payment is captured, the order cannot be cancelled.", opsui.Short(r.PathValue("id"))), "Cancel the order"
		},
		Do: func(r *http.Request) (string, string, error) {
			return "The order is being cancelled.", "/ui/orders/" + url.PathEscape(r.PathValue("id")), p.Cancel(r.Context(), r.PathValue("id"))
		},
	}
}
