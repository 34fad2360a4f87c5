package pages

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/query"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/httpapi"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/manager"
	"github.com/millrace/millrace/sagas/fulfilment"
	"github.com/millrace/millrace/sagas/orderreturn"
)

// service has one order in yen whose saga has not started.
type service struct {
	cqrs.Commands

	placed    []command.PlaceOrder
	cancelled []string
	returned  []command.RequestReturn
	arrived   []string
	sandbox   bool
}

func (s *service) Execute(_ context.Context, c cqrs.Command) error {
	if c, ok := c.Body.(command.RequestReturn); ok {
		s.returned = append(s.returned, c)
		return nil
	}
	s.placed = append(s.placed, c.Body.(command.PlaceOrder))
	return nil
}

func (s *service) do(t *testing.T, method, path, form string) *httptest.ResponseRecorder {
	t.Helper()
	o := query.Order{ID: "o-1", CustomerID: "ada", Status: order.IsConfirmed, Total: money.Money{Amount: 700, Currency: "JPY"}, PlacedAt: time.Unix(1, 0), Lines: []order.Line{{SKU: "MUG-01", Quantity: 2}, {SKU: "TEE-02", Quantity: 1}}}
	if len(s.returned) > 0 {
		o.Return = order.Return{Status: order.ReturnIsRequested, ParcelNumber: "R-o-1", Lines: s.returned[0].Lines, Refund: money.Money{Amount: 300, Currency: "JPY"}}
	}
	p := Pages{
		Commands: s, Sandbox: s.sandbox, Cancel: func(_ context.Context, id string) error { s.cancelled = append(s.cancelled, id); return nil },
		Counts: func(_ context.Context, limit int) (map[order.Status]int, error) {
			return map[order.Status]int{order.Pending: limit, order.IsConfirmed: 3}, nil
		},
		Queries: cqrs.NewQueries([]cqrs.QueryHandler{
			cqrs.HandleQuery("ListOrders", func(context.Context, query.ListOrders) ([]query.Order, error) { return []query.Order{o}, nil }),
			cqrs.HandleQuery("OrderByID", func(_ context.Context, q query.OrderByID) (query.Order, error) {
				if q.ID != o.ID {
					return query.Order{}, cqrs.ErrNotFound
				}
				return o, nil
			}),
			cqrs.HandleQuery("OrderHistory", func(context.Context, query.OrderHistory) ([]cqrs.Event, error) { return nil, nil }),
			cqrs.HandleQuery("SagaHistory", func(context.Context, manager.History) ([]cqrs.Event, error) { return nil, cqrs.ErrNotFound }),
		}),
	}
	if s.sandbox {
		p.ParcelArrived = func(_ context.Context, number string) error { s.arrived = append(s.arrived, number); return nil }
	}
	h, err := (&opsui.Server{
		Extension: p.Extension(), Queries: p.Queries, Log: slog.New(slog.DiscardHandler), Streams: &httpapi.Streams{}, Stopping: t.Context().Done(),
		Totals: func() opsui.Totals { return opsui.Totals{} }, Ready: func(context.Context) []cqrs.Check { return nil }, Breakers: func() []cqrs.Breaker { return nil },
		Counts: func(context.Context) (opsui.Counts, error) { return opsui.Counts{}, nil }, Outbox: func(context.Context) (cqrs.Backlog, error) { return cqrs.Backlog{}, nil },
	}).Handler()
	require.NoError(t, err)
	r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(form))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestPagesRender(t *testing.T) {
	for path, shows := range map[string]string{
		"/ui/orders": "700 JPY", "/ui/orders/o-1": "The saga has not started yet", "/ui/": "more than 10000",
	} {
		w := (&service{sandbox: true}).do(t, http.MethodGet, path, "")
		require.Equal(t, http.StatusOK, w.Code, path)
		require.Contains(t, w.Body.String(), shows, path)
	}
	require.Equal(t, http.StatusNotFound, (&service{}).do(t, http.MethodGet, "/ui/orders/o-2", "").Code)
}

func TestPagesWithoutSandbox(t *testing.T) {
	s := &service{}
	require.NotContains(t, s.do(t, http.MethodGet, "/ui/orders", "").Body.String(), "outcome")
	s.do(t, http.MethodPost, "/ui/orders", "quantity=1&outcome=confirmed")
	require.Empty(t, s.placed[0].PaymentMethod, "outcomes are those of the sandbox; the order refuses to have no method")
	require.Equal(t, http.StatusSeeOther, s.do(t, http.MethodPost, "/ui/orders", "quantity=2&sku=TEE-02&payment_method=card").Code)
	require.Equal(t, "TEE-02", s.placed[1].Lines[0].SKU)
}

func TestActions(t *testing.T) {
	s := &service{sandbox: true}
	require.Equal(t, http.StatusSeeOther, s.do(t, http.MethodPost, "/ui/orders", "quantity=1&outcome=declined").Code)
	require.Equal(t, "pm_declined", s.placed[0].PaymentMethod)
	require.Equal(t, http.StatusUnprocessableEntity, s.do(t, http.MethodPost, "/ui/orders", "quantity=x&outcome=declined").Code)
	s.do(t, http.MethodPost, "/ui/orders/o-1/cancel", "")
	require.Empty(t, s.cancelled, "cancelling needs a confirmation")
	s.do(t, http.MethodPost, "/ui/orders/o-1/cancel", "sure=yes")
	require.Equal(t, []string{"o-1"}, s.cancelled)
}

func TestReturnOnThePage(t *testing.T) {
	s := &service{sandbox: true}
	page := func() string { return s.do(t, http.MethodGet, "/ui/orders/o-1", "").Body.String() }
	require.Contains(t, page(), "Request the return")
	require.Equal(t, http.StatusUnprocessableEntity, s.do(t, http.MethodPost, "/ui/orders/o-1/return", "sku=MUG-01").Code, "no quantity")
	require.Equal(t, http.StatusSeeOther, s.do(t, http.MethodPost, "/ui/orders/o-1/return", "sku=MUG-01&quantity=0&sku=TEE-02&quantity=1&replace+TEE-02=yes&replace+MUG-01=yes").Code)
	require.Equal(t, []command.RequestReturn{{OrderID: "o-1", Lines: []order.ReturnLine{{Line: order.Line{SKU: "TEE-02", Quantity: 1}, Replace: true}}}}, s.returned)
	for _, shows := range []string{"R-o-1", "300 JPY", "to be replaced", "/ui/sagas/" + saga.ID(orderreturn.Name, "o-1"), "the parcel arrives"} {
		require.Contains(t, page(), shows)
	}
	require.NotContains(t, page(), "Request the return")
	s.do(t, http.MethodPost, "/ui/orders/o-1/parcel", "")
	require.Equal(t, []string{"R-o-1"}, s.arrived)

	s.sandbox = false
	require.NotContains(t, page(), "the parcel arrives")
	require.Equal(t, http.StatusNotFound, s.do(t, http.MethodPost, "/ui/orders/o-1/parcel", "").Code)
}

func TestSubjectOfASaga(t *testing.T) {
	noun, address := subject(saga.State{Definition: fulfilment.Name, Subject: "o-1"})
	require.Equal(t, "order /ui/orders/o-1", noun+" "+address)
	_, address = subject(saga.State{Definition: orderreturn.Name, Subject: "o-1"})
	require.Equal(t, "/ui/orders/o-1", address)
	_, address = subject(saga.State{Definition: "lending", Subject: "b-1"})
	require.Empty(t, address)
}
