package aggregate_test

import (
	"fmt"

	"github.com/millrace/millrace/kit/aggregate"
)

// A door. Its methods record events, and its state is changed only by applying events.
type (
	DoorEvent interface{ door() }
	Opened    struct{}
	Closed    struct{}

	Door struct {
		aggregate.Root[DoorEvent]
		open bool
	}
)

func (Opened) door() {}
func (Closed) door() {}

func (d *Door) apply(e DoorEvent) { _, d.open = e.(Opened) }

var ErrOpen = aggregate.Refuse("the door is open already")

func (d *Door) Open() error {
	if d.open {
		return ErrOpen
	}
	d.Record(d.apply, Opened{})
	return nil
}

func RebuildDoor(history []DoorEvent) *Door {
	d := &Door{}
	d.Replay(d.apply, history)
	return d
}

func Example() {
	d := RebuildDoor([]DoorEvent{Opened{}, Closed{}})
	fmt.Println("version", d.Version(), "open", d.open)
	fmt.Println(d.Open(), d.Changes())
	fmt.Println(d.Open())
	// Output:
	// version 2 open false
	// <nil> [{}]
	// the door is open already
}

func ExampleTypes_Decode() {
	type PriceChanged struct {
		Cents int `json:"cents"`
	}
	types := aggregate.TypesOf(aggregate.NewType[PriceChanged]("price.changed",
		func(fields map[string]any) error { // from version 1, in which the field was called amount, to version 2
			fields["cents"] = fields["amount"]
			delete(fields, "amount")
			return nil
		}))
	old, err := types.Decode("price.changed", 1, []byte(`{"amount": 1200}`))
	fmt.Printf("%+v %v\n", old, err)
	// Output: {Cents:1200} <nil>
}
