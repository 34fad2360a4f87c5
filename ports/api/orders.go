package api

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
)

// maxWait bounds Prefer: wait.
const maxWait = 30 * time.Second

// orderRequest is NewOrder with what must not be missing told apart from what is zero.
type orderRequest struct {
	Lines *[]struct {
		SKU       *string `json:"sku"`
		Quantity  *int64  `json:"quantity"`
		UnitPrice *int64  `json:"unit_price"`
	} `json:"lines"`
	Currency      *string `json:"currency"`
	PaymentMethod *string `json:"payment_method"`
}

// command checks the form of the request; its rules are the order's own.
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

// PlaceOrder implements ServerInterface. The order exists when the answer is on its way: it is placed in the request's own
// transaction, together with the event that starts its saga.
func (s *Server) PlaceOrder(w http.ResponseWriter, r *http.Request, _ PlaceOrderParams) {
	var request orderRequest
	err := decode(w, r, &request)
	var id uuid.UUID
	if err == nil {
		id, err = uuid.NewV7()
	}
	var place command.PlaceOrder
	if err == nil {
		place, err = request.command(id.String(), cqrs.PrincipalOf(r.Context()).Subject)
	}
	if err == nil {
		err = s.Commands.Execute(r.Context(), cqrs.Command{Body: place})
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	w.Header().Set("Location", "/v1/orders/"+place.OrderID)
	respond(w, http.StatusAccepted, AcceptedOrder{OrderId: place.OrderID, Status: string(order.Pending)})
}

// waiting has a client that places an order wait until it is decided, if it prefers that. It waits when the order is committed.
func (s *Server) waiting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || routedOf(r.Context()).pattern != "/v1/orders" {
			next.ServeHTTP(w, r)
			return
		}
		wait, err := preferredWait(r.Header.Values("Prefer"))
		if err != nil {
			s.problem(w, r, err)
			return
		}
		if wait == 0 {
			next.ServeHTTP(w, r)
			return
		}
		answer := httpapi.NewRecorder()
		next.ServeHTTP(answer, r)
		id, placed := strings.CutPrefix(answer.Header().Get("Location"), "/v1/orders/")
		if !placed || answer.Status != http.StatusAccepted {
			answer.WriteTo(w)
			return
		}
		o, err := s.decided(r.Context(), id, wait)
		if err != nil {
			s.problem(w, r, err)
			return
		}
		answer.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait.Seconds())))
		if o.Status != order.Pending {
			answer.Body.Reset()
			respond(answer, http.StatusOK, toOrder(o))
		}
		answer.WriteTo(w)
	})
}

// preferredWait reads "wait=N" from Prefer headers (RFC 7240); other preferences are ignored, as it asks.
func preferredWait(prefer []string) (time.Duration, error) {
	for _, preference := range strings.FieldsFunc(strings.Join(prefer, ","), func(r rune) bool { return r == ',' || r == ';' }) {
		name, value, found := strings.Cut(strings.TrimSpace(preference), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "wait") || !found {
			continue
		}
		n, err := strconv.Atoi(strings.Trim(strings.TrimSpace(value), `"`))
		if err != nil || n < 0 {
			return 0, httpapi.Invalid(http.StatusBadRequest, "Prefer", "wait must be a number of seconds")
		}
		return min(time.Duration(min(n, 3600))*time.Second, maxWait), nil
	}
	return 0, nil
}

// decided waits until an order is decided, or for as long as asked, and returns it as it is then.
func (s *Server) decided(ctx context.Context, id string, wait time.Duration) (o query.Order, err error) {
	changes, stop := s.Watch(order.Category + "/" + id)
	defer stop()
	deadline := time.After(wait)
	for {
		o, err = cqrs.AskFor(ctx, s.Queries, query.OrderByID{ID: id})
		if err != nil || o.Status != order.Pending {
			return o, err
		}
		select {
		case <-changes:
		case <-time.After(pollEvery): // another instance may have decided it
		case <-deadline:
			return o, nil
		case <-s.Stopping:
			return o, nil
		case <-ctx.Done():
			return o, ctx.Err()
		}
	}
}

// pollEvery is how often somebody who waits looks for what another instance has done.
const pollEvery = 250 * time.Millisecond

// GetOrder implements ServerInterface.
func (s *Server) GetOrder(w http.ResponseWriter, r *http.Request, id Id) {
	o, err := s.order(r.Context(), id)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	respond(w, http.StatusOK, toOrder(o))
}

func (s *Server) order(ctx context.Context, id string) (query.Order, error) {
	if err := checkID("order", id); err != nil {
		return query.Order{}, err
	}
	o, err := cqrs.AskFor(ctx, s.Queries, query.OrderByID{ID: id})
	if err == nil && !cqrs.PrincipalOf(ctx).Owns(o.CustomerID) {
		// As if it were not there: whether a foreign id exists is nobody's business.
		return query.Order{}, fmt.Errorf("%s/%s: %w", order.Category, id, cqrs.ErrNotFound)
	}
	return o, err
}

// ListOrders implements ServerInterface.
func (s *Server) ListOrders(w http.ResponseWriter, r *http.Request, params ListOrdersParams) {
	p, err := page(params.Limit, params.Cursor)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	status, err := oneOf("status", params.Status, order.Pending, order.IsConfirmed, order.IsCancelled)
	if err != nil {
		s.problem(w, r, err)
		return
	}
	customer := ""
	if who := cqrs.PrincipalOf(r.Context()); !who.Operator {
		customer = who.Subject
	}
	rows, err := cqrs.AskFor(r.Context(), s.Queries, query.ListOrders{Status: status, CustomerID: customer, Page: cqrs.Page{Before: p.Before, Limit: p.Limit + 1}})
	if err != nil {
		s.problem(w, r, err)
		return
	}
	rows, next := more(rows, p, func(o query.Order) cqrs.Cursor { return cqrs.Cursor{At: o.PlacedAt, ID: o.ID} })
	list := OrderList{Orders: make([]Order, len(rows)), NextCursor: next}
	for i, o := range rows {
		list.Orders[i] = toOrder(o)
	}
	respond(w, http.StatusOK, list)
}

// CancelOrder implements ServerInterface.
func (s *Server) CancelOrder(w http.ResponseWriter, r *http.Request, id Id, _ CancelOrderParams) {
	err := httpapi.NoBody(w, r)
	if err == nil {
		_, err = s.order(r.Context(), id)
	}
	if err == nil {
		err = s.Cancel(r.Context(), id)
	}
	if err != nil {
		s.problem(w, r, err)
		return
	}
	respond(w, http.StatusAccepted, AcceptedOrder{OrderId: id, Status: string(order.Pending)})
}

// GetOrderHistory implements ServerInterface.
func (s *Server) GetOrderHistory(w http.ResponseWriter, r *http.Request, id Id) {
	_, err := s.order(r.Context(), id)
	var events []cqrs.Event
	if err == nil {
		events, err = cqrs.AskFor(r.Context(), s.Queries, query.OrderHistory{ID: id})
	}
	if err != nil {
		s.problem(w, r, err)
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
	respond(w, http.StatusOK, map[string]any{"events": history})
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
