package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	for name, want := range map[string]string{"AddURLToPolicy": "add_url_to_policy", "IssueInvoice": "issue_invoice", "InvoiceByID": "invoice_by_id", "A": "a"} {
		require.Equal(t, want, snake(name))
	}
	require.Equal(t, []string{"BookTrip", "TripID", "HoldSeat"}, []string{pascal("book-trip"), pascal("trip-id"), pascal("hold seat")})
	require.Equal(t, []string{"urlCheck", "issueInvoice", "id"}, []string{camel("URLCheck"), camel("IssueInvoice"), camel("ID")})
	require.Equal(t, []string{"policies", "boxes", "trips", "days"}, []string{plural("policy"), plural("box"), plural("trip"), plural("day")})
	for _, wrong := range []string{"type", "string", "Invoice", "a--b", ""} {
		require.Error(t, checkName("NAME", wrong, "x", dashed), wrong)
	}
}
