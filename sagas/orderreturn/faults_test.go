package orderreturn_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/app/external"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
	"github.com/millrace/millrace/sagas/orderreturn"
)

// outside is the payment provider and the carrier. Each call takes effect once for an id.
type outside struct {
	world    *sagatest.Environment
	refunded map[string]int64
	shipped  map[string]int64 // quantity by shipment
}

func (o outside) Refund(_ context.Context, id string, amount money.Money) (cqrs.CallResult, error) {
	return cqrs.CallResult{Reference: id}, o.world.External("refund", func() { o.refunded[id] = amount.Amount })
}

func (o outside) Book(_ context.Context, id string, lines []order.Line) (cqrs.CallResult, error) {
	return cqrs.CallResult{Reference: id}, o.world.External("carrier", func() { o.shipped[id] = lines[0].Quantity })
}

// provider and carrier have methods that this saga does not call.
type (
	provider struct {
		command.Provider
		outside
	}
	carrier struct {
		command.Carrier
		outside
	}
)

func (p provider) Refund(ctx context.Context, id string, amount money.Money) (cqrs.CallResult, error) {
	return p.outside.Refund(ctx, id, amount)
}

func (c carrier) Name() string { return "carrier" }

func (c carrier) Book(ctx context.Context, id string, lines []order.Line) (cqrs.CallResult, error) {
	return c.outside.Book(ctx, id, lines)
}

// inspect sends the signal of an inspector.
type inspect struct {
	OrderID    string
	Inspection orderreturn.Inspection
}

func (c inspect) Key() string { return c.OrderID }

// The invariants hold after every fault.
func TestFaults(t *testing.T) { faults().Run(t) }

// After any sequence of answers that are repeated, reordered, late or missing, the invariants hold. Each byte is a choice.
func FuzzFaults(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0, 1, 2, 0, 3, 0, 0, 4})
	f.Fuzz(func(t *testing.T, choices []byte) {
		list := make([]int, len(choices))
		for i, c := range choices {
			list[i] = int(c)
		}
		if err := faults().Replay(list); err != nil {
			t.Fatal(err)
		}
	})
}

const (
	received = 10
	tees     = 5 // three orders of one, and two replacements: not enough for all
	day      = 24 * time.Hour
)

// world is the state of one run.
type world struct {
	*sagatest.Environment
	orders   *sagatest.Store[*order.Order, order.Event]
	stock    *sagatest.Store[*inventory.Stock, inventory.Event]
	payments *sagatest.Store[*payment.Payment, payment.Event]
	outside
}

func faults() sagatest.Faults {
	return sagatest.Faults{
		Sagas: []*saga.Saga{saga.New(orderreturn.Definition)},
		Runs:  2_000,
		Play: func(e *sagatest.Environment) sagatest.Play {
			w := &world{
				e, sagatest.NewStore(e, order.Category, order.Rebuild), sagatest.NewStore(e, inventory.Category, inventory.Rebuild),
				sagatest.NewStore(e, payment.Category, payment.Rebuild), outside{e, map[string]int64{}, map[string]int64{}},
			}
			handlers := command.All(command.Deps{
				Orders: w.orders, Stock: w.stock, Payments: w.payments, Shipments: sagatest.NewStore(e, shipment.Category, shipment.Rebuild),
				Provider: provider{outside: w.outside}, Carrier: carrier{outside: w.outside}, Courier: carrier{outside: w.outside},
			})
			inspector := cqrs.WithDestination("inspections", cqrs.ForAggregate(order.Category, cqrs.Handle("Inspect", func(ctx context.Context, c inspect) error {
				err := w.Signal(ctx, saga.ID(orderreturn.Name, c.OrderID), orderreturn.SignalInspection, c.Inspection)
				if errors.Is(err, saga.ErrNotAwaited) || errors.Is(err, cqrs.ErrNotFound) { // the signal is too early or too late
					return nil
				}
				return err
			})))
			return sagatest.Play{Handlers: append(handlers, inspector...), Start: w.start, Check: w.check}
		},
	}
}

