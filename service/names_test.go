package service

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// Stored names and versions never change, because stored events and messages on topics use them. Add a new name here; add a new version by hand, together
// with its upcaster.
func TestStoredNames(t *testing.T) {
	golden := map[string]int{
		"order.placed": 2, "order.confirmed": 1, "order.cancelled": 1,
		"order.return-requested": 1, "order.return-reminded": 1, "order.goods-accepted": 1, "order.goods-rejected": 1, "order.returned": 1, "order.return-rejected": 1,
		"inventory.received": 1, "inventory.reserved": 1, "inventory.rejected": 1, "inventory.released": 1, "inventory.committed": 1, "inventory.put-back": 1,
		"payment.authorised": 1, "payment.declined": 1, "payment.voided": 1, "payment.captured": 1, "payment.capture-refused": 1,
		"payment.refunded": 1, "payment.refund-refused": 1,
		"shipment.booked": 1, "shipment.refused": 1, "shipment.cancelled": 1,
	}
	current := map[string]int{}
	for _, a := range New().Aggregates {
		for _, t := range a.Types().All() {
			current[t.Name] = t.Schema
		}
	}
	require.Equal(t, golden, current)
}
