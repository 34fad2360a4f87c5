package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cli"
	"github.com/millrace/millrace/kit/demo"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/orderreturn"
)

// returns describes the demo with --returns.
var returns = demo.Demo{
	Noun: "returns", Short: "place orders, return them with every outcome, and check that nothing was lost or done twice",
	Statuses: []string{"returned", "rejected"},
	Prepare:  stockUp,
	Task:     giveBack,
	Check:    check,
	JSON: func(r demo.Result) any {
		return returnsResult{
			Returns: r.Total, Returned: r.ByStatus["returned"], Rejected: r.ByStatus["rejected"], ByReason: r.ByReason, Seconds: demo.Round(r.Took.Seconds()),
			Books: r.Report.Sentence(), Consistent: r.Report.Consistent(),
		}
	},
}

// returnsResult is the JSON that demo --returns --json prints.
type returnsResult struct {
	Returns    int            `json:"returns"`
	Returned   int            `json:"returned"`
	Rejected   int            `json:"rejected"`
	ByReason   map[string]int `json:"by_reason"`
	Seconds    float64        `json:"seconds"`
	Books      string         `json:"books"`
	Consistent bool           `json:"consistent"`
}

type returned struct {
	ID     string `json:"order_id"`
	Status string `json:"status"`
	Return struct {
		Status string `json:"status"`
		Reason string `json:"reason"`
	} `json:"return"`
}

// giveBack places an order that is confirmed, and returns it. It acts as the customer, the warehouse and the inspector.
func giveBack(ctx context.Context, c demo.Client, n, _ int) (demo.Outcome, error) {
	lines := []line{{"MUG-01", 2, 1250}, {"TEE-02", 1, 1999}}
	var o returned
	if err := c.Do(ctx, http.MethodPost, "/v1/orders", map[string]string{"Prefer": "wait=30"}, map[string]any{"lines": lines, "currency": "EUR", "payment_method": "pm_ok"}, &o); err != nil {
		return demo.Outcome{}, err
	}
	if o.Status != string(order.IsConfirmed) {
		return demo.Outcome{}, fmt.Errorf("order %s is %s", o.ID, o.Status)
	}
	what, replace, inspection := "refunded", false, orderreturn.Inspection{Accepted: true}
	switch n % 10 {
	case 3, 4:
		what, replace = "partly replaced", true
	case 5, 6:
		what, inspection.Damaged = "refunded, the goods are damaged", true
	case 7:
		what, replace, inspection.Damaged = "partly replaced, the goods are damaged", true, true
	case 9:
		replace, inspection = true, orderreturn.Inspection{Note: "the goods are not ours"}
	}
	ask := func() error {
		back := []map[string]any{{"sku": "MUG-01", "quantity": 1 + n%2}, {"sku": "TEE-02", "quantity": 1, "replace": replace}}
		return c.Do(ctx, http.MethodPost, "/v1/orders/"+o.ID+"/return", nil, map[string]any{"lines": back}, nil)
	}
	arrive := func() error {
		return c.Do(ctx, http.MethodPost, "/v1/sandbox/warehouse/parcels/"+order.ParcelNumber(o.ID), nil, nil, nil)
	}
	steps := []func() error{ask, arrive}
	if n%4 == 1 { // the parcel arrives before the request: the saga's event is stored until the saga waits for it
		steps = []func() error{arrive, ask}
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return demo.Outcome{}, err
		}
	}
	signal := "/v1/sagas/" + saga.ID(orderreturn.Name, o.ID) + "/signals/" + orderreturn.SignalInspection
	if err := follow(ctx, o.ID, "waits for no inspection", func() (bool, error) {
		err := c.Do(ctx, http.MethodPost, signal, nil, inspection, nil)
		if status, ok := errors.AsType[*cli.StatusError](err); ok && (status.Status == http.StatusConflict || status.Status == http.StatusNotFound) {
			return false, nil // the saga does not wait for the inspector yet
		}
		return true, err
	}); err != nil {
		return demo.Outcome{}, err
	}
	err := follow(ctx, o.ID, "is still open", func() (bool, error) {
		err := c.Get(ctx, "/v1/orders/"+o.ID, &o)
		return o.Return.Status == string(order.ReturnIsClosed) || o.Return.Status == string(order.ReturnIsRejected), err
	})
	if o.Return.Reason != "" {
		what = o.Return.Reason
	}
	return demo.Outcome{Status: o.Return.Status, Reason: what}, err
}

// follow calls done until it returns true or an error, or until ctx is done.
func follow(ctx context.Context, orderID, problem string, done func() (bool, error)) error {
	err := demo.Until(ctx, 50*time.Millisecond, time.Hour, done)
	if ctx.Err() != nil {
		return fmt.Errorf("the return of order %s %s: %w", orderID, problem, ctx.Err())
	}
	return err
}
