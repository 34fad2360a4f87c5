package sandbox_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"

	"github.com/millrace/millrace/kit/httpclient"
	"github.com/millrace/millrace/kit/sandbox"
)

type seat struct {
	Trip  string `json:"trip"`
	Class string `json:"class"`
}

// An airline books a seat once, refuses the third class, and books nothing for a trip that was cancelled.
func Example() {
	airline := sandbox.New("airline", func(s seat) string { return s.Trip }, []string{"booked"},
		sandbox.Operation[seat]{
			Name: "book", Path: "/bookings", Reference: "ticket-", Barred: "cancelled",
			Decide: func(s seat, _ sandbox.Effects) (d sandbox.Decision) {
				if s.Class == "third" {
					d.Refused = "there is no third class"
				}
				return d
			},
			Count: func(l sandbox.Ledger, _ int64, _ sandbox.Effects) { l["booked"]++ },
		},
		sandbox.Operation[seat]{
			Name: "cancel", Path: "/cancellations", Reference: "cancelled-", Undoes: "book",
			Count: func(l sandbox.Ledger, _ int64, _ sandbox.Effects) { l["booked"]-- },
		},
	)
	dir, err := os.MkdirTemp("", "sandbox")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	box, err := sandbox.Open(dir, airline)
	if err != nil {
		panic(err)
	}
	defer box.Close()
	server := httptest.NewServer(box.Handler())
	defer server.Close()

	client, ctx := httpclient.New(server.URL+"/airline"), context.Background()
	for _, call := range []struct {
		path string
		seat seat
	}{
		{"/bookings", seat{"t1", "first"}},
		{"/bookings", seat{"t1", "first"}},
		{"/bookings", seat{"t2", "third"}},
		{"/cancellations", seat{"t3", ""}},
		{"/bookings", seat{"t3", "first"}},
	} {
		answer, err := client.Post(ctx, call.path, call.seat.Trip, call.seat, false)
		fmt.Println(call.path, answer.Reference+answer.Refused, err)
	}
	fmt.Println("booked:", airline.Ledger()["booked"])
	// Output:
	// /bookings ticket-t1 <nil>
	// /bookings ticket-t1 <nil>
	// /bookings there is no third class <nil>
	// /cancellations cancelled-t3 <nil>
	// /bookings cancelled <nil>
	// booked: 1
}
