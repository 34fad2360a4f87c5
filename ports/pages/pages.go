// Package pages has the pages of this service, a file each. Package opsui of the kit serves them, beside its own pages.
package pages

import (
	"context"
	"embed"
	"fmt"
	"html/template"
	"io/fs"

	"github.com/bojanz/currency"

	"github.com/millrace/millrace/domain/money"
	"github.com/millrace/millrace/domain/order"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/opsui"
	"github.com/millrace/millrace/kit/saga"
	"github.com/millrace/millrace/sagas/fulfilment"
)

//go:embed templates
var files embed.FS

// Pages is what the pages read and call.
type Pages struct {
	Commands cqrs.Commands
	Queries  *cqrs.Queries
	Sagas    []*saga.Saga // the registered definitions

	// Cancel requests the compensation of an order's saga.
	Cancel func(ctx context.Context, orderID string) error

	// Counts counts the orders of each status, up to a limit.
	Counts func(ctx context.Context, limit int) (map[order.Status]int, error)

	// Sandbox are the simulated services. Empty if no sandbox runs: then there is no page for it.
	Sandbox []SandboxService
}

// Extension registers the pages.
func (p Pages) Extension() (opsui.Extension, error) {
	templates, err := fs.Sub(files, "templates")
	x := opsui.Extension{
		Templates: templates,
		Functions: template.FuncMap{"amount": amount},
		Pages: []opsui.Page{
			p.orders(), p.order(),
		},
		Actions: map[string]opsui.Action{
			"/ui/orders":             {Do: p.placeOrder},
			"/ui/orders/{id}/cancel": p.cancelOrder(),
		},
		Subject:  subject,
		Counts:   p.counts,
		Statuses: map[string]opsui.Tone{string(order.Pending): opsui.ToneActive, string(order.IsConfirmed): opsui.ToneGood, string(order.IsCancelled): opsui.ToneUndone},
	}
	if len(p.Sandbox) > 0 {
		x.Pages = append(x.Pages, p.sandbox())
		x.Actions["/ui/sandbox/{service}"] = opsui.Action{Do: p.setFaults}
	}
	return x, err
}

// subject links a saga to its order.
func subject(state saga.State) (noun, address string) {
	if state.Definition == fulfilment.Name {
		return "order", "/ui/orders/" + state.Subject
	}
	return "", ""
}

// counts are the figures of the overview.
func (p Pages) counts(ctx context.Context) ([]opsui.Group, error) {
	orders, err := p.Counts(ctx, opsui.MaxCount+1)
	group := opsui.Group{Title: "Orders"}
	for _, status := range statuses {
		group.Of = append(group.Of, opsui.Tally{Name: string(status), N: orders[status], Address: "/ui/orders?status=" + string(status)})
	}
	return []opsui.Group{group}, err
}

// amount formats minor units with the decimals that ISO 4217 gives the currency: 12.50 EUR, 1250 JPY, 1.250 KWD. The domain accepts codes
// that are not in use; their decimals are unknown.
func amount(m money.Money) string {
	a, err := currency.NewAmountFromInt64(m.Amount, m.Currency)
	if err != nil {
		return fmt.Sprintf("%d %s (minor units)", m.Amount, m.Currency)
	}
	return a.String()
}
