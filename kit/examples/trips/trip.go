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

// Duration is a time.Duration whose JSON is a text such as "2s".
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

// Behaviour tells how the participant of one booking behaves: how long it takes to answer, and whether it refuses.
type Behaviour struct {
	Takes   Duration `json:"takes"`
	Refused string   `json:"refused,omitempty"` // the reason; empty: it accepts
}

// RequestTrip starts a trip. Bookings are the behaviours of the bookings by name, for example "seat", "room" and "car".
type RequestTrip struct {
	ID         string               `json:"id"`
	Luggage    bool                 `json:"luggage"`
	CoolingOff Duration             `json:"cooling_off"`
	VisaChecks int                  `json:"visa_checks"` // number of checks until the visa is granted
	Travellers int                  `json:"travellers"`  // each traveller gets a ticket
	Hotel      bool                 `json:"hotel"`       // the trip includes a hotel, which a child saga books
	Documents  bool                 `json:"documents"`   // the trip waits for a letter with documents
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

	// DeliverDocuments reports that a letter with the documents of a trip has arrived.
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

// Key returns the message key. Messages with the same key are delivered in order.
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

	// HotelWanted starts the saga of a hotel. A parent makes it, and it is not recorded.
	HotelWanted struct{ Trip TripRequested }
)

// Trip is the data of an instance of the saga.
type Trip struct {
	Request TripRequested
	Granted bool
	Nights  int
	Note    string

	Traveller int // number of the traveller whose ticket is issued, from 1
}

// Approval is the payload of the signal.
type Approval struct {
	Accepted bool   `json:"accepted"`
	Nights   int    `json:"nights"`
	Note     string `json:"note"`
}

// Validate refuses an approval that the saga cannot use: for less than one night.
func (a Approval) Validate() error {
	if a.Nights < 1 {
		return aggregate.InField("nights", errors.New("must be at least 1"))
	}
	return nil
}

// hold returns a step that holds a seat, a room or another booking.
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

// insurance returns the step that holds an insurance. It is skipped without luggage.
func insurance() saga.Step[Trip] {
	s := hold("insurance")
	s.SkipIf = func(t Trip) bool { return !t.Request.Luggage }
	return s
}

// tickets returns the step that issues a ticket to each traveller, at most three at once.
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

// stay is the saga that books a hotel. The saga of a trip starts it as a child.
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

// documents returns the step that waits for the letter with the documents. It is skipped if the trip needs none.
func documents() saga.Step[Trip] {
	return saga.Step[Trip]{
		Name: "await documents", Timeout: time.Hour, SkipIf: func(t Trip) bool { return !t.Request.Documents },
		Await: &saga.Await[Trip]{
			Received: saga.Event[DocumentsDelivered, Trip](), Key: func(t Trip) string { return t.Request.ID }, EventKey: saga.KeyOf(func(e DocumentsDelivered) string { return e.Trip }),
		},
		Reminder: &saga.Reminder[Trip]{After: 2 * time.Second, Action: func(t Trip) cqrs.Keyed { return RemindOfDocuments{t.Request.ID} }},
	}
}

// itinerary is the saga that sends the itinerary after the trip was requested and its documents have arrived, in either order.
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

// nap is a saga that waits and then sends a command. The performance tests use it.
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
