package fulfilment_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/millrace/millrace/app/command"
	"github.com/millrace/millrace/domain/inventory"
	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/domain/payment"
	"github.com/millrace/millrace/domain/shipment"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/kit/saga/sagatest"
	"github.com/millrace/millrace/sagas/fulfilment"
)

// outside is an external service that keeps its promises: each call takes effect once for an id, and not after its compensation.
type outside struct {
	world                *sagatest.Environment
	name                 string
	refusals             []string
	done, undone, secure map[string]bool
	refused              map[string]string
}

func newOutside(w *sagatest.Environment, name string, refusals ...string) *outside {
	return &outside{w, name, refusals, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]string{}}
}

func (o *outside) do(id string) (answer cqrs.CallResult, err error) {
	refusal := o.world.Choose(o.name, o.refusals...)
	err = o.world.External(o.name, func() {
		switch _, known := o.refused[id]; {
		case o.done[id], known:
		case o.undone[id]:
			o.refused[id] = "taken back before"
		case refusal > 0:
			o.refused[id] = o.refusals[refusal-1]
		default:
			o.done[id] = true
		}
		answer = cqrs.CallResult{Reference: id, Refused: o.refused[id]}
	})
	return answer, err
}

func (o *outside) undo(id string) error {
	return o.world.External("undo "+o.name, func() { o.undone[id] = true })
}

func (o *outside) standing() (n int) {
	for id := range o.done {
		if !o.undone[id] {
			n++
		}
	}
	return n
}

type provider struct{ *outside }

func (p provider) Authorise(_ context.Context, id string, _ money.Money, _ string) (cqrs.CallResult, error) {
	return p.do(id)
}

func (p provider) Void(_ context.Context, id string) error { return p.undo(id) }

func (p provider) Capture(_ context.Context, id string, _ money.Money) (answer cqrs.CallResult, err error) {
	refusal := p.world.Choose("capture", "capture refused")
	err = p.world.External("capture", func() {
		switch {
		case p.secure[id]:
		case !p.done[id] || p.undone[id] || refusal > 0:
			answer.Refused = "nothing is held"
		default:
			p.secure[id] = true
		}
	})
	return answer, err
}

// Refund implements command.Provider. This saga does not call it.
func (p provider) Refund(context.Context, string, money.Money) (cqrs.CallResult, error) {
	return cqrs.CallResult{}, nil
}

type carrier struct{ *outside }

func (c carrier) Name() string { return c.name }

func (c carrier) Book(_ context.Context, id string, _ []order.Line) (cqrs.CallResult, error) {
	return c.do(id)
}

func (c carrier) Cancel(_ context.Context, id string) error { return c.undo(id) }

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

func faults() sagatest.Faults {
	const received = 5 // an order needs two, so the stock does not suffice for three orders
	return sagatest.Faults{
		Sagas: []*saga.Saga{saga.New(fulfilment.Definition), saga.New(fulfilment.V1)},
		Runs:  5_000,
		Play: func(w *sagatest.Environment) sagatest.Play {
			orders := sagatest.NewStore(w, order.Category, order.Rebuild)
			stock := sagatest.NewStore(w, inventory.Category, inventory.Rebuild)
			money := provider{newOutside(w, "authorise", "declined")}
			first, second := carrier{newOutside(w, "carrier", "the carrier has no room", "too heavy")}, carrier{newOutside(w, "courier", "too heavy")}
			play := sagatest.Play{Handlers: command.All(command.Deps{
				Orders: orders, Stock: stock, Payments: sagatest.NewStore(w, payment.Category, payment.Rebuild),
				Shipments: sagatest.NewStore(w, shipment.Category, shipment.Rebuild), Provider: money, Carrier: first, Courier: second,
			})}
			play.Start = func(ctx context.Context, n int) error {
				if n == 0 {
					if err := w.Execute(ctx, cqrs.Command{Body: command.ReceiveStock{SKU: "A", Quantity: received}}); err != nil {
						return err
					}
				}
				return w.Execute(ctx, cqrs.Command{Body: command.PlaceOrder{
					OrderID: fmt.Sprint("o-", n), CustomerID: "c", Currency: "EUR", PaymentMethod: "pm", Lines: []order.Line{{SKU: "A", Quantity: 2, UnitPrice: 100}},
				}})
			}
			play.Check = func() error {
				confirmed := 0
				for _, id := range orders.IDs() {
					switch o := orders.Load(id); o.Status() {
					case order.IsConfirmed:
						confirmed++
						if !money.secure[id] {
							return fmt.Errorf("%s is confirmed, but not paid", id)
						}
					case order.IsCancelled:
						if money.secure[id] {
							return fmt.Errorf("%s is cancelled, but paid", id)
						}
					case order.Pending:
						return fmt.Errorf("%s is pending", id)
					}
				}
				a := stock.Load("A")
				held := money.standing() - len(money.secure)
				if a.Reserved() != 0 || a.OnHand() != received-2*int64(confirmed) || held != 0 || first.standing()+second.standing() != confirmed {
					return fmt.Errorf("confirmed %d, on hand %d, reserved %d, held %d, shipments %d and %d",
						confirmed, a.OnHand(), a.Reserved(), held, first.standing(), second.standing())
				}
				return nil
			}
			return play
		},
	}
}
