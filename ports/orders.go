package ports

import (
	"context"
	"fmt"
	"net/http"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/fulfilment"
)

// PlaceOrder implements ServerInterface. It places the order in the transaction of the request, together with the event that starts the saga of the order,
// so the order exists before the client receives the response.
func (h *handlers) PlaceOrder(w http.ResponseWriter, r *http.Request, _ PlaceOrderParams) {
	var request NewOrder
	id := uuid.Must(uuid.NewV7()).String()
	err := httpapi.DecodeRequired(w, r, &request)
	if err == nil {
		place := command.PlaceOrder{OrderID: id, CustomerID: cqrs.PrincipalFromContext(r.Context()).Subject, Currency: request.Currency, PaymentMethod: request.PaymentMethod}
		for _, line := range request.Lines {
			place.Lines = append(place.Lines, order.Line{SKU: line.Sku, Quantity: line.Quantity, UnitPrice: line.UnitPrice})
		}
		err = h.Commands.Execute(r.Context(), cqrs.Command{Body: place})
	}
	if err == nil {
		w.Header().Set("Location", "/v1/orders/"+id)
	}
	h.Answer(w, r, http.StatusAccepted, AcceptedOrder{OrderId: id, Status: string(order.Pending)}, err)
}

// decided returns the outcome that a client waits for with Prefer: wait.
func (h *handlers) decided(ctx context.Context, id string) (any, bool, error) {
	o, err := cqrs.Execute(ctx, h.Queries, query.OrderByID{ID: id})
	return toOrder(o), o.Status != order.Pending, err
}

// GetOrder implements ServerInterface.
func (h *handlers) GetOrder(w http.ResponseWriter, r *http.Request, id Id) {
	o, err := h.order(r.Context(), id)
	h.Answer(w, r, http.StatusOK, toOrder(o), err)
}

func (h *handlers) order(ctx context.Context, id string) (query.Order, error) {
	if err := httpapi.CheckID("an order", id); err != nil {
		return query.Order{}, err
	}
	o, err := cqrs.Execute(ctx, h.Queries, query.OrderByID{ID: id})
	if err == nil && !cqrs.PrincipalFromContext(ctx).Owns(o.CustomerID) {
		// The answer is 404, not 403, because a customer must not learn the ids of other customers' orders.
		return query.Order{}, fmt.Errorf("%s/%s: %w", order.Category, id, cqrs.ErrNotFound)
	}
	return o, err
}

// ListOrders implements ServerInterface.
func (h *handlers) ListOrders(w http.ResponseWriter, r *http.Request, params ListOrdersParams) {
	page, err := httpapi.Page(params.Limit, params.Cursor)
	q := query.ListOrders{Page: cqrs.Page{Before: page.Before, Limit: page.Limit + 1}}
	if who := cqrs.PrincipalFromContext(r.Context()); !who.Operator {
		q.CustomerID = who.Subject
	}
	if err == nil {
		q.Status, err = httpapi.OneOf("status", params.Status, order.Pending, order.IsConfirmed, order.IsCancelled)
	}
	var rows []query.Order
	if err == nil {
		rows, err = cqrs.Execute(r.Context(), h.Queries, q)
	}
	rows, next := httpapi.More(rows, page, func(o query.Order) cqrs.Cursor { return cqrs.Cursor{At: o.PlacedAt, ID: o.ID} })
	list := OrderList{Orders: make([]Order, len(rows)), NextCursor: next}
	for i, o := range rows {
		list.Orders[i] = toOrder(o)
	}
	h.Answer(w, r, http.StatusOK, list, err)
}

// CancelOrder implements ServerInterface.
func (h *handlers) CancelOrder(w http.ResponseWriter, r *http.Request, id Id, _ CancelOrderParams) {
	err := httpapi.NoBody(w, r)
	if err == nil {
		_, err = h.order(r.Context(), id)
	}
	if err == nil {
		err = h.Cancel(r.Context(), id)
	}
	h.Answer(w, r, http.StatusAccepted, AcceptedOrder{OrderId: id, Status: string(order.Pending)}, err)
}

// GetOrderHistory implements ServerInterface.
func (h *handlers) GetOrderHistory(w http.ResponseWriter, r *http.Request, id Id) {
	_, err := h.order(r.Context(), id)
	var events []cqrs.Event
	if err == nil {
		events, err = cqrs.Execute(r.Context(), h.Queries, query.OrderHistory{ID: id})
	}
	h.Answer(w, r, http.StatusOK, httpapi.NewHistory(events), err)
}

// StreamOrder implements ServerInterface. It streams the order and its saga.
func (h *handlers) StreamOrder(w http.ResponseWriter, r *http.Request, id Id) {
	if _, err := h.order(r.Context(), id); err != nil {
		h.Fail(w, r, err)
		return
	}
	sagaID := saga.ID(fulfilment.Name, id)
	h.Follow(w, r, []string{order.Category + "/" + id, saga.Category + "/" + sagaID}, func(ctx context.Context) (httpapi.Snapshot, error) {
		state, err := h.Saga(ctx, sagaID)
		if err != nil {
			return httpapi.Snapshot{}, err
		}
		o, err := cqrs.Execute(ctx, h.Queries, query.OrderByID{ID: id})
		return httpapi.Snapshot{
			Parts:  []httpapi.Part{{Event: "order", Version: o.Version, Data: toOrder(o)}, httpapi.SagaPart(state)},
			AtRest: o.Status != order.Pending && state.Status.Ended(),
		}, err
	})
}

func toOrder(o query.Order) Order {
	out := Order{
		OrderId: o.ID, CustomerId: o.CustomerID, Status: OrderStatus(o.Status), Reason: o.Reason, Total: o.Total.Amount,
		Currency: o.Total.Currency, PlacedAt: o.PlacedAt, UpdatedAt: o.UpdatedAt, Version: o.Version, Lines: []Line{},
	}
	for _, line := range o.Lines {
		out.Lines = append(out.Lines, Line{Sku: line.SKU, Quantity: line.Quantity, UnitPrice: line.UnitPrice})
	}
	if r := o.Return; r.Status != "" {
		out.Return = toReturn(r)
	}
	return out
}
