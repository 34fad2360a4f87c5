package rename

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/millrace/millrace/kit/cqrs"
)

// A renamed service understands the headers of services with other names.
func TestHeadersOnTheWireAreNotRenamed(t *testing.T) {
	r := Renaming{Old: []string{Module}, Module: "example.com/orders", Name: "orders"}
	require.Equal(t, "orders_metric and Orders", r.Text(Name+"_metric and "+capital(Name)))
	for _, header := range []string{cqrs.HeaderSagaID, cqrs.HeaderSagaStep, cqrs.HeaderBranch, cqrs.HeaderExpires} {
		require.Equal(t, header, r.Text(header))
		require.Contains(t, headers, header)
	}
}
