package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/aggregate"
	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// Duration is a duration whose JSON is a text such as "2s".
type Duration time.Duration

// UnmarshalJSON implements json.Unmarshaler.
func (d *Duration) UnmarshalJSON(text []byte) error {
	var s string
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	parsed, err := time.ParseDuration(s)
	*d = Duration(parsed)
	return err
}

// MarshalJSON implements json.Marshaler.
func (d Duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// Behaviour is what the participant of one booking does.
type Behaviour struct {
	Takes   Duration `json:"takes"`
	Refused string   `json:"refused,omitempty"` // the reason; empty: it accepts
}

// RequestTrip starts a trip. Bookings have the behaviours of the seat, the room and the car.
type RequestTrip struct {
	ID         string               `json:"id"`
	Luggage    bool                 `json:"luggage"`
	CoolingOff Duration             `json:"cooling_off"`
	VisaChecks int                  `json:"visa_checks"` // the number of checks until it is granted
	Travellers int                  `json:"travellers"`  // each gets a ticket
	Hotel      bool                 `json:"hotel"`       // is booked by a saga of its own
	Documents  bool                 `json:"documents"`   // must arrive
	Bookings   map[string]Behaviour `json:"bookings"`
}

// The other commands.
type (
	ChargeCard  struct{ ID string }
	ConfirmTrip struct{ ID string }
	CancelTrip  struct{ ID, Reason string }

	Hold struct {
		Trip, Name string
		Behaviour  Behaviour
	}
	Release   struct{ Trip, Name string }
	CheckVisa struct {
		Trip   string
		Checks int
	}
	IssueTicket struct {
		Trip   string
		Number int
	}

	// DeliverDocuments says that a letter has come, which names its trip.
	DeliverDocuments struct {
		Letter string `json:"letter"`
		Trip   string `json:"trip"`
	}
	// TakeNap starts a saga that only waits.
	TakeNap struct {
		ID  string   `json:"id"`
		For Duration `json:"for"`
	}
	WakeUp            struct{ ID string }
	RemindOfDocuments struct{ Trip string }
	SendItinerary     struct{ Trip string }
)

// Key says which messages keep their order.
func (c RequestTrip) Key() string       { return c.ID }
func (c ChargeCard) Key() string        { return c.ID }
func (c ConfirmTrip) Key() string       { return c.ID }
func (c CancelTrip) Key() string        { return c.ID }
func (c Hold) Key() string              { return c.Trip + "." + c.Name }
func (c Release) Key() string           { return c.Trip + "." + c.Name }
func (c CheckVisa) Key() string         { return c.Trip + ".visa" }
func (c DeliverDocuments) Key() string  { return c.Letter }
func (c TakeNap) Key() string           { return c.ID }
func (c WakeUp) Key() string            { return c.ID }
func (c RemindOfDocuments) Key() string { return c.Trip + ".reminder" }
func (c SendItinerary) Key() string     { return c.Trip + ".itinerary" }
func (c IssueTicket) Key() string       { return fmt.Sprintf("%s.ticket-%d", c.Trip, c.Number) }

// The events.
type (
	TripRequested RequestTrip
	CardCharged   struct{}
	TripConfirmed struct{}
	TripCancelled struct{ Reason string }

	Held         struct{ Name string }
	Refused      struct{ Reason string }
	Released     struct{ Name string }
	VisaChecked  struct{ Granted bool }
	TicketIssued struct{ Number int }

	DocumentsDelivered struct{ Trip string }
	NapTaken           TakeNap
	WokenUp            struct{}
	Reminded           struct{}
	ItinerarySent      struct{}

	// HotelWanted starts the saga of a hotel.
	HotelWanted struct{ Trip TripRequested }
)

// Trip is the data of an instance of the saga.
type Trip struct {
	Request TripRequested
	Granted bool
	Nights  int
	Note    string

	Traveller int // that a ticket is issued for, from 1
}

// Approval is the payload of the signal.
type Approval struct {
	Accepted bool   `json:"accepted"`
	Nights   int    `json:"nights"`
	Note     string `json:"note"`
}

// Validate refuses an approval that a saga cannot use.
func (a Approval) Validate() error {
	if a.Nights < 1 {
		return aggregate.InField("nights", errors.New("must be at least 1"))
	}
	return nil
}

// hold is a step that holds a seat, a room or the like.
func hold(name string) saga.Step[Trip] {
	return saga.Step[Trip]{
		Name: "hold " + name, Timeout: 30 * time.Second,
		Action:       func(t Trip) cqrs.Keyed { return Hold{t.Request.ID, name, t.Request.Bookings[name]} },
		Completed:    saga.Event[Held, Trip](),
		Refused:      []saga.Refusal{saga.RefusedBy(func(e Refused) string { return e.Reason })},
		Compensation: func(t Trip) cqrs.Keyed { return Release{t.Request.ID, name} },
		Compensated:  saga.Event[Released, Trip](),
	}
}

var definition = saga.Definition[Trip]{
	Name: "trip", Version: 1,
	Start: saga.On(func(t *Trip, e TripRequested) { t.Request = e }),
	Steps: []saga.Step[Trip]{
		{Parallel: []saga.Step[Trip]{hold("seat"), hold("room"), hold("car")}},
		insurance(),
		hotel(),
		documents(),
		{Name: "cooling off", Delay: func(t Trip) time.Duration { return time.Duration(t.Request.CoolingOff) }},
		{
			Name: "check visa", Timeout: 10 * time.Second,
			Action:    func(t Trip) cqrs.Keyed { return CheckVisa{t.Request.ID, t.Request.VisaChecks} },
			Completed: saga.On(func(t *Trip, e VisaChecked) { t.Granted = e.Granted }),
			Until:     &saga.Until[Trip]{Holds: func(t Trip) bool { return t.Granted }, Every: 300 * time.Millisecond, Attempts: 10},
		},
		{Name: "wait for approval", Timeout: time.Hour, Signal: &saga.Signal[Trip]{
			Name: "approval", Roles: []string{"operator", "manager"}, Received: saga.On(func(t *Trip, a Approval) { t.Nights, t.Note = a.Nights, a.Note }),
		}},
		{
			Name: "charge card", Timeout: 10 * time.Second, Pivot: true,
			Action: func(t Trip) cqrs.Keyed { return ChargeCard{t.Request.ID} }, Completed: saga.Event[CardCharged, Trip](),
		},
		tickets(),
		{
			Name: "confirm trip", Timeout: 10 * time.Second, Retriable: true,
			Action: func(t Trip) cqrs.Keyed { return ConfirmTrip{t.Request.ID} }, Completed: saga.Event[TripConfirmed, Trip](),
		},
	},
	OnCompensated: saga.FinalStep[Trip]{
		Name: "cancel trip", Timeout: 10 * time.Second,
		Action:    func(t Trip, reason string) cqrs.Keyed { return CancelTrip{t.Request.ID, reason} },
		Completed: saga.Event[TripCancelled, Trip](),
	},
}

// insurance is not needed without luggage.
func insurance() saga.Step[Trip] {
	s := hold("insurance")
	s.SkipIf = func(t Trip) bool { return !t.Request.Luggage }
	return s
}

// tickets are issued to all travellers, three at once.
func tickets() saga.Step[Trip] {
	return saga.Step[Trip]{
		Name: "issue ticket", Timeout: 10 * time.Second, Retriable: true,
		Action:    func(t Trip) cqrs.Keyed { return IssueTicket{t.Request.ID, t.Traveller} },
		Completed: saga.Event[TicketIssued, Trip](),
		ForEach: &saga.ForEach[Trip]{
			Items: func(t Trip) int { return t.Request.Travellers }, Item: func(t Trip, n int) Trip { t.Traveller = n + 1; return t }, AtOnce: 3, Max: 1000,
		},
	}
}

// stay is the saga of a hotel, which the saga of a trip starts.
var stay = saga.Definition[Trip]{
	Name: "stay", Version: 1,
	Start:         saga.ByParent(func(t *Trip, e HotelWanted) { t.Request = e.Trip }),
	Steps:         []saga.Step[Trip]{hold("suite"), hold("breakfast")},
	OnCompensated: saga.FinalStep[Trip]{Name: "release hotel", Timeout: 10 * time.Second, Completed: saga.Event[Released, Trip](), Action: func(t Trip, _ string) cqrs.Keyed { return Release{t.Request.ID, "hotel"} }},
}

func hotel() saga.Step[Trip] {
	return saga.Step[Trip]{
		Name: "book hotel", Timeout: time.Minute, SkipIf: func(t Trip) bool { return !t.Request.Hotel },
		Child: saga.ChildOf[Trip](stay, func(t Trip, _ int) HotelWanted { return HotelWanted{t.Request} }, nil),
	}
}

// documents are waited for, if there are any.
func documents() saga.Step[Trip] {
	return saga.Step[Trip]{
		Name: "await documents", Timeout: time.Hour, SkipIf: func(t Trip) bool { return !t.Request.Documents },
		Await: &saga.Await[Trip]{
			Received: saga.Event[DocumentsDelivered, Trip](), Key: func(t Trip) string { return t.Request.ID }, EventKey: saga.KeyOf(func(e DocumentsDelivered) string { return e.Trip }),
		},
		Reminder: &saga.Reminder[Trip]{After: 2 * time.Second, Action: func(t Trip) cqrs.Keyed { return RemindOfDocuments{t.Request.ID} }},
	}
}

// itinerary is sent when the trip is requested and its documents are there, whichever is first.
var itinerary = saga.Definition[Trip]{
	Name: "itinerary", Version: 1,
	StartAll: &saga.StartAll[Trip]{Timeout: time.Hour, Events: []saga.Expected[Trip]{
		saga.On(func(t *Trip, e TripRequested) { t.Request = e }), saga.OnSubject(func(e DocumentsDelivered) string { return e.Trip }, func(*Trip, DocumentsDelivered) {}),
	}},
	Steps: []saga.Step[Trip]{{
		Name: "send itinerary", Timeout: 10 * time.Second, Pivot: true,
		Action: func(t Trip) cqrs.Keyed { return SendItinerary{t.Request.ID} }, Completed: saga.Event[ItinerarySent, Trip](),
	}},
	OnCompensated: saga.FinalStep[Trip]{Name: "release itinerary", Timeout: 10 * time.Second, Completed: saga.Event[Released, Trip](), Action: func(t Trip, _ string) cqrs.Keyed { return Release{t.Request.ID, "itinerary"} }},
}

// nap is a saga that waits and then does something, for the figures.
var nap = saga.Definition[NapTaken]{
	Name: "nap", Version: 1, Start: saga.On(func(n *NapTaken, e NapTaken) { *n = e }),
	Steps: []saga.Step[NapTaken]{
		{Name: "sleep", Delay: func(n NapTaken) time.Duration { return time.Duration(n.For) }},
		{
			Name: "wake up", Timeout: 10 * time.Second, Pivot: true,
			Action: func(n NapTaken) cqrs.Keyed { return WakeUp{n.ID} }, Completed: saga.Event[WokenUp, NapTaken](),
		},
	},
	OnCompensated: saga.FinalStep[NapTaken]{
		Name: "wake early", Timeout: 10 * time.Second, Completed: saga.Event[WokenUp, NapTaken](), Action: func(n NapTaken, _ string) cqrs.Keyed { return WakeUp{n.ID} },
	},
}
