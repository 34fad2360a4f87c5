package main

import (
	"strings"
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

func TestStagesOfSteps(t *testing.T) {
	stages, err := stagesOf("hold seat + each: print ticket, until:  ask  visa,charge card, event: check in", "charge card", "trip.Booked")
	if err != nil || len(stages) != 4 || len(stages[0]) != 2 || stages[0][1] != (sagaStep{"each", "print ticket", "trip.Booked", true, false, false, true}) ||
		stages[1][0] != (sagaStep{"until", "ask visa", "trip.Booked", false, false, false, true}) || !stages[2][0].Pivot ||
		stages[3][0] != (sagaStep{"event", "check in", "trip.Booked", false, false, false, false}) {
		t.Errorf("%+v, %v", stages, err)
	}
	for steps, complaint := range map[string]string{
		"": "at least one step", "colour: x": `the kind "colour" of "x" is none of if, each`, "a": `"p" is none of --steps`, "p + a": `"p" must stand alone`, "delay: p": `"p" must stand alone`,
	} {
		if _, err := stagesOf(steps, "p", "trip.Booked"); err == nil || !strings.Contains(err.Error(), complaint) {
			t.Errorf("%s: %v", steps, err)
		}
	}
}
