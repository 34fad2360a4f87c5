package saga_test

import (
	"fmt"
	"time"

	"github.com/millrace/millrace/kit/cqrs"
	"github.com/millrace/millrace/kit/saga"
)

// A trip books a room, then a flight. If there is no flight, the room is freed again.
type (
	TripWanted struct{ To string }
	RoomBooked struct{}
	RoomFreed  struct{}
	Flown      struct{}
	NoFlight   struct{ Reason string }
	TripOff    struct{}

	BookRoom   struct{ To string }
	FreeRoom   struct{ To string }
	BookFlight struct{ To string }
	CallOff    struct{ Why string }

	Trip struct{ To string }
)

func (c BookRoom) Key() string   { return c.To }
func (c FreeRoom) Key() string   { return c.To }
func (c BookFlight) Key() string { return c.To }
func (c CallOff) Key() string    { return "" }

var travelling = saga.New(saga.Definition[Trip]{
	Name: "travelling", Version: 1,
	Start: saga.On(func(t *Trip, e TripWanted) { t.To = e.To }),
	Steps: []saga.Step[Trip]{
		{
			Name:         "book room",
			Action:       func(t Trip) cqrs.Keyed { return BookRoom(t) },
			Completed:    saga.Event[RoomBooked, Trip](),
			Compensation: func(t Trip) cqrs.Keyed { return FreeRoom(t) },
			Compensated:  saga.Event[RoomFreed, Trip](),
			Timeout:      time.Minute,
		},
		{
			Name:      "book flight",
			Action:    func(t Trip) cqrs.Keyed { return BookFlight(t) },
			Completed: saga.Event[Flown, Trip](),
			Refused:   []saga.Refusal{saga.RefusedBy(func(e NoFlight) string { return e.Reason })},
			Timeout:   time.Minute,
			Pivot:     true,
		},
	},
	OnCompensated: saga.FinalStep[Trip]{
		Name: "call off", Action: func(_ Trip, reason string) cqrs.Keyed { return CallOff{reason} },
		Completed: saga.Event[TripOff, Trip](), Timeout: time.Minute,
	},
})

// React is pure: a state and an input give events, commands and timers. The example calls the engine directly, without the manager.
func ExampleSaga_React() {
	env := saga.Env{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	state := saga.State{ID: saga.ID("travelling", "trip-1")}
	var asked saga.Command
	tell := func(in saga.Input) {
		reaction, err := travelling.React(state, in, env)
		if err != nil {
			fmt.Println(err)
			return
		}
		for _, asked = range reaction.Commands {
			fmt.Printf("%T%+v\n", asked.Body, asked.Body)
		}
		state = reaction.State
	}
	answer := func(event any) {
		tell(saga.Answer{Event: event, Step: asked.Step, Branch: asked.Branch, CommandID: asked.ID})
	}
	fmt.Println(travelling.Check())
	tell(saga.Start{Event: TripWanted{"Rome"}, Subject: "trip-1"})
	answer(RoomBooked{})
	answer(NoFlight{"strike"})
	answer(RoomFreed{})
	answer(TripOff{})
	fmt.Println(state.Status, state.Reason)
	// Output:
	// <nil>
	// saga_test.BookRoom{To:Rome}
	// saga_test.BookFlight{To:Rome}
	// saga_test.FreeRoom{To:Rome}
	// saga_test.CallOff{Why:strike}
	// compensated strike
}