// start places an order, which is confirmed, and requests its return. The parcel and the inspection are early, in time, late, or missing.
func (w *world) start(ctx context.Context, n int) error {
	id := fmt.Sprint("o-", n)
	lines := []order.Line{{SKU: "A", Quantity: 2, UnitPrice: 100}, {SKU: "B", Quantity: 1, UnitPrice: 70}}
	total := money.Money{Amount: 270, Currency: "EUR"}
	commands := []any{
		command.PlaceOrder{OrderID: id, CustomerID: "c", Currency: "EUR", PaymentMethod: "pm", Lines: lines},
		command.ReserveStock{OrderID: id, Lines: lines}, command.CommitStock{OrderID: id, Lines: lines}, command.ConfirmOrder{OrderID: id},
		command.RequestReturn{OrderID: id, Lines: []order.ReturnLine{{Line: lines[0], Replace: n == 1}, {Line: lines[1], Replace: n < 3}}},
	}
	if n == 0 {
		commands = append([]any{command.ReceiveStock{SKU: "A", Quantity: received}, command.ReceiveStock{SKU: "B", Quantity: tees}}, commands...)
	}
	for _, c := range commands {
		if err := w.Execute(ctx, cqrs.Command{Body: c}); err != nil {
			return err
		}
	}
	if err := w.payments.Update(ctx, id, func(p *payment.Payment) error {
		if err := p.Authorise(id, id, total, ""); err != nil {
			return err
		}
		return p.Capture(id, id, total)
	}); err != nil {
		return err
	}
	parcel := []time.Duration{day, 0, 12 * day, 20 * day, -1}[w.Choose("parcel", "before the saga waits for it", "after the reminder", "too late", "never")]
	if parcel >= 0 {
		w.Arrive(external.ParcelArrived{ParcelNumber: "R-" + id}, parcel)
	}
	said := []orderreturn.Inspection{{Accepted: true}, {Accepted: true, Damaged: true}, {Note: "not ours"}}[w.Choose("inspection", "damaged", "not accepted")]
	at := w.Now().Add(parcel + []time.Duration{day, 0, 9 * day}[w.Choose("inspector", "too early", "too late")])
	return w.Send(ctx, cqrs.Command{Body: inspect{id, said}, DueAt: at})
}

func (w *world) check() error {
	left := map[string]int64{"A": received, "B": tees}
	shipments := 0
	for _, id := range w.orders.IDs() {
		r, captured, refunded := w.orders.Load(id).Return(), int64(270), w.payments.Load(id).RefundedAmount()
		left["A"], left["B"] = left["A"]-2, left["B"]-1
		switch r.Status {
		case order.ReturnIsClosed:
			for _, line := range r.Lines {
				if !r.Damaged {
					left[line.SKU] += line.Quantity
				}
				if line.Replace {
					left[line.SKU] -= line.Quantity
					shipments++
					if w.shipped["replacement-"+id+"-"+line.SKU] != line.Quantity {
						return fmt.Errorf("%s: %s is not replaced", id, line.SKU)
					}
				}
			}
			captured -= r.Refund.Amount
		case order.ReturnIsRejected:
			if r.Reason == "" {
				return fmt.Errorf("%s: rejected without a reason", id)
			}
		case order.ReturnIsRequested, order.ReturnIsAccepted:
			return fmt.Errorf("%s: the return is %s", id, r.Status)
		}
		if captured != 270-refunded || refunded != w.refunded[id] {
			return fmt.Errorf("%s: the return is %s, recorded as refunded %d, refunded %d", id, r.Status, refunded, w.refunded[id])
		}
	}
	for sku, n := range left {
		if s := w.stock.Load(sku); s.OnHand() != n || s.Reserved() != 0 {
			return fmt.Errorf("%s: %d on hand, not %d, %d reserved", sku, s.OnHand(), n, s.Reserved())
		}
	}
	if shipments != len(w.shipped) {
		return fmt.Errorf("%d replacements, but %d shipments", shipments, len(w.shipped))
	}
	return nil
}
