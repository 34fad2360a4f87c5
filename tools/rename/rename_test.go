package rename

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// A renamed service imports the same kit, and understands the message headers of services with other names.
func TestNamesOfTheKitAreKept(t *testing.T) {
	r := Renaming{Old: []string{Module}, Module: "example.com/billing", Name: "billing"}
	require.Equal(t, "billing-metric and Billing in example.com/billing/app", r.Text(Name+"-metric and "+capital(Name)+" in "+Module+"/app"))
	afterGonew := Renaming{Old: []string{"example.com/x", Module}, Module: "example.com/billing", Name: "billing"}
	require.Equal(t, `"github.com/millrace/millrace/kit/cqrs" "example.com/billing/app" "example.com/billing/kitchen"`,
		afterGonew.Text(`"example.com/x/kit/cqrs" "example.com/x/app" "example.com/x/kitchen"`))
	for _, name := range append([]string{cqrs.HeaderSagaID, cqrs.HeaderSagaStep, cqrs.HeaderBranch, cqrs.HeaderExpires, "__Host-millrace_token",
		"rate(millrace_saga_seconds_count[1m])", "github.com/millrace/millrace/kit/cqrs"}, kept...) {
		require.Equal(t, name, r.Text(name))
	}
}
