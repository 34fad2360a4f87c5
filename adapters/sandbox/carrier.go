package sandbox

import (
	"net/http"
	"time"
)

// Carrier plays a carrier. It refuses the SKU HEAVY-99.
type Carrier struct {
	service
	name      string
	ledger    CarrierLedger
	shipments map[string]*sandboxShipment
}

// CarrierLedger counts what took effect.
type CarrierLedger struct {
	Booked    int64 `json:"booked"`
	Cancelled int64 `json:"cancelled"`
	Calls     int64 `json:"calls"`
	Repeats   int64 `json:"repeats"` // calls that changed nothing, because an earlier one had done so
}

type sandboxShipment struct {
	booked, cancelled bool
	refused           string
}

func newCarrier(name string) *Carrier {
	c := &Carrier{name: name, shipments: map[string]*sandboxShipment{}}
	c.apply = c.effect
	return c
}

// Ledger returns the counts.
func (c *Carrier) Ledger() CarrierLedger {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.ledger
	l.Calls, l.Repeats = c.calls, c.repeats
	return l
}

func (c *Carrier) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /bookings", c.serve(c.book))
	mux.HandleFunc("POST /cancellations", c.serve(c.cancel))
	return mux
}

type shipmentCall struct {
	ShipmentID string `json:"shipment_id"`
	Lines      []struct {
		SKU string `json:"sku"`
	} `json:"lines"`
}

func (c *Carrier) book(r *http.Request, refuse bool) (answer, int, time.Duration, error) {
	call, err := read[shipmentCall](r)
	if err != nil {
		return bad(err)
	}
	e := entry{Op: "book", ID: call.ShipmentID}
	if refuse {
		e.Refused = "the " + c.name + " has no room"
	}
	for _, line := range call.Lines {
		if line.SKU == "HEAVY-99" {
			e.Refused = "too heavy for the " + c.name
		}
	}
	if err := c.record(e); err != nil {
		return answer{}, 0, 0, err
	}
	if reason := c.shipments[e.ID].refused; reason != "" {
		return answer{Reason: reason}, http.StatusUnprocessableEntity, 0, nil
	}
	return answer{Reference: "track-" + e.ID}, http.StatusOK, 0, nil
}

func (c *Carrier) cancel(r *http.Request, _ bool) (answer, int, time.Duration, error) {
	call, err := read[shipmentCall](r)
	if err != nil {
		return bad(err)
	}
	if err := c.record(entry{Op: "cancel", ID: call.ShipmentID}); err != nil {
		return answer{}, 0, 0, err
	}
	return answer{Reference: "cancel-" + call.ShipmentID}, http.StatusOK, 0, nil
}

func (c *Carrier) effect(e entry) {
	known, repeated := c.shipments[e.ID]
	if !repeated {
		known = &sandboxShipment{}
		c.shipments[e.ID] = known
	}
	switch e.Op {
	case "book":
		switch {
		case repeated:
			c.repeats++
			if known.cancelled && known.refused == "" {
				known.refused = "cancelled"
			}
		case e.Refused != "":
			known.refused = e.Refused
		default:
			known.booked = true
			c.ledger.Booked++
		}
	case "cancel":
		if known.cancelled {
			c.repeats++
		}
		if known.booked {
			c.ledger.Cancelled++
		}
		// A cancellation of what was never booked bars it: the booking may still be on its way.
		known.cancelled, known.booked = true, false
	}
}
