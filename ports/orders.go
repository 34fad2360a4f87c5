package ports

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/fulfilment"
)

// orderRequest is NewOrder with pointers, which tell a missing field from a zero.
type orderRequest struct {
	Lines *[]struct {
		SKU       *string `json:"sku"`
		Quantity  *int64  `json:"quantity"`
		UnitPrice *int64  `json:"unit_price"`
	} `json:"lines"`
	Currency      *string `json:"currency"`
	PaymentMethod *string `json:"payment_method"`
}

// command checks the form of the request. The rules are in the aggregate.
func (q orderRequest) command(id, customer string) (command.PlaceOrder, error) {
	c := command.PlaceOrder{OrderID: id, CustomerID: customer}
	var missing []httpapi.FieldError
	require := func(field string, present bool) {
		if !present {
			missing = append(missing, httpapi.FieldError{Field: field, Message: "is missing"})
		}
	}
	require("lines", q.Lines != nil)
	require("currency", q.Currency != nil)
	require("payment_method", q.PaymentMethod != nil)
	if q.Lines != nil {
		for i, line := range *q.Lines {
			at := fmt.Sprintf("lines[%d].", i)
			require(at+"sku", line.SKU != nil)
			require(at+"quantity", line.Quantity != nil)
			require(at+"unit_price", line.UnitPrice != nil)
			if len(missing) > 0 {
				break
			}
			c.Lines = append(c.Lines, order.Line{SKU: *line.SKU, Quantity: *line.Quantity, UnitPrice: *line.UnitPrice})
		}
	}
	if len(missing) > 0 {
		return c, &httpapi.RequestError{Status: http.StatusBadRequest, Detail: missing[0].Field + ": is missing", Fields: missing}
	}
	c.Currency, c.PaymentMethod = *q.Currency, *q.PaymentMethod
	if err := checkMethod(c.PaymentMethod); err != nil {
		return c, err
	}
	return c, nil
}

func checkMethod(method string) error {
	if method == "" || len(method) > 64 || strings.ContainsFunc(method, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return httpapi.Invalid(http.StatusUnprocessableEntity, "payment_method", "must be 1 to 64 printable characters")
	}
	return nil
}

// PlaceOrder implements ServerInterface. The order is placed in the transaction of the request, together with the event that starts its saga,
// so the order exists before the client has the answer.
func (h *handlers) PlaceOrder(w http.ResponseWriter, r *http.Request, _ PlaceOrderParams) {
	var request orderRequest
	err := httpapi.Decode(w, r, &request)
	var id uuid.UUID
	if err == nil {
		id, err = uuid.NewV7()
	}
	var place command.PlaceOrder
	if err == nil {
		place, err = request.command(id.String(), cqrs.PrincipalFromContext(r.Context()).Subject)
	}
	if err == nil {
		err = h.Commands.Execute(r.Context(), cqrs.Command{Body: place})
	}
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	w.Header().Set("Location", "/v1/orders/"+place.OrderID)
	httpapi.Respond(w, http.StatusAccepted, AcceptedOrder{OrderId: place.OrderID, Status: string(order.Pending)})
}

// decided is the outcome that a client waits for with Prefer: wait.
func (h *handlers) decided(ctx context.Context, id string) (any, bool, error) {
	o, err := cqrs.Execute(ctx, h.Queries, query.OrderByID{ID: id})
	return toOrder(o), o.Status != order.Pending, err
}

// GetOrder implements ServerInterface.
func (h *handlers) GetOrder(w http.ResponseWriter, r *http.Request, id Id) {
	o, err := h.order(r.Context(), id)
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	httpapi.Respond(w, http.StatusOK, toOrder(o))
}

func (h *handlers) order(ctx context.Context, id string) (query.Order, error) {
	if err := httpapi.CheckID("an order", id); err != nil {
		return query.Order{}, err
	}
	o, err := cqrs.Execute(ctx, h.Queries, query.OrderByID{ID: id})
	if err == nil && !cqrs.PrincipalFromContext(ctx).Owns(o.CustomerID) {
		// 404, not 403: a customer must not learn which ids of other customers exist.
		return query.Order{}, fmt.Errorf("%s/%s: %w", order.Category, id, cqrs.ErrNotFound)
	}
	return o, err
}

// ListOrders implements ServerInterface.
func (h *handlers) ListOrders(w http.ResponseWriter, r *http.Request, params ListOrdersParams) {
	p, err := httpapi.Page(params.Limit, params.Cursor)
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	status, err := httpapi.OneOf("status", params.Status, order.Pending, order.IsConfirmed, order.IsCancelled)
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	customer := ""
	if who := cqrs.PrincipalFromContext(r.Context()); !who.Operator {
		customer = who.Subject
	}
	rows, err := cqrs.Execute(r.Context(), h.Queries, query.ListOrders{Status: status, CustomerID: customer, Page: cqrs.Page{Before: p.Before, Limit: p.Limit + 1}})
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	rows, next := httpapi.More(rows, p, func(o query.Order) cqrs.Cursor { return cqrs.Cursor{At: o.PlacedAt, ID: o.ID} })
	list := OrderList{Orders: make([]Order, len(rows)), NextCursor: next}
	for i, o := range rows {
		list.Orders[i] = toOrder(o)
	}
	httpapi.Respond(w, http.StatusOK, list)
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
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	httpapi.Respond(w, http.StatusAccepted, AcceptedOrder{OrderId: id, Status: string(order.Pending)})
}

// GetOrderHistory implements ServerInterface.
func (h *handlers) GetOrderHistory(w http.ResponseWriter, r *http.Request, id Id) {
	_, err := h.order(r.Context(), id)
	var events []cqrs.Event
	if err == nil {
		events, err = cqrs.Execute(r.Context(), h.Queries, query.OrderHistory{ID: id})
	}
	if err != nil {
		h.Fail(w, r, err)
		return
	}
	type event struct {
		Version int       `json:"version"`
		Type    string    `json:"type"`
		At      time.Time `json:"at"`
		Data    any       `json:"data"`
	}
	history := make([]event, len(events))
	for i, e := range events {
		history[i] = event{e.Meta.Version, e.Meta.Type, e.Meta.Time, e.Body}
	}
	httpapi.Respond(w, http.StatusOK, map[string]any{"events": history})
}

// StreamOrder implements ServerInterface: the order and its saga.
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
	return out
}
