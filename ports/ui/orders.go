package ui

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
)

// outcome is what the sandbox can be made to do with an order.
type outcome struct{ Name, Text, SKU, Method string }

var outcomes = []outcome{
	{"confirmed", "it is paid and sent: confirmed", "MUG-01", "pm_ok"},
	{"declined", "the payment is declined: goods are put back", "MUG-01", "pm_declined"},
	{"carrier", "the carrier refuses it: money and goods go back", "HEAVY-99", "pm_ok"},
	{"stock", "it is not in stock: nothing was done yet", "VOID-00", "pm_ok"},
	{"error", "the payment provider fails: asked in vain, then undone", "MUG-01", "pm_error"},
	{"slow", "the payment provider is too slow: timed out, then undone", "MUG-01", "pm_slow"},
}

// ordersData is the list of orders, with what can be ordered here to see something.
type ordersData struct {
	list[query.Order]
	Outcomes []outcome
}

func (s *Server) orders() page {
	return page{title: "Orders", nav: "orders", template: "orders", streams: func(*http.Request) []string { return nil }, load: func(r *http.Request) (any, error) {
		before, first, err := cursor(r)
		if err != nil {
			return nil, err
		}
		l := ordersData{list: list[query.Order]{
			Status: r.URL.Query().Get("status"), Search: strings.TrimSpace(r.URL.Query().Get("search")), First: first,
			Statuses: []string{string(order.Pending), string(order.IsConfirmed), string(order.IsCancelled)},
		}}
		if len(s.Sandbox) > 0 {
			l.Outcomes = outcomes
		}
		l.Rows, err = cqrs.AskFor(r.Context(), s.Queries, query.ListOrders{
			Status: order.Status(l.Status), Search: l.Search, Page: cqrs.Page{Before: before, Limit: perPage + 1},
		})
		l.cut(r, func(row query.Order) cqrs.Cursor { return cqrs.Cursor{At: row.PlacedAt, ID: row.ID} })
		return l, err
	}}
}

// orderData is the page of an order.
type orderData struct {
	Order   query.Order
	History []cqrs.Event
	Saga    *sagaData // nil while it has not begun
	Open    bool      // it can still be cancelled, as far as one sees here
}

func (d orderData) title() string { return "Order " + short(d.Order.ID) }

func (s *Server) order() page {
	return page{title: "Order", nav: "orders", template: "order", streams: func(r *http.Request) []string {
		id := r.PathValue("id")
		return []string{order.Category + "/" + id, saga.Category + "/" + s.SagaOf(id)}
	}, load: func(r *http.Request) (any, error) {
		id := r.PathValue("id")
		o, err := cqrs.AskFor(r.Context(), s.Queries, query.OrderByID{ID: id})
		if err != nil {
			return nil, err
		}
		d := orderData{Order: o, Open: o.Status == order.Pending}
		if d.History, err = cqrs.AskFor(r.Context(), s.Queries, query.OrderHistory{ID: id}); err != nil {
			return nil, err
		}
		history, err := cqrs.AskFor(r.Context(), s.Queries, manager.History{ID: s.SagaOf(id)})
		if errors.Is(err, cqrs.ErrNotFound) {
			return d, nil
		}
		if err == nil {
			d.Saga = s.sagaOf(s.SagaOf(id), history)
		}
		return d, err
	}}
}

// placeOrder is the form's action.
func (s *Server) placeOrder(r *http.Request) (notice, next string, err error) {
	quantity, err := strconv.ParseInt(r.PostForm.Get("quantity"), 10, 64)
	if err != nil {
		return "", "", wrong("the quantity", "must be a whole number")
	}
	sku, method := r.PostForm.Get("sku"), r.PostForm.Get("payment_method")
	for _, o := range outcomes {
		if len(s.Sandbox) > 0 && o.Name == r.PostForm.Get("outcome") {
			sku, method = o.SKU, o.Method
		}
	}
	if method == "" || len(method) > 64 {
		return "", "", wrong("the payment method", "must be 1 to 64 characters")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return "", "", err
	}
	err = s.Commands.Execute(r.Context(), cqrs.Command{Body: command.PlaceOrder{
		OrderID: id.String(), CustomerID: cqrs.PrincipalOf(r.Context()).Subject, Currency: "EUR", PaymentMethod: method,
		Lines: []order.Line{{SKU: sku, Quantity: quantity, UnitPrice: 1250}},
	}})
	return "The order is placed.", "/ui/orders/" + id.String(), err
}

func (s *Server) cancelOrder() action {
	return action{
		risk: true,
		ask: func(r *http.Request) (string, string) {
			return fmt.Sprintf("Cancel order %s? What was done for it is undone, unless its money was taken already.", short(r.PathValue("id"))), "Cancel the order"
		},
		do: func(r *http.Request) (string, string, error) {
			return "The order is being cancelled.", "/ui/orders/" + url.PathEscape(r.PathValue("id")), s.Cancel(r.Context(), r.PathValue("id"))
		},
	}
}
